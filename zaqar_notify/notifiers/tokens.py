"""Signed tokens (JWT, RFC 7519) by which the service proves to providers of push who it is.

``cryptography`` is loaded when the first one is made.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_PART = 32  # bytes of each of the two numbers in a signature of P-256


class BadKey(Exception):
    """There is no usable key where the configuration says so. The message never shows it."""


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read(path: str) -> bytes:
    """What is in a file. Raises `BadKey`."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadKey(f"cannot read {path}: {error.strerror}") from None


def es256_key(pem: bytes, source: str) -> EllipticCurvePrivateKey:
    """``source`` is how errors call it. Raises `BadKey`."""
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _private(pem, source)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadKey(f"{source} holds no private key of the curve P-256")
    return key


def rs256_key(pem: bytes, source: str) -> RSAPrivateKey:
    """``source`` is how errors call it. Raises `BadKey`."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = _private(pem, source)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadKey(f"{source} holds no private RSA key")
    return key


def _private(pem: bytes, source: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey(f"{source} holds no private key in PEM without a password") from None


def es256(key: EllipticCurvePrivateKey, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """With the signature that follows from key and text (RFC 6979): the same in every process."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    text = _text({"alg": "ES256", **header}, claims)
    try:
        signature = key.sign(text, ec.ECDSA(SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm:  # an OpenSSL before 3.2
        signature = key.sign(text, ec.ECDSA(SHA256()))
    first, second = utils.decode_dss_signature(signature)
    return f"{text.decode()}.{base64url(first.to_bytes(_PART, 'big') + second.to_bytes(_PART, 'big'))}"


def rs256(key: RSAPrivateKey, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    text = _text({"alg": "RS256", **header}, claims)
    return f"{text.decode()}.{base64url(key.sign(text, PKCS1v15(), SHA256()))}"


def _text(header: Mapping[str, Any], claims: Mapping[str, Any]) -> bytes:
    return ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)).encode()
