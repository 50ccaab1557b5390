"""What went over the wire in an attempt by HTTP, in the form that the log keeps: bounded, and without secrets."""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zaqar_notify.model import Exchange

if TYPE_CHECKING:
    import requests

MASK = "***"
BODY_BYTES = 1024
MOST_BODY_BYTES = 8192
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
_SECRET_VALUE = re.compile(r"\s*(basic|bearer|digest)\s+\S|wh(sec|sk)_", re.IGNORECASE)
_SIGNATURE = "webhook-signature"
_ADDRESSES = frozenset({"location", "content-location", "referer", "origin"})
_LEAST_SECRET = 6  # shorter ones are not looked for in answers: they would be found everywhere
_CONTROL = {code: "\ufffd" for code in range(32) if chr(code) not in "\t\n\r"}

Pairs = Iterable[tuple[str, str]]


class HttpExchange(Exchange):
    """Made here, so that nobody has to look at it again before it is stored."""

    __slots__ = ()


def http_exchange(
    url: str,
    headers: Pairs,
    body_size: int,
    *,
    method: str = "POST",
    status: int = 0,
    answered: Pairs = (),
    body: bytes = b"",
    body_bytes: int = BODY_BYTES,
    phases: Mapping[str, float],
) -> HttpExchange:
    """``status`` 0: there was no answer. ``answered``: the headers of the answer; ``body_bytes``: how much is kept of its
    ``body``, 0 for none. ``phases``: seconds since the start of the attempt."""
    request: dict[str, Any] = {"method": method, "url": redacted_url(url)}
    _put_headers(request, headers)
    request["body_size"] = body_size
    response: dict[str, Any] | None = None
    if status:
        response = {"status": status}
        _put_headers(response, answered)
        if body_bytes:
            response["body"] = _text(body, body_bytes)
    return HttpExchange(request, response, {name: round(seconds, 6) for name, seconds in phases.items()})


def of_response(response: requests.Response, body_bytes: int = BODY_BYTES) -> HttpExchange:
    """That of an answer which ``HttpClients.session()`` got."""
    request = response.request
    body = request.body or b""
    headers = [(name, _latin(value)) for name, value in request.headers.items()]
    hidden = secrets_in(request.url or "", headers)
    return http_exchange(
        request.url or "",
        headers,
        len(body.encode() if isinstance(body, str) else body) if isinstance(body, str | bytes) else 0,
        method=request.method or "",
        status=response.status_code,
        answered=response.headers.items(),
        body=without(hidden, response.content),
        body_bytes=body_bytes,
        phases={"first_byte": response.elapsed.total_seconds()},
    )


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
    if is_secret(name) or _SECRET_VALUE.match(value):
        return MASK
    return redacted_url(value) if name in _ADDRESSES else value


def _abridged(signature: str) -> str:
    version, _, mac = signature.partition(",")
    return f"{version},{mac[:_SIGNATURE_CHARACTERS]}..."


def redacted_url(url: str) -> str:
    """Without user and password, without the fragment, and with the values of secret parameters masked."""
    if "?" not in url and "@" not in url and "#" not in url:
        return url[:_URL_CHARACTERS]
    return _redacted_url(url)


@functools.lru_cache(maxsize=4096)
def _redacted_url(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return MASK
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(f"{name}={MASK}" if _hides(name) and value else pair for pair, name, value in _parameters(parts.query))
    shown = parts._replace(netloc=f"{MASK}@{host}" if at and user else parts.netloc, query=query, fragment="")
    return shown.geturl()[:_URL_CHARACTERS]


def _parameters(query: str) -> Iterator[tuple[str, str, str]]:
    """Each parameter as it stands, its name and its value."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield pair, name, value


def _hides(name: str) -> bool:
    plain = urllib.parse.unquote_plus(name)
    return plain.lower() == "code" or is_secret(plain)


def secrets_in(url: str, headers: Pairs) -> list[bytes]:
    """What must not be seen of a request: an answer may repeat it."""
    found = []
    for name, value in headers:
        if name.lower() != _SIGNATURE and redacted_value(name.lower(), value) == MASK:
            found += [value, value.strip().rpartition(" ")[2]]
    for _, name, value in _parameters(url.partition("#")[0].partition("?")[2]):
        if _hides(name):
            found += [value, urllib.parse.unquote_plus(value)]
    return [secret.encode("utf-8", "replace") for secret in dict.fromkeys(found) if len(secret) >= _LEAST_SECRET]


def without(secrets: Iterable[bytes], data: bytes) -> bytes:
    for secret in secrets:
        data = data.replace(secret, MASK.encode())
    return data


# -- bounds -------------------------------------------------------------------------------------------------------------------


def _put_headers(part: dict[str, Any], headers: Pairs) -> None:
    """``truncated`` says that there were more."""
    shown: dict[str, str] = {}
    part["headers"] = shown
    left = MOST_HEADER_CHARACTERS
    for number, (given, value) in enumerate(headers):
        name = given.lower()
        text = redacted_value(name, value)
        left -= len(name) + len(text)
        if number >= MOST_HEADERS or left < 0:
            part["truncated"] = True
            text = text[: min(_VALUE_CHARACTERS, left + len(text))] if number < MOST_HEADERS else ""
            if text:
                shown[name] = text
            return
        shown[name] = f"{shown[name]}, {text}" if name in shown else text


def _text(body: bytes, most: int) -> str:
    """At most so many bytes of UTF-8. What is no text, or would not be printed, is replaced."""
    text = body[:most].decode("utf-8", "replace").translate(_CONTROL)
    return text.encode()[:most].decode("utf-8", "ignore")


def _latin(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
