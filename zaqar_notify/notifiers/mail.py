"""Mails as they go over the wire (RFC 5322), the addresses in them, and ``mailto:`` URIs (RFC 6068)."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import email.charset
import email.header
import email.utils
import functools
import re
import secrets
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

import idna

from zaqar_notify import feedback, templates
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Delivery, Message, MessageKind, Priority
from zaqar_notify.notifiers import content as contents
from zaqar_notify.notifiers.content import line

MOST_LOCAL = 64
"""Bytes before the @ (RFC 5321, 4.5.3.1.1)."""
MOST_LINE = 900
"""Bytes of a line; RFC 5322 has 998 as the most."""
_MOST_HEADER = 990
_SUBJECT = 200
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KEYS = frozenset({"subject", "account"})
_UTF8 = email.charset.Charset("utf-8")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAILBOX = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]+)>|(?P<bare>[^<>]+)")
_FOLD = re.compile(r"\r\n[ \t](?=[!-~])")
_NAME = re.compile(r"[A-Za-z-]+")
NO_SUCH = ("5.1.", "5.2.1", "5.6.7")
"""Enhanced codes (RFC 3463) that are about the address: it does not exist, or takes nothing any more."""
NOT_THE_SENDER = ("5.1.7", "5.1.8")
"""They say that it is the sender's that is wrong."""
_IMPORTANCE = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low", Priority.VERY_LOW: "low"}


class Address(NamedTuple):
    local: str
    domain: str
    """ASCII, in lower case."""

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


class Mailbox(NamedTuple):
    name: str
    address: Address


class Target(NamedTuple):
    """What a ``mailto:`` URI says."""

    address: Address
    subject: str | None
    account: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What a person gets to see."""

    subject: str
    text: str
    html: str | None = None


# -- addresses ----------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16384)
def address(text: str) -> Address:
    """Raises `ValueError`, saying what is wrong. A domain in other letters than ASCII is turned into its IDNA form; what stands
    before the @ may be any letters (RFC 6531), but not quoted."""
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise ValueError("it needs something before and behind an @")
    if not text.isprintable() or not _LOCAL.fullmatch(local) or len(local.encode()) > MOST_LOCAL:
        raise ValueError(
            f"what stands before the @ may have at most {MOST_LOCAL} bytes, and neither spaces, quotes nor brackets"
        )
    ascii_domain = (domain if domain.isascii() else _idna(domain)).lower()
    labels = ascii_domain.split(".")
    if len(labels) < 2 or len(ascii_domain) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ValueError("what stands behind the @ has to be the name of a domain, such as example.org")
    return Address(local, ascii_domain)


def tagged(address: Address, tag: str) -> Address:
    """One of the addresses that lead to the same mailbox."""
    return Address(f"{address.local}+{tag}", address.domain)


def _idna(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"what stands behind the @ is no domain: {error}") from None


def mailbox(text: str) -> Mailbox:
    """``a@b`` or ``Name <a@b>``. Raises `ValueError`."""
    match = _MAILBOX.fullmatch(text) if isinstance(text, str) and text.isprintable() and len(text) <= 320 else None
    if match is None:
        raise ValueError("it has to look like notify@example.org or Name <notify@example.org>")
    name = (match["name"] or "").strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1]
    return Mailbox(name, address((match["address"] or match["bare"]).strip()))


@functools.lru_cache(maxsize=16384)
def parse(uri: str) -> Target:
    """``mailto:`` and one address (RFC 6068), with ``subject`` and ``account``. Raises `InvalidRequest`."""
    _, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    if "#" in rest:
        raise InvalidRequest("In a mailto: URI # has to be written as %23.")
    text = _decoded(path, "The address")
    if "," in text:
        raise InvalidRequest("A mailto: URI may hold one address: subscribe each by itself, it has a record of its own.")
    try:
        found = address(text)
    except ValueError as error:
        raise InvalidRequest(f"The subscriber has to be mailto: and an address: {error}.") from None
    fields: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, _, value = pair.partition("=")
        name = key.lower()
        if name not in _KEYS or name in fields:
            raise InvalidRequest("A mailto: URI may hold subject and account behind its ?, each once.")
        fields[name] = _decoded(value, name)
    if "subject" in fields:
        check_subject(fields["subject"], "The subject")
    return Target(found, fields.get("subject"), fields.get("account"))


def _decoded(text: str, what: str) -> str:
    """RFC 6068: UTF-8 in percent encoding, in which + is a plus."""
    try:
        if not _ESCAPE.search(text):
            return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    raise InvalidRequest(f"{what} in a mailto: URI has to be UTF-8 in percent encoding.")


def check_subject(value: Any, what: str) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > _SUBJECT:
        raise InvalidRequest(f"{what} has to be a line of text of at most {_SUBJECT} characters.")


def is_no_such(enhanced: str) -> bool:
    """Whether this code is about the recipient's address."""
    return enhanced.startswith(NO_SUCH) and enhanced not in NOT_THE_SENDER


# -- the content --------------------------------------------------------------------------------------------------------------


def content(delivery: Delivery, subject: str | None) -> Content:
    """``subject``: the subscriber's own, which comes before what the message says. Raises `InvalidRequest` where a template
    fails. Below the text of a template stands nothing that is not of it."""
    shown = contents.content(delivery, "email", indent=2)
    text = shown.made["text"] if "text" in shown.made else "\n".join([shown.text.rstrip("\n"), *_below(delivery)])
    return Content(subject or title(shown) or _usual(delivery.message), text.rstrip("\n") + "\n", page(shown))


def page(shown: contents.Content) -> str | None:
    """In HTML. That of the body stands for its text, and not for one that a template has made."""
    return _string(shown.own.get("html")) if shown.made.keys().isdisjoint(("text", "html")) else shown.made.get("html")


def title(shown: contents.Content) -> str | None:
    made = shown.made.get("subject") or shown.made.get("title")
    return made or _string(shown.own.get("subject")) or shown.title


def _usual(message: Message) -> str:
    if message.kind is MessageKind.CONFIRMATION:
        return f"Please confirm: notifications of {message.queue}"
    return f"{'Test' if message.kind is MessageKind.TEST else 'Notification'}: {message.queue}"


def _below(delivery: Delivery) -> list[str]:
    """What stands under the text of a notification."""
    message = delivery.message
    if message.kind is MessageKind.CONFIRMATION:
        return []
    link = delivery.links.get(feedback.UNSUBSCRIBE)
    lines = ["", "-- ", f"Queue {message.queue}, message {line(message.public_id, 100)}"]
    return [*lines, f"Unsubscribe: {link}"] if link else lines


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# -- the mail -----------------------------------------------------------------------------------------------------------------


def compose(
    deliveries: Sequence[Delivery],
    content: Content,
    *,
    sender: Mailbox,
    recipient: Address,
    message_id: str,
    bounce_to: Address | None = None,
) -> bytes:
    """Headers and body, with CRLF. Of several ``deliveries``, ids and links are those of the first. ``message_id`` is the
    same over all attempts. Mails to ``bounce_to`` are read: one with a token can unsubscribe."""
    delivery = deliveries[0]
    message = delivery.message
    headers = [
        _header("From", _shown(sender)),
        _header("To", str(recipient)),
        _header("Subject", _encoded(line(content.subject, _SUBJECT) or "(none)", len("Subject: "))),
        _header("Date", email.utils.format_datetime(datetime.datetime.now(datetime.UTC))),
        _header("Message-ID", f"<{message_id}>"),
        _header("Auto-Submitted", "auto-generated"),  # RFC 3834: absence notices are not wanted
        *_hints([one.message for one in deliveries]),
        *(() if message.kind is MessageKind.CONFIRMATION else _list_headers(delivery, bounce_to)),
        _header("zaqar-notify-queue", message.queue),
        _header("zaqar-notify-subscription-id", delivery.subscription.id),
        _header("zaqar-notify-attempt", str(delivery.attempt)),
    ]
    if len(deliveries) > 1:
        headers.append(_header("zaqar-notify-digest", str(len(deliveries))))
    if message.kind is MessageKind.TEST:
        headers.append(_header("zaqar-notify-test", "true"))
    return b"".join(headers) + _body(content)


def _hints(messages: Sequence[Message]) -> list[bytes]:
    """RFC 2156, 5.3.4, and RFC 3282: of the most urgent, and where all are in one language."""
    headers = []
    priority = max((one.priority for one in messages if one.priority is not None), default=None)
    if priority is not None:
        headers.append(_header("Importance", _IMPORTANCE[priority]))
    languages = {one.language for one in messages}
    if len(languages) == 1 and templates.is_tag(language := languages.pop()):
        headers.append(_header("Content-Language", str(language)))
    return headers


def _list_headers(delivery: Delivery, bounce_to: Address | None) -> list[bytes]:
    """RFC 2369; and RFC 8058, which is for https only."""
    link = delivery.links.get(feedback.UNSUBSCRIBE)
    links = [link] if link and len(link) < _MOST_HEADER - 30 else []
    headers = _one_click(links)
    links += _by_mail(delivery, bounce_to)
    if links:
        headers.append(_header("List-Unsubscribe", ",\r\n ".join(f"<{one}>" for one in links)))
    return headers


def _one_click(links: list[str]) -> list[bytes]:
    https = any(link.startswith("https://") for link in links)
    return [_header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")] if https else []


def _by_mail(delivery: Delivery, bounce_to: Address | None) -> list[str]:
    token = delivery.links.get(feedback.UNSUBSCRIBE_BY_MAIL) if bounce_to else None
    if not (bounce_to and token):
        return []
    return [f"mailto:{urllib.parse.quote(str(tagged(bounce_to, token)), safe='@+')}?subject=unsubscribe"]


def _header(name: str, value: str) -> bytes:
    """Raises `ValueError` for what would be more than one header, or too long a line."""
    plain = _FOLD.sub(" ", value)
    if not _NAME.fullmatch(name) or not plain.isprintable() or max(map(len, value.encode().split(b"\r\n"))) > _MOST_HEADER:
        raise ValueError(f"no value for the header {name}")
    return f"{name}: {value}\r\n".encode()


@functools.lru_cache(maxsize=1024)
def _shown(mailbox: Mailbox) -> str:
    name = line(mailbox.name, 100)
    if not name:
        return str(mailbox.address)
    if not name.isascii():
        return f"{_encoded(name, len('From: '))} <{mailbox.address}>"
    return email.utils.formataddr((name, str(mailbox.address)))


@functools.lru_cache(maxsize=1024)
def _encoded(text: str, before: int) -> str:
    """RFC 2047 where it has to be; what looks like that already would be decoded, so it is encoded again."""
    if text.isascii() and "=?" not in text:
        return text
    return email.header.Header(text, _UTF8, header_name="x" * max(before - 2, 1)).encode(linesep="\r\n")


def _body(content: Content) -> bytes:
    text = _part(content.text, "plain")
    if content.html is None:
        return b"MIME-Version: 1.0\r\n" + text
    boundary = b"=_" + secrets.token_hex(16).encode()
    return b"".join(
        (
            b'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="' + boundary + b'"\r\n\r\n',
            *(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in (text, _part(content.html, "html"))),
            b"--" + boundary + b"--\r\n",
        )
    )


def _part(text: str, subtype: str) -> bytes:
    """With its headers."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
    if _is_plain(text):
        return f'Content-Type: text/{subtype}; charset="us-ascii"\r\n\r\n{text}'.encode()
    coded = base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    return head.encode() + coded


def _is_plain(text: str) -> bool:
    """It can stand in a mail as it is; all else becomes base64."""
    lines = text.split("\r\n")
    return text.isascii() and all(len(one) <= MOST_LINE and one.replace("\t", " ").isprintable() for one in lines)
