"""Builds everything from the configuration. Nothing else but the command line reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import oslo_log.log
from oslo_config import cfg
from oslo_policy import opts as policy_opts

from zaqar_notify import __version__, errors
from zaqar_notify import conf as options
from zaqar_notify.encryption import MISSING, Keyring
from zaqar_notify.guard import Guard
from zaqar_notify.notifiers import Notifiers
from zaqar_notify.notifiers.http import HttpClients

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from oslo_policy import policy

    from zaqar_notify.api.extension import NotificationService
    from zaqar_notify.api.identity import Identity
    from zaqar_notify.api.policy import Rules
    from zaqar_notify.boards import Board
    from zaqar_notify.cluster import Cluster
    from zaqar_notify.metrics import ApiMetrics, ReceiveMetrics, WorkerMetrics
    from zaqar_notify.notifiers.sending import Senders
    from zaqar_notify.prometheus import Exposition
    from zaqar_notify.receiving.lmtp import Server as Receiver
    from zaqar_notify.schemes import Schemes
    from zaqar_notify.storage.base import Storage
    from zaqar_notify.validation import Limits
    from zaqar_notify.worker import Worker

LOG = logging.getLogger(__name__)

MEMORY = "memory://"
MONGODB = ("mongodb://", "mongodb+srv://")
METRICS_PORTS = {"api": 0, "worker": 1, "receive": 2}
"""By the kind of the process, what is added to the port of [metrics] listen."""
SETTLING_TIME = 10.0
"""Seconds of a lease that are kept for waiting and settling: an attempt may take what is left."""
BOARD_SHARE = 8
"""Of the lease of a job, this part is the longest that one request to the board may take."""
_BAD_VALUES = (AttributeError, KeyError, NameError, TypeError, ValueError)
"""What Python's logging makes of a file or a level that it does not understand."""
_Settings = TypeVar("_Settings")


# -- configuration -------------------------------------------------------------------------------------------------------------


def configure(
    *,
    config_files: Sequence[str] = (),
    overrides: Mapping[tuple[str | None, str], Any] | None = None,
    ignore_broken: bool = False,
) -> cfg.ConfigOpts:
    """Read environment and files; ``overrides`` ((group, option) -> value) come from the command line and win.

    Every value is looked at here, so that a bad one stops the start with one line: raises `CannotStart`, also for a notifier
    that cannot be loaded, unless these are to be ignored here or by the configuration.
    """
    conf = cfg.ConfigOpts()
    options.register(conf)
    for section, opts in policy_opts.list_opts():
        conf.register_opts(opts, section)
    notifiers = Notifiers.load()
    notifiers.register(conf)
    try:
        conf([], project="zaqar-notify", default_config_files=list(config_files), default_config_dirs=[])
        for section, opts in notifiers.named_options(conf):
            conf.register_opts(opts, section)
        for (group, name), value in (overrides or {}).items():
            conf.set_override(name, value, group)
        _look_at_all(conf)
    except cfg.ConfigFilesNotFoundError as error:
        raise errors.CannotStart(f"Cannot read the configuration file {', '.join(error.config_files)}") from error
    except cfg.ConfigFilesPermissionDeniedError as error:
        raise errors.CannotStart(f"No permission to read the configuration file {', '.join(error.config_files)}") from error
    except (cfg.Error, ValueError) as error:
        raise errors.CannotStart(f"Bad configuration: {' '.join(str(error).split())}") from error
    if not ignore_broken:
        notifiers.require_whole(ignore_plugins=conf.notification.ignore_broken_plugins)
    return conf


def _look_at_all(conf: cfg.ConfigOpts) -> None:
    for name in conf:
        value = conf[name]
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            for option in value:
                value[option]


def list_opts(*, own: bool = True) -> Sequence[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator: all options of this package, with those of the notifiers that it ships.

    Without ``own`` also those of other notifiers and of oslo.policy.
    """
    notifiers = Notifiers.load(own=own)
    return options.list_opts([*notifiers.options(), *(notifiers.named_options() if own else policy_opts.list_opts())])


def effective_opts(conf: cfg.ConfigOpts) -> Sequence[tuple[str, list[cfg.Opt]]]:
    """All options that ``conf`` has, with those of the named credentials that it lists."""
    notifiers = Notifiers.load()
    notifiers.register(conf)
    return [*list_opts(own=False), *notifiers.named_options(conf)]


def set_up_logging(conf: cfg.ConfigOpts) -> None:
    """Raises `CannotStart` for what cannot be used."""
    # oslo.log would turn to standard output, which belongs to what the commands have to say.
    conf.set_default("use_stderr", not (conf.log_file or conf.log_dir or conf.use_journal))
    try:
        oslo_log.log.setup(conf, "zaqar_notify", __version__)
    except (oslo_log.log.LogConfigError, ImportError, OSError, RuntimeError, *_BAD_VALUES) as error:
        raise errors.CannotStart(f"Cannot set up logging: {' '.join(str(error).split())}") from error


def require_keys(conf: cfg.ConfigOpts) -> None:
    """Raise `CannotStart` without the keys that every process has to share."""
    Keyring(conf.encryption["keys"])
    if not conf.signed_url.secret_key:
        raise errors.CannotStart(
            f"[signed_url] secret_key is not set. {MISSING}. Make one with: openssl rand -hex 32, where there is none yet"
        )


# -- parts --------------------------------------------------------------------------------------------------------------------


def build_storage(conf: cfg.ConfigOpts) -> Storage:
    keyring = Keyring(conf.encryption["keys"])
    times: dict[str, Any] = {
        "retention": conf.delivery_log.retention,
        "body_retention": conf.delivery_log.body_retention,
        "retention_delivered": conf.delivery_log.retention_delivered,
    }
    if conf.storage.connection == MEMORY:
        from zaqar_notify.storage.memory import MemoryStorage

        return MemoryStorage(keyring=keyring, **times)
    if (conf.storage.connection or "").startswith(MONGODB):
        from zaqar_notify.storage.mongodb.driver import MongoStorage

        return MongoStorage(
            conf.storage.connection,
            keyring=keyring,
            busy_timeout=conf.storage.busy_timeout,
            group_commit=conf.storage.group_commit,
            member_timeout=conf.worker.lease,
            turns=os.path.join(conf.data_dir, "storage.lock"),
            **times,
        )
    from zaqar_notify.storage.sql.driver import SqlStorage

    return SqlStorage(
        storage_url(conf),
        keyring=keyring,
        busy_timeout=conf.storage.busy_timeout,
        group_commit=conf.storage.group_commit,
        pool_size=conf.storage.pool_size,
        member_timeout=conf.worker.lease,
        **times,
    )


def storage_url(conf: cfg.ConfigOpts) -> str:
    if conf.storage.connection:
        return str(conf.storage.connection)
    os.makedirs(conf.data_dir, mode=0o700, exist_ok=True)
    return "sqlite:///" + os.path.abspath(os.path.join(conf.data_dir, "zaqar-notify.db"))


def build_notifiers(conf: cfg.ConfigOpts) -> Notifiers:
    """Raises `CannotStart` for one that is broken, unless the configuration says to leave it out: that is logged."""
    notifiers = load_notifiers(conf)
    notifiers.require_whole(ignore_plugins=conf.notification.ignore_broken_plugins)
    for broken in notifiers.broken:
        LOG.error("left out, for [notification] ignore_broken_plugins is set: %s", broken.error)
    return notifiers


def load_notifiers(conf: cfg.ConfigOpts) -> Notifiers:
    """With those that are broken among `Notifiers.broken`."""
    guard = Guard(
        allowed_networks=conf.guard.allowed_networks,
        https_only=conf.guard.https_only,
        allowed_ports=conf.guard.allowed_ports,
    )
    http = HttpClients.from_options(
        conf.webhook,
        guard,
        max_timeout=conf.worker.lease - SETTLING_TIME,
        record_successes=conf.delivery_log.record == "all",
    )
    notifiers = Notifiers.load(subscriber_types=conf.transport.subscriber_types)
    notifiers.register(conf)
    notifiers.instantiate(conf, http)
    return notifiers


def build_senders(conf: cfg.ConfigOpts, notifiers: Notifiers) -> Senders:
    from zaqar_notify.notifiers.sending import Senders

    return Senders(
        notifiers.pick,
        threads=conf.worker.threads,
        timeout=conf.worker.timeout,
        max_timeout=conf.worker.lease - SETTLING_TIME,
    )


def build_limits(conf: cfg.ConfigOpts) -> Limits:
    """What requests may say."""
    from zaqar_notify.validation import Limits

    return dataclasses.replace(_settings(Limits, conf.transport), max_attempts=conf.notification.max_attempts)


def build_api(conf: cfg.ConfigOpts) -> WSGIApplication:
    return build_service(conf).make_api(None)


def build_service(conf: cfg.ConfigOpts) -> NotificationService:
    """For `zaqar_notify.api.mount`. To be called in the process that serves: not before it forks."""
    from zaqar_notify.api.app import create_app
    from zaqar_notify.api.confirmation import Confirmations
    from zaqar_notify.api.extension import NotificationService
    from zaqar_notify.feedback import Tokens
    from zaqar_notify.metrics import ApiMetrics
    from zaqar_notify.signing import UrlSigner

    require_keys(conf)
    storage = build_storage(conf)
    with contextlib.suppress(errors.StorageUnavailable):  # each request says so until it is back
        storage.check()
    metrics = _build_api_metrics(conf, storage)
    limits = build_limits(conf)
    wake = _waking(conf, storage)
    notifiers = build_notifiers(conf)
    rules = build_rules(conf)
    signer = UrlSigner(conf.signed_url.secret_key)
    confirmations = Confirmations(
        required=conf.notification.require_confirmation,
        ttl=conf.notification.confirmation_ttl,
        public_url=conf.api.public_url,
        signer=signer,
    )

    def make_api(identity: Identity | None) -> WSGIApplication:
        """``identity`` takes the place of ``[auth] strategy``."""
        api = create_app(
            storage,
            limits=limits,
            check=notifiers.check,
            wake=wake,
            loopback_only=identity is None and conf.auth.strategy == "none",
            identity=identity or _build_identity(conf, storage),
            rules=rules,
            signer=signer,
            confirmations=confirmations,
            tokens=Tokens(conf.signed_url.secret_key),
            read_receipt=notifiers.receipt,
            metrics=metrics,
        )
        return _behind_keystone(conf, api) if identity is None and conf.auth.strategy == "keystone" else api

    return NotificationService(storage, limits, wake, make_api, (metrics or ApiMetrics()).published)


def _waking(conf: cfg.ConfigOpts, storage: Storage) -> Callable[[], None]:
    """Tells the workers of this machine, and those of others, that there is work."""
    return _closable_waking(conf, storage)[0]


def _closable_waking(conf: cfg.ConfigOpts, storage: Storage) -> tuple[Callable[[], None], Callable[[], None]]:
    """The same, and what closes it."""
    from zaqar_notify.wake import Waker

    here = Waker(_wake_directory(conf))

    def wake() -> None:
        here.notify()
        storage.announce()

    return wake, here.close


# -- metrics -------------------------------------------------------------------------------------------------------------------


def start_metrics(conf: cfg.ConfigOpts, kind: str, storage: Storage) -> Exposition | None:
    """Show the metrics of this process, and of those of its kind beside it; None without ``[metrics] listen``.

    To be called before anything is counted, in the process that counts. Raises `CannotStart`.
    """
    if conf.metrics.listen is None:
        return None
    host, _, port = conf.metrics.listen.rpartition(":")
    number = int(port) + METRICS_PORTS[kind]
    if not METRICS_PORTS[kind] < number < 65536:
        raise errors.CannotStart(f"[metrics] listen: {number} is no port")
    directory = os.path.abspath(os.path.join(conf.data_dir, "metrics", kind))
    _count_in(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    from zaqar_notify.prometheus import Exposition

    exposition = Exposition(directory, host.strip("[]"), number, storage.depths)
    exposition.start()
    return exposition


def _build_api_metrics(conf: cfg.ConfigOpts, storage: Storage) -> ApiMetrics | None:
    if start_metrics(conf, "api", storage) is None:
        return None
    from zaqar_notify.prometheus import PrometheusApiMetrics

    return PrometheusApiMetrics()


def _build_worker_metrics(conf: cfg.ConfigOpts, storage: Storage) -> tuple[WorkerMetrics, Callable[[], None]]:
    """The metrics, and what stops their being shown."""
    from zaqar_notify.metrics import WorkerMetrics

    exposition = start_metrics(conf, "worker", storage)
    if exposition is None:
        return WorkerMetrics(), lambda: None
    from zaqar_notify.prometheus import PrometheusWorkerMetrics

    return PrometheusWorkerMetrics(), exposition.close


def _build_receive_metrics(conf: cfg.ConfigOpts, storage: Storage) -> tuple[ReceiveMetrics, Callable[[], None]]:
    from zaqar_notify.metrics import ReceiveMetrics

    exposition = start_metrics(conf, "receive", storage)
    if exposition is None:
        return ReceiveMetrics(), lambda: None
    from zaqar_notify.prometheus import PrometheusReceiveMetrics

    return PrometheusReceiveMetrics(), exposition.close


def _count_in(directory: str) -> None:
    """prometheus_client decides when it is imported whether, and where, it counts for several processes."""
    if "prometheus_client" in sys.modules and os.environ.get("PROMETHEUS_MULTIPROC_DIR") != directory:
        raise errors.CannotStart(
            "[metrics] listen: this process has metrics of its own (it has imported prometheus_client); leave listen unset"
        )
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory


# -- who may -------------------------------------------------------------------------------------------------------------------


def check_access(conf: cfg.ConfigOpts) -> None:
    """Raise `CannotStart` here, once, what would otherwise stop each API process."""
    build_rules(conf)
    if conf.auth.strategy == "keystone":
        _behind_keystone(conf, lambda environ, start_response: [])


def _build_identity(conf: cfg.ConfigOpts, storage: Storage) -> Identity:
    from zaqar_notify.api.identity import Anyone, ApiKeys, KeystoneTokens

    if conf.auth.strategy == "apikey":
        return ApiKeys(storage, lifetime=conf.auth.key_cache)
    return KeystoneTokens() if conf.auth.strategy == "keystone" else Anyone()


def build_rules(conf: cfg.ConfigOpts) -> Rules:
    """The default rules, and those that the policy file puts in their place. Raises `CannotStart` for a broken file."""
    from oslo_policy import policy

    from zaqar_notify.api.policy import Rules, list_rules

    # What it has to say about a broken file, some of it with a traceback, is said by the error.
    logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)
    enforcer = policy.Enforcer(conf)
    enforcer.register_defaults(list_rules())
    try:
        enforcer.load_rules()
        enforcer.check_rules(raise_on_violation=True)
        wrong = [str(name) for name, rule in enforcer.file_rules.items() if not _is_understood(rule.check_str, str(rule.check))]
    except policy.InvalidDefinitionError as error:
        rules = str(error).partition("]")[0].rpartition("[")[2]
        raise errors.CannotStart(f"{_bad(enforcer)} {rules} refer to a rule that is missing, or in a circle") from error
    except (OSError, ValueError) as error:
        raise errors.CannotStart(f"{_bad(enforcer)} {' '.join(str(error).split())}") from error
    except (TypeError, AttributeError) as error:
        raise errors.CannotStart(f"{_bad(enforcer)} it has to give names their rules, in strings") from error
    if wrong:
        raise errors.CannotStart(f"{_bad(enforcer)} cannot read the rule of {', '.join(wrong)}")
    _check_names(conf, enforcer)
    return Rules(enforcer)


def _bad(enforcer: policy.Enforcer) -> str:
    return f"Bad policy file {enforcer.policy_path or ' or '.join(enforcer.conf.oslo_policy.policy_dirs)}:"


def _is_understood(text: object, check: str) -> bool:
    """oslo.policy makes ``!`` (nobody) of what it cannot read, and ``@`` (everybody) of nothing at all, and goes on."""
    return isinstance(text, str | list) and check.count("!") <= str(text).count("!")


def _check_names(conf: cfg.ConfigOpts, enforcer: policy.Enforcer) -> None:
    location = conf.get_location("policy_file", "oslo_policy")
    chosen = location is not None and location.location is not cfg.Locations.opt_default
    if chosen and enforcer.policy_path is None:
        raise errors.CannotStart(f"Cannot find the policy file {conf.oslo_policy.policy_file}")
    used = " ".join(str(rule.check) for rule in enforcer.file_rules.values())
    names = map(str, enforcer.file_rules.keys() - enforcer.registered_rules.keys())
    unknown = sorted(name for name in names if f"rule:{name}" not in used)
    if unknown:
        LOG.warning("policy file %s: nothing asks for %s", enforcer.policy_path, ", ".join(unknown))


def _behind_keystone(conf: cfg.ConfigOpts, api: WSGIApplication) -> WSGIApplication:
    from zaqar_notify.api.identity import KeystoneGate

    try:
        from keystoneauth1.exceptions import ClientException
        from keystonemiddleware.auth_token import AuthProtocol
    except ImportError as error:
        raise errors.CannotStart(
            "[auth] strategy is keystone, which needs keystonemiddleware: pip install 'zaqar-notify[keystone]'"
        ) from error
    try:
        guarded = AuthProtocol(api, {"oslo_config_config": conf, "delay_auth_decision": True})
        _look_at_all(conf)
    except (cfg.Error, ValueError, ClientException) as error:
        raise errors.CannotStart(f"Bad [keystone_authtoken]: {' '.join(str(error).split())}") from error
    if not (conf.keystone_authtoken.auth_type or conf.keystone_authtoken.auth_section):
        raise errors.CannotStart("[auth] strategy is keystone, and [keystone_authtoken] has no auth_type, such as password")
    return KeystoneGate(api, guarded, (ClientException,))


def build_worker(conf: cfg.ConfigOpts, schemes: Sequence[str] = ()) -> Worker:
    """``schemes``: those that it serves, and no other, of ``[worker] apart``; without them it serves all but these."""
    from zaqar_notify.alerts import Alerts
    from zaqar_notify.attempt_log import AttemptLog
    from zaqar_notify.feedback import Links, Tokens
    from zaqar_notify.lanes import Limits
    from zaqar_notify.receipts import Receipts
    from zaqar_notify.retry import Policy
    from zaqar_notify.settling import Endurance, Telling
    from zaqar_notify.wake import Listener
    from zaqar_notify.worker import Identity, Settings, Worker

    require_keys(conf)
    _check_timeouts(conf)
    notification = conf.notification
    storage = build_storage(conf)
    storage.check()
    metrics, stop_metrics = _build_worker_metrics(conf, storage)
    notifiers = build_notifiers(conf)
    served = _build_schemes(conf, notifiers, schemes)
    wake, stop_waking = _closable_waking(conf, storage)
    receipts = Receipts(storage, wake)
    notifiers.report_to(receipts.put)
    senders = build_senders(conf, notifiers)
    return Worker(
        storage,
        senders.route,
        Listener(_wake_directory(conf)),
        settings=_settings(Settings, conf.worker),
        limits=_settings(Limits, conf.worker),
        policy=Policy(
            schedule=tuple(notification.retry_schedule),
            jitter=notification.retry_jitter,
            fault_delay=notification.fault_delay,
            fault_delay_max=notification.fault_delay_max,
            after_max=notification.retry_after_max,
            most_attempts=notification.max_attempts,
        ),
        telling=Telling(
            alerts=Alerts(notification.alert_queue, notification.alert_interval, notification.alert_ttl),
            endurance=Endurance(notification.disable_after_strikes, notification.disable_after),
            metrics=metrics,
            attempts=AttemptLog(conf.delivery_log.log_attempts),
            record_successes=conf.delivery_log.record == "all",
        ),
        confirmed_only=notification.require_confirmation,
        links=functools.partial(Links, Tokens(conf.signed_url.secret_key), (conf.api.public_url or "").rstrip("/")),
        schemes=served,
        jobs=None if schemes else build_cluster(conf, storage),
        tell_others=wake,
        identity=Identity(socket.gethostname(), os.getpid(), __version__),
        closing=_all_of(stop_metrics, senders.close, notifiers.close, receipts.close, stop_waking, storage.close),
    )


def _build_schemes(conf: cfg.ConfigOpts, notifiers: Notifiers, served: Sequence[str]) -> Schemes:
    from zaqar_notify.schemes import OURS, Schemes

    disabled, apart = (frozenset(map(str.lower, names)) for names in (conf.notification.disabled_schemes, conf.worker.apart))
    pools = [scheme.lower() for scheme in served]
    named = {"[notification] disabled_schemes": disabled, "[worker] apart": apart, "--schemes": frozenset(pools)}
    for option, names in named.items():
        if unknown := names - notifiers.known():
            raise errors.CannotStart(
                f"{option}: no notifier serves {', '.join(sorted(unknown))}; loaded are {', '.join(notifiers.schemes())}"
            )
    if strange := set(pools) - apart:
        raise errors.CannotStart(
            f"--schemes {','.join(sorted(strange))}: other workers serve that, too; put it into [worker] apart, for all workers"
        )
    if broken := set(pools) - set(notifiers.schemes()):
        raise errors.CannotStart(f"--schemes {','.join(sorted(broken))}: no notifier that can be used here serves that")
    return Schemes(
        notifiers.scheme_of,
        enabled=conf.notification.enabled,
        disabled=disabled,
        drops=conf.notification.when_disabled == "drop",
        recheck=conf.notification.disabled_recheck,
        apart=apart,
        pools=tuple(pools) or (OURS,),
    )


def build_receiver(conf: cfg.ConfigOpts) -> Receiver:
    """What takes the mails that mail servers hand over."""
    from zaqar_notify.feedback import Tokens
    from zaqar_notify.receiving import lmtp
    from zaqar_notify.receiving.inbox import Inbox

    require_keys(conf)
    storage = build_storage(conf)
    storage.check()
    metrics, stop_metrics = _build_receive_metrics(conf, storage)
    inbox = Inbox(storage, Tokens(conf.signed_url.secret_key), _waking(conf, storage), metrics)
    return lmtp.Server(
        lmtp.bind(conf.receive.listen or lmtp.USUAL),
        inbox.take,
        _settings(lmtp.Limits, conf.receive),
        closing=_all_of(stop_metrics, storage.close),
    )


def build_cluster(conf: cfg.ConfigOpts, storage: Storage) -> Cluster:
    from zaqar_notify.cluster import Cluster, Settings

    return Cluster(storage, _settings(Settings, conf.cluster), board_maker(conf))


def board_maker(conf: cfg.ConfigOpts) -> Callable[[int], Board] | None:
    """What makes a job board that is not connected yet, at each of several hosts in turn; None where there is to be none.
    Raises `CannotStart`."""
    from zaqar_notify import boards

    section = conf.cluster
    if section.jobboard == "none":
        return None
    module = boards.load(section.jobboard)
    if not section.connection:
        raise errors.CannotStart(f"[cluster] jobboard is {section.jobboard}, but there is no [cluster] connection")
    address = boards.parse(section.jobboard, section.connection)
    settings = boards.Settings(
        name=section.board_name,
        expiry=section.lease,
        # A claim is renewed where the hold on the job is: it must not be late because of the board.
        timeout=min(section.board_timeout, section.lease / BOARD_SHARE),
    )
    try:
        module.make(address, settings, 0)
    except (TypeError, ValueError) as error:
        raise errors.CannotStart(f"Bad [cluster] connection: {error}") from error
    return functools.partial(module.make, address, settings)


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
