"""The notifiers that are installed: loaded once, from the entry points of ``zaqar_notify.notifiers``, and chosen by scheme."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import stevedore
from oslo_config import cfg

from zaqar_notify.errors import CannotStart, UnknownScheme
from zaqar_notify.model import Receipt, Subscription
from zaqar_notify.notifiers.base import BatchNotifier, Notifier, SingleNotifier
from zaqar_notify.notifiers.sections import Section

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import HttpClients

NAMESPACE = "zaqar_notify.notifiers"
_OWN_PACKAGE = "zaqar_notify"


@dataclasses.dataclass(frozen=True, slots=True)
class Plugin:
    """One scheme and what serves it."""

    scheme: str
    cls: type[Notifier]
    section: str
    package: str
    version: str


class Notifiers:
    """``load`` finds the classes, so that their options can be registered; ``instantiate`` makes them."""

    def __init__(self, plugins: Iterable[Plugin], subscriber_types: Sequence[str] = ()) -> None:
        self._plugins = _by_scheme(plugins)
        self._allowed = _allowed(self._plugins, subscriber_types)
        self._instances: dict[tuple[type[Notifier], str], Notifier] = {}

    @classmethod
    def load(cls, *, own: bool = False, subscriber_types: Sequence[str] = ()) -> Notifiers:
        """Raises `CannotStart` for a plugin that does not load or two that serve one scheme.

        ``own``: only those that this package ships. ``subscriber_types``: the schemes that may be used; empty: all.
        """
        manager: stevedore.ExtensionManager[Any] = stevedore.ExtensionManager(NAMESPACE, on_load_failure_callback=_refuse)
        plugins = (_plugin(extension) for extension in manager)
        return cls((plugin for plugin in plugins if not own or _is_own(plugin.cls)), subscriber_types)

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

    def instantiate(self, conf: cfg.ConfigOpts, http: HttpClients) -> None:
        """Make one instance for each class and section. ``conf`` has the options of `options` registered."""
        self._http = http
        for plugin in self._plugins.values():
            key = (plugin.cls, plugin.section)
            if key not in self._instances:
                self._instances[key] = _instance(plugin, conf, http)

    def pick(self, subscriber: str) -> Notifier:
        """The notifier for a subscriber's URI: of its whole scheme, else of what stands before the first ``+``.

        Raises `UnknownScheme`.
        """
        scheme, colon, _ = subscriber.partition(":")
        scheme = scheme.lower()
        for name in (scheme, scheme.partition("+")[0]) if colon else ():
            if name in self._allowed:
                plugin = self._plugins[name]
                return self._instances[plugin.cls, plugin.section]
        if scheme.startswith("trust+"):
            raise UnknownScheme("Keystone trusts (trust+http, trust+https) are not supported: use a secret and its signature.")
        shown = f"{scheme[:50]!r} is not a known scheme" if colon else "The subscriber is not a URI"
        raise UnknownScheme(f"{shown}; subscribers may begin with: {', '.join(f'{name}:' for name in self.schemes())}.")

    def schemes(self) -> list[str]:
        """The schemes that subscribers may have."""
        return sorted(self._allowed)

    def describe(self) -> list[tuple[str, str, str, str]]:
        """All that is loaded: (scheme, class, package, version of the package), by scheme."""
        plugins = (self._plugins[scheme] for scheme in sorted(self._plugins))
        return [(plugin.scheme, _path(plugin.cls), plugin.package, plugin.version) for plugin in plugins]

    def check(self, subscription: Subscription) -> None:
        """Raise `InvalidRequest` for a subscriber or an option that no notifier accepts."""
        self.pick(subscription.subscriber).check(subscription)

    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Receipt | None:
        """What these fields, which a provider has reported, say of a delivery to this subscriber: `Notifier.receipt`."""
        return self.pick(subscription.subscriber).receipt(subscription, fields)

    def close(self) -> None:
        """Close the notifiers, then the HTTP clients that they share."""
        for notifier in self._instances.values():
            notifier.close()
        if self._instances:
            self._http.close()


def _plugin(extension: stevedore.extension.Extension[Any]) -> Plugin:
    cls, scheme = extension.plugin, extension.name.lower()
    if not (inspect.isclass(cls) and issubclass(cls, SingleNotifier | BatchNotifier)):
        raise CannotStart(
            f"The notifier {scheme} ({extension.entry_point.value}) is neither a SingleNotifier nor a BatchNotifier"
        )
    if inspect.isabstract(cls):
        raise CannotStart(f"The notifier {scheme} ({extension.entry_point.value}) lacks {', '.join(cls.__abstractmethods__)}")
    package, version = _package(extension.entry_point)
    return Plugin(scheme, cls, cls.section or extension.name, package, version)


def _package(wanted: importlib.metadata.EntryPoint) -> tuple[str, str]:
    # stevedore's cache forgets which package an entry point came from.
    for found in importlib.metadata.entry_points(group=NAMESPACE, name=wanted.name):
        if found.value == wanted.value and found.dist is not None:
            return found.dist.name, found.dist.version
    return wanted.module.partition(".")[0], "unknown"


def _refuse(_manager: object, entry_point: importlib.metadata.EntryPoint, error: BaseException) -> NoReturn:
    package, version = _package(entry_point)
    raise CannotStart(
        f"The notifier {entry_point.name} ({entry_point.value}) of {package} {version} does not load: "
        f"{type(error).__name__}: {error}"
    ) from error


def _is_own(cls: type[Notifier]) -> bool:
    return cls.__module__.partition(".")[0] == _OWN_PACKAGE


def _by_scheme(plugins: Iterable[Plugin]) -> dict[str, Plugin]:
    found: dict[str, Plugin] = {}
    for plugin in plugins:
        other = found.setdefault(plugin.scheme, plugin)
        if other is not plugin:
            raise CannotStart(
                f"Two notifiers serve the scheme {plugin.scheme}: {_named(other)} and {_named(plugin)}; uninstall one of them"
            )
    return found


def _named(plugin: Plugin) -> str:
    return f"{_path(plugin.cls)} of {plugin.package} {plugin.version}"


def _path(cls: type[Notifier]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _allowed(plugins: Iterable[str], subscriber_types: Sequence[str]) -> frozenset[str]:
    loaded = frozenset(plugins)
    if not subscriber_types:
        return loaded
    asked = frozenset(scheme.lower() for scheme in subscriber_types)
    if unknown := asked - loaded:
        raise CannotStart(
            f"[transport] subscriber_types: no notifier serves {', '.join(sorted(unknown))}; "
            f"loaded are {', '.join(sorted(loaded))}"
        )
    return asked


def _instance(plugin: Plugin, conf: cfg.ConfigOpts, http: HttpClients) -> Notifier:
    make: Callable[..., Notifier] = plugin.cls
    try:
        return make(Section(conf, plugin.section, plugin.cls), http, logging.getLogger(f"{NAMESPACE}.{plugin.section}"))
    except CannotStart:
        raise
    except Exception as error:
        raise CannotStart(f"{_named(plugin)} does not start: {type(error).__name__}: {error}") from error
