"""What went over the wire in an attempt by HTTP, in the form that the log keeps: bounded, and without secrets."""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zaqar_notify.model import Exchange
from zaqar_notify.notifiers.http import Fault

if TYPE_CHECKING:
    import requests

    from zaqar_notify.notifiers.http import Request, Response

MASK = "***"
BODY_BYTES = 1024
MOST_BODY_BYTES = 4096
"""With this much of a body an exchange stays below 64 KiB of JSON, whatever the other side sends."""
MOST_HEADERS = 50
MOST_HEADER_CHARACTERS = 4096
_VALUE_CHARACTERS = 1024
_URL_CHARACTERS = 2048
_SIGNATURE_CHARACTERS = 8  # enough to compare by, too little to repeat the request with

_SECRET_NAME = re.compile(
    r"token|secret|key|passw|passphrase|signature|credential|cookie|authori[sz]ation|session|jwt"
    r"|(^|[^a-z])(auth|sig|pwd|pass|pin|otp)($|[^a-z])"
)
_SECRET_VALUE = re.compile(r"\s*(basic|bearer|digest)\s+\S|wh(sec|sk)_|zn_", re.IGNORECASE)
_CHALLENGES = frozenset({"www-authenticate", "proxy-authenticate"})  # these say how to prove who one is, and prove nothing
_SIGNATURE = "webhook-signature"
_OWN = ("webhook-", "zaqar-notify-")  # without secrets; nobody else may set them
_PROXY_FAULTS = frozenset({Fault.PROXY, Fault.PROXY_REFUSED, Fault.PROXY_GATEWAY})
_LINE = 2048  # of a longer one the rest is not even read
_CACHED_LINE = 256
_ADDRESSES = frozenset({"location", "content-location", "referer", "origin"})
_LEAST_SECRET = 6  # shorter ones are not looked for in answers: they would be found everywhere
_CONTROL = {code: "\ufffd" for code in range(32) if chr(code) not in "\t\n\r"}

Pairs = Iterable[tuple[str, str]]


class HttpExchange(Exchange):
    """Made here, so that nobody has to look at it again before it is stored."""

    __slots__ = ()


def of_request(request: Request, response: Response, phases: Mapping[str, float], body_bytes: int) -> HttpExchange:
    """That of a request which the engine has made.

    Where the log wants all of them, this is done for each delivery: lines that come again and again are read once.
    """
    headers = {}
    size = 0
    for line in request.headers:
        size += len(line)
        if line.startswith(_SIGNATURE):
            headers[_SIGNATURE] = redacted_value(_SIGNATURE, line.partition(": ")[2])
        elif line.startswith(_OWN):
            name, _, value = line.partition(": ")
            headers[name] = value
        else:
            name, value = _sent(line)
            headers[name] = value
    sent = {"method": request.method, "url": redacted_url(request.url), "headers": headers, "body_size": len(request.body)}
    if size > MOST_HEADER_CHARACTERS or len(headers) > MOST_HEADERS:
        _bound(sent)
    return HttpExchange(sent, _received(response, body_bytes), _rounded(phases))


def of_response(response: requests.Response, body_bytes: int = BODY_BYTES) -> HttpExchange:
    """That of an answer which ``HttpClients.session()`` got; ``body_bytes``: how much of its body is kept, 0 for none."""
    request = response.request
    url, body = request.url or "", request.body or b""
    pairs = [(name, value if isinstance(value, str) else value.decode("latin-1")) for name, value in request.headers.items()]
    sent: dict[str, Any] = {"method": request.method, "url": redacted_url(url), "headers": redacted_headers(pairs)}
    if isinstance(body, str | bytes):
        sent["body_size"] = len(body.encode() if isinstance(body, str) else body)
    hidden = secrets_in(url, pairs)
    answered = [(name, without(hidden, value.encode()).decode()) for name, value in response.headers.items()]
    received: dict[str, Any] = {"status": response.status_code, "headers": redacted_headers(answered)}
    if body_bytes:
        received["body"] = _text(without(hidden, response.content), body_bytes)
    _bound(sent)
    _bound(received)
    return HttpExchange(sent, received, _rounded({"first_byte": response.elapsed.total_seconds()}))


def _received(response: Response, body_bytes: int) -> dict[str, Any] | None:
    """None: there was no answer, or it was that of the egress proxy."""
    if not response.status or response.fault in _PROXY_FAULTS:
        return None
    headers: dict[str, str] = {}
    lines = response.lines()
    for line in lines[: MOST_HEADERS + 1]:  # the last one is empty
        name, value = _answered(line) if len(line) <= _CACHED_LINE else _read(line)
        if name in headers:
            value = f"{headers[name]}, {value}"
        if name:
            headers[name] = value
    received: dict[str, Any] = {"status": response.status, "headers": headers}
    if body_bytes:
        received["body"] = _text(response.body, body_bytes)
    if len(response.head) > MOST_HEADER_CHARACTERS or len(lines) > MOST_HEADERS + 1:
        _bound(received)
        if len(lines) > MOST_HEADERS + 1 or any(len(line) > _LINE for line in lines):
            received["truncated"] = True
    return received


@functools.lru_cache(maxsize=4096)
def _sent(line: str) -> tuple[str, str]:
    name, value = parted(line)
    return name.lower(), redacted_value(name.lower(), value)


def _read(line: bytes) -> tuple[str, str]:
    """Without a name: it is no header."""
    name, colon, value = line[:_LINE].partition(b":")
    if not colon or name[:1] in (b" ", b"\t"):
        return "", ""
    named = name.strip().lower().decode("latin-1")
    return named, redacted_value(named, value.strip().decode("latin-1"))


_answered = functools.lru_cache(maxsize=8192)(_read)


def parted(line: str) -> tuple[str, str]:
    """Name and value in a line as libcurl takes it: ``Name;`` is one without a value."""
    name, colon, value = line.partition(":")
    return (name, value.strip()) if colon else (name.rstrip(";"), "")


# -- secrets ------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what a header or a parameter of this name holds is not to be seen."""
    return _SECRET_NAME.search(name.lower()) is not None


def redacted_headers(headers: Pairs) -> dict[str, str]:
    """By names in lower case, without secrets; not bounded."""
    return {name.lower(): redacted_value(name.lower(), value) for name, value in headers}


def redacted_value(name: str, value: str) -> str:
    """The value of a header as it may be shown; ``name`` in lower case."""
    if name == _SIGNATURE:
        return " ".join(_abridged(signature) for signature in value.split())
    if is_secret(name) or (_SECRET_VALUE.match(value) and name not in _CHALLENGES):
        return MASK
    return redacted_url(value) if name in _ADDRESSES else value


def _abridged(signature: str) -> str:
    version, _, mac = signature.partition(",")
    return f"{version},{mac[:_SIGNATURE_CHARACTERS]}..."


def redacted_url(url: str) -> str:
    """Without user and password, without the fragment, and with the values of secret parameters masked."""
    url = url[:_URL_CHARACTERS]
    return _redacted_url(url) if "?" in url or "@" in url or "#" in url else url


@functools.lru_cache(maxsize=4096)
def _redacted_url(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return MASK
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(f"{name}={MASK}" if _hides(name) and value else pair for pair, name, value in _parameters(parts.query))
    shown = parts._replace(netloc=f"{MASK}@{host}" if at and user else parts.netloc, query=query, fragment="")
    return shown.geturl()


def _parameters(query: str) -> Iterator[tuple[str, str, str]]:
    """Each parameter as it stands, its name and its value."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield pair, name, value


def _hides(name: str) -> bool:
    plain = urllib.parse.unquote_plus(name)
    return plain.lower() == "code" or is_secret(plain)


def secrets_in(url: str, headers: Pairs) -> list[bytes]:
    """What must not be seen of a request: an answer may repeat it. The longest come first, as one may hold another."""
    found = []
    for name, value in headers:
        if name.lower() != _SIGNATURE and redacted_value(name.lower(), value) == MASK:
            found += [value, value.strip().rpartition(" ")[2]]
    for _, name, value in _parameters(url.partition("#")[0].partition("?")[2]):
        if _hides(name):
            found += [value, urllib.parse.unquote_plus(value)]
    secrets = {secret.encode("utf-8", "replace") for secret in found if len(secret) >= _LEAST_SECRET}
    return sorted(secrets, key=len, reverse=True)


def without(secrets: Iterable[bytes], data: bytes) -> bytes:
    for secret in secrets:
        data = data.replace(secret, MASK.encode())
    return data


# -- bounds -------------------------------------------------------------------------------------------------------------------


def _bound(part: dict[str, Any]) -> None:
    """Cut the headers of a request or of an answer; ``truncated`` says that it was done."""
    kept: dict[str, str] = {}
    left = MOST_HEADER_CHARACTERS
    for name, value in part["headers"].items():
        shown = value[:_VALUE_CHARACTERS]
        left -= len(name) + len(shown)
        if left < 0 or len(kept) == MOST_HEADERS:
            break
        kept[name] = shown
    if kept != part["headers"]:
        part["headers"] = kept
        part["truncated"] = True


def _rounded(phases: Mapping[str, float]) -> dict[str, float]:
    """To microseconds."""
    return {name: int(seconds * 1e6) / 1e6 for name, seconds in phases.items()}


def _text(body: bytes, most: int) -> str:
    """At most so many bytes of UTF-8. What is no text, or would not be printed, is replaced."""
    text = body[:most].decode("utf-8", "replace")
    if not (text.isascii() and text.isprintable()):
        text = text.translate(_CONTROL).encode()[:most].decode("utf-8", "ignore")
    return text
