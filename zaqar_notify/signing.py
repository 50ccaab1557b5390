"""Webhook signatures: Standard Webhooks 1.0.0, version ``v1`` (HMAC-SHA256 over ``{id}.{timestamp}.{body}``); and Zaqar's
pre-signed URLs, which give a right to whoever holds them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import functools
import hmac
import secrets
from collections.abc import Sequence

from zaqar_notify.errors import InvalidRequest

PREFIX = "whsec_"
MADE_BYTES = 32
MIN_BYTES = 24
MAX_BYTES = 64
TOLERANCE = 300.0
"""Seconds that a timestamp may differ from the receiver's clock."""


def make_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(MADE_BYTES)).decode()


def parse_secret(secret: str) -> bytes:
    """The key in a secret. Raises `InvalidRequest`, without showing the secret, unless it is whsec_ + base64 of 24-64 bytes."""
    rule = f"A secret is {PREFIX!r} and the base64 of {MIN_BYTES} to {MAX_BYTES} bytes"
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        raise InvalidRequest(f"{rule}; this one does not begin with {PREFIX!r}.")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise InvalidRequest(f"{rule}; what follows the prefix is not base64.") from None
    if not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise InvalidRequest(f"{rule}; this one has {len(key)} bytes.")
    return key


def sign(key: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """The value of the ``webhook-signature`` header. ``timestamp``: epoch seconds of this attempt."""
    mac = _keyed(key).copy()
    mac.update(b"%b.%d.%b" % (delivery_id.encode(), timestamp, body))
    return "v1," + binascii.b2a_base64(mac.digest(), newline=False).decode()


@functools.lru_cache(maxsize=8192)
def _keyed(key: bytes) -> hmac.HMAC:
    # A copy costs half of a new start with the key, and does not let go of the interpreter lock as hmac.digest() does.
    return hmac.new(key, digestmod="sha256")


def verify(key: bytes, delivery_id: str, timestamp: str, body: bytes, signatures: str, *, now: float) -> bool:
    """Whether one of the space-separated ``signatures`` is right and ``timestamp`` (the header's text) is recent."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        return False
    if abs(now - int(timestamp)) > TOLERANCE:
        return False
    expected = sign(key, delivery_id, int(timestamp), body).encode()
    return any([hmac.compare_digest(expected, one.encode()) for one in signatures.split()])  # noqa: C419 - no early end


# -- pre-signed URLs ---------------------------------------------------------------------------------------------------------

SEPARATOR = "\\n"
"""Between the fields that are signed: a backslash and an n, not a line's end, as Zaqar has it."""
EXPIRES_FORMAT = "%Y-%m-%dT%H:%M:%S"


@dataclasses.dataclass(frozen=True, slots=True)
class SignedUrl:
    """Who sends all of it in the headers URL-Paths, URL-Methods (both joined by commas), X-Project-ID, URL-Expires and
    URL-Signature may use the methods on the paths and on what lies below them."""

    paths: list[str]
    methods: list[str]
    project: str
    expires: str
    """UTC, `EXPIRES_FORMAT`."""
    signature: str
    """Hexadecimal."""


class UrlSigner:
    """Signs and verifies as Zaqar does: with the same key, the signatures are the same."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, paths: Sequence[str], methods: Sequence[str], project: str, expires_at: float) -> SignedUrl:
        """Raises `InvalidRequest` for a project or an instant that cannot be signed."""
        if "\\" in project:
            raise InvalidRequest("A project whose name holds a backslash cannot have signed URLs.")
        try:
            expires = datetime.datetime.fromtimestamp(expires_at, datetime.UTC).strftime(EXPIRES_FORMAT)
        except (OverflowError, ValueError, OSError):
            raise InvalidRequest("The end of a signed URL has to lie within the years 1 to 9999.") from None
        ordered_paths, ordered_methods = sorted(paths), sorted(methods)
        signature = self._signature(ordered_paths, ordered_methods, project, expires)
        return SignedUrl(ordered_paths, ordered_methods, project, expires, signature)

    def verify(
        self, method: str, path: str, *, project: str, paths: str, methods: str, expires: str, signature: str, now: float
    ) -> bool:
        """Whether a request for ``method`` and ``path`` is signed. The others are the texts of the five headers."""
        # What could be taken for a separator would let a field run over into the next one.
        if "\\" in f"{paths}{methods}{project}":
            return False
        expires_at = _instant(expires)
        if expires_at is None or expires_at.timestamp() <= now:
            return False
        allowed_paths, allowed_methods = sorted(paths.split(",")), sorted(methods.split(","))
        expected = self._signature(allowed_paths, allowed_methods, project, expires_at.strftime(EXPIRES_FORMAT))
        return (
            hmac.compare_digest(expected.encode(), signature.encode(errors="surrogatepass"))
            and method in allowed_methods
            and any(path == allowed or path.startswith(f"{allowed}/") for allowed in allowed_paths)
        )

    def _signature(self, paths: Sequence[str], methods: Sequence[str], project: str, expires: str) -> str:
        signed = SEPARATOR.join((",".join(paths), ",".join(methods), project, expires))
        return hmac.new(self._key, signed.encode(errors="surrogatepass"), "sha256").hexdigest()


def _instant(text: str) -> datetime.datetime | None:
    """None for what is no ISO 8601 instant; without a zone it is UTC."""
    try:
        instant = datetime.datetime.fromisoformat(text)
        if instant.tzinfo is None:
            return instant.replace(tzinfo=datetime.UTC)
        return instant.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None
