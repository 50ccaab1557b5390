"""``sms:`` subscribers get a short message, over gateways that the configuration names: by HTTP, or by SMPP."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from oslo_config import cfg, types

from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.feedback import RECEIPT
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Priority, Receipt, Subscription
from zaqar_notify.notifiers import content, gsm, windows
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.gateways import HttpGateway, Sms
from zaqar_notify.notifiers.http import HttpClients, Request, Response
from zaqar_notify.notifiers.templated import TemplatedNotifier

if TYPE_CHECKING:
    from zaqar_notify.notifiers.smpp import SmppGateway

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_SEPARATORS = str.maketrans("", "", "-.()")
_KEEP_BYTES = 16384
"""Of an answer: with many parts it has one for each."""
SMPP = "smpp"


def _seconds(name: str, default: float, help: str) -> cfg.Opt:
    return cfg.Opt(name, type=types.Float(min=0.1), default=default, help=f"{help} In seconds.")


_GATEWAY: list[cfg.Opt] = [
    cfg.StrOpt(
        "preset",
        default="generic",
        choices=[
            ("generic", "Any gateway with HTTP: url, body, code and others say how."),
            ("twilio", "Twilio: account, username (the account's SID or an API key's) and password, and sender or service."),
            ("vonage", "Vonage's SMS API: username (the API key), password and sender."),
            ("kannel", "Kannel's sendsms: url, username and password."),
            (SMPP, "SMPP 3.4: url (smpp://host:port or smpps://host:port), username and password. Needs zaqar-notify[smpp]."),
        ],
        help="What kind of gateway it is. The other options replace what the preset says.",
    ),
    cfg.StrOpt(
        "url",
        help="Where requests go. In it and in body {to}, {number} (without its plus), {text}, {from}, {id}, {username}, "
        "{password}, {account}, {service}, {callback}, {encoding} (gsm or ucs2), {coding} (0 or 2), {type} (text or unicode), "
        "{seconds}, {minutes} and {milliseconds} (that the message lives) are replaced.",
    ),
    cfg.StrOpt("method", choices=["POST", "GET"], help="Unset: the preset's, or POST."),
    cfg.StrOpt("content_type", help="Type of the body, by which values are escaped. Unset: a form."),
    cfg.StrOpt(
        "body",
        help="The body, or the parameters of a GET. A parameter of a form or of a URL whose value comes out empty is left out.",
    ),
    cfg.ListOpt(
        "headers",
        help="Further headers, such as X-Api-Key: {password}. {id}, {from}, {username}, {account} and {service} are replaced.",
    ),
    cfg.StrOpt("auth", choices=["none", "basic"], help="Whether username and password are sent as HTTP Basic authentication."),
    cfg.StrOpt("username", help="The name, key or system id that we are known by."),
    cfg.StrOpt("password", secret=True, help="The password, secret or token for it."),
    cfg.StrOpt("account", help="The account, where that is not the username."),
    cfg.StrOpt("sender", help="Number or name that messages come from."),
    cfg.StrOpt("service", help="Of Twilio: the SID of a messaging service, in place of sender."),
    cfg.BoolOpt(
        "internal",
        default=False,
        help="The gateway is in a network of ours: its address may be private, and the egress proxy is not used.",
    ),
    cfg.StrOpt(
        "code",
        help="Where in an answer the provider's code is: keys and indices in JSON, parted by dots (messages.*.status), or a "
        "regular expression between slashes, whose first group is meant.",
    ),
    cfg.ListOpt("success", help="Codes that mean success. Empty: a status of 2xx does."),
    cfg.StrOpt("id", help="Where in an answer the provider's id of the message is."),
    cfg.StrOpt("error", help="Where in an answer it says in words what is wrong."),
    cfg.DictOpt(
        "outcomes",
        help="What codes mean, as code:outcome, in addition to the preset's; http-404 is a status. The outcome is one of "
        "retry, throttled, auth (the credential is refused), target (the number is wrong: a strike), rejected, gone, ours, "
        "delivered.",
    ),
    cfg.StrOpt(
        "receipt_field",
        help="Of a delivery report, which comes to {callback}, the field that says what became of the message.",
    ),
    cfg.StrOpt("receipt_code", help="The field of a report that has the reason."),
    cfg.ListOpt("receipt_delivered", help="Values of receipt_field: the device has it."),
    cfg.ListOpt("receipt_failed", help="Values of receipt_field: it will never have it."),
    cfg.ListOpt("receipt_gone", help="Values of receipt_field or receipt_code: nothing will ever arrive at this number."),
    _seconds("throttle_delay", 1.0, "How long the gateway is left alone that tells us to slow down and not for how long."),
    cfg.IntOpt("max_segments", default=6, min=1, max=255, help="Most short messages that one notification may become."),
    cfg.StrOpt(
        "overlong",
        default="cut",
        choices=[("cut", "It ends in an ellipsis."), ("reject", "It is not sent.")],
        help="What becomes of a notification that would be more.",
    ),
    cfg.ListOpt(
        "allowed_prefixes",
        default=[],
        help="Beginnings of numbers that may be subscribed, such as +46: some countries and services cost much. Empty: all.",
    ),
    _seconds("timeout", 15.0, "How long an attempt may take. At most [worker] lease - 10."),
    _seconds("connect_timeout", 5.0, "How long connecting may take."),
    cfg.IntOpt(
        "max_unanswered", default=20, min=1, max=1000, help="Of SMPP: most short messages on their way without an answer."
    ),
    _seconds("enquire_link", 30.0, "Of SMPP: how long a connection may be silent before it is asked for a sign of life."),
    cfg.StrOpt("ca_file", help="Of SMPP with TLS: file of certificates (PEM) to trust. Unset: those of the system."),
    windows.OPTION,
    cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
]


class Target(NamedTuple):
    """What a ``sms:`` URI says."""

    number: str
    """E.164, with its plus."""
    gateway: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a gateway of whatever kind."""

    name: str
    max_segments: int
    cut: bool
    allowed_prefixes: tuple[str, ...]
    timeout: float
    connect_timeout: float
    window: windows.Bounds | None
    dry_run: bool


class _Job(NamedTuple):
    delivery: Delivery
    report: Report
    gateway: HttpGateway
    to: str


class SmsNotifier(TemplatedNotifier):
    section: ClassVar[str] = "sms"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.ListOpt(
            "gateways",
            default=[],
            help="Names (a-z, 0-9, _) of the gateways. That of 'kannel' stands in [sms_kannel]; "
            "sms:+46701234567?gateway=kannel uses it, and without a name the first one is used.",
        ),
        cfg.IntOpt("log_body_bytes", default=1024, min=0, max=4096, help="How much of an answer the log of a delivery keeps."),
    ]
    named_by: ClassVar[str] = "gateways"
    named_options: ClassVar[list[cfg.Opt]] = _GATEWAY

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._terms = {name: _terms(name, section, http.max_timeout) for name, section in conf.named.items()}
        self._gateways = {name: self._gateway(name, section) for name, section in conf.named.items()}
        self._log_body_bytes = int(conf.log_body_bytes)

    def _gateway(self, name: str, section: Any) -> HttpGateway | SmppGateway:
        if section.preset != SMPP:
            return HttpGateway(name, f"sms_{name}", section)
        try:
            from zaqar_notify.notifiers.smpp import SmppGateway
        except ImportError as error:
            raise CannotStart(f"[sms_{name}] preset is smpp, which needs smpplib: pip install 'zaqar-notify[smpp]'") from error
        return SmppGateway(name, f"sms_{name}", section, self.log, self._heard)

    def _heard(self, delivery_id: str, receipt: Receipt) -> None:
        message_id, _, subscription_id = delivery_id.partition("-")
        self.received(message_id, subscription_id, receipt)

    # -- what the service asks ------------------------------------------------------------------------------------------------

    def check(self, subscription: Subscription) -> None:
        target = parse(subscription.subscriber)
        if not self._terms:
            raise InvalidRequest("This service sends no short messages: [sms] gateways is empty.")
        chosen = subscription.options.get("gateway")
        if chosen is not None and not isinstance(chosen, str):
            raise InvalidRequest("options.gateway has to be the name of a gateway.")
        terms = self._chosen(target, subscription.options)
        if terms is None:
            raise InvalidRequest(f"There is no gateway {(target.gateway or str(chosen))[:64]!r} to send short messages with.")
        if terms.allowed_prefixes and not target.number.startswith(terms.allowed_prefixes):
            raise InvalidRequest(f"The number has to begin with {' or '.join(terms.allowed_prefixes)}.")

    def lane(self, subscription: Subscription) -> str:
        terms = self._chosen(parse(subscription.subscriber), subscription.options)
        return "sms:" if terms is None else f"sms:{terms.name}"

    def timeout(self, subscription: Subscription) -> float | None:
        terms = self._chosen(parse(subscription.subscriber), subscription.options)
        return None if terms is None else terms.timeout

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        terms = self._chosen(parse(subscription.subscriber), subscription.options)
        return None if terms is None or terms.window is None else (f"sms {terms.name}", *terms.window)

    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Receipt | None:
        target = parse(subscription.subscriber)
        terms = self._chosen(target, subscription.options)
        gateway = self._gateways[terms.name] if terms else None
        return gateway.receipt(fields, target.number, time.time()) if isinstance(gateway, HttpGateway) else None

    def close(self) -> None:
        super().close()
        for gateway in self._gateways.values():
            if not isinstance(gateway, HttpGateway):
                gateway.close()

    def _chosen(self, target: Target, options: Mapping[str, Any]) -> Terms | None:
        """The URI's gateway, else the options', else the first."""
        chosen = target.gateway or options.get("gateway")
        if chosen is not None:
            return self._terms.get(chosen) if isinstance(chosen, str) else None
        return next(iter(self._terms.values()), None)

    # -- sending --------------------------------------------------------------------------------------------------------------

    def _start_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        started_at = time.monotonic()
        requests: dict[bool, list[Request]] = {False: [], True: []}
        for delivery in deliveries:
            try:
                started = self._begin(delivery, report, started_at)
            except Exception as error:  # bad data in one delivery must not stop the others of its batch
                self.log.exception("Delivery %s could not be made into a short message", delivery.id)
                started = Outcome(OutcomeKind.OURS, f"no short message could be made: {type(error).__name__}")
            if isinstance(started, Outcome):
                report(delivery, started)
            elif started is not None:
                requests[started.tag.gateway.internal].append(started)
        if requests[False]:
            self.http.engine().send_many(requests[False])
        if requests[True]:
            self.http.internal_engine().send_many(requests[True])

    def _begin(self, delivery: Delivery, report: Report, started_at: float) -> Request | Outcome | None:
        """A request to be made, the outcome at once, or None where something else sees to it."""
        subscription = delivery.subscription
        try:
            target = parse(subscription.subscriber)
        except InvalidRequest as error:  # it was subscribed before this was checked
            return Outcome(OutcomeKind.REJECTED, str(error), target=True)
        terms = self._chosen(target, subscription.options)
        if terms is None:
            return Outcome(OutcomeKind.OURS, "the gateway to send with is not in the configuration any more")
        try:
            sms = _sms(delivery, target, terms)
        except InvalidRequest as error:
            return Outcome(OutcomeKind.REJECTED, str(error))
        if terms.dry_run:
            return Outcome(OutcomeKind.DELIVERED, "dry run: not sent")
        gateway = self._gateways[terms.name]
        if isinstance(gateway, HttpGateway):
            return self._request(_Job(delivery, report, gateway, target.number), sms, terms, started_at)
        gateway.send(sms, delivery.deadline, functools.partial(report, delivery))
        return None

    def _request(self, job: _Job, sms: Sms, terms: Terms, started_at: float) -> Request:
        call = job.gateway.call(sms)
        return Request(
            call.url,
            call.headers,
            call.body,
            job.delivery.deadline,
            self._done,
            terms.connect_timeout,
            keep_bytes=_KEEP_BYTES,
            started_at=started_at,
            timed=self.http.record_successes,
            tag=job,
            method=job.gateway.method,
        )

    def _done(self, request: Request, response: Response) -> None:
        job: _Job = request.tag
        outcome = job.gateway.outcome(request, response, job.to, self._log_body_bytes, self.http.record_successes)
        job.report(job.delivery, outcome)


def _terms(name: str, section: Any, most: float) -> Terms:
    return Terms(
        name,
        section.max_segments,
        section.overlong == "cut",
        tuple(section.allowed_prefixes),
        min(float(section.timeout), most),
        float(section.connect_timeout),
        windows.parse(section.window, f"sms_{name}"),
        section.dry_run,
    )


def _sms(delivery: Delivery, target: Target, terms: Terms) -> Sms:
    """Raises `InvalidRequest` where it is too long, or a template fails."""
    text = content.content(delivery, "sms").text
    text = "".join(one if one.isprintable() or one == "\n" else " " for one in text.replace("\r\n", "\n")) or " "
    if gsm.measure(text).segments > terms.max_segments:
        if not terms.cut:
            raise InvalidRequest(f"the text is longer than {terms.max_segments} short messages")
        text = gsm.cut(text, terms.max_segments)
    return Sms(
        delivery.id,
        target.number,
        text,
        not gsm.is_gsm(text),
        max(int(delivery.message.expires_at - time.time()), 1),
        delivery.links.get(RECEIPT, ""),
        delivery.message.priority is Priority.HIGH,
    )


@functools.lru_cache(maxsize=16384)
def parse(uri: str) -> Target:
    """``sms:`` and one number (RFC 5724), with ``gateway``. Raises `InvalidRequest`."""
    _, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    if "," in path:
        raise InvalidRequest("A sms: URI may hold one number: subscribe each by itself, it has a record of its own.")
    number = urllib.parse.unquote(path).translate(_SEPARATORS)
    if not _NUMBER.fullmatch(number):
        raise InvalidRequest("The subscriber has to be sms: and a number with its country's code, such as sms:+46701234567.")
    gateway: str | None = None
    for pair in query.split("&") if query else ():
        key, _, value = pair.partition("=")
        if key.lower() != "gateway" or gateway is not None or not value:
            raise InvalidRequest("A sms: URI may hold gateway behind its ?, once; the text is that of the messages.")
        gateway = urllib.parse.unquote(value)
    return Target(number, gateway)
