"""Apple's push service: ``apns://<app>/<device token>`` (docs/channels/apns.md)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import re
import threading
import time
import urllib.parse
import uuid
from typing import Any, ClassVar

from oslo_config import cfg

from zaqar_notify import __version__
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.masking import hashed
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Priority, Scope, Subscription
from zaqar_notify.notifiers import answers, push, tokens, windows
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.http import HttpClients, Request, Response

HOSTS = {"production": "https://api.push.apple.com", "sandbox": "https://api.sandbox.push.apple.com"}
MAX_PAYLOAD = 4096
MAX_COLLAPSE_ID = 64
LIFETIME = 3000
"""Seconds after which a provider token is made anew. Apple takes none that is older than an hour."""
LEAST_LIFETIME = 1200
"""Seconds within which Apple takes no second one."""
_PATIENCE = 60.0  # seconds, where too much was asked for and no time is named

_APP = re.compile(r"[a-z0-9_]+")
_TOKEN = re.compile(r"([0-9A-Fa-f]{2}){16,128}")
_NAMESPACE = uuid.UUID("5b7cf5a4-6bd6-4bd1-9b1a-9a6a6f2a1c55")
_USER_AGENT = f"user-agent: zaqar-notify/{__version__}"
_PRINTABLE = re.compile("[!-~]+")
_TYPES = ("alert", "background")
_PRIORITIES = {Priority.HIGH: 10, Priority.NORMAL: 5, Priority.LOW: 1, Priority.VERY_LOW: 1}

_GONE = frozenset({"Unregistered", "ExpiredToken"})
_STRIKES = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "MissingDeviceToken"})
_CREDENTIAL = frozenset(
    {
        "BadCertificate",
        "BadCertificateEnvironment",
        "BadEnvironmentKeyIdInToken",
        "BadTopic",
        "ExpiredProviderToken",
        "Forbidden",
        "InvalidProviderToken",
        "MissingProviderToken",
        "MissingTopic",
        "TopicDisallowed",
        "UnrelatedKeyIdInToken",
    }
)
_PASSING = frozenset({"IdleTimeout", "InternalServerError", "ServiceUnavailable", "Shutdown"})


class ProviderToken:
    """The token of one team and key.

    Its time of issue is the last multiple of `LIFETIME`, and its signature follows from that: all processes, on all machines,
    have the same one, and none of them is told that it makes too many.
    """

    def __init__(self, team: str, key_id: str, key_file: str) -> None:
        self._team = team
        self._key_id = key_id
        self._key_file = key_file
        self._lock = threading.Lock()
        self._text = ""
        self._until = 0.0
        self._issued_at = 0

    def text(self, now: float) -> str:
        """Raises `BadKey`."""
        if now < self._until and now >= self._issued_at:
            return self._text
        with self._lock:
            if not self._issued_at <= now < self._until:
                self._make(int(now) // LIFETIME * LIFETIME, now // LIFETIME * LIFETIME + LIFETIME)
            return self._text

    def renew(self, refused: str, now: float) -> str | None:
        """One in the place of that which was refused as too old; None: there is no newer one to be had now.

        Where the clocks differ the time of issue is the present.
        """
        with self._lock:
            if self._text != refused:
                return self._text
            if now - self._issued_at < LEAST_LIFETIME:
                return None
            self._make(int(now), max(now // LIFETIME * LIFETIME + LIFETIME, now + LEAST_LIFETIME))
            return self._text

    def forget(self, refused: str) -> None:
        """Read the key anew next time: it may have been put right. From the same key follows the same token."""
        with self._lock:
            if self._text == refused:
                self._until = 0.0

    def _make(self, issued_at: int, until: float) -> None:
        key = tokens.es256_key(tokens.read(self._key_file), self._key_file)
        self._text = tokens.es256(key, {"kid": self._key_id}, {"iss": self._team, "iat": issued_at})
        self._issued_at, self._until = issued_at, until


@dataclasses.dataclass(frozen=True, slots=True)
class _App:
    name: str
    url: str
    topic: str
    token: ProviderToken
    window: windows.Bounds | None


class ApnsNotifier(push.PushNotifier):
    section: ClassVar[str] = "apns"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.ListOpt(
            "apps",
            default=[],
            help="The names (a-z, 0-9, _) of applications: what a subscriber apns://NAME/TOKEN means. Each has a section "
            "[apns_NAME].",
        ),
        *push.COMMON,
    ]
    named_by: ClassVar[str] = "apps"
    named_options: ClassVar[list[cfg.Opt]] = [
        cfg.StrOpt("team", help="The identifier of the team in Apple's developer programme."),
        cfg.StrOpt("key_id", help="The identifier of the key that signs."),
        cfg.StrOpt("key_file", help="The file (.p8) with that key, as Apple gives it out."),
        cfg.StrOpt("topic", help="The application's bundle identifier."),
        cfg.StrOpt(
            "environment",
            default="production",
            choices=[("production", "Tokens of released applications."), ("sandbox", "Tokens of development builds.")],
            help="Which of Apple's two services knows the device tokens.",
        ),
        cfg.StrOpt("url", help="Where to send in the place of Apple's service, such as https://127.0.0.1:2197."),
        windows.OPTION,
        cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
    ]

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._apps = {name: _app(name, section) for name, section in conf.named.items()}
        self._dry = {name for name, section in conf.named.items() if section.dry_run}

    def check(self, subscription: Subscription) -> None:
        name, token = _target(subscription.subscriber)
        if not _TOKEN.fullmatch(token):
            raise InvalidRequest("The subscriber has to be apns://APP/TOKEN, with the device token in hexadecimal digits.")
        if name not in self._apps:
            raise InvalidRequest(
                f"The application {name[:64]!r} is not known here; known are: {', '.join(self._apps) or 'none'}."
            )
        kind = subscription.options.get("push_type", "alert")
        if kind not in _TYPES:
            raise InvalidRequest(f"options.push_type has to be {' or '.join(_TYPES)}.")

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        name = _target(subscription.subscriber)[0]
        app = self._apps.get(name)
        return None if app is None or app.window is None else (_credential(name), *app.window)

    def lane(self, subscription: Subscription) -> str:
        return f"apns://{_target(subscription.subscriber)[0]}"

    def _request(self, delivery: Delivery, report: Report) -> Request:
        name, device = _target(delivery.subscription.subscriber)
        app = self._apps.get(name)
        if app is None:
            raise push.Unsendable(_refused_credential(name, f"there is no application {name[:64]!r} in [apns] apps"))
        try:
            token = app.token.text(time.time())
        except tokens.BadKey as error:
            raise push.Unsendable(_refused_credential(name, f"[apns_{name}] {error}")) from None
        body, kind = payload(delivery)
        if len(body) > MAX_PAYLOAD:
            text = f"the payload has {len(body)} bytes, and APNs takes {MAX_PAYLOAD}"
            raise push.Unsendable(Outcome(OutcomeKind.REJECTED, text))
        if name in self._dry:
            raise push.Unsendable(Outcome(OutcomeKind.DELIVERED, "dry run: not sent"))
        sent = push.Sent(delivery, report, f"{app.url}/3/device/{hashed(device)}", device, token)
        headers = [f"authorization: bearer {token}", *_headers(delivery, app.topic, kind)]
        return self._post(sent, f"{app.url}/3/device/{device}", headers, body, f"apns:{name}")

    def _again(self, request: Request, response: Response) -> bool:
        sent: push.Sent = request.tag
        if response.status != 403 or sent.again or _explained(response)[0] != "ExpiredProviderToken":
            return False
        app = self._apps[_target(sent.delivery.subscription.subscriber)[0]]
        try:
            token = app.token.renew(sent.credential, time.time())
        except tokens.BadKey:
            return False
        if token is None:
            return False
        sent.again, sent.credential = True, token
        request.headers[0] = f"authorization: bearer {token}"
        self._submit([request])
        return True

    def _judge(self, sent: push.Sent, response: Response, now: float) -> Outcome:
        subscription = sent.delivery.subscription
        outcome = classify(response, subscription, now)
        if outcome.kind is OutcomeKind.AUTH:
            self._apps[_target(subscription.subscriber)[0]].token.forget(sent.credential)
        return outcome


def _app(name: str, section: Any) -> _App:
    for option in ("team", "key_id", "key_file", "topic"):
        if not section[option]:
            raise CannotStart(f"[apns_{name}] {option} is not set")
    url = section.url or HOSTS[section.environment]
    token = ProviderToken(section.team, section.key_id, section.key_file)
    return _App(name, url.rstrip("/"), section.topic, token, windows.parse(section.window, f"apns_{name}"))


@functools.lru_cache(maxsize=16384)
def _target(subscriber: str) -> tuple[str, str]:
    """Name of the application and device token; both empty where it is no such URI."""
    try:
        parts = urllib.parse.urlsplit(subscriber)
    except ValueError:
        return "", ""
    name, token = parts.netloc, parts.path.removeprefix("/")
    return (name, token) if _APP.fullmatch(name) and not parts.query and not parts.fragment else ("", "")


def payload(delivery: Delivery) -> tuple[bytes, str]:
    """The document for a device, and its push type. What there is nothing to show of is sent in the background."""
    shown = push.content(delivery, "apns")
    alert = {name: value for name, value in (("title", shown.title), ("body", shown.text)) if value is not None}
    kind = delivery.subscription.options.get("push_type", "alert" if alert else "background")
    aps: dict[str, Any] = {"content-available": 1} if kind == "background" else {"alert": alert or {"body": ""}}
    document: dict[str, Any] = {"aps": aps, "zaqar_notify": push.about(delivery)}
    if shown.data is not None:
        document["data"] = shown.data
    own = dict(shown.own)
    if isinstance(own.get("aps"), dict):
        theirs = own.pop("aps")
        if shown.templated and alert and "alert" in aps:
            theirs = {**theirs, "alert": push.merged(alert, theirs.get("alert"), templated=True)}
        aps.update(theirs)
    document.update({name: value for name, value in own.items() if name not in document})
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(), kind


def _headers(delivery: Delivery, topic: str, kind: str) -> list[str]:
    message = delivery.message
    headers = [
        f"apns-topic: {topic}",
        f"apns-push-type: {kind}",
        f"apns-id: {uuid.uuid5(_NAMESPACE, delivery.id)}",
        f"apns-expiration: {int(message.expires_at)}",
        "content-type: application/json",
        _USER_AGENT,
    ]
    # Apple refuses what is sent in the background with 10, and takes 10 where nothing is said.
    number = min(_PRIORITIES[message.priority or Priority.HIGH], 5 if kind == "background" else 10)
    if number != 10:
        headers.append(f"apns-priority: {number}")
    if message.collapse_key is not None:
        headers.append(f"apns-collapse-id: {_collapse_id(message.collapse_key)}")
    return headers


def _collapse_id(key: str) -> str:
    """What is too long, or can be no header, is hashed: the same key stays the same."""
    if len(key) <= MAX_COLLAPSE_ID and _PRINTABLE.fullmatch(key):
        return key
    return hashlib.sha256(key.encode()).hexdigest()


# -- answers ------------------------------------------------------------------------------------------------------------------


def classify(response: Response, subscription: Subscription, now: float) -> Outcome:
    """What an answer means (the table is in docs/channels/apns.md). ``now``: epoch seconds."""
    status = response.status
    if status == 200:
        return Outcome(OutcomeKind.DELIVERED, status=200, provider_id=response.header("apns-id"))
    reason, since = _explained(response)
    detail = f"APNs answered {status} {reason}".rstrip()
    if reason in _CREDENTIAL or (not reason and status == 403):
        return dataclasses.replace(_refused_credential(_target(subscription.subscriber)[0], detail), status=status)
    if reason in _GONE or (not reason and status == 410):
        if since is not None and since <= subscription.created_at:
            # The application has registered again since then; should it not have, this one ends it, too.
            return Outcome(OutcomeKind.REJECTED, f"{detail}, before this subscription was made", status, target=True)
        return Outcome(OutcomeKind.GONE, detail, status, disable="gone")
    if reason in _STRIKES:
        return Outcome(OutcomeKind.REJECTED, detail, status, target=True)
    return _judged_by_status(response, reason, detail, now)


def _judged_by_status(response: Response, reason: str, detail: str, now: float) -> Outcome:
    status = response.status
    after = answers.retry_after(response.header("retry-after"), now) if status in (429, 503) else None
    if status == 429:
        scope = Scope.CREDENTIAL if reason == "TooManyProviderTokenUpdates" else Scope.SUBSCRIPTION
        return Outcome(OutcomeKind.THROTTLED, detail, status, _PATIENCE if after is None else after, scope)
    if after is not None:
        return Outcome(OutcomeKind.THROTTLED, detail, status, after, Scope.LANE)
    if reason in _PASSING or status >= 500:
        return Outcome(OutcomeKind.RETRY, detail, status, scope=Scope.LANE)
    if 400 <= status < 500 and status != 408:
        return Outcome(OutcomeKind.REJECTED, detail, status)
    return Outcome(OutcomeKind.RETRY, detail, status, scope=Scope.SUBSCRIPTION)


def _explained(response: Response) -> tuple[str, float | None]:
    """The reason, and since when (epoch seconds) the token has been of no use; empty and None where it does not say."""
    try:
        document = json.loads(response.body)
        reason, at = document.get("reason"), document.get("timestamp")
    except (ValueError, AttributeError, RecursionError):
        return "", None
    shown = answers.printable(reason) if isinstance(reason, str) else ""
    return shown, at / 1000 if isinstance(at, int | float) else None


def _credential(name: str) -> str:
    return f"apns/{name}"


def _refused_credential(name: str, detail: str) -> Outcome:
    return Outcome(OutcomeKind.AUTH, detail, scope=Scope.CREDENTIAL, credential=_credential(name))
