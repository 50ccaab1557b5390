"""A notifier as the service makes and uses it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from oslo_config import cfg

from zaqar_notify.errors import NotifyError
from zaqar_notify.guard import Guard
from zaqar_notify.model import Delivery, Message, Outcome, OutcomeKind, Subscription, delivery_id
from zaqar_notify.notifiers import Notifiers
from zaqar_notify.notifiers.base import Notifier
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.plugins import NAMESPACE, Plugin
from zaqar_notify.notifiers.sending import Senders

QUEUE = "conformance"
LONGEST = 20.0
"""Seconds that an attempt may take, as with the service's defaults."""
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_THREADS = 8
_TIMEOUT = 15.0
_numbers = itertools.count(1)

Configuration = Mapping[str, Mapping[str, Any]]
"""Values by section and option."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where notifications go: a subscriber, its options, and what has to be configured for it."""

    uri: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    configuration: Configuration = dataclasses.field(default_factory=dict)

    @property
    def subscription(self) -> Subscription:
        return Subscription(f"{next(_numbers):016x}", "project", QUEUE, self.uri, None, self.options, time.time(), None)


class Reports:
    """What was reported, by delivery."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[Delivery, list[tuple[Outcome, float]]] = {}
        self.strange: list[object] = []
        """What was reported that is no delivery."""

    def __call__(self, delivery: Delivery, outcome: Outcome) -> None:
        with self._lock:
            if isinstance(delivery, Delivery):
                self._found.setdefault(delivery, []).append((outcome, time.monotonic()))
            else:
                self.strange.append(delivery)

    def of(self, delivery: Delivery) -> list[tuple[Outcome, float]]:
        """The outcomes, and when (``time.monotonic()``) they came."""
        with self._lock:
            return list(self._found.get(delivery, ()))

    def have(self, deliveries: Iterable[Delivery]) -> bool:
        return all(self.of(delivery) for delivery in deliveries)


class Rig:
    """With its options registered and set, with guarded clients that may dial this machine, and with what sends for it.

    Raises `CannotStart` where the service would. The environment and configuration files are not read.
    """

    def __init__(self, plugin: Plugin, configuration: Configuration, *, ca_file: str | None = None) -> None:
        self._log = _Log(f"{NAMESPACE}.{plugin.section}")
        self._http = HttpClients(Guard(_LOOPBACK), max_timeout=LONGEST, ca_file=ca_file, record_successes=True)
        self._notifiers = Notifiers([plugin])
        conf = cfg.ConfigOpts()
        self._notifiers.register(conf)
        conf([], project="conformance", default_config_files=[], default_config_dirs=[], use_env=False)
        _set(conf, plugin, configuration)
        self._notifiers.instantiate(conf, self._http)
        self._notifiers.require_whole()
        self._senders = Senders(self._notifiers.pick, threads=_THREADS, timeout=_TIMEOUT, max_timeout=LONGEST)
        self.reports = Reports()
        self.notifier: Notifier = self._notifiers.pick(f"{plugin.scheme}:")

    @property
    def logged(self) -> Sequence[str]:
        """What the notifier has written to its log."""
        return self._log.lines

    def delivery(self, target: Target, body: Any, *, timeout: float | None = None, **fields: Any) -> Delivery:
        """``fields`` are the message's. Without a ``timeout`` (seconds) it has what the notifier asks for."""
        subscription = target.subscription
        now, seconds = time.time(), timeout or self._timeout(subscription)
        made = Message(f"{next(_numbers):016x}", "project", QUEUE, json.dumps(body).encode(), 3600, now, now + 3600)
        message = dataclasses.replace(made, **fields)
        return Delivery(
            delivery_id(message.id, subscription.id), 1, time.monotonic() + seconds, message, subscription, templates={}
        )

    def _timeout(self, subscription: Subscription) -> float:
        try:
            return self._senders.route(subscription).timeout
        except NotifyError:
            return _TIMEOUT

    def send(self, deliveries: Sequence[Delivery]) -> None:
        """As a worker does; what becomes of them is in `reports`."""
        together: dict[Any, list[Delivery]] = {}
        for delivery in deliveries:
            try:
                together.setdefault(self._senders.route(delivery.subscription).sender, []).append(delivery)
            except NotifyError as error:
                self.reports(delivery, Outcome(OutcomeKind.OURS, str(error)))
        for sender, some in together.items():
            sender.send_many(some, self.reports)

    def close(self) -> None:
        self._senders.close()
        self._notifiers.close()
        self._log.close()


class _Log(logging.Handler):
    """Takes all that is written to a logger, and keeps it from others: much of it is meant to happen."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self._logger = logging.getLogger(name)
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def close(self) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
        super().close()


def _set(conf: cfg.ConfigOpts, plugin: Plugin, configuration: Configuration) -> None:
    for section, values in configuration.items():
        if section != plugin.section:
            conf.register_opts(plugin.cls.named_options, section)
        for name, value in values.items():
            conf.set_override(name, value, section)


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    """False when it does not come about in time."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.01)
    return True
