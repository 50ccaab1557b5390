"""``apprise+<URL of apprise>`` subscribers: the services that the library apprise (an extra) knows, where they are allowed."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import sys
import time
import warnings
from types import ModuleType
from typing import Any, ClassVar

from oslo_config import cfg, types

from zaqar_notify.errors import CannotStart, InvalidRequest, RefusedAddress
from zaqar_notify.guard import is_address
from zaqar_notify.masking import hashed
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Scope, Subscription
from zaqar_notify.notifiers import answers, content, guarded_requests
from zaqar_notify.notifiers.base import SingleNotifier
from zaqar_notify.notifiers.guarded_requests import Attempt
from zaqar_notify.notifiers.http import HttpClients

_PREFIX = "apprise+"
NEVER = frozenset(
    {
        *("mailto", "mailtos", "fcm", "slack", "vapid"),  # there is a notifier for it
        *("json", "jsons", "xml", "xmls", "form", "forms", "apprise", "apprises"),  # webhooks that nothing signs
        *("blink1", "dbus", "gio", "glib", "gnome", "growl", "kde", "macosx", "qt", "syslog", "windows"),  # this machine's own
    }
)
"""Schemes of apprise that nothing can allow."""
_SERVICES = "apprise.plugins."
_SOCKETS = ("SocketTransport", "asyncio", "paho", "slixmpp", "smtplib", "socket", "ssl", "websocket", "websockets")
"""A module of apprise that has one of these dials by itself."""
_TARGET = frozenset({401, 403, 404, 410})
"""Who is asked, and with which token, stands in the subscriber."""
_PAYLOAD = frozenset({400, 413, 422})
_TYPES = ("info", "success", "warning", "failure")
_FORMATS = ("text", "markdown", "html")


class AppriseNotifier(SingleNotifier):
    section: ClassVar[str] = "apprise"
    templated: ClassVar[bool] = True
    options: ClassVar[list[cfg.Opt]] = [
        cfg.BoolOpt(
            "enabled",
            default=False,
            help="Take subscribers apprise+URL, with what allowed_schemes names. Needs the extra: pip install "
            "'zaqar-notify[apprise]'.",
        ),
        cfg.ListOpt(
            "allowed_schemes",
            default=[],
            help="Schemes of apprise that may be subscribed, such as ntfys, gotifys, discord, tgram. Those that this package "
            "serves itself, and those of the worker's own desktop, are not among them.",
        ),
        cfg.BoolOpt(
            "allow_unguarded",
            default=False,
            help="Also those among allowed_schemes that apprise sends over something else than HTTP, such as mqtt, irc and "
            "xmpp: nothing judges which addresses are dialled, so that a subscriber can reach what only this machine can "
            "reach.",
        ),
        cfg.Opt("timeout", type=types.Float(min=0.1), default=15.0, help="How long an attempt may take. In seconds."),
        cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
    ]

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._allowed = frozenset(scheme.lower() for scheme in conf.allowed_schemes)
        if bad := sorted(self._allowed & NEVER):
            raise CannotStart(f"[apprise] allowed_schemes: {bad[0]} cannot be allowed; docs/channels/apprise.md says why")
        if conf.enabled and importlib.util.find_spec("apprise") is None:
            raise CannotStart("[apprise] enabled is set, which needs apprise: pip install 'zaqar-notify[apprise]'")

    def check(self, subscription: Subscription) -> None:
        self._service(subscription)

    def lane(self, subscription: Subscription) -> str:
        scheme, _, rest = _url(subscription).partition("://")
        return f"{_PREFIX}{scheme.lower()}://{hashed(rest.partition('/')[0])}"  # the host may be a token

    def timeout(self, subscription: Subscription) -> float | None:
        return float(self.conf.timeout)

    def send(self, delivery: Delivery) -> Outcome:
        try:
            service = self._service(delivery.subscription)
            said = _said(delivery)
        except RefusedAddress as error:
            return Outcome(OutcomeKind.REFUSED, str(error))
        except InvalidRequest as error:
            return Outcome(OutcomeKind.REJECTED, str(error))
        if self.conf.dry_run:
            return Outcome(OutcomeKind.DELIVERED, "dry run: not sent")
        attempt, name = Attempt(self.http, delivery.deadline), str(service.service_name)
        try:
            with attempt.under_way():
                taken = bool(service.notify(**said))
                del service  # some say good-bye then
        except RefusedAddress as error:
            return Outcome(OutcomeKind.REFUSED, str(error))
        return outcome(name, taken, attempt, time.time())

    def _service(self, subscription: Subscription) -> Any:
        """What apprise makes of the URL. Raises `InvalidRequest`."""
        url = _url(subscription)
        scheme = url.partition("://")[0].lower()
        if not self.conf.enabled:
            raise InvalidRequest("Subscribers apprise+ are switched off here ([apprise] enabled).")
        if scheme not in self._allowed:
            allowed = ", ".join(f"{_PREFIX}{one}" for one in sorted(self._allowed)) or "none"
            raise InvalidRequest(f"{_PREFIX}{scheme[:50]} is not allowed here; allowed are: {allowed}.")
        library = _library()
        service = library.service(url)
        if service is None:
            raise InvalidRequest(f"apprise does not understand this URL of {scheme}; its documentation says what it has to be.")
        if not self.conf.allow_unguarded and not library.is_guarded(type(service)):
            raise InvalidRequest(f"{_PREFIX}{scheme} is not sent over HTTP, and nothing else is allowed here.")
        host = getattr(service, "host", None)
        if isinstance(host, str) and is_address(host.strip("[]")):
            refusal = self.http.guard.check_address(host)
            if refusal is not None:
                raise RefusedAddress(f"{refusal}.")
        return service


def _url(subscription: Subscription) -> str:
    subscriber = subscription.subscriber
    return subscriber[len(_PREFIX) :] if subscriber[: len(_PREFIX)].lower() == _PREFIX else subscriber


def _said(delivery: Delivery) -> dict[str, Any]:
    """What `notify` is called with. Raises `InvalidRequest`."""
    shown = content.content(delivery, "apprise", indent=2)
    own = {name: value for name, value in shown.own.items() if isinstance(value, str)}
    body, form = shown.text, own.get("format", "text")
    if "html" in shown.made:
        body, form = shown.made["html"], "html"
    if not (body.strip() or (shown.title or "").strip()):
        raise InvalidRequest("The message has nothing to show.")
    return {
        "body": body,
        "title": own.get("title") or (shown.title if shown.title != body else None) or "",
        "notify_type": own["type"] if own.get("type") in _TYPES else "info",
        "body_format": form if form in _FORMATS else "text",
    }


# -- the library --------------------------------------------------------------------------------------------------------------


@functools.cache
def _library() -> _Library:
    return _Library()


class _Library:
    """apprise, loaded when it is first used: 180 services take a while."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it uses that is out of date is no news here
            import apprise

            apprise.Apprise.instantiate("json://localhost")  # loads the services
        # What it has to say of a failure has the URL in it, which is a secret.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        wishes = {"secure_logging": True, "storage_mode": "memory", "allow_templates": False}
        asset: Any = apprise.AppriseAsset
        known = inspect.signature(asset).parameters
        self._asset = asset(**{name: wish for name, wish in wishes.items() if name in known})
        self._instantiate = apprise.Apprise.instantiate
        self._attachment = apprise.AppriseAttachment
        self._looked_at: dict[type, bool] = {}

    def service(self, url: str) -> Any:
        """None for what it does not understand, and for what would read a file of this machine."""
        service = self._instantiate(url, asset=self._asset)
        if service is None or any(isinstance(one, self._attachment) and len(one) for one in vars(service).values()):
            return None
        service.request_rate_per_sec = 0  # nothing sleeps here; nor is anything tried again
        for name, value in (("retry", 0), ("redirects", False)):
            if hasattr(service, name):
                setattr(service, name, value)
        return service

    def is_guarded(self, service: type) -> bool:
        """It is sent with requests and with nothing else, and that is guarded from now on."""
        if service not in self._looked_at:
            spaces = [vars(module) for module in _modules(service)]
            guarded = [guarded_requests.take_over(space) for space in spaces]
            self._looked_at[service] = any(guarded) and not any(name in space for space in spaces for name in _SOCKETS)
        return self._looked_at[service]


def _modules(service: type) -> list[ModuleType]:
    """Those that a service of apprise is made of: of the package ``apprise.plugins.<name>``, and of those it derives from."""
    packages = {".".join(cls.__module__.split(".")[:3]) for cls in service.__mro__ if cls.__module__.startswith(_SERVICES)}
    loaded = list(sys.modules.items())
    return [module for name, module in loaded if ".".join(name.split(".")[:3]) in packages - {f"{_SERVICES}base"}]


# -- what came of it ----------------------------------------------------------------------------------------------------------


def outcome(service: str, taken: bool, attempt: Attempt, now: float) -> Outcome:
    """What apprise's yes or no means, by the answers to the requests that it has made. ``now``: epoch seconds."""
    if taken:
        return Outcome(OutcomeKind.DELIVERED, status=attempt.answers[-1].status if attempt.answers else None)
    failed = [answer for answer in attempt.answers if answer.status >= 300]
    if not failed:
        detail = f"{service}: {attempt.errors[-1] if attempt.errors else 'apprise could not deliver it'}"
        return Outcome(OutcomeKind.RETRY, detail, scope=Scope.LANE if attempt.errors else Scope.SUBSCRIPTION)
    status = failed[-1].status
    detail = f"{service} answered {status}"
    if len(failed) < len(attempt.answers):
        some = f"{len(failed)} of {len(attempt.answers)} requests failed"
        return Outcome(OutcomeKind.REJECTED, f"{detail}; {some}, and others would get it twice", status)
    if status == 429:
        after = answers.retry_after(failed[-1].retry_after, now)
        return Outcome(OutcomeKind.THROTTLED, detail, status, 1.0 if after is None else after, Scope.SUBSCRIPTION)
    if status in _TARGET or status in _PAYLOAD:
        return Outcome(OutcomeKind.REJECTED, detail, status, target=status in _TARGET)
    return Outcome(OutcomeKind.RETRY, detail, status, scope=Scope.LANE if status >= 500 else Scope.SUBSCRIPTION)
