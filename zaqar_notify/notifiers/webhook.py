"""Webhooks: ``http`` and ``https`` subscribers get a signed POST (Standard Webhooks 1.0.0)."""

from __future__ import annotations

import dataclasses
import functools
import logging
import random
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any, ClassVar

from oslo_config import cfg, types

from zaqar_notify import __version__, payload, signing, trace
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Delivery, MessageKind, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers import answers, exchanges
from zaqar_notify.notifiers.base import BatchNotifier, Report
from zaqar_notify.notifiers.http import HttpClients, Request, Response

MAX_URL = 2048
_MARGIN = 512  # bytes of an answer behind those that are shown: a secret is found whole

_USER_AGENT = f"User-Agent: zaqar-notify/{__version__}"
_CONTENT_TYPE = "Content-Type: application/json"
_TEST = "zaqar-notify-test: true"

_HEADER_SAFE = "!#$&'()*+,/:;=?@[]^`{|}~"

_key = functools.lru_cache(maxsize=8192)(signing.parse_secret)
_DELIVERED = {status: Outcome(OutcomeKind.DELIVERED, status=status) for status in range(200, 300)}


def _seconds(name: str, default: float, help: str) -> cfg.Opt:
    return cfg.Opt(name, type=types.Float(min=0), default=default, help=f"{help} In seconds.")


class WebhookNotifier(BatchNotifier):
    section: ClassVar[str] = "webhook"
    options: ClassVar[list[cfg.Opt]] = [
        _seconds(
            "timeout",
            15.0,
            "How long an attempt may take, from the look-up of the name to the end of the answer. A subscription's "
            "options.timeout overrides it. At most [worker] lease - 10.",
        ),
        _seconds("connect_timeout", 5.0, "How long making the connection, with TLS, may take."),
        cfg.IntOpt(
            "max_response_bytes",
            default=65536,
            min=0,
            help="How much of an answer's body is read. The status of a longer one stands.",
        ),
        cfg.StrOpt("ca_file", help="File of certificates (PEM) to trust. Unset: those of the certifi package."),
        cfg.StrOpt(
            "proxy",
            secret=True,
            help="URL of an egress proxy, for example http://proxy.example.org:3128, which has to allow CONNECT. It judges "
            "names then; literal addresses are still judged here. The environment's proxy variables are ignored.",
        ),
        cfg.IntOpt(
            "connections",
            default=4096,
            min=1,
            help="Most connections that are kept open. Has to be more than there are busy endpoints plus [worker] "
            "max_in_flight, or connections are made anew all the time; bounded by the limit on open files.",
        ),
        _seconds(
            "dns_cache",
            60.0,
            "How long the addresses of a name are used before they are looked up again; while that runs, the old ones are "
            "used for as long again.",
        ),
        cfg.BoolOpt("http2", default=True, help="Use HTTP/2 where an https endpoint offers it."),
        cfg.IntOpt(
            "log_body_bytes",
            default=exchanges.BODY_BYTES,
            min=0,
            max=exchanges.MOST_BODY_BYTES,
            help="How much of an answer's body the log of a delivery keeps. 0 keeps none.",
        ),
    ]

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        # Looking an option up costs more than signing a message does.
        self._timeout = min(float(conf.timeout), http.max_timeout)
        self._connect_timeout = float(conf.connect_timeout)
        self._max_response_bytes = int(conf.max_response_bytes)
        self._log_body_bytes = int(conf.log_body_bytes)
        self._keep_bytes = max(4 * answers.DETAIL, self._log_body_bytes) + _MARGIN
        self._record_successes = http.record_successes

    def check(self, subscription: Subscription) -> None:
        if len(subscription.subscriber) > MAX_URL:
            raise InvalidRequest(f"The URL is longer than {MAX_URL} characters.")
        self.http.guard.check_url(subscription.subscriber)
        options = subscription.options
        if "post_data" in options:
            payload.check_post_data(options["post_data"])
        if "post_headers" in options:
            payload.check_post_headers(options["post_headers"])
        if "timeout" in options:
            self._check_timeout(options["timeout"])

    def _check_timeout(self, value: Any) -> None:
        most = self.http.max_timeout
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise InvalidRequest(f"options.timeout has to be a number of seconds above 0, at most {most:g}.")

    def lane(self, subscription: Subscription) -> str:
        return _endpoint(subscription.subscriber)

    def timeout(self, subscription: Subscription) -> float | None:
        chosen = subscription.options.get("timeout")
        # The limit may have been lowered since the subscription was made.
        return self._timeout if chosen is None else min(float(chosen), self.http.max_timeout)

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        now, started_at = int(time.time()), time.monotonic()
        documents: dict[str, bytes] = {}
        requests = []
        for delivery in deliveries:
            try:
                requests.append(self._request(delivery, now, started_at, documents, report))
            except Exception as error:  # bad data in one delivery must not stop the others of its batch
                self.log.exception("Delivery %s could not be made into a request", delivery.id)
                report(delivery, Outcome(OutcomeKind.OURS, f"no request could be made: {type(error).__name__}"))
        self.http.engine().send_many(requests)

    def _request(self, delivery: Delivery, now: int, started_at: float, documents: dict[str, bytes], report: Report) -> Request:
        message, subscription = delivery.message, delivery.subscription
        body = documents.get(message.id)
        if body is None:
            body = documents[message.id] = payload.zaqar(message)
        options = subscription.options
        if "post_data" in options:
            body = payload.fill(options["post_data"], body)
        headers = [
            f"webhook-id: {delivery.id}",
            f"webhook-timestamp: {now}",
            f"zaqar-notify-queue: {message.queue}",
            f"zaqar-notify-message-id: {_visible(message.public_id)}",
            f"zaqar-notify-subscription-id: {subscription.id}",
            f"zaqar-notify-attempt: {delivery.attempt}",
        ]
        if subscription.secret is not None:
            headers.append(f"webhook-signature: {signing.sign(_key(subscription.secret), delivery.id, now, body)}")
        chosen = options.get("post_headers")
        if chosen:
            headers += _chosen_headers(chosen)
        else:
            headers += (_CONTENT_TYPE, _USER_AGENT)
        if message.kind is MessageKind.TEST:
            headers.append(_TEST)
        parent = message.attributes.get(trace.ATTRIBUTE)
        if parent is not None:
            headers += _traced(parent, chosen)
        return Request(
            subscription.subscriber,
            headers,
            body,
            delivery.deadline,
            self._done,
            self._connect_timeout,
            self._max_response_bytes,
            self._keep_bytes,
            started_at,
            self._record_successes,
            tag=(delivery, report),
        )

    def _done(self, request: Request, response: Response) -> None:
        delivery, report = request.tag
        if response.phases is None:  # a success, and the log wants no more of it
            report(delivery, classify(response, time.time()))
            return
        if delivery.message.kind is MessageKind.CONFIRMATION:
            # Who asked for the subscription may read what is kept of the answer; if that repeats the request, it could confirm.
            response.body = b""
        options = delivery.subscription.options
        hidden: list[bytes] = []
        if "post_headers" in options or "?" in request.url:  # the answer may repeat what it was sent
            hidden = exchanges.secrets_in(request.url, map(exchanges.parted, request.headers))
        response.body = exchanges.without(hidden, response.body)
        outcome = classify(response, time.time())
        response.head = exchanges.without(hidden, response.head)
        exchange = exchanges.of_request(request, response, response.phases, self._log_body_bytes)
        if outcome.detail or outcome.disable:
            report(delivery, dataclasses.replace(outcome, exchange=exchange))
        else:  # the same for what is by far the most frequent, in a third of the time
            report(delivery, Outcome(outcome.kind, status=outcome.status, exchange=exchange))


def _visible(message_id: str) -> str:
    """A foreign id may be any text; a header may not."""
    return message_id if message_id.isalnum() and message_id.isascii() else urllib.parse.quote(message_id, safe=_HEADER_SAFE)


def _chosen_headers(chosen: dict[str, str]) -> list[str]:
    # libcurl takes "Name:" as "do not send it" and "Name;" as "send it without a value".
    lines = [f"{name}: {value}" if value.strip() else f"{name};" for name, value in chosen.items()]
    names = {name.lower() for name in chosen}
    if "content-type" not in names:
        lines.append(_CONTENT_TYPE)
    if "user-agent" not in names:
        lines.append(_USER_AGENT)
    return lines


def _traced(parent: Any, chosen: dict[str, str] | None) -> list[str]:
    """The header that makes this attempt a span of the trace in which the message was posted."""
    if chosen and any(name.lower() == "traceparent" for name in chosen):
        return []
    child = trace.child(parent, random.getrandbits(64) or 1)
    return [] if child is None else [f"traceparent: {child}"]


@functools.lru_cache(maxsize=16384)
def _endpoint(url: str) -> str:
    """Scheme, host and port, written in one way: what shares a limit."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return url[:256]
    return f"{parts.scheme}://{parts.hostname or ''}:{port}"


def classify(response: Response, now: float) -> Outcome:
    """What an answer means (the table is in docs/delivery.md). ``now``: epoch seconds, for a Retry-After that is a date."""
    if response.fault is not None:
        return answers.fault(response.fault, response.detail, response.status)
    status = response.status
    wish = response.header("webhook-delivery")
    if wish is None and 200 <= status < 300:
        return _DELIVERED[status]
    return _answered(response, wish.lower() if wish else "", now)


def _answered(response: Response, wish: str, now: float) -> Outcome:
    status = response.status
    if 200 <= status < 300:
        return dataclasses.replace(_DELIVERED[status], **(_by_wish() if wish == "disable" else {}))
    if status == 410:
        return Outcome(OutcomeKind.GONE, "the endpoint answered 410 Gone", status, disable="gone")
    detail = answers.described(response, "the endpoint")
    if wish == "disable":
        return Outcome(OutcomeKind.REFUSED, f"{detail}, with webhook-delivery: disable", status, disable="webhook-delivery")
    if wish == "abort-message":
        return Outcome(OutcomeKind.REFUSED, f"{detail}, with webhook-delivery: abort-message", status)
    scope = Scope.LANE if status >= 500 or status < 100 else Scope.SUBSCRIPTION
    after = answers.retry_after(response.header("retry-after"), now) if status in (429, 503) else None
    if after is not None:
        return Outcome(OutcomeKind.THROTTLED, f"{detail}, to be tried again after {after:.0f} s", status, after, scope)
    return Outcome(OutcomeKind.RETRY, detail, status, scope=scope)


def _by_wish() -> dict[str, Any]:
    return {"disable": "webhook-delivery", "detail": "delivered, with webhook-delivery: disable"}
