"""The metrics as Prometheus reads them: counting, and a listener of its own for ``/metrics``.

Each process of a kind (API or worker) keeps what it counts in files of its own in one directory (the multiprocess mode of
prometheus_client); the listener of any of them shows the sum. One process of a kind on each machine has the listener: the one
that holds the lock of the directory. When it ends, the kernel gives the lock to the next.

The environment has to name the directory before prometheus_client is imported, and so before this module.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import glob
import http.server
import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from zaqar_notify import errors
from zaqar_notify.metrics import ApiMetrics, ReceiveMetrics, WorkerMetrics
from zaqar_notify.model import OutcomeKind
from zaqar_notify.storage.base import Depths

LOG = logging.getLogger(__name__)

REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ATTEMPT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 36000.0, 270000.0)
"""From a moment to the end of the default retry schedule; all in seconds."""
MOST_SCHEMES = 50
OTHER = "other"
"""The scheme of all that come after these."""
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
FLUSH_INTERVAL = 1.0
DEPTHS_LIFETIME = 5.0
"""Seconds for which what the database was asked is believed."""
BIND_AGAIN = 5.0
READ_TIMEOUT = 10.0
DEAD = "0"
"""Stands for the process id in the names of the files that hold what dead processes have counted."""


# -- counting ------------------------------------------------------------------------------------------------------------------


class PrometheusApiMetrics(ApiMetrics):
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._published = Counter("messages_published_total", "Messages that clients have posted.", registry=registry)
        self._seconds = Histogram(
            "api_request_duration_seconds",
            "Time from a request to its answer, by method, URI template and class of the status.",
            ["method", "route", "status"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._series: dict[tuple[str, str | None, int], Histogram] = {}

    def published(self, count: int) -> None:
        self._published.inc(count)

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        key = (method if method in METHODS else OTHER, route, status // 100)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._seconds.labels(key[0], route or "none", f"{key[2]}xx")
        series.observe(seconds)


class PrometheusReceiveMetrics(ReceiveMetrics):
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._received = Counter(
            "mails_received_total",
            "Mails that mail servers have handed over, by what came of them.",
            ["result"],
            registry=registry,
        )

    def received(self, result: str) -> None:
        self._received.labels(result).inc()


class _BatchHistogram(Histogram):
    """Takes observations that were put into its buckets already."""

    def add(self, counts: Sequence[int], total: float) -> None:
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class _Tally:
    """What one scheme and outcome has counted since the last flush."""

    __slots__ = ("attempts", "duration", "durations", "lag", "lags", "scheme")

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.clear()

    def clear(self) -> None:
        self.attempts = 0
        self.duration = self.lag = 0.0
        self.durations = [0] * (len(ATTEMPT_BUCKETS) + 1)
        self.lags = [0] * (len(LAG_BUCKETS) + 1)


class PrometheusWorkerMetrics(WorkerMetrics):
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._deliveries = Counter(
            "deliveries_total",
            "Attempts, by the scheme of the subscriber and what they came to.",
            ["scheme", "outcome"],
            registry=registry,
        )
        self._lags = _BatchHistogram(
            "delivery_lag_seconds",
            "Time from the publishing of a message to its delivery.",
            ["scheme"],
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._durations = _BatchHistogram(
            "attempt_duration_seconds", "Time that an attempt took.", ["scheme"], buckets=ATTEMPT_BUCKETS, registry=registry
        )
        self._dead_letters = Counter("dead_letters_total", "Deliveries that were given up.", registry=registry)
        self._in_flight = Gauge("worker_in_flight", "Attempts under way.", multiprocess_mode="livesum", registry=registry)
        self._tallies: dict[tuple[str, OutcomeKind], _Tally] = {}
        self._schemes: set[str] = set()
        self._dead = 0
        self._flush_at = 0.0

    def attempt(self, subscriber: str, outcome: OutcomeKind, duration: float | None, lag: float | None) -> None:
        key = (subscriber.partition(":")[0], outcome)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally(self._label(key[0]))
        tally.attempts += 1
        if duration is not None:
            tally.duration += duration
            tally.durations[bisect.bisect_left(ATTEMPT_BUCKETS, duration)] += 1
        if lag is not None:
            tally.lag += lag
            tally.lags[bisect.bisect_left(LAG_BUCKETS, lag)] += 1

    def _label(self, scheme: str) -> str:
        """Clients choose what follows a plus, and the case: neither becomes a series of its own."""
        label = scheme.partition("+")[0].lower()
        if label not in self._schemes and len(self._schemes) >= MOST_SCHEMES:
            return OTHER
        self._schemes.add(label)
        return label

    def dead_letter(self) -> None:
        self._dead += 1

    def flush(self, now: float, in_flight: int) -> None:
        if now < self._flush_at:
            return
        self._flush_at = now + FLUSH_INTERVAL
        self._in_flight.set(in_flight)
        if self._dead:
            self._dead_letters.inc(self._dead)
            self._dead = 0
        for (_, outcome), tally in self._tallies.items():
            if tally.attempts:
                self._show(outcome, tally)
        if len(self._tallies) > MOST_SCHEMES * len(OutcomeKind):
            self._tallies.clear()

    def _show(self, outcome: OutcomeKind, tally: _Tally) -> None:
        self._deliveries.labels(tally.scheme, outcome.value).inc(tally.attempts)
        self._durations.labels(tally.scheme).add(tally.durations, tally.duration)
        self._lags.labels(tally.scheme).add(tally.lags, tally.lag)
        tally.clear()


# -- what the database says ----------------------------------------------------------------------------------------------------


class DepthCollector:
    """What waits, in all projects: the same from whichever process it comes."""

    def __init__(self, depths: Callable[[], Depths], clock: Callable[[], float] = time.time) -> None:
        self._depths = depths
        self._clock = clock
        self._lock = threading.Lock()
        self._known: tuple[float, Depths] | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Nothing while the database is out of reach."""
        try:
            depths = self._read()
        except errors.StorageUnavailable as error:
            LOG.warning("the depths are missing from the metrics: %s", error)
            return
        oldest = 0.0 if depths.oldest_at is None else max(0.0, self._clock() - depths.oldest_at)
        yield GaugeMetricFamily("outbox_depth", "Messages that are not matched with all their subscribers yet.", depths.outbox)
        yield GaugeMetricFamily("outbox_oldest_seconds", "How long the oldest of them has been waiting.", oldest)
        waiting = "Deliveries that wait for their next attempt, or for the end of a window."
        yield GaugeMetricFamily("retries_pending", waiting, depths.pending)
        yield GaugeMetricFamily("deliveries_parked", "Deliveries that wait for their lane.", depths.parked)
        lanes = GaugeMetricFamily("lane_breaker_state", "Lanes whose circuit breaker is in this state.", labels=["state"])
        lanes.add_metric(["open"], depths.breakers)
        yield lanes
        jobs = GaugeMetricFamily("jobs", "Long jobs in this state.", labels=["state"])
        jobs.add_metric(["open"], depths.jobs)
        jobs.add_metric(["failed"], depths.failed_jobs)
        yield jobs

    def _read(self) -> Depths:
        with self._lock:
            now = time.monotonic()
            if self._known is None or now >= self._known[0]:
                depths = self._depths()
                self._known = (time.monotonic() + DEPTHS_LIFETIME, depths)
            return self._known[1]


# -- files of several processes ------------------------------------------------------------------------------------------------


def fold(directory: str, own: int | None = None) -> None:
    """Take what dead processes leave behind: of counters and histograms the sums are kept for as long as another process lives
    (a sum that falls would look like a restart to Prometheus), gauges go. ``own`` is a process id that was another's before.

    Only for who holds the lock of the directory.
    """
    files = glob.glob(os.path.join(directory, "*.db"))
    dead = [path for path in files if _process(path) != DEAD and not _lives(_process(path), own)]
    if len(dead) == len([path for path in files if _process(path) != DEAD]):
        dead = files
    else:
        for kind in ("counter", "histogram"):
            _add_up(os.path.join(directory, f"{kind}_{DEAD}.db"), [path for path in dead if _kind(path) == kind])
    for path in dead:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _kind(path: str) -> str:
    return os.path.basename(path).partition("_")[0]


def _process(path: str) -> str:
    return path.removesuffix(".db").rpartition("_")[2]


def _lives(process: str, own: int | None) -> bool:
    return process != str(own) and os.path.exists(f"/proc/{process}")


def _add_up(total: str, paths: Iterable[str]) -> None:
    sums: dict[str, float] = {}
    for path in [total, *paths]:
        with contextlib.suppress(FileNotFoundError):
            for key, number, _, _ in MmapedDict.read_all_values_from_file(path):
                sums[key] = sums.get(key, 0.0) + number
    new = f"{total}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    file = MmapedDict(new)
    try:
        for key, number in sums.items():
            file.write_value(key, number, 0.0)
    finally:
        file.close()
    os.replace(new, total)


# -- the listener --------------------------------------------------------------------------------------------------------------


class Exposition:
    """Serves ``/metrics`` from a thread of its own, when this process is the one that has the listener."""

    def __init__(self, directory: str, host: str, port: int, depths: Callable[[], Depths]) -> None:
        self._directory = directory
        self._address = (host, port)
        self._depths = DepthCollector(depths)
        self._lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._showing = threading.Lock()
        self._server: _Server | None = None

    def start(self) -> None:
        """To be called before anything is counted. Raises `CannotStart` when another program has the port."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            server = None
        else:
            fold(self._directory, os.getpid())
            try:
                server = self._bind()
            except OSError as error:
                host, port = self._address
                os.close(self._lock)
                raise errors.CannotStart(f"[metrics] listen: cannot use {host} port {port}: {error.strerror}") from error
        threading.Thread(target=self._run, args=(server,), name="metrics", daemon=True).start()

    def close(self) -> None:
        """Answer nothing more: what it would ask may be closed next."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _bind(self) -> _Server:
        return _Server(self._address, self.show)

    def _run(self, server: _Server | None) -> None:
        if server is None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # until whoever has it ends
        while server is None:
            try:
                server = self._bind()
            except OSError as error:
                LOG.warning("[metrics] listen: cannot use %s port %d: %s", *self._address, error.strerror)
                time.sleep(BIND_AGAIN)
        self._server = server
        server.serve_forever()

    def show(self) -> bytes:
        with self._showing:
            fold(self._directory)
        registry = CollectorRegistry(auto_describe=False)
        MultiProcessCollector(registry, self._directory)
        registry.register(self._depths)
        return prometheus_client.generate_latest(registry)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], show: Callable[[], bytes]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.show = show
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Without the look-up of the host's name that http.server makes.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def handle_error(self, request: object, client_address: object) -> None:
        LOG.warning("the metrics could not be shown", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_TIMEOUT
    server_version = "zaqar-notify"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body = self.server.show()
        self.send_response(200)
        self.send_header("Content-Type", prometheus_client.CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Whoever scrapes does so every few seconds."""
