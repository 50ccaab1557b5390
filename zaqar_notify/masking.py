"""How a subscriber's URI is shown where others than its owner may read it: in alerts, logs and records of attempts."""

from __future__ import annotations

import hashlib
import urllib.parse

_DEVICES = frozenset({"fcm", "apns"})
_PERSONS = frozenset({"mailto", "sms"})
_SECRET_PATHS = ("slack+", "webpush+")
_SECRET_HOSTS = ("apprise+",)
_OPEN = frozenset({"log", "queue"})
"""Schemes whose URIs hold no secret."""


def hashed(secret: str) -> str:
    """The same for the same secret, so that it can be recognised. What few can be, as telephone numbers, can be found out by
    trying all."""
    return f"sha256:{hashlib.sha256(secret.encode('utf-8', 'replace')).hexdigest()[:12]}"


def masked(subscriber: str) -> str:
    """The URI without what may be a secret or is somebody's address. Of schemes that are not known here nothing is shown but
    the host, and not even that where it need be none."""
    scheme, _, rest = subscriber.partition(":")
    kind = scheme.lower()
    if kind in _OPEN:
        return subscriber
    if kind in _PERSONS:
        return f"{kind}:{hashed(rest.partition('?')[0])}"
    try:
        parts = urllib.parse.urlsplit(subscriber)
    except ValueError:
        parts = urllib.parse.SplitResult(kind, "", "", "", "")
    host = parts.netloc.rpartition("@")[2]
    if not host or kind.startswith(_SECRET_HOSTS):
        return f"{kind}:{hashed(rest)}" if rest else f"{kind}:"
    return f"{kind}://{host}{_path(kind, parts, rest)}"


def _path(kind: str, parts: urllib.parse.SplitResult, rest: str) -> str:
    if kind in ("http", "https"):
        return parts.path + ("?..." if parts.query else "")
    if kind in _DEVICES:
        return f"/{hashed(parts.path.removeprefix('/'))}"
    if kind.startswith(_SECRET_PATHS):
        return f"/{hashed(rest.removeprefix(f'//{parts.netloc}') or '/')}"
    return ""
