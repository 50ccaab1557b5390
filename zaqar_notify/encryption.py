"""Encryption of what is secret at rest: AES-256-GCM (NIST SP 800-38D) with keys that can be rotated.

A token is a version byte, a fingerprint of the key (so that opening it tries no others), a random nonce, and the ciphertext
with its tag. What it belongs to (``context``) is authenticated with it: a token that is moved to another place does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from zaqar_notify.errors import CannotStart, NotifyError

KEY_BYTES = 32
_VERSION = b"\x01"
_FINGERPRINT_BYTES = 4
_NONCE_BYTES = 12
_HEADER_BYTES = len(_VERSION) + _FINGERPRINT_BYTES
MISSING = "Where 'serve' has made keys, name its data directory (--data), or its secrets.conf (--config-file)"
"""What is to be done about a key that a process does not have."""
_HOW = "Make one with: openssl rand -base64 32"


class CannotDecrypt(NotifyError):
    """A secret was encrypted with a key that is not configured (any more), or was tampered with."""


class Keyring:
    """The first key encrypts, all decrypt."""

    def __init__(self, keys: Sequence[str]) -> None:
        """``keys``: base64 of 32 bytes each. Raises `CannotStart`, without showing a key, when there is none or a bad one."""
        if not keys:
            raise CannotStart(f"[encryption] keys is not set. {MISSING}. {_HOW}, where there are none yet")
        raw = [_decode(key, number) for number, key in enumerate(keys, 1)]
        self._ciphers = {_fingerprint(key): AESGCM(key) for key in raw}
        self._first = _fingerprint(raw[0])

    def seal(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        header = _VERSION + self._first
        return header + nonce + self._ciphers[self._first].encrypt(nonce, plain, header + context)

    def open(self, token: bytes, context: bytes) -> bytes:
        """Raises `CannotDecrypt`."""
        header, nonce, sealed = (
            token[:_HEADER_BYTES],
            token[_HEADER_BYTES:][:_NONCE_BYTES],
            token[_HEADER_BYTES + _NONCE_BYTES :],
        )
        cipher = self._ciphers.get(header[len(_VERSION) :])
        if cipher is None or header[: len(_VERSION)] != _VERSION or len(nonce) != _NONCE_BYTES:
            raise CannotDecrypt("A stored secret was encrypted with a key that is not among [encryption] keys.")
        try:
            return cipher.decrypt(nonce, sealed, header + context)
        except InvalidTag:
            raise CannotDecrypt("A stored secret is damaged, or was moved from its place in the database.") from None


def _decode(key: str, number: int) -> bytes:
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise CannotStart(f"[encryption] keys: key {number} is not base64. {_HOW}") from None
    if len(raw) != KEY_BYTES:
        raise CannotStart(f"[encryption] keys: key {number} has {len(raw)} bytes, not {KEY_BYTES}. {_HOW}")
    return raw


def _fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(b"zaqar-notify key " + key).digest()[:_FINGERPRINT_BYTES]
