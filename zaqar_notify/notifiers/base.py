"""What a notifier is. A third party's plugin derives from `SingleNotifier` and names itself in an entry point of the group
``zaqar_notify.notifiers``; the entry point's name is the URI scheme that it serves.
"""

from __future__ import annotations

import abc
import logging
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from oslo_config import cfg

from zaqar_notify.model import Delivery, Outcome, Receipt, Subscription

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import HttpClients

Report = Callable[[Delivery, Outcome], None]
"""Called once for each delivery, from any thread."""


Received = Callable[[str, str, Receipt], None]
"""Gets the ids of a message and of a subscription, and what was heard of the delivery. Quick, and safe to call from any thread.
"""


def _nobody(message_id: str, subscription_id: str, receipt: Receipt) -> None:
    """Where nobody wants to know."""


class Notifier(abc.ABC):
    """One instance for each class and configuration section, made at the start of a worker and of an API process.

    The API calls nothing but `check` and `receipt`. These and `__init__` do no I/O: connections are made when the first
    delivery comes.
    """

    section: ClassVar[str] = ""
    """Its configuration section; empty: the entry point's name."""
    options: ClassVar[list[cfg.Opt]] = []
    named_by: ClassVar[str] = ""
    """Where a notifier can have several credentials: the option of its section that lists their names."""
    named_options: ClassVar[list[cfg.Opt]] = []
    """The options of each of them. ``shop`` in ``[apns] apps`` has the section ``[apns_shop]``."""
    templated: ClassVar[bool] = False
    """What it sends can be made by templates: ``delivery.templates`` has those of the subscription and its queue."""
    most_threads: ClassVar[int] = 100
    """With more threads of its own alive it is taken to leak them, and nothing is sent with it until they end. 0: as many as it
    likes. Those of batch notifiers that this package ships are not counted."""
    digests: ClassVar[bool] = False
    """What is released from a window together for one subscription comes as one delivery, with the rest in ``others``."""

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        """``conf`` has the section's options as attributes, and in ``conf.named`` the sections of the credentials by name;
        ``http`` are the guarded HTTP clients, ``log`` is a logger of this notifier's name."""
        self.conf = conf
        self.http = http
        self.log = log
        self.received: Received = _nobody
        """For what a provider reports over a connection of our own, after the attempt. The worker puts it here."""

    def check(self, subscription: Subscription) -> None:  # noqa: B027 - to be overridden where there is something to check
        """Raise `InvalidRequest`, saying what to change, for a target or option that can never work."""

    def lane(self, subscription: Subscription) -> str:
        """What shares one limit in flight: by default the URI's scheme, host and port."""
        parts = urllib.parse.urlsplit(subscription.subscriber)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def in_flight(self, subscription: Subscription) -> int | None:
        """How many attempts may come to be under way at once in its lane, as long as they succeed; None: ``[worker]
        lane_max``."""
        return None

    def timeout(self, subscription: Subscription) -> float | None:
        """Seconds that one attempt may take, from which ``delivery.deadline`` is made; None: ``[worker] timeout``."""
        return None

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        """The window that its credential asks for: what shares it (a name), and the least and the most seconds. A
        subscription's own ``options.window`` comes first. None: notifications are sent at once."""
        return None

    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Receipt | None:
        """What a provider reports of a delivery, to the URL ``delivery.links["receipt"]``: ``fields`` are those of the query,
        and of the form or JSON object that was sent. None where it says nothing that ends the delivery. Called in the API."""
        return None

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Called once, when the process stops."""


class SingleNotifier(Notifier):
    """Sends one at a time, on threads that the service runs for it (``[worker] threads``)."""

    @abc.abstractmethod
    def send(self, delivery: Delivery) -> Outcome:
        """Make one attempt: no retry, no sleep, no storage. Has to return by ``delivery.deadline``."""


class BatchNotifier(Notifier):
    """For transports that do better than one at a time."""

    @abc.abstractmethod
    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        """Start these attempts and return at once; ``report`` is called exactly once for each, from any thread."""
