"""What the channels of mobile push and web push share: what a message becomes, and the way in which it is sent."""

from __future__ import annotations

import abc
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from oslo_config import cfg, types

from zaqar_notify import templates
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.feedback import ACKNOWLEDGE
from zaqar_notify.model import Delivery, Message, MessageKind, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers import answers, exchanges
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.http import Fault, HttpClients, Request, Response
from zaqar_notify.notifiers.templated import TemplatedNotifier

KEEP_BYTES = 4096
"""Of an answer's body: providers say in it what was wrong."""
_LEAST_SECRET = 6  # shorter ones would be found everywhere

COMMON: list[cfg.Opt] = [
    cfg.Opt(
        "timeout",
        type=types.Float(min=0.1),
        default=15.0,
        help="How long an attempt may take, from the look-up of the name to the end of the answer. In seconds, at most "
        "[worker] lease - 10.",
    ),
    cfg.IntOpt(
        "in_flight",
        default=256,
        min=1,
        help="Most pushes of a project that an application (of web push: a push service) may have under way at once in a "
        "worker. They share connections.",
    ),
]


class Content(NamedTuple):
    """What of a message is shown, and what is only for the application."""

    title: str | None
    text: str | None
    data: Any
    """None: there is none."""
    own: dict[str, Any]
    """What the body says for one provider alone."""
    templated: bool = False
    """Title and text are those of templates, and come before ``own``."""


def content(delivery: Delivery, provider: str) -> Content:
    """What the body says, with what templates make of it in the place of title and text. Raises `InvalidRequest` where one
    fails."""
    said, made = _said(delivery.message, provider), templates.render(delivery, provider)
    if not made:
        return said
    return said._replace(title=made.get("title", said.title), text=made.get("text", said.text), templated=True)


def _said(message: Message, provider: str) -> Content:
    """A body that is a string is shown. Of an object ``title`` and ``text`` (or ``body``) are, where they are strings; ``data``
    is for the application, and ``provider`` what goes into this provider's document. An object without any of these, and any
    other body, is data as a whole. So is a request to confirm, with what it asks as its text.
    """
    body = message.body
    if isinstance(body, str):
        return Content(None, body, None, {})
    if message.kind is MessageKind.CONFIRMATION and isinstance(body, dict):
        return Content(None, _string(body.get("Message")), body, {})
    if not isinstance(body, dict):
        return Content(None, None, body, {})
    title, text = _string(body.get("title")), _string(body.get("text")) or _string(body.get("body"))
    own = body.get(provider)
    if title is None and text is None and "data" not in body and own is None:
        return Content(None, None, body, {})
    return Content(title, text, body.get("data"), own if isinstance(own, dict) else {})


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def merged(ours: Mapping[str, Any], theirs: Any, *, templated: bool = False) -> dict[str, Any]:
    """What is shown, and what the body says of the same for one provider alone: that comes first, but not before templates."""
    if not isinstance(theirs, Mapping):
        return dict(ours)
    return {**theirs, **ours} if templated else {**ours, **theirs}


def about(delivery: Delivery) -> dict[str, Any]:
    """What an application may want to know of a notification, and where it can say that it has it."""
    message = delivery.message
    found = {"id": delivery.id, "queue": message.queue, "message_id": message.public_id}
    link = delivery.links.get(ACKNOWLEDGE)
    return found if link is None else {**found, ACKNOWLEDGE: link}


@dataclasses.dataclass(slots=True, eq=False)
class Sent:
    """What belongs to a request: its ``tag``."""

    delivery: Delivery
    report: Report
    shown_url: str
    """Without the secret part."""
    secret: str
    """What must not be seen of the target: the answer may repeat it."""
    credential: Any = None
    """What it was sent with, in the notifier's own terms."""
    again: bool = False
    """It was sent a second time, because the first one's token was refused."""


class Unsendable(Exception):
    """There is nothing to send; ``outcome`` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class PushNotifier(TemplatedNotifier):
    """Makes a request of each delivery, and an outcome of each answer."""

    options: ClassVar[list[cfg.Opt]] = COMMON

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._timeout = min(float(conf.timeout), http.max_timeout)
        self._in_flight = int(conf.in_flight)

    def in_flight(self, subscription: Subscription) -> int | None:
        return self._in_flight

    def timeout(self, subscription: Subscription) -> float | None:
        return self._timeout

    def _start_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        requests = []
        for delivery in deliveries:
            try:
                requests.append(self._request(delivery, report))
            except Unsendable as unsendable:
                report(delivery, unsendable.outcome)
            except InvalidRequest as error:
                report(delivery, Outcome(OutcomeKind.REJECTED, str(error)))
            except Exception as error:  # bad data in one delivery must not stop the others of its batch
                self.log.exception("Delivery %s could not be made into a request", delivery.id)
                report(delivery, Outcome(OutcomeKind.OURS, f"no request could be made: {type(error).__name__}"))
        self._submit(requests)

    @abc.abstractmethod
    def _request(self, delivery: Delivery, report: Report) -> Request:
        """Raises `Unsendable`."""

    def _submit(self, requests: Sequence[Request]) -> None:
        self.http.engine().send_many(requests)

    @abc.abstractmethod
    def _judge(self, sent: Sent, response: Response, now: float) -> Outcome:
        """What an answer means."""

    def _again(self, request: Request, response: Response) -> bool:
        """Whether the request is being sent a second time, for a reason of the notifier's own."""
        return False

    def _post(self, sent: Sent, url: str, headers: list[str], body: bytes, pool: str) -> Request:
        return Request(
            url,
            headers,
            body,
            sent.delivery.deadline,
            self._done,
            self.http.connect_timeout,
            keep_bytes=KEEP_BYTES,
            timed=self.http.record_successes,
            tag=sent,
            pool=pool,
        )

    def _done(self, request: Request, response: Response) -> None:
        sent: Sent = request.tag
        # The end of an answer is missing where a connection was cut behind it; its status stands.
        answered = response.fault is None or (response.fault is Fault.RESET and response.status >= 200)
        if answered and self._again(request, response):
            return
        hidden = [sent.secret.encode()] if len(sent.secret) >= _LEAST_SECRET else []
        response.body = exchanges.without(hidden, response.body)
        if answered:
            outcome = self._judge(sent, response, time.time())
        else:
            outcome = answers.fault(response.fault or Fault.OTHER, response.detail, response.status)
        if response.phases is not None:  # else a success, and the log wants no more of it
            request.url = sent.shown_url
            response.head = exchanges.without(hidden, response.head)
            exchange = exchanges.of_request(request, response, response.phases, exchanges.BODY_BYTES)
            outcome = dataclasses.replace(outcome, exchange=exchange)
        sent.report(sent.delivery, outcome)
