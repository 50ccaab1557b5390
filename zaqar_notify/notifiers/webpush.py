"""Web push (RFC 8030, 8291, 8292): ``webpush+https://push.example.org/...`` (docs/channels/webpush.md)."""

from __future__ import annotations

import base64
import collections
import dataclasses
import functools
import hashlib
import hmac
import json
import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

from oslo_config import cfg

from zaqar_notify import __version__
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.masking import hashed
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers import answers, push, tokens, windows
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.http import HttpClients, Request, Response

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PREFIX = "webpush+"
MAX_PAYLOAD = 3993
"""Bytes before encryption: 4096 after it."""
MAX_TTL = 2592000
"""Seconds, 30 days."""
MAX_TOPIC = 32
LIFETIME = 43200
"""Seconds for which a signed header says that it is valid (12 h); half of that it is used."""
_ORIGINS = 4096
_RECORD_SIZE = 4096
_POOL = "webpush"
_MAX_URL = 2000

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NAME = re.compile(r"[a-z0-9_]+")
_SUBJECT = re.compile(r"(mailto:[^\s@]+@[^\s@]+|https://\S+)")
_USER_AGENT = f"user-agent: zaqar-notify/{__version__}"

# -- encryption (RFC 8188 and 8291) -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """What a browser has told the subscriber of."""

    public: EllipticCurvePublicKey
    point: bytes
    auth: bytes


@functools.lru_cache(maxsize=16384)
def parse_keys(p256dh: str, auth: str) -> Keys:
    """Both in base64url. Raises `ValueError` that says what is wrong."""
    from cryptography.hazmat.primitives.asymmetric import ec

    point, secret = _decoded(p256dh, "p256dh"), _decoded(auth, "auth")
    if len(secret) != 16:
        raise ValueError("auth has to be the base64url of 16 bytes")
    wrong = "p256dh has to be the base64url of an uncompressed point (65 bytes) of the curve P-256"
    if len(point) != 65 or point[0] != 4:
        raise ValueError(wrong)
    try:
        return Keys(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point), point, secret)
    except ValueError:
        raise ValueError(wrong) from None


def _decoded(text: str, name: str) -> bytes:
    if not re.fullmatch("[A-Za-z0-9_+/-]+=*", text):
        raise ValueError(f"{name} has to be a string in base64url")
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except ValueError:
        raise ValueError(f"{name} has to be a string in base64url") from None


def encrypt(plain: bytes, keys: Keys) -> bytes:
    """One record of the content coding ``aes128gcm``, for this browser alone. A new key and salt are drawn each time."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return encrypt_with(plain, keys, ec.generate_private_key(ec.SECP256R1()), os.urandom(16))


def encrypt_with(plain: bytes, keys: Keys, own: EllipticCurvePrivateKey, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = own.exchange(ec.ECDH(), keys.public)
    # HKDF (RFC 5869), of which each result fits into one block.
    secret = _expand(_mac(keys.auth, shared), b"WebPush: info\0" + keys.point + point, 32)
    pseudo_random = _mac(salt, secret)
    content_key = _expand(pseudo_random, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _expand(pseudo_random, b"Content-Encoding: nonce\0", 12)
    sealed = AESGCM(content_key).encrypt(nonce, plain + b"\x02", None)  # 2: the last record
    return salt + _RECORD_SIZE.to_bytes(4, "big") + bytes((len(point),)) + point + sealed


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    return _mac(key, info + b"\x01")[:length]


# -- who we are (RFC 8292) ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True, eq=False)
class Signed:
    """An ``authorization`` header for one push service."""

    line: str
    until: float
    accepted: bool = False
    """The service has taken a message with it: should it refuse another one, that is the subscription's doing."""


class Vapid:
    """Signs for one key. What was signed for a push service serves for hours."""

    def __init__(self, key_file: str, subject: str) -> None:
        self._key_file = key_file
        self._subject = subject
        self._lock = threading.Lock()
        self._signed: collections.OrderedDict[str, Signed] = collections.OrderedDict()

    def header(self, origin: str, now: float) -> Signed:
        """``origin``: scheme, host and port of the push service. Raises `BadKey`."""
        signed = self._signed.get(origin)
        if signed is not None and signed.until > now:
            return signed
        with self._lock:
            signed = self._signed[origin] = self._sign(origin, now)
            if len(self._signed) > _ORIGINS:
                self._signed.popitem(last=False)
            return signed

    def forget(self, origin: str, refused: Signed) -> None:
        with self._lock:
            if self._signed.get(origin) is refused:
                del self._signed[origin]

    def _sign(self, origin: str, now: float) -> Signed:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = tokens.es256_key(tokens.read(self._key_file), self._key_file)
        claims = {"aud": origin, "exp": int(now) + LIFETIME, "sub": self._subject}
        token = tokens.es256(key, {"typ": "JWT"}, claims)
        public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return Signed(f"authorization: vapid t={token}, k={tokens.base64url(public)}", now + LIFETIME / 2)


class WebPushNotifier(push.PushNotifier):
    section: ClassVar[str] = "webpush"
    named_options: ClassVar[list[cfg.Opt]] = [
        cfg.StrOpt("key_file", help="The file (PEM) with the private VAPID key, of the curve P-256."),
        cfg.StrOpt("subject", help="How push services can reach who runs this: mailto:push@example.org, or an https URL."),
        windows.OPTION,
        cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
    ]
    named_by: ClassVar[str] = "apps"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.ListOpt(
            "apps",
            default=[],
            help="The names (a-z, 0-9, _) of applications with a VAPID key of their own, in a section [webpush_NAME] each; a "
            "subscription chooses one by options.app. The key in this section serves all others.",
        ),
        *named_options,
        *push.COMMON,
    ]

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        sections = {name: conf.named[name] for name in conf.named}
        if conf.key_file:
            sections[""] = conf
        self._keys = {name: _vapid(_section(name), section) for name, section in sections.items()}
        self._windows = {name: windows.parse(section.window, _section(name)) for name, section in sections.items()}
        self._dry = {name for name, section in sections.items() if section.dry_run}

    def check(self, subscription: Subscription) -> None:
        url = endpoint(subscription.subscriber)
        if url == subscription.subscriber:
            raise InvalidRequest(
                "The subscriber has to be webpush+ and the endpoint of the browser's subscription: webpush+https://..."
            )
        if len(url) > _MAX_URL:
            raise InvalidRequest(f"The URL is longer than {_MAX_URL} characters.")
        self.http.guard.check_url(url)
        options = subscription.options
        name = options.get("app", "")
        if name not in self._keys:
            known = ", ".join(name for name in self._keys if name) or "none"
            raise InvalidRequest(
                f"options.app: the application {str(name)[:64]!r} is not known here; known are: {known}."
                if name
                else f"options.app has to name an application; known are: {known}."
            )
        keys = options.get("keys")
        if not isinstance(keys, dict):
            raise InvalidRequest(
                'options.keys has to be the "keys" of the browser\'s subscription: {"p256dh": ..., "auth": ...}.'
            )
        try:
            _keys_of(keys)
        except ValueError as error:
            raise InvalidRequest(f"options.keys: {error}.") from None

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        name = str(subscription.options.get("app", ""))
        window = self._windows.get(name)
        return None if window is None else (_credential(name), *window)

    def lane(self, subscription: Subscription) -> str:
        return PREFIX + origin(endpoint(subscription.subscriber))

    def _request(self, delivery: Delivery, report: Report) -> Request:
        subscription = delivery.subscription
        name = str(subscription.options.get("app", ""))
        vapid = self._keys.get(name)
        if vapid is None:
            raise push.Unsendable(_refused_credential(name, f"there is no application {name[:64]!r} in [webpush] apps"))
        url = endpoint(subscription.subscriber)
        place = origin(url)
        try:
            signed = vapid.header(place, time.time())
        except tokens.BadKey as error:
            raise push.Unsendable(_refused_credential(name, str(error))) from None
        plain = payload(delivery)
        if len(plain) > MAX_PAYLOAD:
            text = f"the payload has {len(plain)} bytes, and web push takes {MAX_PAYLOAD}"
            raise push.Unsendable(Outcome(OutcomeKind.REJECTED, text))
        body = encrypt(plain, _keys_of(subscription.options["keys"]))
        if name in self._dry:
            raise push.Unsendable(Outcome(OutcomeKind.DELIVERED, "dry run: not sent"))
        path = url[len(place) :] or "/"
        sent = push.Sent(delivery, report, f"{place}/{hashed(path)}", path, signed)
        return self._post(sent, url, [signed.line, *_headers(delivery, time.time())], body, _POOL)

    def _judge(self, sent: push.Sent, response: Response, now: float) -> Outcome:
        signed: Signed = sent.credential
        outcome = classify(response, signed, now)
        if outcome.kind is OutcomeKind.DELIVERED:
            signed.accepted = True
        elif outcome.kind is OutcomeKind.AUTH:
            subscription = sent.delivery.subscription
            name = str(subscription.options.get("app", ""))
            self._keys[name].forget(origin(endpoint(subscription.subscriber)), signed)
            outcome = dataclasses.replace(outcome, credential=_credential(name))
        return outcome


def _section(name: str) -> str:
    return f"webpush_{name}" if name else "webpush"


def _vapid(section: str, conf: Any) -> Vapid:
    for option in ("key_file", "subject"):
        if not conf[option]:
            raise CannotStart(f"[{section}] {option} is not set")
    if not _SUBJECT.fullmatch(conf.subject):
        raise CannotStart(f"[{section}] subject has to be a mailto: or an https: URL")
    return Vapid(conf.key_file, conf.subject)


def endpoint(subscriber: str) -> str:
    """The URL behind the scheme's first part."""
    return subscriber[len(PREFIX) :] if subscriber[: len(PREFIX)].lower() == PREFIX else subscriber


@functools.lru_cache(maxsize=16384)
def origin(url: str) -> str:
    """Scheme, host and port as they stand in the URL: that has to be the audience."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}"


def _keys_of(keys: dict[str, Any]) -> Keys:
    p256dh, auth = keys.get("p256dh"), keys.get("auth")
    return parse_keys(p256dh if isinstance(p256dh, str) else "", auth if isinstance(auth, str) else "")


def payload(delivery: Delivery) -> bytes:
    """What the service worker of the page gets."""
    shown = push.content(delivery, "webpush")
    found = {"title": shown.title, "text": shown.text, "data": shown.data}
    found = {name: value for name, value in found.items() if value is not None}
    document = {**push.about(delivery), **push.merged(found, shown.own, templated=shown.templated)}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _headers(delivery: Delivery, now: float) -> list[str]:
    message = delivery.message
    headers = [
        "content-encoding: aes128gcm",
        "content-type: application/octet-stream",
        f"ttl: {min(max(int(message.expires_at - now), 0), MAX_TTL)}",
        _USER_AGENT,
    ]
    if message.priority is not None:
        headers.append(f"urgency: {message.priority.text}")
    if message.collapse_key is not None:
        headers.append(f"topic: {_topic(message.collapse_key)}")
    return headers


def _topic(key: str) -> str:
    """What is too long, or has other characters than base64url, is hashed: the same key stays the same."""
    if _TOPIC.fullmatch(key):
        return key
    return tokens.base64url(hashlib.sha256(key.encode()).digest())[:MAX_TOPIC]


# -- answers ------------------------------------------------------------------------------------------------------------------


def classify(response: Response, signed: Signed, now: float) -> Outcome:
    """What an answer means (the table is in docs/channels/webpush.md). ``now``: epoch seconds."""
    status = response.status
    if 200 <= status < 300:
        return Outcome(OutcomeKind.DELIVERED, status=status)
    detail = answers.described(response, "the push service")
    if status in (404, 410):
        return Outcome(OutcomeKind.GONE, detail, status, disable="gone")
    if status in (401, 403):
        if signed.accepted:
            return Outcome(OutcomeKind.REJECTED, f"{detail} (its key is another one)", status, target=True)
        return _refused_credential("", detail, status)
    return Outcome(OutcomeKind.REJECTED, detail, status) if status in (400, 413) else _passing(response, detail, now)


def _passing(response: Response, detail: str, now: float) -> Outcome:
    status = response.status
    scope = Scope.LANE if status >= 500 else Scope.SUBSCRIPTION
    after = answers.retry_after(response.header("retry-after"), now) if status in (429, 503) else None
    if after is not None:
        return Outcome(OutcomeKind.THROTTLED, detail, status, after, scope)
    return Outcome(OutcomeKind.RETRY, detail, status, scope=scope)


def _refused_credential(name: str, detail: str, status: int | None = None) -> Outcome:
    return Outcome(OutcomeKind.AUTH, detail, status, scope=Scope.CREDENTIAL, credential=_credential(name))


def _credential(name: str) -> str:
    return f"webpush/{name}".rstrip("/")
