"""The figures that are made with the whole service: each function runs it under one load and says what it measured.

Everything runs on one machine: API, worker, generator and sink share its cores. Each figure has a fresh database; durable
commits are on, and all options have their defaults. The database is the embedded one, or that of a server which the benchmark
starts (databases.py), on the same machine too.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import bare_libcurl
from benchmarks.databases import Databases, Embedded
from benchmarks.generator import Generator, Load, Posted, post
from benchmarks.report import Figure, Measure, total
from benchmarks.service import Service, Settings
from benchmarks.sink import ANSWERS, REFUSES, SILENT, Arrivals, Behaviour, Comparison, Sink, reserve
from zaqar_notify.storage.base import Storage

T = TypeVar("T")
QUEUE = "benchmark"
SIZE = 1024
"""Bytes of a message's body."""
LANE_MAX = 32
"""`[worker] lane_max`: in flight at one endpoint, for the bare loop."""


@dataclasses.dataclass
class Bench:
    """Where and how thoroughly the figures are made."""

    directory: Path
    """On the disk that is to be measured: databases and logs go here."""
    quick: bool = False
    databases: Databases = dataclasses.field(default_factory=Embedded)
    """Where the service keeps its data."""
    _numbers: itertools.count[int] = dataclasses.field(default_factory=itertools.count)

    def pick(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def reach(self, **targets: float) -> float | None:
        """What is to be reached on the storage that is measured; None: nothing is."""
        return targets.get(self.databases.name)

    def service(self, settings: Settings | None = None) -> Service:
        url = self.databases.make()
        storage: Settings = {} if url is None else {"storage": {"connection": url}}
        return Service(self.directory / f"service-{next(self._numbers)}", {**storage, **(settings or {})})

    @contextlib.contextmanager
    def storage(self) -> Iterator[Storage]:
        """An empty one, without a service around it."""
        with self.service() as service:
            storage = service.open_storage()
            try:
                storage.upgrade()
                yield storage
            finally:
                storage.close()


@dataclasses.dataclass(frozen=True)
class Run:
    """One load and what came of it."""

    posted: Posted
    arrivals: Arrivals
    counts: Comparison

    @property
    def left_after_a_second(self) -> int:
        """Deliveries that had not arrived 1 s after the last reply."""
        in_time = bisect.bisect_right(self.arrivals.arrived_at, self.posted.ended_at + 1)
        return max(0, self.counts.expected - in_time)

    @property
    def arrivals_per_second(self) -> float:
        """Of what arrived while the load ran."""
        arrived = bisect.bisect_right(self.arrivals.arrived_at, self.posted.ended_at)
        return ratio(arrived, self.posted.ended_at - self.posted.started_at) if self.posted.posts else 0.0


def run(sink: Sink, load: Load, endpoints: int = 1) -> Run:
    """Post, wait until everything has arrived at the ``endpoints`` that answer, and count on both sides."""
    return finish(sink, post(load), endpoints)


def finish(sink: Sink, posted: Posted, endpoints: int) -> Run:
    sink.wait(len(posted.accepted) * endpoints)
    done = Run(posted, sink.arrivals(), sink.compare(posted.accepted))
    sink.forget()
    return done


def warm_up(service: Service, sink: Sink, endpoints: int = 1) -> Run:
    """A few messages before what is measured: connections, caches, and proof that the worker works."""
    return run(sink, Load(service.port, QUEUE, posts=20, clients=16), endpoints)


def figure(title: str, measures: Sequence[Measure], runs: Sequence[Run], others: Sequence[Comparison] = ()) -> Figure:
    counts = total([*(done.counts for done in runs), *others])
    return Figure(title, measures, counts, [fault for done in runs for fault in done.posted.faults])


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; NaN of no values."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else math.nan


def ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


def milliseconds(values: Sequence[float], percent: float) -> float:
    return percentile(values, percent) * 1000


def posting(bench: Bench) -> list[Figure]:
    """Posts a second, one message of 1 KiB each, from 16 clients that post again as soon as they are answered.

    One queue, one subscriber that answers at once. The median of three loads of 10 s; the backlog, that is what had not arrived
    1 s after the last reply, of the worst.
    """
    with Sink([ANSWERS]) as sink, bench.service() as service:
        service.start()
        service.subscribe(QUEUE, sink.urls)
        runs = [warm_up(service, sink)]
        load = Load(service.port, QUEUE, duration=bench.pick(10.0, 1.0), clients=16, size=SIZE)
        runs += (run(sink, load) for _ in range(bench.pick(3, 1)))
    measured = runs[1:]
    p99 = statistics.median(milliseconds(done.posted.latencies, 99) for done in measured)
    measures = [
        Measure(
            "posts",
            statistics.median(done.posted.per_second for done in measured),
            "/s",
            bench.reach(sqlite=2500, postgresql=1500, mongodb=1500),
        ),
        Measure("p99", p99, "ms", at_most=bench.reach(sqlite=40)),
        Measure("left after 1 s", max(done.left_after_a_second for done in measured), at_most=bench.reach(sqlite=0)),
    ]
    return [figure("POST of one 1 KiB message, 16 clients, one subscriber", measures, runs)]


def keys(bench: Bench) -> list[Figure]:
    """Posts a second as in "posting", by callers with an API key ([auth] strategy = apikey) against anyone, in turns.

    A fresh service each time, loads of 6 s; the ratio is the median of those of four pairs.
    """
    runs: list[Run] = []
    ratios: list[float] = []
    for _ in range(bench.pick(4, 1)):
        rates = []
        for settings in ({}, {"auth": {"strategy": "apikey"}}):
            with Sink([ANSWERS]) as sink, bench.service(settings) as service:
                service.start()
                key = service.make_key() if settings else None
                service.subscribe(QUEUE, sink.urls)
                runs.append(run(sink, Load(service.port, QUEUE, posts=20, key=key)))
                load = Load(service.port, QUEUE, duration=bench.pick(6.0, 1.0), clients=16, size=SIZE, key=key)
                runs.append(run(sink, load))
            rates.append(runs[-1].posted.per_second)
        ratios.append(ratio(rates[1], rates[0]))
    measures = [Measure("posts", 100 * statistics.median(ratios), "% of those without", at_least=85)]
    return [figure("POST with an API key, against none", measures, runs)]


def fanout(bench: Bench) -> list[Figure]:
    """Deliveries a second that arrive while 16 clients post single messages of 1 KiB as fast as they are answered.

    Ten subscribers that answer at once. Counted at the sink from the first post to the last reply; the median of three loads of
    8 s. What is left of the backlog is waited for and compared, but not counted.
    """
    with Sink([ANSWERS] * 10) as sink, bench.service() as service:
        service.start()
        service.subscribe(QUEUE, sink.urls)
        runs = [warm_up(service, sink, 10)]
        load = Load(service.port, QUEUE, duration=bench.pick(8.0, 1.0), clients=16, size=SIZE)
        runs += (run(sink, load, 10) for _ in range(bench.pick(3, 1)))
    measures = [
        Measure(
            "deliveries",
            statistics.median(done.arrivals_per_second for done in runs[1:]),
            "/s",
            bench.reach(sqlite=8000, postgresql=5000, mongodb=4000),
        ),
        Measure("posts", statistics.median(done.posted.per_second for done in runs[1:]), "/s"),
    ]
    return [figure("deliveries/s while posting, 10 subscribers", measures, runs)]


def drain(bench: Bench) -> list[Figure]:
    """A backlog of 50,000 deliveries (5,000 messages of 1 KiB, 10 subscribers) against a bare libcurl loop, in turns.

    The messages are posted while no worker runs; then one is started. Its rate is that from its first to its last arrival at
    the sink; "first arrival" is how long after the start of its process that was. The bare loop (bare_libcurl.py) then makes as
    many requests with as many in flight to the same endpoints, and is timed at the sink in the same way. The ratio is the
    median of three pairs.
    """
    messages = bench.pick(5000, 100)
    runs: list[Run] = []
    bare_counts: list[Comparison] = []
    rates: list[tuple[float, float]] = []
    first: list[float] = []
    faults: list[str] = []
    for _ in range(bench.pick(3, 1)):
        with Sink([ANSWERS] * 10) as sink:
            with bench.service() as service:
                done, started_at = drained(service, sink, sink.urls, 10, messages)
            sent = bare_libcurl.drive(sink.urls, messages, 10 * LANE_MAX, SIZE)
            if sent.wrong:
                faults.append(f"{sent.wrong} requests of the bare loop failed")
            bare_arrivals = sink.arrivals()
            bare_counts.append(sink.compare(bare_libcurl.message_ids(messages)))
        runs.append(done)
        rates.append((rate(done.arrivals), rate(bare_arrivals)))
        first.append(done.arrivals.arrived_at[0] - started_at if done.arrivals.arrived_at else math.nan)
    measures = [
        Measure("ratio", 100 * statistics.median(ratio(ours, bare) for ours, bare in rates), "%", bench.reach(sqlite=40)),
        Measure("drain", statistics.median(ours for ours, _ in rates), "/s"),
        Measure("bare loop", statistics.median(bare for _, bare in rates), "/s"),
        Measure("first arrival", statistics.median(first), "s"),
    ]
    made = figure(
        f"drain of a backlog of {messages * 10:,} deliveries, against a bare libcurl loop", measures, runs, bare_counts
    )
    made.faults = [*made.faults, *faults]
    return [made]


def drained(
    service: Service, sink: Sink, urls: Sequence[str], healthy: int, messages: int, workers: int = 1
) -> tuple[Run, float]:
    """Post ``messages`` to ``urls`` with no worker, then start some; returns when all has arrived at the ``healthy`` ones.

    Also returns when the first worker's process was started, in epoch seconds.
    """
    service.start_api()
    service.subscribe(QUEUE, urls)
    posted = post(Load(service.port, QUEUE, posts=messages // 10, batch=10, clients=4, size=SIZE))
    started_at = time.time()
    for number in range(workers):
        service.start_worker(number)
    return finish(sink, posted, healthy), started_at


def rate(arrivals: Arrivals) -> float:
    """Arrivals a second from the first to the last."""
    instants = arrivals.arrived_at
    return (len(instants) - 1) / (instants[-1] - instants[0]) if len(instants) > 1 else 0.0


def watched(bench: Bench) -> list[Figure]:
    """A drain as in "drain", of 20,000 deliveries, with a log line for each attempt and metrics, against neither, in turns.

    The first also with all that went over the wire in the log ([delivery_log] record = all). A fresh service each time; ratios
    are medians of those of five rounds. Prometheus is stood for by a reader that asks every 2 s.
    """
    unseen: Settings = {"delivery_log": {"log_attempts": "none"}}
    runs: list[Run] = []
    seen: list[float] = []
    recorded: list[float] = []
    for _ in range(bench.pick(5, 1)):
        rates = []
        for settings in (unseen, _watching({}), _watching({"record": "all"})):
            with Sink([ANSWERS] * 10) as sink, bench.service(settings) as service:
                done, _ = drained(service, sink, sink.urls, 10, bench.pick(2000, 50))
            runs.append(done)
            rates.append(rate(done.arrivals))
        seen.append(ratio(rates[1], rates[0]))
        recorded.append(ratio(rates[2], rates[0]))
    measures = [
        Measure("drain", 100 * statistics.median(seen), "% of that without", at_least=85),
        Measure("with record = all", 100 * statistics.median(recorded), "%"),
    ]
    return [figure("a drain with metrics and a log line for each attempt, against without", measures, runs)]


def _watching(log: dict[str, object]) -> Settings:
    held = reserve(1)[0]
    port = held.getsockname()[1]
    held.close()
    return {"metrics": {"listen": f"127.0.0.1:{port}"}, "delivery_log": {"log_attempts": "all", **log}}


def fairness(bench: Bench) -> list[Figure]:
    """Publish to arrival of one project's single messages, 2 a second, alone and while another project drains 1,000,000.

    The million (100,000 messages of 100 bytes to 10 subscribers) is posted while no worker runs. Then a worker is started, and
    for 30 s the small project posts; what the other has left is not waited for. Ratio of the medians.
    """
    small = "small"
    runs: list[Run] = []
    p50s = []
    left = 0
    for big in (0, bench.pick(100_000, 500)):
        with Sink([ANSWERS] * 10) as crowd, Sink([ANSWERS]) as sink, bench.service() as service:
            service.start_api()
            service.subscribe(QUEUE, crowd.urls)
            service.subscribe(QUEUE, sink.urls, small)
            if big:
                post(Load(service.port, QUEUE, posts=big // 50, batch=50, clients=4, size=100))
            service.start_worker()
            runs.append(run(sink, Load(service.port, QUEUE, posts=4, clients=1, project=small)))
            load = Load(service.port, QUEUE, duration=bench.pick(30.0, 2.0), rate=2.0, clients=4, size=SIZE, project=small)
            runs.append(run(sink, load))
            p50s.append(milliseconds(runs[-1].arrivals.latencies(), 50))
            left = big * 10 - crowd.count()
    measures = [
        Measure("p50", ratio(p50s[1], p50s[0]), "times that of alone", at_most=2),
        Measure("alone", p50s[0], "ms"),
        Measure("beside", p50s[1], "ms"),
        Measure("of the million left at the end", left),
    ]
    return [figure("a single message beside another project's 1,000,000 deliveries", measures, runs)]


def latency(bench: Bench) -> list[Figure]:
    """From the sending of the POST to the arrival of the notification, one subscriber, at a steady rate of posts.

    10 messages/s for 60 s, then 200/s for 20 s. Both instants are of one machine's clock: the generator writes the first into
    the message's body, the sink takes the second when it has read the whole request.
    """
    with Sink([ANSWERS]) as sink, bench.service() as service:
        service.start()
        service.subscribe(QUEUE, sink.urls)
        warm = warm_up(service, sink)
        began = time.monotonic()
        slow = run(sink, Load(service.port, QUEUE, duration=bench.pick(60.0, 2.0), rate=10.0, size=SIZE))
        slow_seconds = time.monotonic() - began
        began = time.monotonic()
        fast = run(sink, Load(service.port, QUEUE, duration=bench.pick(20.0, 1.0), rate=200.0, size=SIZE))
        fast_seconds = time.monotonic() - began
    at_10, at_200 = slow.arrivals.latencies(), fast.arrivals.latencies()
    slow_figure = figure(
        "10 messages/s, publish to arrival",
        [
            Measure("p50", milliseconds(at_10, 50), "ms", at_most=bench.reach(sqlite=7)),
            Measure("p99", milliseconds(at_10, 99), "ms", at_most=bench.reach(sqlite=15)),
        ],
        [warm, slow],
    )
    slow_figure.seconds = slow_seconds
    fast_figure = figure(
        "200 messages/s, publish to arrival",
        [
            Measure("p95", milliseconds(at_200, 95), "ms", at_most=bench.reach(sqlite=25)),
            Measure("p50", milliseconds(at_200, 50), "ms"),
        ],
        [fast],
    )
    fast_figure.seconds = fast_seconds
    return [slow_figure, fast_figure]


def neighbours(bench: Bench) -> list[Figure]:
    """Publish to arrival at a healthy endpoint at 100 messages/s, alone and beside one that refuses and one that never answers.

    20 s each, in turns with a fresh service each time; the ratio is that of the medians of three p99. The two bad endpoints
    subscribe to the same queue, so that each message goes to all three.
    """
    seconds = bench.pick(20.0, 2.0)
    alone: list[Run] = []
    beside: list[Run] = []
    for _ in range(bench.pick(3, 1)):
        for behaviours, runs in (([ANSWERS], alone), ([ANSWERS, REFUSES, SILENT], beside)):
            with Sink(behaviours) as sink, bench.service() as service:
                service.start()
                service.subscribe(QUEUE, sink.urls[:1])
                warm = warm_up(service, sink)
                service.subscribe(QUEUE, sink.urls[1:])
                done = run(sink, Load(service.port, QUEUE, duration=seconds, rate=100.0, size=SIZE))
                runs.append(dataclasses.replace(done, counts=total([warm.counts, done.counts])))
    p99_alone, p99_beside = (
        statistics.median(milliseconds(done.arrivals.latencies(), 99) for done in runs) for runs in (alone, beside)
    )
    counts = total([done.counts for done in beside])
    measures = [
        Measure("delivered", 100 * ratio(counts.expected - counts.missing, counts.expected), "%", at_least=100),
        Measure("p99", ratio(p99_beside, p99_alone), "times that of alone", at_most=2),
        Measure("alone", p99_alone, "ms"),
        Measure("beside", p99_beside, "ms"),
    ]
    title = "a healthy endpoint beside one that refuses and one that never answers, 100 messages/s"
    return [figure(title, measures, [*alone, *beside])]


def thousand(bench: Bench) -> list[Figure]:
    """1,000 endpoints subscribed to one queue: all healthy, and 1 % refusing with 1 % never answering, in turns.

    The drain is that of 50 messages to each (as in "drain", over the healthy ones). Then, with the refusing and the silent ones
    still behind, 4 messages/s for 10 s to all (4,000 deliveries/s) give the p99 from publish to arrival at the healthy ones.
    Fresh service each time; ratios of the medians of three.
    """
    number = bench.pick(1000, 100)
    bad = number // 100
    all_healthy = [ANSWERS] * number
    mixed: list[Behaviour] = [*all_healthy[2 * bad :], *[REFUSES] * bad, *[SILENT] * bad]
    runs: list[Run] = []
    medians: list[tuple[float, float]] = []
    results: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(bench.pick(3, 1)):
        for some_bad in (False, True):
            healthy = number - 2 * bad if some_bad else number
            with Sink(mixed if some_bad else all_healthy) as sink, bench.service() as service:
                backlog, _ = drained(service, sink, sink.urls, healthy, bench.pick(50, 20))
                paced = run(sink, Load(service.port, QUEUE, duration=bench.pick(10.0, 2.0), rate=4.0, size=SIZE), healthy)
            runs += (backlog, paced)
            results[some_bad].append((rate(backlog.arrivals), milliseconds(paced.arrivals.latencies(), 99)))
    for some_bad in (False, True):
        rates, p99s = zip(*results[some_bad], strict=True)
        medians.append((statistics.median(rates), statistics.median(p99s)))
    (healthy_rate, healthy_p99), (mixed_rate, mixed_p99) = medians
    measures = [
        Measure("healthy drain", 100 * ratio(mixed_rate, healthy_rate), "% of all-healthy", at_least=90),
        Measure("p99", ratio(mixed_p99, healthy_p99), "times that of all-healthy", at_most=2),
        Measure("drain", mixed_rate, "/s"),
        Measure("all-healthy drain", healthy_rate, "/s"),
        Measure("p99", mixed_p99, "ms"),
        Measure("all-healthy p99", healthy_p99, "ms"),
    ]
    return [figure(f"{number:,} endpoints, 1 % refuse and 1 % never answer", measures, runs)]


def memory(bench: Bench) -> list[Figure]:
    """Resident memory (VmRSS) of the largest API worker and of the worker after 60 s at 800 posts/s to 10 subscribers.

    That is 8,000 deliveries/s, read when the last reply has come. The process that starts the API workers is not counted.
    """
    with Sink([ANSWERS] * 10) as sink, bench.service() as service:
        service.start()
        service.subscribe(QUEUE, sink.urls)
        load = Generator(Load(service.port, QUEUE, duration=bench.pick(60.0, 2.0), rate=800.0, clients=16, size=SIZE))
        posted = load.result()
        resident = service.resident()
        runs = [finish(sink, posted, 10)]
    measures = [
        Measure("API worker", max(resident["api worker"]) / 1e6, "MB", at_most=70),
        Measure("worker", max(resident["worker"]) / 1e6, "MB", at_most=130),
        Measure("deliveries", runs[0].arrivals_per_second, "/s"),
    ]
    return [figure("resident memory after 60 s of load", measures, runs)]


def nodes(bench: Bench) -> list[Figure]:
    """A drain as in "drain", of 30,000 deliveries, by two workers against one, in turns; the ratio is the median of three.

    On one machine: what two can do that one cannot is bounded by its cores, which the sink and the database use as well.
    """
    runs: list[Run] = []
    rates: list[tuple[float, float]] = []
    for _ in range(bench.pick(3, 1)):
        pair = []
        for workers in (1, 2):
            with Sink([ANSWERS] * 10) as sink, bench.service() as service:
                done, _ = drained(service, sink, sink.urls, 10, bench.pick(3000, 50), workers)
            runs.append(done)
            pair.append(rate(done.arrivals))
        rates.append((pair[0], pair[1]))
    measures = [
        Measure("two workers", statistics.median(ratio(two, one) for one, two in rates), "times one"),
        Measure("one", statistics.median(one for one, _ in rates), "/s"),
        Measure("two", statistics.median(two for _, two in rates), "/s"),
    ]
    return [figure("a drain by two workers, against one", measures, runs)]


def huge(bench: Bench) -> list[Figure]:
    """One message to 1,000,000 subscribers, and what others have of it.

    The subscribers are at ten endpoints, 100,000 paths at each. Other messages, 2 a second, go to one subscriber of another
    queue in the same project, for 20 s without the huge one, then for 60 s beside it. Ratio of the medians; greatest resident
    memory (VmHWM) of the worker; all that is to arrive is waited for and counted.
    """
    number = bench.pick(1_000_000, 3_000)
    other = "other"
    with Sink([ANSWERS] * 10) as crowd, Sink([ANSWERS]) as sink, bench.service() as service:
        service.start_api()
        service.fill_subscriptions(QUEUE, crowd.urls, number)
        service.subscribe(other, sink.urls)
        service.start_worker()
        runs = [run(sink, Load(service.port, other, posts=4, clients=1))]
        alone = run(sink, Load(service.port, other, duration=bench.pick(20.0, 2.0), rate=2.0, clients=4, size=SIZE))
        posted = post(Load(service.port, QUEUE, posts=1, clients=1, size=SIZE))
        beside = run(sink, Load(service.port, other, duration=bench.pick(60.0, 2.0), rate=2.0, clients=4, size=SIZE))
        left = number - crowd.count()
        crowd.wait(number)
        arrived = crowd.count()
        instants = crowd.arrivals().arrived_at
        greatest = service.greatest_resident()
    p50s = [milliseconds(done.arrivals.latencies(), 50) for done in (alone, beside)]
    measures = [
        Measure("arrived", 100 * ratio(arrived, number), "%", at_least=100),
        Measure("deliveries", ratio(arrived, instants[-1] - posted.started_at) if instants else math.nan, "/s"),
        Measure("worker", greatest / 1e6, "MB", at_most=200),
        Measure("others' p50", ratio(p50s[1], p50s[0]), "times that of alone", at_most=2),
        Measure("alone", p50s[0], "ms"),
        Measure("beside", p50s[1], "ms"),
        Measure("still to be sent when that was measured", left),
        Measure("sent twice", max(0, arrived - number)),
    ]
    made = figure(
        f"one message to {number:,} subscribers, beside 2 messages/s to another queue", measures, [*runs, alone, beside]
    )
    made.faults = [*made.faults, *posted.faults]
    return [made]
