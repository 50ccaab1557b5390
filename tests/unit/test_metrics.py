import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
import warnings

import falcon.testing
import prometheus_client
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from zaqar_notify import bootstrap, errors, prometheus
from zaqar_notify.api.app import create_app
from zaqar_notify.api.middleware import Measuring
from zaqar_notify.encryption import Keyring
from zaqar_notify.metrics import ApiMetrics, WorkerMetrics
from zaqar_notify.model import OutcomeKind
from zaqar_notify.storage.base import Depths
from zaqar_notify.storage.memory import MemoryStorage
from zaqar_notify.validation import Limits

NEVER = 999_999_999
"""No process has this id: Linux gives out at most 2**22."""
WAIT = 30.0
KEYRING = Keyring([base64.b64encode(bytes(32)).decode()])
HEADERS = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": "demo"}


def samples(text, name):
    """Of one metric: labels as a sorted tuple -> value."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


class WorkerMetricsTest(unittest.TestCase):
    def setUp(self):
        self.registry = prometheus_client.CollectorRegistry()
        self.metrics = prometheus.PrometheusWorkerMetrics(self.registry)
        self.now = 0.0

    def shown(self, name):
        self.now += 1.0
        self.metrics.flush(self.now, 7)
        return samples(prometheus_client.generate_latest(self.registry).decode(), name)

    def test_attempts_are_counted_by_scheme_and_outcome(self):
        for subscriber, outcome in (
            ("http://a.example/1", OutcomeKind.DELIVERED),
            ("http://b.example/2", OutcomeKind.DELIVERED),
            ("HTTP://b.example/2", OutcomeKind.RETRY),
            ("mailto:x@example.org", OutcomeKind.DELIVERED),
        ):
            self.metrics.attempt(subscriber, outcome, 0.1, None)
        expected = {
            (("outcome", "delivered"), ("scheme", "http")): 2,
            (("outcome", "retry"), ("scheme", "http")): 1,
            (("outcome", "delivered"), ("scheme", "mailto")): 1,
        }
        self.assertEqual(expected, self.shown("deliveries_total"))
        self.metrics.attempt("http://a.example/1", OutcomeKind.DELIVERED, 0.1, None)
        expected[("outcome", "delivered"), ("scheme", "http")] += 1
        self.assertEqual(expected, self.shown("deliveries_total"), "each is counted once, over any number of flushes")

    def test_histograms_are_those_that_prometheus_client_makes(self):
        seconds = [0.0, 0.004, 0.005, 0.0051, 0.3, 15.0, 30.0, 31.0, 1e9]
        other = prometheus_client.CollectorRegistry()
        durations = prometheus_client.Histogram("d", "x", buckets=prometheus.ATTEMPT_BUCKETS, registry=other)
        lags = prometheus_client.Histogram("l", "x", buckets=prometheus.LAG_BUCKETS, registry=other)
        for value in seconds:
            durations.observe(value)
            lags.observe(value * 2)
            self.metrics.attempt("http://a.example", OutcomeKind.DELIVERED, value, value * 2)
        expected = prometheus_client.generate_latest(other).decode()
        for ours, theirs in (("attempt_duration_seconds", "d"), ("delivery_lag_seconds", "l")):
            for suffix in ("bucket", "sum", "count"):
                wanted = {(*key, ("scheme", "http")): value for key, value in samples(expected, f"{theirs}_{suffix}").items()}
                self.assertEqual(wanted, self.shown(f"{ours}_{suffix}"))

    def test_what_has_no_duration_or_lag_is_in_no_histogram(self):
        self.metrics.attempt("http://a.example", OutcomeKind.OURS, None, None)
        self.assertEqual({(("scheme", "http"),): 0}, self.shown("attempt_duration_seconds_count"))
        self.assertEqual({(("scheme", "http"),): 0}, self.shown("delivery_lag_seconds_count"))

    def test_clients_cannot_make_series_without_end(self):
        for number in range(500):
            self.metrics.attempt(f"webpush+x{number}://a.example", OutcomeKind.DELIVERED, 0.1, 0.1)
        self.assertEqual({(("outcome", "delivered"), ("scheme", "webpush")): 500}, self.shown("deliveries_total"))
        for number in range(5000):
            self.metrics.attempt(f"s{number}://a.example", OutcomeKind.DELIVERED, 0.1, 0.1)
        counted = self.shown("deliveries_total")
        self.assertEqual(prometheus.MOST_SCHEMES + 1, len(counted))
        self.assertEqual(5500, sum(counted.values()))

    def test_gauges_and_dead_letters(self):
        self.metrics.dead_letter()
        self.metrics.dead_letter()
        self.assertEqual({(): 2}, self.shown("dead_letters_total"))
        self.assertEqual({(): 2}, self.shown("dead_letters_total"))
        self.assertEqual({(): 7}, self.shown("worker_in_flight"))

    def test_within_a_second_nothing_is_written(self):
        self.metrics.flush(100.0, 1)
        self.metrics.flush(100.9, 2)
        text = prometheus_client.generate_latest(self.registry).decode()
        self.assertEqual({(): 1}, samples(text, "worker_in_flight"))

    def test_nothing_is_counted_without_a_listener(self):
        metrics = WorkerMetrics()
        metrics.attempt("http://a.example", OutcomeKind.DELIVERED, 0.1, 0.1)
        metrics.dead_letter()
        metrics.flush(0.0, 1)
        ApiMetrics().published(1)
        ApiMetrics().request("GET", None, 200, 0.1)


class ApiMetricsTest(unittest.TestCase):
    def setUp(self):
        self.registry = prometheus_client.CollectorRegistry()
        storage = MemoryStorage(keyring=KEYRING, retention=10.0, body_retention=None)
        self.addCleanup(storage.close)
        app = create_app(
            storage,
            limits=Limits(),
            check=lambda *_: None,
            wake=lambda: None,
            loopback_only=False,
            metrics=prometheus.PrometheusApiMetrics(self.registry),
        )
        self.client = falcon.testing.TestClient(app, headers=HEADERS)

    def shown(self, name):
        return samples(prometheus_client.generate_latest(self.registry).decode(), name)

    def post(self, count):
        body = {"messages": [{"body": number} for number in range(count)]}
        return self.client.simulate_post("/v2/queues/orders/messages", json=body)

    def test_messages_are_counted_when_they_are_stored(self):
        self.assertEqual(201, self.post(2).status_code)
        self.assertEqual(201, self.post(3).status_code)
        self.assertEqual(400, self.post(0).status_code)
        self.assertEqual({(): 5}, self.shown("messages_published_total"))

    def test_requests_are_counted_by_template_not_by_path(self):
        self.post(1)
        for queue in ("a", "b", "c"):
            self.client.simulate_get(f"/v2/queues/{queue}/messages")
            self.client.simulate_get(f"/{queue}/nowhere")
        self.client.simulate_get("/v2/queues/a%20b/messages")
        with warnings.catch_warnings(action="ignore"):  # the test client's own about the method
            self.client.simulate_request("PROPFIND", "/v2/queues/a/messages")
        self.client.simulate_patch("/v2/ping")
        route = "/v2/queues/{queue}/messages"
        expected = {
            ("POST", route, "2xx"): 1,
            ("GET", route, "2xx"): 3,
            ("GET", route, "4xx"): 1,
            ("GET", "none", "4xx"): 3,
            ("PATCH", "/v2/ping", "4xx"): 1,
        }
        counted = {
            tuple(dict(labels)[name] for name in ("method", "route", "status")): value
            for labels, value in self.shown("api_request_duration_seconds_count").items()
        }
        self.assertEqual(1, sum(counted.pop(key) for key in list(counted) if key[0] == "other"))
        self.assertEqual(expected, counted)

    def test_without_metrics_nothing_is_measured(self):
        plain = create_app(
            MemoryStorage(keyring=KEYRING, retention=10.0, body_retention=None),
            limits=Limits(),
            check=lambda *_: None,
            wake=lambda: None,
            loopback_only=False,
        )
        self.assertNotIn(Measuring.__name__, repr(plain._middleware))


class DepthsTest(unittest.TestCase):
    def setUp(self):
        self.asked = 0
        self.failing = False

    def depths(self):
        self.asked += 1
        if self.failing:
            raise errors.StorageUnavailable("locked")
        return Depths(outbox=3, oldest_at=100.0, pending=4, parked=5, in_flight=6, breakers=7, jobs=8, failed_jobs=9)

    def shown(self, collector):
        return {
            (sample.name, *sample.labels.values()): sample.value for metric in collector.collect() for sample in metric.samples
        }

    def test_what_waits(self):
        expected = {
            ("outbox_depth",): 3,
            ("outbox_oldest_seconds",): 20,
            ("retries_pending",): 4,
            ("deliveries_parked",): 5,
            ("lane_breaker_state", "open"): 7,
            ("jobs", "open"): 8,
            ("jobs", "failed"): 9,
        }
        self.assertEqual(expected, self.shown(prometheus.DepthCollector(self.depths, lambda: 120.0)))

    def test_nothing_waits(self):
        collector = prometheus.DepthCollector(lambda: Depths(0, None, 0, 0, 0, 0))
        self.assertEqual({0}, set(self.shown(collector).values()))

    def test_the_database_is_not_asked_for_each_scrape(self):
        collector = prometheus.DepthCollector(self.depths)
        for _ in range(5):
            self.shown(collector)
        self.assertEqual(1, self.asked)

    def test_out_of_reach_they_are_missing(self):
        self.failing = True
        collector = prometheus.DepthCollector(self.depths)
        with self.assertLogs("zaqar_notify.prometheus", "WARNING"):
            self.assertEqual({}, self.shown(collector))
        self.failing = False
        self.assertEqual(7, len(self.shown(collector)), "a failure is not remembered")


class FoldTest(unittest.TestCase):
    """What processes leave in their files."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def write(self, kind, process, values):
        file = MmapedDict(os.path.join(self.directory, f"{kind}_{process}.db"))
        for name, value in values.items():
            file.write_value(mmap_key(name, name, [], [], "help"), value, 0.0)
        file.close()

    def shown(self):
        registry = prometheus_client.CollectorRegistry()
        MultiProcessCollector(registry, self.directory)
        text = prometheus_client.generate_latest(registry).decode()
        families = text_string_to_metric_families(text)
        return {sample.name: sample.value for family in families for sample in family.samples}

    def test_the_sums_of_the_dead_stay_while_another_lives(self):
        self.write("counter", os.getpid(), {"a_total": 1})
        for process in (NEVER, NEVER + 1):
            self.write("counter", process, {"a_total": 10, "b_total": 5})
            self.write("gauge_livesum", process, {"g": 3})
        before = self.shown()
        self.assertEqual({"a_total": 21, "b_total": 10, "g": 6}, before)
        for _ in range(3):
            prometheus.fold(self.directory)
            self.assertEqual({"a_total": 21, "b_total": 10}, self.shown())
        self.write("counter", NEVER + 2, {"a_total": 100})
        prometheus.fold(self.directory)
        self.assertEqual({"a_total": 121, "b_total": 10}, self.shown())
        self.assertEqual({f"counter_{os.getpid()}.db", "counter_0.db", "histogram_0.db"}, set(os.listdir(self.directory)))

    def test_when_all_are_dead_counting_starts_anew(self):
        for process in (0, NEVER):
            self.write("counter", process, {"a_total": 10})
        prometheus.fold(self.directory)
        self.assertEqual([], os.listdir(self.directory))

    def test_the_process_that_had_this_id_before_is_dead(self):
        self.write("counter", os.getpid(), {"a_total": 10})
        prometheus.fold(self.directory, os.getpid())
        self.assertEqual([], os.listdir(self.directory))


PROCESS = """\
import os, sys
directory, port = sys.argv[1], int(sys.argv[2])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
from zaqar_notify import errors, prometheus
from zaqar_notify.model import OutcomeKind
from zaqar_notify.storage.base import Depths
exposition = prometheus.Exposition(directory, "127.0.0.1", port, lambda: Depths(1, None, 2, 3, 4, 5))
try:
    exposition.start()
except errors.CannotStart as error:
    sys.exit(str(error))
metrics = prometheus.PrometheusWorkerMetrics()
now = 0.0
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        metrics.attempt("http://a.example", OutcomeKind.DELIVERED, 0.1, 0.1)
    now += 2.0
    metrics.flush(now, 5)
    print("counted", flush=True)
"""


class SeveralProcessesTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self):
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS, self.directory, str(self.port)],
            cwd=pathlib.Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        process.kill()
        process.wait(WAIT)
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()

    def count(self, process, number):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        self.assertEqual("counted\n", process.stdout.readline())

    def get(self, path="/metrics"):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=WAIT) as answer:
            return answer.headers, answer.read().decode()

    def wait_for_listener(self):
        done = threading.Event()
        for _ in range(int(WAIT / 0.05)):
            try:
                return self.get()[1]
            except OSError:
                done.wait(0.05)
        raise AssertionError("nobody listens")

    def counted(self, text):
        return samples(text, "deliveries_total"), samples(text, "worker_in_flight")

    def test_one_shows_the_sum_of_all_and_another_takes_over(self):
        first, second = self.start(), None
        self.assertEqual("ready\n", first.stdout.readline())
        second = self.start()
        self.assertEqual("ready\n", second.stdout.readline())
        self.count(first, 3)
        self.count(second, 4)
        headers, text = self.get()
        self.assertTrue(headers["Content-Type"].startswith("text/plain; version="), headers["Content-Type"])
        key = (("outcome", "delivered"), ("scheme", "http"))
        self.assertEqual(({key: 7}, {(): 10}), self.counted(text))
        self.assertEqual({(): 1}, samples(text, "outbox_depth"), "once, however many processes there are")
        for path in ("/", "/metrics/", "/v2/ping"):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                self.get(path)
            refused.exception.close()
            self.assertEqual(404, refused.exception.code)
        first.send_signal(signal.SIGKILL)
        first.wait(WAIT)
        text = self.wait_for_listener()
        self.assertEqual(({key: 7}, {(): 5}), self.counted(text), "no counter falls, and nothing dead is in flight")

    def test_the_next_start_counts_anew(self):
        for _ in range(2):
            process = self.start()
            self.assertEqual("ready\n", process.stdout.readline())
            self.count(process, 3)
            self.assertEqual({3}, set(samples(self.get()[1], "deliveries_total").values()))
            process.send_signal(signal.SIGKILL)
            process.wait(WAIT)

    def test_a_port_that_another_program_has_stops_the_start(self):
        with socket.create_server(("127.0.0.1", self.port)):
            process = self.start()
            self.assertEqual(1, process.wait(WAIT))
            self.assertIn(f"[metrics] listen: cannot use 127.0.0.1 port {self.port}", process.stderr.read())


class StartTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def start(self, listen, kind="worker"):
        file = self.directory / "conf"
        file.write_text(f"[DEFAULT]\ndata_dir = {self.directory}\n[metrics]\n" + (f"listen = {listen}\n" if listen else ""))
        conf = bootstrap.configure(config_files=[str(file)])
        return bootstrap.start_metrics(conf, kind, None)

    def test_without_an_address_nothing_is_made(self):
        self.assertIsNone(self.start(None))
        self.assertEqual(["conf"], os.listdir(self.directory))

    def test_what_is_no_address(self):
        for listen in ("9101", "localhost", "127.0.0.1:", ":9101", "a b:1", "::1:9101", "127.0.0.1:123456", "127.0.0.1:0"):
            with self.subTest(listen), self.assertRaisesRegex(errors.CannotStart, "listen"):
                self.start(listen, "api")

    def test_workers_need_the_next_port_too(self):
        with self.assertRaisesRegex(errors.CannotStart, "65536 is no port"):
            self.start("127.0.0.1:65535")

    def test_beside_metrics_of_another_program_there_are_none(self):
        # This process has imported prometheus_client before, as such a program would.
        with self.assertRaisesRegex(errors.CannotStart, "this process has metrics of its own"):
            self.start("127.0.0.1:9101")
        self.assertNotIn("PROMETHEUS_MULTIPROC_DIR", os.environ)


class DashboardFilesTest(unittest.TestCase):
    def test_the_dashboard_is_json_with_a_query_in_each_panel(self):
        document = json.loads((pathlib.Path(__file__).parents[2] / "etc/grafana/zaqar-notify.json").read_text())
        panels = [panel for panel in document["panels"] if panel["type"] != "row"]
        self.assertGreater(len(panels), 8)
        self.assertEqual(len(panels), len({panel["id"] for panel in panels}))
        for panel in panels:
            self.assertTrue(panel["targets"] and all(target["expr"] for target in panel["targets"]), panel["title"])
