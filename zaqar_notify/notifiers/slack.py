"""``slack+https:`` subscribers: incoming webhooks of Slack, and of what speaks like it."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from oslo_config import cfg, types

from zaqar_notify import __version__
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.masking import hashed
from zaqar_notify.model import Delivery, MessageKind, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers import answers, content, exchanges
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.exchanges import HttpExchange
from zaqar_notify.notifiers.http import HttpClients, Request, Response
from zaqar_notify.notifiers.templated import TemplatedNotifier

_PREFIX = "slack+"
_HEADERS = ["Content-Type: application/json; charset=utf-8", f"User-Agent: zaqar-notify/{__version__}"]
_KEYS = ("text", "blocks", "attachments", "mrkdwn", "thread_ts", "unfurl_links", "unfurl_media")
_LEAST_SECRET = 6
_MOST_BLOCKS, _MOST_ATTACHMENTS = 50, 100

# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, "Handling errors"
_GONE = frozenset(
    {
        "no_service",
        "no_active_hooks",
        "no_service_id",
        "no_team",
        "team_disabled",
        "invalid_token",
        "channel_is_archived",
    }
)
_TARGET = frozenset({"channel_not_found", "user_not_found", "action_prohibited", "posting_to_general_channel_denied"})


def _seconds(name: str, default: float, help: str) -> cfg.Opt:
    return cfg.Opt(name, type=types.Float(min=0.1), default=default, help=f"{help} In seconds.")


class SlackNotifier(TemplatedNotifier):
    section: ClassVar[str] = "slack"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.ListOpt(
            "hosts",
            default=["hooks.slack.com", "hooks.slack-gov.com"],
            help="Hosts that may be subscribed. Add those of services with the same interface, such as a Mattermost of your "
            "own; * allows any.",
        ),
        _seconds("timeout", 15.0, "How long an attempt may take. At most [worker] lease - 10."),
        _seconds("connect_timeout", 5.0, "How long connecting may take."),
        cfg.IntOpt("max_text", default=4000, min=100, max=40000, help="Most characters of a text; the rest is cut off."),
        cfg.IntOpt("log_body_bytes", default=1024, min=0, max=4096, help="How much of an answer the log of a delivery keeps."),
        cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
    ]

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._hosts = frozenset(host.lower() for host in conf.hosts)
        self._timeout = min(float(conf.timeout), http.max_timeout)
        self._connect_timeout = float(conf.connect_timeout)
        self._max_text = int(conf.max_text)
        self._log_body_bytes = int(conf.log_body_bytes)
        self._dry_run = bool(conf.dry_run)

    def check(self, subscription: Subscription) -> None:
        url = _url(subscription.subscriber)
        if not url.startswith("https://"):
            raise InvalidRequest("The subscriber has to begin with slack+https://, followed by the rest of the webhook's URL.")
        target = self.http.guard.check_url(url)
        if "*" not in self._hosts and target.host not in self._hosts:
            raise InvalidRequest(f"The webhook's host has to be {' or '.join(sorted(self._hosts))}.")

    def lane(self, subscription: Subscription) -> str:
        # Not that of a webhook to the same host and port: each can be switched off, and served apart, without the other.
        return _PREFIX + _host(_url(subscription.subscriber))

    def timeout(self, subscription: Subscription) -> float | None:
        return self._timeout

    def _start_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        started_at = time.monotonic()
        requests = []
        for delivery in deliveries:
            try:
                request = self._request(delivery, report, started_at)
            except InvalidRequest as error:
                report(delivery, Outcome(OutcomeKind.REJECTED, str(error)))
            except Exception as error:  # bad data in one delivery must not stop the others of its batch
                self.log.exception("Delivery %s could not be made into a request", delivery.id)
                report(delivery, Outcome(OutcomeKind.OURS, f"no request could be made: {type(error).__name__}"))
            else:
                requests.append(request)
        if self._dry_run:
            for request in requests:
                report(request.tag[0], Outcome(OutcomeKind.DELIVERED, "dry run: not sent"))
        elif requests:
            self.http.engine().send_many(requests)

    def _request(self, delivery: Delivery, report: Report, started_at: float) -> Request:
        self.check(delivery.subscription)  # which hosts are allowed may have changed
        return Request(
            _url(delivery.subscription.subscriber),
            _HEADERS,
            json.dumps(payload(delivery, self._max_text), ensure_ascii=False).encode(),
            delivery.deadline,
            self._done,
            self._connect_timeout,
            keep_bytes=max(4 * answers.DETAIL, self._log_body_bytes),
            started_at=started_at,
            timed=self.http.record_successes,
            tag=(delivery, report),
        )

    def _done(self, request: Request, response: Response) -> None:
        delivery, report = request.tag
        path = _path(request.url).encode()  # the secret; a short one would be found everywhere
        hidden = [request.url.encode(), path] if len(path) > _LEAST_SECRET else []
        response.body = exchanges.without(hidden, response.body)
        response.head = exchanges.without(hidden, response.head)
        outcome = classify(response, time.time())
        if outcome.kind is not OutcomeKind.DELIVERED or self.http.record_successes:
            outcome = dataclasses.replace(outcome, exchange=self._exchange(request, response))
        report(delivery, outcome)

    def _exchange(self, request: Request, response: Response) -> HttpExchange:
        phases = response.phases or {"end": time.monotonic() - request.started_at}
        recorded = exchanges.of_request(request, response, phases, self._log_body_bytes)
        sent = {**recorded.request, "url": f"{_host(request.url)}/{hashed(_path(request.url))}"}
        return HttpExchange(sent, recorded.response, recorded.phases)


def _url(subscriber: str) -> str:
    return subscriber[len(_PREFIX) :] if subscriber[: len(_PREFIX)].lower() == _PREFIX else subscriber


@functools.lru_cache(maxsize=4096)
def _host(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.lower()}://{rest.partition('/')[0].lower()}"


def _path(url: str) -> str:
    return "/" + url.partition("://")[2].partition("/")[2]


# -- what is sent -------------------------------------------------------------------------------------------------------------


def payload(delivery: Delivery, max_text: int) -> dict[str, Any]:
    """``slack`` in a body is a payload for Slack as it is, as far as an incoming webhook takes it. All else, and what templates
    make, is shown as text that calls nobody. Raises `InvalidRequest` for a payload that Slack would refuse, and where a
    template fails."""
    message = delivery.message
    shown = content.content(delivery, "slack", indent=2)
    own = {key: shown.own[key] for key in _KEYS if key in shown.own}
    if own and not shown.made:
        return _checked(own)
    is_test = message.kind is MessageKind.TEST and not shown.made
    text = f"Test of {message.queue}" if is_test else shown.text
    if shown.title and shown.title != text:
        text = f"{shown.title}\n{text}"
    if len(text) > max_text:
        text = text[: max_text - 1] + "\u2026"
    text = html.escape(text, quote=False)
    return {"text": (text if shown.plain or is_test else f"```\n{text}\n```") or " "}


def _checked(own: dict[str, Any]) -> dict[str, Any]:
    blocks, attachments = own.get("blocks", []), own.get("attachments", [])
    if not isinstance(own.get("text", ""), str) or not isinstance(blocks, list) or not isinstance(attachments, list):
        raise InvalidRequest("Of a payload for Slack text has to be a string, blocks and attachments lists.")
    if len(blocks) > _MOST_BLOCKS or len(attachments) > _MOST_ATTACHMENTS:
        raise InvalidRequest(f"Slack takes at most {_MOST_BLOCKS} blocks and {_MOST_ATTACHMENTS} attachments.")
    if not any(own.get(key) for key in ("text", "blocks", "attachments")):
        raise InvalidRequest("A payload for Slack needs text, blocks or attachments.")
    return own


# -- answers to outcomes ------------------------------------------------------------------------------------------------------


def classify(response: Response, now: float) -> Outcome:
    """What an answer means (the table is in docs/channels/slack.md). ``now``: epoch seconds."""
    if response.fault is not None:
        return answers.fault(response.fault, response.detail, response.status)
    status = response.status
    if 200 <= status < 300:
        return Outcome(OutcomeKind.DELIVERED, status=status)
    detail = answers.described(response, "Slack")
    if status == 429:
        after = answers.retry_after(response.header("retry-after"), now)
        return Outcome(OutcomeKind.THROTTLED, detail, status, 1.0 if after is None else after, Scope.SUBSCRIPTION)
    word = response.body[:64].decode("utf-8", "replace").strip()
    if word in _GONE or status == 410:
        return Outcome(OutcomeKind.GONE, detail, status, disable="gone")
    if word in _TARGET or status in (400, 413):
        return Outcome(OutcomeKind.REJECTED, detail, status, target=word in _TARGET)
    return Outcome(OutcomeKind.RETRY, detail, status, scope=Scope.LANE if status >= 500 else Scope.SUBSCRIPTION)
