"""Builds everything from the configuration. Nothing else but the command line reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import logging.config
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from oslo_config import cfg

from zaqar_notify import conf as options
from zaqar_notify import errors
from zaqar_notify.encryption import Keyring
from zaqar_notify.guard import Guard
from zaqar_notify.notifiers import Notifiers
from zaqar_notify.notifiers.http import HttpClients

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from zaqar_notify.api.extension import NotificationService
    from zaqar_notify.storage.base import Storage
    from zaqar_notify.worker import Worker

MEMORY = "memory://"
SETTLING_TIME = 10.0
"""Seconds of a lease that are kept for waiting and settling: an attempt may take what is left."""
_Settings = TypeVar("_Settings")


# -- configuration -------------------------------------------------------------------------------------------------------------


def configure(
    *, config_files: Sequence[str] = (), overrides: Mapping[tuple[str | None, str], Any] | None = None
) -> cfg.ConfigOpts:
    """Read environment and files; ``overrides`` ((group, option) -> value) come from the command line and win.

    Every value is looked at here, so that a bad one stops the start with one line: raises `CannotStart`.
    """
    conf = cfg.ConfigOpts()
    options.register(conf)
    for section, opts in Notifiers.load().options():
        conf.register_opts(opts, section)
    try:
        conf([], project="zaqar-notify", default_config_files=list(config_files), default_config_dirs=[])
        for (group, name), value in (overrides or {}).items():
            conf.set_override(name, value, group)
        _look_at_all(conf)
    except cfg.ConfigFilesNotFoundError as error:
        raise errors.CannotStart(f"Cannot read the configuration file {', '.join(error.config_files)}") from error
    except cfg.ConfigFilesPermissionDeniedError as error:
        raise errors.CannotStart(f"No permission to read the configuration file {', '.join(error.config_files)}") from error
    except (cfg.Error, ValueError) as error:
        raise errors.CannotStart(f"Bad configuration: {' '.join(str(error).split())}") from error
    return conf


def _look_at_all(conf: cfg.ConfigOpts) -> None:
    for name in conf:
        value = conf[name]
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            for option in value:
                value[option]


def list_opts(*, own: bool = True) -> Sequence[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator: all options of this package, with those of the notifiers that it ships (or of all)."""
    return options.list_opts(Notifiers.load(own=own).options())


def set_up_logging(conf: cfg.ConfigOpts) -> None:
    if conf.log_config_append:
        try:
            logging.config.fileConfig(conf.log_config_append, disable_existing_loggers=False)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise errors.CannotStart(f"Cannot use the logging configuration {conf.log_config_append}: {error}") from error
        return
    logging.basicConfig(
        level=logging.DEBUG if conf.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # These log each flow and each connection at DEBUG and some at INFO.
    for name in ("taskflow", "urllib3", "alembic", "stevedore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def require_keys(conf: cfg.ConfigOpts) -> None:
    """Raise `CannotStart` without the keys that every process has to share."""
    Keyring(conf.encryption["keys"])
    if not conf.signed_url.secret_key:
        raise errors.CannotStart("[signed_url] secret_key is not set. Make one with: openssl rand -hex 32")


# -- parts --------------------------------------------------------------------------------------------------------------------


def build_storage(conf: cfg.ConfigOpts) -> Storage:
    keyring = Keyring(conf.encryption["keys"])
    times: dict[str, Any] = {
        "retention": conf.delivery_log.retention,
        "body_retention": conf.delivery_log.body_retention,
    }
    if conf.storage.connection == MEMORY:
        from zaqar_notify.storage.memory import MemoryStorage

        return MemoryStorage(keyring=keyring, **times)
    from zaqar_notify.storage.sql import SqlStorage

    return SqlStorage(
        storage_url(conf),
        keyring=keyring,
        busy_timeout=conf.storage.busy_timeout,
        group_commit=conf.storage.group_commit,
        **times,
    )


def storage_url(conf: cfg.ConfigOpts) -> str:
    if conf.storage.connection:
        return str(conf.storage.connection)
    os.makedirs(conf.data_dir, mode=0o700, exist_ok=True)
    return "sqlite:///" + os.path.abspath(os.path.join(conf.data_dir, "zaqar-notify.db"))


def build_notifiers(conf: cfg.ConfigOpts) -> Notifiers:
    guard = Guard(
        allowed_networks=conf.guard.allowed_networks,
        https_only=conf.guard.https_only,
        allowed_ports=conf.guard.allowed_ports,
    )
    http = HttpClients.from_options(conf.webhook, guard, max_timeout=conf.worker.lease - SETTLING_TIME)
    notifiers = Notifiers.load(subscriber_types=conf.transport.subscriber_types)
    notifiers.instantiate(conf, http)
    return notifiers


def build_api(conf: cfg.ConfigOpts) -> WSGIApplication:
    return build_service(conf).api


def build_service(conf: cfg.ConfigOpts) -> NotificationService:
    """For `zaqar_notify.api.mount`. To be called in the process that serves: not before it forks."""
    from zaqar_notify.api.app import create_app
    from zaqar_notify.api.extension import NotificationService
    from zaqar_notify.validation import Limits
    from zaqar_notify.wake import Waker

    require_keys(conf)
    storage = build_storage(conf)
    with contextlib.suppress(errors.StorageUnavailable):  # each request says so until it is back
        storage.check()
    limits = _settings(Limits, conf.transport)
    wake = Waker(_wake_directory(conf)).notify
    api = create_app(
        storage,
        limits=limits,
        check=build_notifiers(conf).check,
        wake=wake,
        loopback_only=conf.auth.strategy == "none",
    )
    return NotificationService(storage, limits, wake, api)


def build_worker(conf: cfg.ConfigOpts) -> Worker:
    from zaqar_notify.lanes import Limits
    from zaqar_notify.notifiers.sending import Senders
    from zaqar_notify.retry import Policy
    from zaqar_notify.wake import Listener
    from zaqar_notify.worker import Settings, Worker

    require_keys(conf)
    _check_timeouts(conf)
    storage = build_storage(conf)
    storage.check()
    notifiers = build_notifiers(conf)
    senders = Senders(
        notifiers.pick,
        threads=conf.worker.threads,
        timeout=conf.worker.timeout,
        max_timeout=conf.worker.lease - SETTLING_TIME,
    )
    return Worker(
        storage,
        senders.route,
        Listener(_wake_directory(conf)),
        settings=_settings(Settings, conf.worker),
        limits=_settings(Limits, conf.worker),
        policy=Policy(
            schedule=tuple(conf.notification.retry_schedule),
            jitter=conf.notification.retry_jitter,
            fault_delay=conf.notification.fault_delay,
            fault_delay_max=conf.notification.fault_delay_max,
            after_max=conf.notification.retry_after_max,
        ),
        confirmed_only=conf.notification.require_confirmation,
        closing=_all_of(senders.close, notifiers.close, storage.close),
    )


def _wake_directory(conf: cfg.ConfigOpts) -> str:
    return os.path.abspath(os.path.join(conf.data_dir, "wake"))


def _check_timeouts(conf: cfg.ConfigOpts) -> None:
    """A send has to end, and be settled, within its lease."""
    longest = conf.worker.lease - SETTLING_TIME
    for group in ("worker", "webhook"):
        if conf[group].timeout > longest:
            raise errors.CannotStart(
                f"[{group}] timeout is {conf[group].timeout:g} s, but may be at most [worker] lease - 10 s = {longest:g} s"
            )


def _settings(kind: type[_Settings], group: Any) -> _Settings:
    """A dataclass from the options of the same names."""
    names = {field.name for field in dataclasses.fields(kind)} & set(group)  # type: ignore[arg-type]
    return kind(**{name: group[name] for name in names})


def _all_of(*functions: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        for function in functions:
            function()

    return run
