"""Firebase Cloud Messaging, HTTP v1: ``fcm://<app>/<registration token>`` (docs/channels/fcm.md)."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from oslo_config import cfg

from zaqar_notify import __version__
from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Priority, Scope, Subscription
from zaqar_notify.notifiers import answers, push, tokens, windows
from zaqar_notify.notifiers.base import Report
from zaqar_notify.notifiers.http import HttpClients, Request, Response

if TYPE_CHECKING:
    from zaqar_notify.notifiers.engine import Engine

URL = "https://fcm.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
MAX_TTL = 2419200
"""Seconds, 28 days: the longest that FCM keeps a message."""
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_POOL = "fcm"
_ASSERTION_LIFETIME = 3600
_FETCH_TIME = 10.0  # seconds for a new access token
_SPARE = 60.0  # seconds before its end in which a token is used no more
_EARLY = 300.0  # seconds before its end from which a new one is fetched, while the old one serves
_PATIENCE = 60.0  # seconds, where a quota is used up and no time is named: what FCM's documents ask for

_APP = re.compile(r"[a-z0-9_]+")
_TOKEN = re.compile(r"[A-Za-z0-9_:.~%-]{1,1900}")
_USER_AGENT = f"user-agent: zaqar-notify/{__version__}"
_JSON = "content-type: application/json"
_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

Told = Callable[["str | Outcome"], None]
"""Gets the token, or the outcome for all that waited for it."""


class AccessToken:
    """The OAuth 2.0 access token of one service account (RFC 7523), for all who send with it.

    It is fetched by the engine, one request at a time: nobody waits for it in a thread.
    """

    def __init__(self, name: str, file: str, engine: Callable[[], Engine], connect_timeout: float) -> None:
        self._name = name
        self._file = file
        self._engine = engine
        self._connect_timeout = connect_timeout
        self._lock = threading.Lock()
        self._text: str | None = None
        self._ends_at = 0.0
        self._fetching = False
        self._waiting: list[Told] = []

    def ask(self, told: Told) -> None:
        """``told`` is called once: at once, or later on the engine's thread."""
        now = time.monotonic()
        with self._lock:
            text = self._text if now < self._ends_at - _SPARE else None
            if text is None:
                self._waiting.append(told)
            fetch = not self._fetching and (text is None or now >= self._ends_at - _EARLY)
            self._fetching = self._fetching or fetch
        if text is not None:
            told(text)
        if fetch:
            self._fetch()

    def refuse(self, text: str) -> None:
        """It was not accepted: fetch another one when the next is asked for."""
        with self._lock:
            if self._text == text:
                self._text, self._ends_at = None, 0.0

    def _fetch(self) -> None:
        try:
            request = self._request(time.time())
        except tokens.BadKey as error:
            self._tell(refused_credential(self._name, f"[fcm_{self._name}] {error}"))
            return
        self._engine().send_many([request])

    def _request(self, now: float) -> Request:
        account = read_account(self._file)
        claims = {
            "iss": account["client_email"],
            "scope": SCOPE,
            "aud": account["token_uri"],
            "iat": int(now),
            "exp": int(now) + _ASSERTION_LIFETIME,
        }
        key = tokens.rs256_key(account["private_key"].encode(), self._file)
        header = {"typ": "JWT", "kid": account.get("private_key_id", "")}
        form = {"grant_type": _GRANT, "assertion": tokens.rs256(key, header, claims)}
        return Request(
            account["token_uri"],
            ["content-type: application/x-www-form-urlencoded", _USER_AGENT],
            urllib.parse.urlencode(form).encode(),
            time.monotonic() + _FETCH_TIME,
            self._fetched,
            self._connect_timeout,
            keep_bytes=65536,
            pool=_POOL,
        )

    def _fetched(self, _request: Request, response: Response) -> None:
        found = granted(response)
        if found is None:
            self._tell(ungranted(response, self._name, time.time()))
            return
        text, lifetime = found
        with self._lock:
            self._text, self._ends_at = text, time.monotonic() + lifetime
        self._tell(text)

    def _tell(self, what: str | Outcome) -> None:
        with self._lock:
            self._fetching = False
            waiting, self._waiting = self._waiting, []
        for told in waiting:
            told(what)


def read_account(file: str) -> dict[str, Any]:
    """The service account in a file, as Google gives it out. Raises `BadKey`."""
    try:
        account = json.loads(tokens.read(file))
    except ValueError:
        account = None
    if not isinstance(account, dict):
        raise tokens.BadKey(f"{file} is no JSON object")
    for name in ("client_email", "private_key", "token_uri", "project_id"):
        if not isinstance(account.get(name), str):
            raise tokens.BadKey(f"{file} is no service account: it has no {name}")
    return account


def granted(response: Response) -> tuple[str, float] | None:
    """An access token and its lifetime in seconds (RFC 6749, 5.1); None: there is none in this answer."""
    if response.fault is not None or response.status != 200:
        return None
    try:
        document = json.loads(response.body)
        text, lifetime = document["access_token"], float(document.get("expires_in", 3600))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    # It goes into a header.
    return (text, lifetime) if isinstance(text, str) and re.fullmatch("[!-~]+", text) else None


def ungranted(response: Response, name: str, now: float) -> Outcome:
    """For all who waited. That the token's issuer is out of order is nothing that a subscriber could help."""
    if response.fault is not None:
        outcome = answers.fault(response.fault, response.detail, response.status)
        kind = OutcomeKind.OURS if outcome.kind is OutcomeKind.RETRY else outcome.kind
        return dataclasses.replace(outcome, kind=kind, detail=f"no access token: {outcome.detail}", target=False)
    status = response.status
    detail = f"no access token: the issuer answered {status}"
    error = _field(_document(response.body), "error")
    if isinstance(error, str):
        detail = f"{detail} {answers.printable(error)}"
    after = answers.retry_after(response.header("retry-after"), now) if status in (429, 503) else None
    if after is not None:
        return Outcome(OutcomeKind.THROTTLED, detail, status, after, Scope.CREDENTIAL)
    if status >= 500 or status in (200, 408, 429):
        return Outcome(OutcomeKind.OURS, detail, status)
    return dataclasses.replace(refused_credential(name, detail), status=status)


@dataclasses.dataclass(frozen=True, slots=True)
class _App:
    url: str
    file: str
    token: AccessToken
    window: windows.Bounds | None
    dry: bool

    def send_url(self) -> str:
        """Raises `BadKey`: the project is named in the file."""
        return f"{self.url}/v1/projects/{project_of(self.file)}/messages:send"


@functools.lru_cache(maxsize=64)
def project_of(file: str) -> str:
    project = str(read_account(file)["project_id"])
    if not re.fullmatch("[A-Za-z0-9:._-]+", project):
        raise tokens.BadKey(f"{file} has a project_id that is none")
    return project


class FcmNotifier(push.PushNotifier):
    section: ClassVar[str] = "fcm"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.ListOpt(
            "apps",
            default=[],
            help="The names (a-z, 0-9, _) of applications: what a subscriber fcm://NAME/TOKEN means. Each has a section "
            "[fcm_NAME].",
        ),
        *push.COMMON,
    ]
    named_by: ClassVar[str] = "apps"
    named_options: ClassVar[list[cfg.Opt]] = [
        cfg.StrOpt("service_account", help="The file (JSON) with the key of a service account that may send messages."),
        cfg.StrOpt("url", help="Where to send in the place of Google's service."),
        windows.OPTION,
        cfg.BoolOpt("dry_run", default=False, help="Have FCM look at each message and not deliver it."),
    ]

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._apps = {name: self._app(name, section) for name, section in conf.named.items()}

    def _app(self, name: str, section: Any) -> _App:
        file = section.service_account
        if not file:
            raise CannotStart(f"[fcm_{name}] service_account is not set")
        token = AccessToken(name, file, self.http.engine, self.http.connect_timeout)
        return _App(
            (section.url or URL).rstrip("/"), file, token, windows.parse(section.window, f"fcm_{name}"), section.dry_run
        )

    def check(self, subscription: Subscription) -> None:
        name, token = _target(subscription.subscriber)
        if not _TOKEN.fullmatch(token):
            raise InvalidRequest("The subscriber has to be fcm://APP/TOKEN, with the registration token as the device has it.")
        if name not in self._apps:
            raise InvalidRequest(
                f"The application {name[:64]!r} is not known here; known are: {', '.join(self._apps) or 'none'}."
            )

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        name = _target(subscription.subscriber)[0]
        app = self._apps.get(name)
        return None if app is None or app.window is None else (_credential(name), *app.window)

    def lane(self, subscription: Subscription) -> str:
        return f"fcm://{_target(subscription.subscriber)[0]}"

    def _request(self, delivery: Delivery, report: Report) -> Request:
        name, device = _target(delivery.subscription.subscriber)
        app = self._apps.get(name)
        if app is None:
            raise push.Unsendable(refused_credential(name, f"there is no application {name[:64]!r} in [fcm] apps"))
        try:
            url = app.send_url()
        except tokens.BadKey as error:
            raise push.Unsendable(refused_credential(name, f"[fcm_{name}] {error}")) from None
        body = json.dumps(document(delivery, device, app.dry, time.time()), separators=(",", ":"), ensure_ascii=False).encode()
        sent = push.Sent(delivery, report, url, device, name)
        return self._post(sent, url, ["authorization:", _JSON, _USER_AGENT], body, _POOL)

    def _submit(self, requests: Sequence[Request]) -> None:
        by_app: dict[str, list[Request]] = {}
        for request in requests:
            by_app.setdefault(_target(request.tag.delivery.subscription.subscriber)[0], []).append(request)
        for name, waiting in by_app.items():
            self._apps[name].token.ask(functools.partial(self._send_with, waiting))

    def _send_with(self, requests: Sequence[Request], token: str | Outcome) -> None:
        if isinstance(token, Outcome):
            for request in requests:
                request.tag.report(request.tag.delivery, token)
            return
        line = f"authorization: Bearer {token}"
        for request in requests:
            request.headers[0] = line
            request.tag.credential = token
        self.http.engine().send_many(requests)

    def _again(self, request: Request, response: Response) -> bool:
        sent: push.Sent = request.tag
        if response.status != 401 or code_of(_document(response.body)) == "THIRD_PARTY_AUTH_ERROR":
            return False
        self._apps[_target(sent.delivery.subscription.subscriber)[0]].token.refuse(sent.credential)
        if sent.again:
            return False
        sent.again = True
        self._submit([request])
        return True

    def _judge(self, sent: push.Sent, response: Response, now: float) -> Outcome:
        return classify(response, _target(sent.delivery.subscription.subscriber)[0], now)


@functools.lru_cache(maxsize=16384)
def _target(subscriber: str) -> tuple[str, str]:
    """Name of the application and registration token; both empty where it is no such URI."""
    try:
        parts = urllib.parse.urlsplit(subscriber)
    except ValueError:
        return "", ""
    name, token = parts.netloc, parts.path.removeprefix("/")
    return (name, token) if _APP.fullmatch(name) and not parts.query and not parts.fragment else ("", "")


def document(delivery: Delivery, device: str, dry: bool, now: float) -> dict[str, Any]:
    """What FCM is told. ``now``: epoch seconds."""
    message = delivery.message
    shown = push.content(delivery, "fcm")
    android: dict[str, Any] = {"ttl": f"{min(max(int(message.expires_at - now), 0), MAX_TTL)}s"}
    if message.collapse_key is not None:
        android["collapse_key"] = message.collapse_key
    if message.priority is not None:
        android["priority"] = "HIGH" if message.priority is Priority.HIGH else "NORMAL"
    made: dict[str, Any] = {**shown.own, "token": device, "android": push.merged(android, shown.own.get("android"))}
    made.pop("topic", None)  # a message has one target: the subscriber
    made.pop("condition", None)
    notification = {name: value for name, value in (("title", shown.title), ("body", shown.text)) if value is not None}
    if notification:
        made["notification"] = push.merged(notification, shown.own.get("notification"), templated=shown.templated)
    made["data"] = push.merged(_texts(push.about(delivery), shown.data), shown.own.get("data"))
    return {"validate_only": True, "message": made} if dry else {"message": made}


def _texts(about: dict[str, Any], data: Any) -> dict[str, str]:
    """FCM carries nothing but strings."""
    found = {f"zaqar_notify_{name}": _text(value) for name, value in about.items()}
    if isinstance(data, dict):
        found.update({name: _text(value) for name, value in data.items()})
    elif data is not None:
        found["data"] = _text(data)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# -- answers ------------------------------------------------------------------------------------------------------------------


def classify(response: Response, name: str, now: float) -> Outcome:
    """What an answer means (the table is in docs/channels/fcm.md). ``name`` of the application; ``now``: epoch seconds."""
    status = response.status
    found = _document(response.body)
    if status == 200:
        provider_id = _field(found, "name")
        return Outcome(OutcomeKind.DELIVERED, status=200, provider_id=provider_id if isinstance(provider_id, str) else None)
    code = code_of(found)
    detail = _described(status, code, found)
    if code == "UNREGISTERED":
        return Outcome(OutcomeKind.GONE, detail, status, disable="gone")
    if code == "SENDER_ID_MISMATCH":
        return Outcome(OutcomeKind.REJECTED, detail, status, target=True)
    if status in (401, 403, 404):
        # Without UNREGISTERED a 404 is about the project, and nobody's token has to suffer for it.
        return dataclasses.replace(refused_credential(name, detail), status=status)
    if status in (400, 413):
        return Outcome(OutcomeKind.REJECTED, detail, status, target=_is_about_token(found))
    return _passing(response, detail, now)


def _passing(response: Response, detail: str, now: float) -> Outcome:
    status = response.status
    after = answers.retry_after(response.header("retry-after"), now)
    if status == 429:
        scope = Scope.SUBSCRIPTION if _is_about_device(_document(response.body)) else Scope.CREDENTIAL
        return Outcome(OutcomeKind.THROTTLED, detail, status, _PATIENCE if after is None else after, scope)
    if status >= 500:
        if after is not None:
            return Outcome(OutcomeKind.THROTTLED, detail, status, after, Scope.LANE)
        return Outcome(OutcomeKind.RETRY, detail, status, scope=Scope.LANE)
    return Outcome(OutcomeKind.RETRY, detail, status, scope=Scope.SUBSCRIPTION)


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _field(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _details(document: Any, kind: str = "") -> list[dict[str, Any]]:
    details = _field(document, "error", "details")
    found = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    return [one for one in found if one.get("@type") == kind] if kind else found


def code_of(document: Any) -> str:
    """FCM's own code, else the status that all of Google's services share; empty: neither is there."""
    for one in _details(document, _ERROR):
        if isinstance(one.get("errorCode"), str):
            return str(one["errorCode"])[:64]
    status = _field(document, "error", "status")
    return status[:64] if isinstance(status, str) else ""


def _described(status: int, code: str, document: Any) -> str:
    said = _field(document, "error", "message")
    detail = f"FCM answered {status} {answers.printable(code)}".rstrip()
    return f"{detail}: {answers.printable(said)}" if isinstance(said, str) else detail


def _is_about_token(document: Any) -> bool:
    """Whether INVALID_ARGUMENT is about the registration token. A bad value elsewhere comes with the field that it is in."""
    fields = [
        one.get("field")
        for detail in _details(document, _BAD_REQUEST)
        for one in detail.get("fieldViolations") or ()
        if isinstance(one, dict)
    ]
    if fields:
        return "message.token" in fields
    said = _field(document, "error", "message")
    return isinstance(said, str) and "registration token" in said.lower()


def _is_about_device(document: Any) -> bool:
    """Whether a quota is that of one device, and not the project's."""
    return any("device" in json.dumps(one).lower() for one in _details(document) if one.get("violations"))


def _credential(name: str) -> str:
    return f"fcm/{name}"


def refused_credential(name: str, detail: str) -> Outcome:
    return Outcome(OutcomeKind.AUTH, detail, scope=Scope.CREDENTIAL, credential=_credential(name))
