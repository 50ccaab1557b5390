"""Webhook signatures: Standard Webhooks 1.0.0, version ``v1`` (HMAC-SHA256 over ``{id}.{timestamp}.{body}``)."""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import secrets

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
