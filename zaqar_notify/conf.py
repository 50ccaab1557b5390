"""The service's own oslo.config options. Each notifier brings its section with it (`Notifier.options`).

Values come from the command line, the environment (``OS_<GROUP>__<OPTION>``), configuration files and these defaults, in this
order; oslo.config does it. No option is a MultiOpt: the environment cannot express one.
"""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import oslo_log.log
from oslo_config import cfg, types

from zaqar_notify import retry

_Listed = Sequence[tuple[str, list[cfg.Opt]]]

SECONDS = types.Float(min=0)


def seconds(name: str, default: float | None, help: str) -> cfg.Opt:
    return cfg.Opt(name, type=SECONDS, default=default, help=f"{help} In seconds.")


DEFAULT: list[cfg.Opt] = [
    cfg.StrOpt(
        "data_dir",
        default="var",
        help="Directory for what this service keeps on its own disk: the embedded database, lock files, wake-up sockets.",
    ),
]

_LINE = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: "
LOGGING: dict[str, Any] = {
    "logging_default_format_string": f"{_LINE}%(message)s",
    "logging_context_format_string": f"{_LINE}[%(request_id)s] %(message)s",
    "logging_exception_prefix": _LINE,
    "logging_debug_format_suffix": "",
    # These log each flow, statement and connection at DEBUG, and some at INFO.
    "default_log_levels": [
        f"{name}=WARN"
        for name in ("alembic", "keystoneauth", "keystonemiddleware", "sqlalchemy", "stevedore", "taskflow", "urllib3")
    ]
    # A job board that is away: they tell of each try to reach it, and this service tells of it once.
    + ["taskflow.jobs=ERROR", "taskflow.utils.kazoo_utils=ERROR"],
}
"""What differs from the defaults of oslo.log, whose options stand in [DEFAULT]."""

API: list[cfg.Opt] = [
    cfg.StrOpt("host", default="127.0.0.1", help="Address to listen on. Without authentication it has to be loopback."),
    cfg.PortOpt("port", default=8888, help="Port to listen on."),
    cfg.IntOpt("workers", default=2, min=1, help="Number of API processes."),
    cfg.IntOpt("threads", default=8, min=1, help="Threads in each API process: requests that are worked on at once."),
    seconds("keepalive", 75.0, "How long an idle client connection is kept open."),
    seconds("read_timeout", 10.0, "How long a request may take to arrive, from its first byte to its last."),
    seconds("write_timeout", 30.0, "How long a client may pause while it reads an answer before its connection is closed."),
    cfg.IntOpt(
        "max_connections",
        default=1000,
        min=1,
        help="Most client connections of each API process. One more takes the place of the one that has been idle, or has sent "
        "half a request, for longest.",
    ),
    cfg.IntOpt(
        "max_buffered",
        default=134217728,
        min=1048576,
        help="Most bytes that each API process holds of requests that are not answered and of answers that are not read yet.",
    ),
    cfg.IntOpt(
        "connections_per_address",
        default=0,
        min=0,
        help="Most connections from one client address that wait for a request to arrive. 0: no limit.",
    ),
    cfg.ListOpt(
        "trusted_proxies",
        default=[],
        help="Addresses or networks (CIDR) of reverse proxies: connections_per_address does not count theirs.",
    ),
    seconds("graceful_timeout", 30.0, "How long running requests may take to finish when the API stops."),
    cfg.StrOpt(
        "public_url",
        help="The URL by which clients and subscribers reach this API. Without it no links are put into notifications.",
    ),
]

AUTH: list[cfg.Opt] = [
    cfg.StrOpt(
        "strategy",
        default="none",
        choices=[
            ("none", "No authentication: only loopback is served."),
            ("apikey", "Keys that 'zaqar-notify key create' makes."),
            ("keystone", "Tokens of OpenStack Keystone, by keystonemiddleware and its section [keystone_authtoken]."),
        ],
        help="How callers are authenticated.",
    ),
    seconds("key_cache", 5.0, "How long an API process remembers a key: a revoked one works for so long at most."),
]

TRANSPORT: list[cfg.Opt] = [
    cfg.IntOpt(
        "default_message_ttl",
        default=3600,
        min=1,
        sample_default=345600,
        help="Time to live, in seconds, of a message that names none. With 3600, which is Zaqar's default and the one here, "
        "only the first four attempts of the default retry schedule happen before the message expires. 345600 (four days) "
        "leaves room for all of them.",
    ),
    cfg.IntOpt("min_message_ttl", default=60, min=1, help="Shortest time to live, in seconds, of a message."),
    cfg.IntOpt("max_message_ttl", default=1209600, min=1, help="Longest time to live, in seconds, of a message."),
    cfg.IntOpt(
        "default_message_delay", default=0, min=0, help="Delay, in seconds, of a message whose queue and sender name none."
    ),
    cfg.IntOpt("max_message_delay", default=900, min=0, help="Longest delay, in seconds, of a message."),
    cfg.IntOpt("default_claim_ttl", default=300, min=1, help="Time to live, in seconds, of a claim that names none."),
    cfg.IntOpt("default_claim_grace", default=60, min=1, help="Grace, in seconds, of a claim that names none."),
    cfg.IntOpt("min_claim_ttl", default=60, min=1, help="Shortest time to live, in seconds, of a claim."),
    cfg.IntOpt("min_claim_grace", default=60, min=0, help="Shortest grace, in seconds, of a claim."),
    cfg.IntOpt("max_claim_ttl", default=43200, min=1, help="Longest time to live, in seconds, of a claim."),
    cfg.IntOpt("max_claim_grace", default=43200, min=1, help="Longest grace, in seconds, of a claim."),
    cfg.IntOpt("max_messages_per_claim_or_pop", default=20, min=1, help="Most messages that are claimed or popped at once."),
    cfg.BoolOpt(
        "message_delete_with_claim_id", default=False, help="Deleting messages by their ids needs the ids of their claims."
    ),
    cfg.IntOpt("min_subscription_ttl", default=60, min=1, help="Shortest time to live, in seconds, of a subscription."),
    cfg.IntOpt(
        "default_subscription_ttl",
        min=1,
        help="Time to live, in seconds, of a subscription that names none. Unset: such a one never expires.",
    ),
    cfg.IntOpt(
        "max_messages_post_size", default=262144, min=1, help="Largest body of a request that posts messages, in bytes."
    ),
    cfg.IntOpt("max_queue_metadata", default=65536, min=1, help="Largest metadata document of a queue, in bytes."),
    cfg.IntOpt("max_subscription_size", default=65536, min=1, help="Largest subscription document, in bytes."),
    cfg.IntOpt("max_window", default=86400, min=1, help="Longest window of a subscription, in seconds."),
    cfg.IntOpt("max_queues_per_page", default=20, min=1, help="Largest page of queues."),
    cfg.IntOpt("max_messages_per_page", default=20, min=1, help="Largest page of messages."),
    cfg.IntOpt("max_subscriptions_per_page", default=20, min=1, help="Largest page of subscriptions."),
    cfg.IntOpt("max_deliveries_per_page", default=20, min=1, help="Largest page of deliveries."),
    cfg.StrOpt(
        "client_id_uuid_safe",
        default="strict",
        choices=[("strict", "The Client-ID header has to be a UUID."), ("off", "Any non-empty Client-ID is accepted.")],
        help="Whether the Client-ID header has to be a UUID.",
    ),
    cfg.ListOpt(
        "subscriber_types",
        default=[],
        help="URI schemes that subscribers may have. Empty: every scheme that a loaded notifier serves.",
    ),
]

STORAGE: list[cfg.Opt] = [
    cfg.StrOpt(
        "connection",
        secret=True,
        help="Database URL. Unset: the embedded SQLite database 'zaqar-notify.db' in data_dir. "
        "'postgresql://user:password@host:5432/database', with libpq's parameters behind a '?': several hosts, sslmode and so "
        "on. 'mongodb://host1,host2,host3/database?replicaSet=name'. 'memory://' is for tests.",
    ),
    seconds("busy_timeout", 5.0, "How long a transaction waits for the database's lock before it answers 503."),
    cfg.IntOpt("group_commit", default=256, min=1, help="Most requests whose writes are committed together."),
    cfg.IntOpt(
        "pool_size",
        default=16,
        min=2,
        help="Most connections of each process to PostgreSQL, and two more for wake-ups. Those to MongoDB are in its URL.",
    ),
]

WORKER: list[cfg.Opt] = [
    seconds("lease", 30.0, "How long work is leased. A worker that dies unnoticed holds up what it had for this long."),
    seconds("poll_interval", 1.0, "How often a worker looks for work when no wake-up comes."),
    seconds("stop_timeout", 30.0, "How long a worker that is told to stop waits for what is in flight."),
    cfg.IntOpt("max_in_flight", default=1024, min=3, help="Most attempts under way at once in a worker."),
    cfg.IntOpt("max_active", default=4000, min=1, help="Most deliveries that a worker holds in memory."),
    seconds("ahead", 0.3, "How far ahead work is taken: about as much as was lately sent in this time."),
    cfg.IntOpt("page", default=1000, min=1, help="Most subscriptions that are matched with one message in one transaction."),
    cfg.IntOpt(
        "cut_after",
        default=10000,
        min=1,
        help="A message that was matched with so many subscriptions, in whole pages, and has more, is cut: jobs take its place "
        "that all workers share ([cluster]).",
    ),
    cfg.FloatOpt(
        "range_share",
        default=0.5,
        min=0.01,
        max=1.0,
        help="Share of a worker's time that huge fan-outs have at most while other messages come in.",
    ),
    cfg.IntOpt("max_lanes", default=1000, min=1, help="Most lanes with parked deliveries that a worker empties at once."),
    cfg.IntOpt("lane_min", default=2, min=1, help="Attempts in flight that a lane is always allowed."),
    cfg.IntOpt("lane_max", default=32, min=1, help="Most attempts in flight in one lane (project and endpoint)."),
    seconds("park_after", 1.0, "How long a delivery may wait in memory for its lane before it is parked in the database."),
    seconds("slow_after", 1.0, "An attempt that takes longer makes its lane a slow one and becomes a row of its own."),
    cfg.FloatOpt("slow_share", default=1 / 3, min=0.01, max=1.0, help="Share of max_in_flight that all slow lanes may use."),
    cfg.FloatOpt(
        "breaker_failures",
        default=0.7,
        min=0.01,
        max=1.0,
        help="Share of failures (refused connections, timeouts, TLS failures, 5xx) that opens the circuit breaker of a lane.",
    ),
    cfg.IntOpt("breaker_attempts", default=10, min=1, help="Fewest attempts in breaker_window that open a breaker."),
    cfg.Opt(
        "breaker_window",
        type=types.Float(min=1),
        default=300.0,
        help="The time over which attempts are counted for that. In seconds.",
    ),
    cfg.Opt(
        "breaker_wait",
        type=types.Float(min=0.1),
        default=30.0,
        help="How long a breaker that has opened stays so, until one delivery is sent as a probe. Doubles with each probe that "
        "fails. In seconds.",
    ),
    seconds("breaker_wait_max", 3600.0, "The longest such time."),
    cfg.FloatOpt(
        "release_rate",
        default=10.0,
        min=0.1,
        help="Attempts per second in a lane whose breaker has closed, at first; doubles every 10 s, and ends after a minute.",
    ),
    cfg.IntOpt(
        "window_batch",
        default=500,
        min=1,
        help="Most of what windows release that is handed to a notifier at once, and that one digest is made of.",
    ),
    cfg.ListOpt(
        "apart",
        default=[],
        help="Schemes that workers of their own serve: 'zaqar-notify worker --schemes SCHEME', which 'serve' starts by itself. "
        "All other workers leave what goes there to them.",
    ),
    cfg.IntOpt("micro_batch", default=500, min=1, help="Most outcomes that are settled in one transaction."),
    seconds("settle_delay", 0.05, "How long an outcome waits for others before it is settled."),
    seconds("dispatch_interval", 0.01, "Shortest time between two dispatches under load; after idle time dispatch is at once."),
    cfg.IntOpt("threads", default=8, min=1, help="Threads for each notifier that sends one delivery at a time."),
    seconds("timeout", 15.0, "How long an attempt of a notifier without a timeout of its own may take."),
    seconds("hang_grace", 5.0, "How long after its deadline an attempt is given up and its thread counted as lost."),
    seconds("prune_interval", 5.0, "How often expired rows are looked for."),
    cfg.IntOpt("prune_step", default=500, min=1, help="Most rows that one step of pruning changes."),
]

CLUSTER: list[cfg.Opt] = [
    cfg.StrOpt(
        "jobboard",
        default="none",
        choices=[
            ("none", "No board: workers take jobs from the storage."),
            ("redis", "A TaskFlow job board on Redis: pip install 'zaqar-notify[redis]'"),
            ("etcd", "On etcd (3.4 or later): pip install 'zaqar-notify[etcd]'"),
            ("zookeeper", "On ZooKeeper: pip install 'zaqar-notify[zookeeper]'"),
        ],
        help="How jobs (the ranges of a huge fan-out, replays) get to the workers. They are in the storage in any case, and "
        "are run from there while the board is away.",
    ),
    cfg.StrOpt(
        "connection",
        secret=True,
        help="URL of the board: redis://:password@host:6379/0 (rediss:// with TLS; ?sentinel=NAME with sentinels as hosts), "
        "etcd://host:2379 (etcds:// with TLS) or zookeeper://host:2181. Several hosts are parted by commas. Further options "
        "of TaskFlow's board can be given as its query.",
    ),
    cfg.StrOpt(
        "board_name",
        default="zaqar-notify",
        regex="^[a-zA-Z0-9_.-]{1,64}$",
        help="What the board keeps is kept under this name: services of different names share a server and no jobs.",
    ),
    cfg.IntOpt("jobs", default=2, min=1, max=64, help="Most jobs that a worker works on at once. Replays leave one place."),
    cfg.Opt(
        "lease",
        type=types.Float(min=1),
        default=20.0,
        help="How long a worker holds a job, and the claim on it on the board, without renewing both. The jobs of one that was "
        "killed are taken over within this time and a second or two. ZooKeeper allows 2 to 20 of its ticks: 4 to 40 as it "
        "comes. In seconds.",
    ),
    cfg.IntOpt("range", default=50000, min=1, help="Subscribers of each range into which a huge fan-out is cut."),
    cfg.Opt(
        "replay_rate",
        type=types.Float(min=0.01, max=10000),
        default=50.0,
        help="Deliveries that a replay starts anew in a second, at most.",
    ),
    cfg.Opt(
        "poll_interval",
        type=types.Float(min=0.01),
        default=0.5,
        help="How often a worker looks for jobs, on the board or in the storage. In seconds.",
    ),
    cfg.Opt(
        "repost_interval",
        type=types.Float(min=0.01),
        default=5.0,
        help="How often a worker looks for jobs of the storage that are not on the board, and posts them. In seconds.",
    ),
    cfg.IntOpt("most_posted", default=500, min=1, help="Most jobs on the board; more wait in the storage for their turn."),
    seconds("fallback_after", 30.0, "After how long without an answer from the board jobs are taken from the storage again."),
    cfg.Opt(
        "board_timeout",
        type=types.Float(min=0.1),
        default=3.0,
        help="The longest that one request to the board may take. In seconds.",
    ),
]

NOTIFICATION: list[cfg.Opt] = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Send notifications. If not, messages can be posted and subscribed to as ever.",
    ),
    cfg.ListOpt("disabled_schemes", default=[], help="URI schemes that nothing is sent to, while all others are."),
    cfg.StrOpt(
        "when_disabled",
        default="park",
        choices=[
            ("park", "It waits, until it expires, and is sent when notifications are switched on again."),
            ("drop", "It ends at once, as suppressed, and can be replayed."),
        ],
        help="What becomes meanwhile of what would be sent.",
    ),
    cfg.Opt(
        "disabled_recheck",
        type=types.Float(min=1),
        default=30.0,
        help="How often a worker looks whether what waits for that may be sent: so long it takes at most, after the start of a "
        "worker with another configuration, until that is sent. In seconds.",
    ),
    cfg.BoolOpt(
        "ignore_broken_plugins",
        default=False,
        help="Start without the notifiers of other packages that cannot be used: what does not load, does not start, or wants "
        "to serve a scheme that another one serves. Nobody can subscribe to their schemes, and what is to be delivered there "
        "waits. Otherwise such a one keeps the service from starting.",
    ),
    cfg.BoolOpt(
        "require_confirmation",
        default=False,
        help="A subscriber is sent a request to confirm its subscription first, and gets nothing else before it has.",
    ),
    cfg.IntOpt("confirmation_ttl", default=259200, min=60, help="How long, in seconds, a request to confirm can be answered."),
    cfg.ListOpt(
        "retry_schedule",
        item_type=SECONDS,
        default=list(retry.DEFAULT_SCHEDULE),
        help="Wait before each attempt, in seconds; the number of values is the number of attempts.",
    ),
    cfg.FloatOpt(
        "retry_jitter", default=0.2, min=0.0, max=1.0, help="Each wait is lengthened or shortened by up to this share."
    ),
    seconds("fault_delay", 5.0, "First wait after a fault of our own (it uses up no attempt); doubles each time."),
    seconds("fault_delay_max", 300.0, "Longest wait after a fault of our own."),
    seconds("retry_after_max", 36000.0, "Longest wait that an endpoint can ask for with Retry-After."),
    cfg.IntOpt(
        "max_attempts",
        default=100,
        min=1,
        max=1000,
        help="Most attempts of a delivery that a queue or a subscription can ask for.",
    ),
    cfg.IntOpt(
        "disable_after_strikes",
        default=3,
        min=1,
        help="A subscription is disabled by so many attempts in a row that found the target itself to be wrong.",
    ),
    cfg.Opt(
        "disable_after",
        type=types.Float(min=1),
        default=432000.0,
        help="A subscription is disabled by nothing but failures for so long. In seconds.",
    ),
    cfg.StrOpt(
        "alert_queue",
        regex="^[a-zA-Z0-9_.-]{1,64}$",
        help="A queue that each project is told in of deliveries that died, of subscriptions that were disabled and of "
        "credentials that are refused: subscribe to it. Unset: nobody is told.",
    ),
    seconds("alert_interval", 3600.0, "Shortest time between two alerts for the same cause."),
    cfg.IntOpt("alert_ttl", default=345600, min=60, help="Time to live, in seconds, of an alert."),
]

GUARD: list[cfg.Opt] = [
    cfg.ListOpt(
        "allowed_networks",
        default=[],
        help="Networks (CIDR) that may be dialled although they are private, loopback or reserved.",
    ),
    cfg.BoolOpt("https_only", default=False, help="Refuse plain http subscribers."),
    cfg.ListOpt("allowed_ports", default=[], item_type=types.Port(), help="Ports that may be dialled. Empty: all."),
]

ENCRYPTION: list[cfg.Opt] = [
    cfg.ListOpt(
        "keys",
        default=[],
        secret=True,
        help="Keys (32 bytes, base64) for what is encrypted at rest. The first encrypts, all decrypt. "
        "Make one with: openssl rand -base64 32",
    ),
]

SIGNED_URL: list[cfg.Opt] = [
    cfg.StrOpt("secret_key", secret=True, help="Key for signed URLs. Make one with: openssl rand -hex 32"),
]

DELIVERY_LOG: list[cfg.Opt] = [
    seconds("retention", 604800.0, "How long a message's deliveries can be asked for after the last of them has ended."),
    seconds("retention_delivered", None, "The same for a delivery that was delivered. Unset: as long as the others."),
    seconds("body_retention", None, "How long the body is kept after that. Unset: as long as the log."),
    cfg.StrOpt(
        "record",
        default="failures",
        choices=[
            ("all", "Request, response and phase times of each attempt."),
            ("failures", "Those of the attempts that did not deliver."),
        ],
        help="What is kept of an attempt beside its outcome. Of each attempt there is a line, whatever is chosen here.",
    ),
    cfg.StrOpt(
        "log_attempts",
        default="all",
        choices=[
            ("all", "Each attempt."),
            ("failures", "Those that did not deliver."),
            ("none", "None: the deliveries can be asked for all the same."),
        ],
        help="Which attempts the worker writes a line about to its log. It costs about 6 % of a worker's throughput, and 300 "
        "bytes for each attempt.",
    ),
]

RECEIVE: list[cfg.Opt] = [
    cfg.StrOpt(
        "listen",
        regex=r"^(unix:/.+|(\[[0-9A-Fa-f:.]+\]|[^:/\s\[\]]+):[0-9]{1,5})$",
        help="Where a mail server hands over bounces, by LMTP: address and port, such as 127.0.0.1:8824, or unix:/path/socket."
        " Set: 'zaqar-notify serve' starts a receiver, too. Unset: it does not, and 'zaqar-notify receive' listens on "
        "127.0.0.1:8824.",
    ),
    cfg.IntOpt(
        "max_size",
        default=1048576,
        min=65536,
        help="Bytes that are kept of a mail. More are taken, and forgotten: a report stands before what it is about.",
    ),
    cfg.IntOpt("max_connections", default=50, min=1, help="Most connections of mail servers."),
    cfg.Opt(
        "timeout",
        type=types.Float(min=1),
        default=60.0,
        help="How long a command, or a mail, may take to arrive. In seconds.",
    ),
    seconds("stop_timeout", 30.0, "How long a receiver that is told to stop waits for mails that are on their way in."),
]

METRICS: list[cfg.Opt] = [
    cfg.StrOpt(
        "listen",
        regex=r"^(\[[0-9A-Fa-f:.]+\]|[^:\s\[\]]+):[0-9]{1,5}$",
        help="Address and port, such as 127.0.0.1:9101, where the API's processes show /metrics to Prometheus; workers do so "
        "at the next port, and receivers at the one after that. All processes of a kind on one machine, with one data_dir, "
        "share one listener. Unset: no metrics.",
    ),
]

GROUPS: dict[str | None, list[cfg.Opt]] = {
    None: DEFAULT,
    "api": API,
    "auth": AUTH,
    "transport": TRANSPORT,
    "storage": STORAGE,
    "worker": WORKER,
    "cluster": CLUSTER,
    "notification": NOTIFICATION,
    "guard": GUARD,
    "encryption": ENCRYPTION,
    "signed_url": SIGNED_URL,
    "delivery_log": DELIVERY_LOG,
    "receive": RECEIVE,
    "metrics": METRICS,
}


def register(conf: cfg.ConfigOpts) -> None:
    for group, options in GROUPS.items():
        conf.register_opts(options, group)
    oslo_log.log.register_options(conf)
    for name, default in LOGGING.items():
        conf.set_default(name, default)


def list_opts(notifiers: Iterable[tuple[str, list[cfg.Opt]]] = ()) -> _Listed:
    """For oslo-config-generator: (group, options) pairs."""
    groups = [("DEFAULT" if group is None else group, options) for group, options in itertools.chain(GROUPS.items(), notifiers)]
    groups[0] = ("DEFAULT", DEFAULT + _logging_options())
    return groups


def _logging_options() -> list[cfg.Opt]:
    """As oslo.log itself tells oslo-config-generator, but for an option that only programs with versioned APIs register."""
    (found,) = importlib.metadata.entry_points(group="oslo.config.opts", name="oslo.log")
    options = [copy.copy(option) for _, listed in found.load()() for option in listed if option.dest != "fatal_deprecations"]
    for option in options:
        option.default = LOGGING.get(option.dest, option.default)
        if option.dest == "use_stderr":
            option.help += " Without log_file, log_dir and use_journal it is true."
    return options
