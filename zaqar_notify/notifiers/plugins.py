"""What is installed under the entry points of ``zaqar_notify.notifiers``: classes that serve a scheme, and what is none."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

import stevedore
from oslo_config import cfg

from zaqar_notify.notifiers.base import BatchNotifier, Notifier, SingleNotifier

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

    @property
    def path(self) -> str:
        return f"{self.cls.__module__}:{self.cls.__qualname__}"

    @property
    def is_own(self) -> bool:
        """This package ships it."""
        return is_own(self.cls)

    def __str__(self) -> str:
        return f"{self.path} of {self.package} {self.version}"

    def broken(self, error: str, reason: str) -> Broken:
        return Broken(self.scheme, self.path, self.package, self.version, self.is_own, error, reason)


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """What wants to serve a scheme, and cannot."""

    scheme: str
    path: str
    package: str
    version: str
    is_own: bool
    error: str
    """One line that names it."""
    reason: str
    """The same for clients, who are not told the text of an exception."""


def find() -> tuple[list[Plugin], list[Broken]]:
    broken: list[Broken] = []

    def refuse(_manager: object, entry_point: importlib.metadata.EntryPoint, error: BaseException) -> None:
        broken.append(unloadable(entry_point, error))

    found = [inspected(extension) for extension in _Manager(NAMESPACE, on_load_failure_callback=refuse)]
    broken += (one for one in found if isinstance(one, Broken))
    return [one for one in found if isinstance(one, Plugin)], broken


class _Manager(stevedore.ExtensionManager):  # type: ignore[type-arg]
    """Takes what a module does instead of being imported, whatever it is, for a failure to load."""

    def _load_one_plugin(self, entry_point: importlib.metadata.EntryPoint, *arguments: Any) -> Any:
        try:
            return super()._load_one_plugin(entry_point, *arguments)
        except (AssertionError, SystemExit) as error:
            raise ImportError(described(error)) from error


def unloadable(entry_point: importlib.metadata.EntryPoint, error: BaseException) -> Broken:
    return _broken(entry_point, f"does not load: {described(error)}", f"it does not load ({type(error).__name__})")


def inspected(extension: stevedore.extension.Extension[Any]) -> Plugin | Broken:
    cls, entry_point = extension.plugin, extension.entry_point
    defect = _defect(cls)
    if defect is not None:
        return _broken(entry_point, defect, "it is no notifier")
    package, version = _package(entry_point)
    return Plugin(extension.name.lower(), cls, cls.section or extension.name, package, version)


def examined(scheme: str, cls: Any) -> Plugin | Broken:
    """A class that nothing is installed for."""
    module = getattr(cls, "__module__", "?")
    path = f"{module}:{getattr(cls, '__qualname__', cls)}"
    defect = _defect(cls)
    if defect is not None:
        return Broken(
            scheme.lower(), path, module, "unknown", _is_own(module), f"The notifier {scheme} ({path}) {defect}", defect
        )
    return Plugin(scheme.lower(), cls, cls.section or scheme, module.partition(".")[0], "unknown")


def _defect(cls: Any) -> str | None:
    if not (inspect.isclass(cls) and issubclass(cls, SingleNotifier | BatchNotifier)):
        return "is neither a SingleNotifier nor a BatchNotifier"
    if inspect.isabstract(cls):
        return f"lacks {', '.join(sorted(cls.__abstractmethods__))}"
    if not (_are_options(cls.options) and _are_options(cls.named_options)):
        return "has options that are no list of oslo.config's options"
    if not isinstance(cls.section, str) or (cls.named_by and cls.named_by not in {option.dest for option in cls.options}):
        return "has a section that is no text, or an option for its names that is none of its options"
    if type(cls.most_threads) is not int:
        return "has most_threads that are no integer"
    return None


def _are_options(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, cfg.Opt) for one in value)


def _broken(entry_point: importlib.metadata.EntryPoint, defect: str, reason: str) -> Broken:
    package, version = _package(entry_point)
    name, path = entry_point.name, entry_point.value
    error = f"The notifier {name} ({path}) of {package} {version} {defect}"
    return Broken(name.lower(), path, package, version, _is_own(entry_point.module), error, reason)


def _package(wanted: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version. stevedore's cache forgets which package an entry point came from."""
    key = wanted.name, wanted.value
    if key not in _packages():
        _packages.cache_clear()  # it was installed since
    return _packages().get(key, (wanted.module.partition(".")[0], "unknown"))


@functools.cache
def _packages() -> Mapping[tuple[str, str], tuple[str, str]]:
    """By name and value of the entry point. All together: to look reads the files of every package that is installed."""
    found = importlib.metadata.entry_points(group=NAMESPACE)
    return {(one.name, one.value): (one.dist.name, one.dist.version) for one in found if one.dist is not None}


def is_own(cls: type) -> bool:
    """This package ships it."""
    return _is_own(cls.__module__)


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _OWN_PACKAGE


def described(error: BaseException) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
