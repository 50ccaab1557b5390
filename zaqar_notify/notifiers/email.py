"""``mailto:`` subscribers get a mail, over SMTP servers that the configuration names."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from oslo_config import cfg, types

from zaqar_notify import feedback
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import Delivery, Exchange, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers import digests, mail, windows
from zaqar_notify.notifiers.base import BatchNotifier, Report
from zaqar_notify.notifiers.content import line

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import HttpClients
    from zaqar_notify.notifiers.smtp import Connection, Envelope, Failed, Pool, Server

DEFAULT = "default"
"""What the account of the section itself is called."""

_DETAIL = 200
_QUEUED = re.compile(rb"queued as <?([A-Za-z0-9._-]{1,64})|\bid=([A-Za-z0-9._-]{1,64})", re.IGNORECASE)


def _seconds(name: str, default: float, help: str) -> cfg.Opt:
    return cfg.Opt(name, type=types.Float(min=0.1), default=default, help=f"{help} In seconds.")


_ACCOUNT: list[cfg.Opt] = [
    cfg.StrOpt("host", help="Name or address of the mail server. Unset: no e-mail is sent."),
    cfg.PortOpt("port", default=587, help="Its port: 587 for submission, 25 for a relay, 465 with tls."),
    cfg.StrOpt(
        "starttls",
        default="always",
        choices=[
            ("always", "Nothing is sent to a server that does not offer it."),
            ("if-offered", "Without it mails are sent in plain text, but never a password."),
            ("never", "Everything is sent in plain text: for a relay on the same machine."),
        ],
        help="Whether the connection is secured with STARTTLS. The server's certificate is checked.",
    ),
    cfg.BoolOpt("tls", default=False, help="Speak TLS from the first byte on (port 465), in place of STARTTLS."),
    cfg.StrOpt("ca_file", help="File of certificates (PEM) to trust. Unset: those of the system."),
    cfg.StrOpt("username", help="Name to log in with. Unset: no login."),
    cfg.StrOpt("password", secret=True, help="Password to log in with."),
    cfg.StrOpt(
        "sender",
        help="Address that mails come from, such as 'Notifications <notify@example.org>'. Needed.",
    ),
    cfg.StrOpt(
        "bounce_to",
        help="Address that bounces go to, such as bounces@notify.example.org, whose mails a mail server hands to 'zaqar-notify "
        "receive'. A token is put before its @, as in bounces+TOKEN@notify.example.org, so that a bounce is known by it alone; "
        "mails then can be unsubscribed from by mail, too. Unset: bounces go to sender.",
    ),
    cfg.ListOpt(
        "allowed_from",
        default=[],
        help="What a subscription's options.from may be beside sender: addresses, domains such as @example.org, or * for any.",
    ),
    cfg.StrOpt("helo", help="Name to introduce this machine by. Unset: its address."),
    cfg.IntOpt(
        "connections",
        default=8,
        min=1,
        max=1000,
        help="Most connections to the server that a worker keeps open. Each sends one mail at a time.",
    ),
    _seconds("idle", 30.0, "How long a connection is kept that has nothing to send."),
    _seconds(
        "timeout", 15.0, "How long an attempt may take, with connecting where that is needed. At most [worker] lease - 10."
    ),
    _seconds("connect_timeout", 5.0, "How long connecting may take."),
    cfg.StrOpt(
        "dsn",
        default="failure",
        choices=[
            ("none", "Nothing is asked for."),
            ("failure", "What could not be delivered is reported to the sender."),
            ("all", "What was delivered is reported, too."),
        ],
        help="Delivery status notifications (RFC 3461) that are asked for where the server offers them. The envelope's id, "
        "which comes back in them, is a signed token that names the delivery: 'zaqar-notify receive' reads it.",
    ),
    windows.OPTION,
    cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
]

_NOTIFY = {"none": None, "failure": "FAILURE", "all": "SUCCESS,FAILURE"}


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    name: str
    server: Server
    sender: mail.Mailbox
    bounce_to: mail.Address | None
    allowed_from: frozenset[str]
    connections: int
    idle: float
    timeout: float
    notify: str | None
    window: windows.Bounds | None
    dry_run: bool

    def may_be_from(self, address: mail.Address) -> bool:
        allowed = self.allowed_from
        return address == self.sender.address or not allowed.isdisjoint(("*", str(address).lower(), f"@{address.domain}"))

    def bounces(self, token: str = "") -> str:
        """The envelope's sender."""
        if self.bounce_to is None:
            return str(self.sender.address)
        return str(mail.tagged(self.bounce_to, token) if token else self.bounce_to)


class _Job(NamedTuple):
    delivery: Delivery
    report: Report
    started_at: float


class EmailNotifier(BatchNotifier):
    section: ClassVar[str] = "email"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.ListOpt(
            "accounts",
            default=[],
            help="Names (a-z, 0-9, _) of further accounts. That of 'shop' stands in [email_shop], with the options of this "
            "section; mailto:a@example.org?account=shop uses it.",
        ),
        *_ACCOUNT,
    ]
    named_by: ClassVar[str] = "accounts"
    named_options: ClassVar[list[cfg.Opt]] = _ACCOUNT
    templated: ClassVar[bool] = True
    digests: ClassVar[bool] = True

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        sections = ([(DEFAULT, "email", conf)] if conf.host else []) + [
            (name, f"email_{name}", section) for name, section in conf.named.items()
        ]
        self._accounts = {name: _account(name, section, values, http.max_timeout) for name, section, values in sections}
        self._pools: dict[str, Pool[_Job]] = {}

    # -- what the service asks ------------------------------------------------------------------------------------------------

    def check(self, subscription: Subscription) -> None:
        target = mail.parse(subscription.subscriber)
        if not self._accounts:
            raise InvalidRequest("This service sends no e-mail: [email] host is not set.")
        options = subscription.options
        chosen = options.get("account")
        if chosen is not None and not isinstance(chosen, str):
            raise InvalidRequest("options.account has to be the name of an account.")
        account = self._account(target, options)
        if account is None:
            raise InvalidRequest(f"There is no account {(target.account or str(chosen))[:64]!r} to send e-mail with.")
        if "subject" in options:
            mail.check_subject(options["subject"], "options.subject")
        if "from" in options:
            _check_from(options["from"], account)

    def lane(self, subscription: Subscription) -> str:
        account = self._account(mail.parse(subscription.subscriber), subscription.options)
        if account is None:
            return "mailto:"
        return f"mailto:{account.name}@{account.server.host}:{account.server.port}"

    def timeout(self, subscription: Subscription) -> float | None:
        account = self._account(mail.parse(subscription.subscriber), subscription.options)
        return None if account is None else account.timeout

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        account = self._account(mail.parse(subscription.subscriber), subscription.options)
        return None if account is None or account.window is None else (_credential(account.name), *account.window)

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        started_at = time.monotonic()
        for delivery in deliveries:
            subscription = delivery.subscription
            try:
                account = self._account(mail.parse(subscription.subscriber), subscription.options)
            except InvalidRequest as error:  # it was subscribed before this was checked
                report(delivery, Outcome(OutcomeKind.REJECTED, str(error), target=True))
                continue
            if account is None:
                report(delivery, Outcome(OutcomeKind.OURS, "the account to send with is not in the configuration any more"))
            else:
                self._pool(account).put(_Job(delivery, report, started_at))

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _account(self, target: mail.Target, options: Mapping[str, Any]) -> Account | None:
        """That of the URI, else of the options, else of the section itself, else the first."""
        chosen = target.account or options.get("account")
        if chosen is not None:
            return self._accounts.get(chosen) if isinstance(chosen, str) else None
        return next(iter(self._accounts.values()), None)

    # -- sending --------------------------------------------------------------------------------------------------------------

    def _pool(self, account: Account) -> Pool[_Job]:
        pool = self._pools.get(account.name)
        if pool is None:
            from zaqar_notify.notifiers.smtp import Pool

            pool = self._pools[account.name] = Pool(
                account.server,
                account.connections,
                account.idle,
                work=functools.partial(self._work, account),
                discard=lambda job: job.report(job.delivery, Outcome(OutcomeKind.OURS, "stopped")),
            )
        return pool

    def _work(self, account: Account, connection: Connection, job: _Job) -> None:
        try:
            outcome = _named(self._attempt(account, connection, job), job.delivery, account)
        except Exception as error:  # a bug costs this delivery, not the thread
            self.log.exception("Delivery %s could not be mailed", job.delivery.id)
            outcome = Outcome(OutcomeKind.OURS, f"no mail could be made: {type(error).__name__}")
        job.report(job.delivery, outcome)

    def _attempt(self, account: Account, connection: Connection, job: _Job) -> Outcome:
        from zaqar_notify.notifiers.smtp import Failed

        delivery = job.delivery
        if time.monotonic() >= delivery.deadline:
            return Outcome(OutcomeKind.OURS, f"all {account.connections} connections to the mail server were busy for too long")
        try:
            envelope = _envelope(delivery, account)
        except InvalidRequest as error:  # a template fails
            return Outcome(OutcomeKind.REJECTED, str(error))
        if account.dry_run:
            return Outcome(OutcomeKind.DELIVERED, "dry run: not sent")
        try:
            answer = connection.send(envelope, delivery.deadline)
        except Failed as failed:
            recorded = _exchange(account, envelope, connection, job.started_at, (failed.code, failed.text))
            return dataclasses.replace(classify(failed, envelope, account.name), exchange=recorded)
        match = _QUEUED.search(answer)
        taken = Outcome(
            OutcomeKind.DELIVERED,
            f"accepted by the mail server: {_shown(answer, envelope)}",
            250,
            provider_id=(match[1] or match[2]).decode() if match else None,
        )
        if not self.http.record_successes:
            return taken
        recorded = _exchange(account, envelope, connection, job.started_at, (taken.status, answer))
        return dataclasses.replace(taken, exchange=recorded)


def _account(name: str, section: str, conf: Any, most: float) -> Account:
    """Raises `CannotStart` for what cannot work."""
    from zaqar_notify.notifiers.smtp import Server, tls_context

    for option in ("host", "sender"):
        if not conf[option]:
            raise CannotStart(f"[{section}] {option} is not set")
    if conf.username and not (conf.password and f"{conf.username}{conf.password}".isascii()):
        raise CannotStart(f"[{section}] username needs a password, both in ASCII")
    try:
        sender = mail.mailbox(conf.sender)
    except ValueError as error:
        raise CannotStart(f"[{section}] sender: {error}") from None
    if not str(sender.address).isascii():
        raise CannotStart(f"[{section}] sender has to be an address in ASCII")
    if conf.ca_file:
        tls_context(conf.ca_file)
    return Account(
        name,
        Server(
            conf.host,
            conf.port,
            conf.starttls,
            conf.tls,
            conf.username or None,
            conf.password,
            conf.ca_file,
            conf.helo,
            float(conf.connect_timeout),
        ),
        sender,
        _bounce_to(conf.bounce_to, section),
        frozenset(one.lower() for one in conf.allowed_from),
        conf.connections,
        float(conf.idle),
        min(float(conf.timeout), most),
        _NOTIFY[conf.dsn],
        windows.parse(conf.window, section),
        conf.dry_run,
    )


def _bounce_to(text: str | None, section: str) -> mail.Address | None:
    if not text:
        return None
    try:
        found = mail.address(text)
    except ValueError as error:
        raise CannotStart(f"[{section}] bounce_to: {error}") from None
    most = mail.MOST_LOCAL - len("+") - feedback.SHORT
    if not found.local.isascii() or "+" in found.local or len(found.local) > most:
        raise CannotStart(f"[{section}] bounce_to needs at most {most} characters in ASCII, without a +, before its @")
    return found


def _check_from(value: Any, account: Account) -> None:
    try:
        wanted = mail.mailbox(value)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"options.from has to be an address: {error}.") from None
    if not str(wanted.address).isascii():
        raise InvalidRequest("options.from has to be an address in ASCII.")
    if not account.may_be_from(wanted.address):
        raise InvalidRequest("options.from is not among the addresses that this service may send from.")


# -- the mail -----------------------------------------------------------------------------------------------------------------


def _envelope(delivery: Delivery, account: Account) -> Envelope:
    from zaqar_notify.notifiers.smtp import Envelope

    target, options = mail.parse(delivery.subscription.subscriber), delivery.subscription.options
    sender = account.sender
    if "from" in options:
        wanted = mail.mailbox(options["from"])
        if account.may_be_from(wanted.address):  # what is allowed may have changed since
            sender = wanted
    found = digests.members(delivery)
    subject = target.subject or options.get("subject")
    made = mail.compose(
        found,
        mail.content(delivery, subject) if len(found) == 1 else digests.content(found, subject),
        sender=sender,
        recipient=target.address,
        message_id=_message_id(found, account),
        bounce_to=account.bounce_to,
    )
    token = found[0].links.get(feedback.ENVELOPE, "")
    return Envelope(account.bounces(token), str(target.address), made, token or found[0].id, account.notify)


def _message_id(found: Sequence[Delivery], account: Account) -> str:
    return f"{digests.name(found)}@{account.sender.address.domain}"


def _named(outcome: Outcome, delivery: Delivery, account: Account) -> Outcome:
    """In the record of each delivery of a digest stands which one it was in."""
    if not delivery.others:
        return outcome
    found = digests.members(delivery)
    return dataclasses.replace(outcome, detail=f"digest of {len(found)} <{_message_id(found, account)}>: {outcome.detail}")


def _exchange(
    account: Account, envelope: Envelope, connection: Connection, started_at: float, answer: tuple[int | None, bytes]
) -> Exchange:
    code, text = answer
    server = account.server
    return Exchange(
        {
            "server": f"{server.host}:{server.port}",
            "account": account.name,
            "sender": account.bounces(),
            "size": len(envelope.mail),
        },
        None if code is None else {"status": code, "text": _shown(text, envelope)},
        {name: at - started_at for name, at in connection.phases.items()} | {"end": time.monotonic() - started_at},
    )


# -- answers to outcomes ------------------------------------------------------------------------------------------------------


def classify(failed: Failed, envelope: Envelope, account: str) -> Outcome:
    """What it means that a mail was not taken (the table is in docs/channels/email.md)."""
    text = _shown(failed.text, envelope)
    stage, code = failed.stage, failed.code
    if code is None:
        kind = OutcomeKind.OURS if stage.name == "NAME" else OutcomeKind.RETRY
        return Outcome(kind, f"{stage.value}: {text}")
    detail = f"the mail server answered {code} {text} ({stage.value})"
    if code == 421 or (code < 500 and stage.name not in ("RECIPIENT", "DATA")):
        return Outcome(OutcomeKind.RETRY, detail, code)
    if code < 500 or (stage.name == "RECIPIENT" and code == 552):  # RFC 5321, 4.5.3.1.10: too many recipients
        return Outcome(OutcomeKind.RETRY, detail, code, scope=Scope.SUBSCRIPTION)
    return _refused(failed, detail, account)


def _credential(account: str) -> str:
    return f"email account {account}"


def _refused(failed: Failed, detail: str, account: str) -> Outcome:
    """For ever, with a code of 5xx."""
    code, enhanced = failed.code, failed.enhanced
    too_large = code == 552 or enhanced == "5.3.4"
    about_us = failed.stage.name in ("CONNECT", "TLS", "LOGIN") or (failed.stage.name == "SENDER" and not too_large)
    if about_us or code in (530, 534, 535, 538) or enhanced in mail.NOT_THE_SENDER:
        return Outcome(OutcomeKind.AUTH, detail, code, scope=Scope.CREDENTIAL, credential=_credential(account))
    unknown = mail.is_no_such(enhanced) if enhanced else failed.stage.name == "RECIPIENT" and code in (550, 551, 553)
    return Outcome(OutcomeKind.REJECTED, detail, code, target=unknown)


def _shown(text: bytes, envelope: Envelope) -> str:
    """In a line, without the addresses: it is in the log of a delivery, and in ours."""
    addresses = "|".join(map(re.escape, (envelope.recipient, envelope.sender)))
    return line(re.sub(addresses, "...", text[:2048].decode("utf-8", "replace"), flags=re.IGNORECASE), _DETAIL)
