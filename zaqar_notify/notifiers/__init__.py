"""The notifiers that are installed: loaded once, from the entry points of ``zaqar_notify.notifiers``, and chosen by scheme."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oslo_config import cfg

from zaqar_notify.errors import CannotStart, NotifierFailed, NotifyError, UnknownScheme
from zaqar_notify.model import Receipt, Subscription
from zaqar_notify.notifiers import plugins as installed
from zaqar_notify.notifiers.asking import Asking
from zaqar_notify.notifiers.base import Notifier, Received
from zaqar_notify.notifiers.plugins import NAMESPACE, Broken, Plugin
from zaqar_notify.notifiers.sections import Section
from zaqar_notify.notifiers.sending import sound_receipt

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import HttpClients

PATIENCE = 10.0
"""Seconds in which a notifier of another package has to answer a request."""
CLOSE_TIME = 3.0
"""Seconds that all notifiers together may take to close."""


class Notifiers:
    """``load`` finds the classes, so that their options can be registered; ``instantiate`` makes them. One that cannot be used
    is left out and stands in ``broken``: whether that is bad enough not to start is said by `require_whole`."""

    def __init__(self, plugins: Iterable[Plugin], subscriber_types: Sequence[str] = (), broken: Iterable[Broken] = ()) -> None:
        self.broken = list(broken)
        self._plugins = self._by_scheme(plugins)
        known = self._plugins.keys() | {one.scheme for one in self.broken}
        self._allowed = _allowed(known, subscriber_types)
        self._instances: dict[tuple[type[Notifier], str], Notifier] = {}
        self._asking: dict[int, Asking] = {}  # by the id() of those of other packages
        self._http: HttpClients | None = None

    @classmethod
    def load(cls, *, own: bool = False, subscriber_types: Sequence[str] = ()) -> Notifiers:
        """``own``: only those that this package ships. ``subscriber_types``: the schemes that may be used; empty: all. Raises
        `CannotStart` where nothing wants to serve one of these."""
        plugins, broken = installed.find()
        if own:
            plugins, broken = [one for one in plugins if one.is_own], [one for one in broken if one.is_own]
        return cls(plugins, subscriber_types, broken)

    def require_whole(self, *, ignore_plugins: bool = False) -> None:
        """Raise `CannotStart` for the first that is broken. ``ignore_plugins``: those of other packages may be."""
        for one in self.broken:
            if one.is_own or not ignore_plugins:
                raise CannotStart(one.error)

    def options(self) -> list[tuple[str, list[cfg.Opt]]]:
        """(section, options) pairs, each section once."""
        found = {plugin.section: plugin.cls.options for plugin in self._plugins.values()}
        return sorted(found.items(), key=lambda pair: pair[0])

    def named_options(self, conf: cfg.ConfigOpts | None = None) -> list[tuple[str, list[cfg.Opt]]]:
        """The same for the sections of named credentials: those that ``conf`` lists, or ``<section>_name`` for any."""
        found: dict[str, list[cfg.Opt]] = {}
        for plugin in self._plugins.values():
            cls = plugin.cls
            if cls.named_by:
                names = ["name"] if conf is None else conf[plugin.section][cls.named_by]
                found.update({f"{plugin.section}_{name}": cls.named_options for name in names})
        return sorted(found.items(), key=lambda pair: pair[0])

    def register(self, conf: cfg.ConfigOpts) -> None:
        """Their options, without those of named credentials: which there are is known when the configuration was read."""
        for plugin in list(self._plugins.values()):
            try:
                conf.register_opts(plugin.cls.options, plugin.section)
            except cfg.Error as error:
                text = f"{plugin}: its options cannot be used: {installed.described(error)}"
                self._leave_out(plugin, text, "its options cannot be used")

    def instantiate(self, conf: cfg.ConfigOpts, http: HttpClients) -> None:
        """Make one instance for each class and section. ``conf`` has the options of `options` registered."""
        self._http = http
        for plugin in list(self._plugins.values()):
            key = (plugin.cls, plugin.section)
            try:
                if key not in self._instances:
                    self._instances[key] = notifier = _instance(plugin, conf, http)
                    if not plugin.is_own:
                        self._asking[id(notifier)] = Asking(type(notifier).__name__)
            except CannotStart as error:
                self._leave_out(plugin, " ".join(str(error).split()), "it does not start")

    def _leave_out(self, plugin: Plugin, error: str, reason: str) -> None:
        self.broken.append(plugin.broken(error, reason))
        self._plugins.pop(plugin.scheme, None)

    def _by_scheme(self, plugins: Iterable[Plugin]) -> dict[str, Plugin]:
        """Where two serve one scheme nobody can say which is meant: neither is used, unless one is this package's own."""
        claims: dict[str, list[Plugin]] = {}
        for plugin in plugins:
            claims.setdefault(plugin.scheme, []).append(plugin)
        found = {}
        for scheme, claimants in claims.items():
            usable = claimants if len(claimants) == 1 else [one for one in claimants if one.is_own]
            if len(usable) == 1:
                found[scheme] = usable[0]
            for one in claimants:
                if one is not found.get(scheme):
                    self.broken.append(one.broken(_conflict(scheme, claimants), "several notifiers want to serve it"))
        return found

    def pick(self, subscriber: str) -> Notifier:
        """The notifier for a subscriber's URI: of its whole scheme, else of what stands before the first ``+``.

        Raises `UnknownScheme`.
        """
        plugin = self._plugin(subscriber)
        return self._instances[plugin.cls, plugin.section]

    def sections(self, subscriber: str, conf: cfg.ConfigOpts) -> list[str]:
        """Where its notifier is configured: its own section, and those of its named credentials. Raises `UnknownScheme`."""
        plugin = self._plugin(subscriber)
        names = conf[plugin.section][plugin.cls.named_by] if plugin.cls.named_by else ()
        return [plugin.section, *(f"{plugin.section}_{name}" for name in names)]

    def _plugin(self, subscriber: str) -> Plugin:
        if served := self.scheme_of(subscriber):
            return self._served(served)
        scheme, colon, _ = subscriber.partition(":")
        scheme = scheme.lower()
        if scheme.startswith("trust+"):
            raise UnknownScheme("Keystone trusts (trust+http, trust+https) are not supported: use a secret and its signature.")
        shown = f"{scheme[:50]!r} is not a known scheme" if colon else "The subscriber is not a URI"
        raise UnknownScheme(f"{shown}; subscribers may begin with: {', '.join(f'{name}:' for name in self.schemes())}.")

    def scheme_of(self, subscriber: str) -> str:
        """The scheme under which a notifier serves it; empty: there is none."""
        scheme, colon, _ = subscriber.partition(":")
        scheme = scheme.lower()
        return next((name for name in (scheme, scheme.partition("+")[0]) if colon and name in self._allowed), "")

    def _served(self, scheme: str) -> Plugin:
        plugin = self._plugins.get(scheme)
        if plugin is None:
            (reason, *_) = (one.reason for one in self.broken if one.scheme == scheme)
            raise UnknownScheme(f"The notifier for {scheme}: cannot be used here: {reason}. The operator has to mend it.")
        return plugin

    def schemes(self) -> list[str]:
        """The schemes that subscribers may have."""
        return sorted(self._allowed & self._plugins.keys())

    def known(self) -> set[str]:
        """All that a notifier wants to serve, also one that is broken."""
        return self._plugins.keys() | {one.scheme for one in self.broken}

    def describe(self) -> list[tuple[str, str, str, str]]:
        """All that can be used: (scheme, class, package, version of the package), by scheme."""
        plugins = (self._plugins[scheme] for scheme in sorted(self._plugins))
        return [(plugin.scheme, plugin.path, plugin.package, plugin.version) for plugin in plugins]

    def check(self, subscription: Subscription) -> None:
        """Raise `InvalidRequest` for a subscriber or an option that no notifier accepts."""
        notifier = self.pick(subscription.subscriber)
        self._guarded(notifier, lambda: notifier.check(subscription))

    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Receipt | None:
        """What these fields, which a provider has reported, say of a delivery to this subscriber: `Notifier.receipt`."""
        notifier = self.pick(subscription.subscriber)
        receipt = self._guarded(notifier, lambda: notifier.receipt(subscription, fields))
        if receipt is None:
            return None
        found = sound_receipt(receipt)
        if found is None:
            raise NotifierFailed("The notifier returned no receipt")
        return found

    def _guarded(self, notifier: Notifier, call: Callable[[], Any]) -> Any:
        """A bug in a notifier, or its hanging, costs this request only."""
        asking = self._asking.get(id(notifier))
        try:
            return call() if asking is None else asking.ask(call, PATIENCE)
        except NotifyError:
            raise
        except BaseException as error:
            notifier.log.exception("a bug in the notifier")
            raise NotifierFailed(f"The notifier failed: {type(error).__name__}") from error

    def report_to(self, received: Received) -> None:
        """Where they say what they hear later: `Notifier.received`."""
        for notifier in self._instances.values():
            notifier.received = _listener(notifier, received)

    def close(self) -> None:
        """Close the notifiers, each on a thread of its own so that one that hangs keeps none of the others, then the HTTP
        clients that they share."""
        threads = [
            threading.Thread(target=_close, args=(notifier,), name=f"close-{type(notifier).__name__}", daemon=True)
            for notifier in self._instances.values()
        ]
        for thread in threads:
            thread.start()
        give_up_at = time.monotonic() + CLOSE_TIME
        for thread, notifier in zip(threads, self._instances.values(), strict=True):
            thread.join(max(0.0, give_up_at - time.monotonic()))
            if thread.is_alive():
                notifier.log.error("%s does not close", type(notifier).__name__)
        for asking in self._asking.values():
            asking.close()
        if self._http is not None and self._instances:
            self._http.close()


def _conflict(scheme: str, claimants: Sequence[Plugin]) -> str:
    return f"Two notifiers serve the scheme {scheme}: {' and '.join(map(str, claimants))}; uninstall one of them"


def _allowed(loaded: Collection[str], subscriber_types: Sequence[str]) -> frozenset[str]:
    if not subscriber_types:
        return frozenset(loaded)
    asked = frozenset(scheme.lower() for scheme in subscriber_types)
    if unknown := asked - frozenset(loaded):
        raise CannotStart(
            f"[transport] subscriber_types: no notifier serves {', '.join(sorted(unknown))}; "
            f"loaded are {', '.join(sorted(loaded))}"
        )
    return asked


def _instance(plugin: Plugin, conf: cfg.ConfigOpts, http: HttpClients) -> Notifier:
    make: Callable[..., Notifier] = plugin.cls
    log = logging.getLogger(f"{NAMESPACE}.{plugin.section}")
    try:
        notifier = make(Section(conf, plugin.section, plugin.cls), http, log)
    except (CannotStart, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() too
        raise CannotStart(f"{plugin} does not start: {installed.described(error)}") from error
    if not hasattr(notifier, "log"):
        raise CannotStart(f"{plugin} does not start: its __init__ does not call super().__init__(conf, http, log)")
    return notifier


def _listener(notifier: Notifier, received: Received) -> Received:
    """Nothing but receipts gets through."""

    def listen(message_id: str, subscription_id: str, receipt: Receipt) -> None:
        found = sound_receipt(receipt)
        if found is None or not (isinstance(message_id, str) and isinstance(subscription_id, str)):
            notifier.log.error("it has received something that is no receipt: %.100r", receipt)
        else:
            received(message_id, subscription_id, found)

    return listen


def _close(notifier: Notifier) -> None:
    try:
        notifier.close()
    except BaseException:
        notifier.log.exception("a bug in the notifier: it does not close")
