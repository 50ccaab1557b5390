"""What Prometheus is shown by a running service, and whether dashboard and alert rules ask for that."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.system import promql
from tests.system.endpoints import Endpoint, Endpoints
from tests.system.service import WAIT, Service, free_port, wait_for
from tests.system.serving import Program, children_of
from zaqar_notify.model import OutcomeKind

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "etc/prometheus/zaqar-notify.rules.yml"
DASHBOARD = ROOT / "etc/grafana/zaqar-notify.json"
VALUES = {"outcome": {kind.value for kind in OutcomeKind}, "state": {"open", "failed"}, "status": {"2xx", "3xx", "4xx", "5xx"}}
"""Of the labels that queries compare with."""
PROMETHEUS = shutil.which("prometheus")
OPTIONS = """
[metrics]
listen = 127.0.0.1:{port}
[api]
workers = 2
[worker]
poll_interval = 0.1
[notification]
retry_schedule = 0, 0.1
"""


def free_ports() -> int:
    """The first of three."""
    for _ in range(100):
        port = free_port()
        with socket.socket() as next_one, socket.socket() as third:
            try:
                next_one.bind(("127.0.0.1", port + 1))
                third.bind(("127.0.0.1", port + 2))
            except OSError:
                continue
            return port
    raise AssertionError("no free ports")


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(text: str, name: str, **labels: str) -> float:
    return sum(value for found, value in samples(text).get(name, []) if labels.items() <= found.items())


def queries() -> dict[str, str]:
    """Of the dashboard and the alert rules, by their titles."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = {f"{panel['title']}, {target['refId']}": target["expr"] for panel in panels for target in panel.get("targets", [])}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    return found


class ScrapedTest(unittest.TestCase):
    """A service that has published, delivered and failed, and got a mail."""

    service: Service
    ports: dict[str, int]

    @classmethod
    def setUpClass(cls) -> None:
        port = free_ports()
        cls.ports = {"api": port, "worker": port + 1, "receive": port + 2}
        lmtp = free_port()
        cls.service = Service(options=OPTIONS.format(port=port) + f"[receive]\nlisten = 127.0.0.1:{lmtp}\n")
        cls.addClassCleanup(cls.service.close)
        cls.service.start_api()
        cls.service.start("worker")
        cls.service.start("receive")
        cls.good, cls.bad = Endpoint(), Endpoint(status=lambda _: 500)
        cls.enterClassContext(Endpoints(cls.good, cls.bad))
        cls.service.subscribe(cls.good.url)
        cls.service.subscribe(cls.bad.url)
        cls.messages = cls.service.post(*range(5))
        wait_for(lambda: total(cls.shown("worker"), "dead_letters_total") == 5, "five dead letters")
        wait_for(lambda: " ready for mails" in cls.service.log("receive"), "the receiver")
        with smtplib.LMTP("127.0.0.1", lmtp, local_hostname="mail.test", timeout=WAIT) as client:
            client.sendmail("ann@example.org", ["bounces@notify.example.org"], "Subject: hello\r\n\r\n")

    @classmethod
    def shown(cls, kind: str) -> str:
        try:
            return scrape(cls.ports[kind])
        except OSError:
            return ""

    def test_what_happened_is_counted(self) -> None:
        text = self.shown("worker")
        self.assertEqual(5, total(text, "deliveries_total", scheme="http", outcome="delivered"))
        self.assertEqual(10, total(text, "deliveries_total", scheme="http", outcome="retry"))
        self.assertEqual(15, total(text, "attempt_duration_seconds_count"))
        self.assertEqual(5, total(text, "delivery_lag_seconds_count"))
        wait_for(lambda: not total(self.shown("worker"), "outbox_depth"), "the depths to be read again")
        self.assertEqual(1, total(self.shown("receive"), "mails_received_total", result="dropped"))
        api = self.shown("api")
        self.assertEqual(5, total(api, "messages_published_total"))
        # By whichever of the processes they were answered.
        posts = {"method": "POST", "status": "2xx"}
        self.assertEqual(1, total(api, "api_request_duration_seconds_count", route="/v2/queues/{queue}/messages", **posts))
        route = "/v2/queues/{queue}/subscriptions"
        self.assertEqual(2, total(api, "api_request_duration_seconds_count", route=route, **posts))

    def test_all_requests_are_counted_whichever_process_answers(self) -> None:
        def count() -> float:
            return total(self.shown("api"), "api_request_duration_seconds_count", route="/v2/ping")

        before = count()
        for _ in range(50):  # each on a connection of its own: the kernel spreads them
            self.service.request("GET", "/v2/ping")
        self.assertEqual(before + 50, count())

    def test_both_show_what_waits(self) -> None:
        for kind in ("api", "worker"):
            text = self.shown(kind)
            for name in ("outbox_depth", "outbox_oldest_seconds", "retries_pending", "deliveries_parked"):
                self.assertEqual(1, len(samples(text)[name]), (kind, name))

    def test_the_public_port_shows_nothing(self) -> None:
        self.assertEqual(404, self.service.request("GET", "/metrics")[0])

    def test_each_attempt_has_a_line_in_the_log(self) -> None:
        def lines() -> list[str]:
            return [line for line in self.service.log("worker").splitlines() if " zaqar_notify.attempt: " in line]

        wait_for(lambda: len(lines()) == 15, "15 lines")
        for line in lines():
            self.assertRegex(line, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO zaqar_notify\.attempt: delivery=\S+ message=")
        last = [line for line in lines() if f"message={self.messages[0]} " in line and "attempt=2/2" in line]
        self.assertEqual(1, len(last))
        self.assertRegex(last[0], r" queue=demo project=demo scheme=http outcome=retry status=500 .* next=dead detail=\"")

    def test_the_documented_names_are_the_real_ones(self) -> None:
        documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
        families = text_string_to_metric_families("".join(self.shown(kind) for kind in self.ports))
        real = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
        self.assertEqual(
            documented - {"delivery", "scheme", "outcome", "status", "attempt", "duration", "next", "detail"}, real
        )

    def exposed(self) -> dict[str, set[str]]:
        """The labels of each metric."""
        found: dict[str, set[str]] = {}
        for kind in self.ports:
            for name, listed in samples(self.shown(kind)).items():
                found.setdefault(name, set()).update(*(labels for labels, _ in listed))
        return found

    def test_each_asks_for_metrics_and_labels_that_there_are(self) -> None:
        exposed = self.exposed()
        for title, text in queries().items():
            with self.subTest(title):
                query = promql.parse(text)
                self.assertTrue(query.selectors)
                for selector in query.selectors:
                    self.assertIn(selector.metric, exposed)
                    self.assertLessEqual(query.grouped_by, exposed[selector.metric])
                    for label, _, value in selector.matchers:
                        self.assertIn(label, exposed[selector.metric])
                        self.assertIn(value, VALUES[label])

    def test_each_metric_is_asked_for(self) -> None:
        asked = {selector.metric for text in queries().values() for selector in promql.parse(text).selectors}
        bare = {re.sub("_(bucket|count|sum)$", "", name) for name in self.exposed()}
        self.assertEqual(set(), bare - {re.sub("_(bucket|count|sum)$", "", name) for name in asked})

    def test_what_this_test_would_find(self) -> None:
        query = promql.parse('sum by (le, x) (rate(a_bucket{b="c", d=~"e"}[5m])) / on(y) max(f) > 0.5 and absent(g)')
        self.assertEqual(["a_bucket", "f", "g"], [selector.metric for selector in query.selectors])
        self.assertEqual((("b", "=", "c"), ("d", "=~", "e")), query.selectors[0].matchers)
        self.assertEqual({"le", "x", "y"}, query.grouped_by)

    @unittest.skipUnless(PROMETHEUS, "server missing: prometheus")
    def test_prometheus_answers_each(self) -> None:
        server = self.start_prometheus()
        for name in ("deliveries_total", "messages_published_total"):
            wait_for(lambda name=name: self.ask(server, f"count_over_time({name}[5m]) > 2"), f"scrapes of {name}")
        for title, text in queries().items():
            with self.subTest(title):
                for selector in promql.parse(text).selectors:
                    self.assertTrue(self.ask(server, selector.metric), f"nothing for {selector.metric}")
                self.ask(server, text.replace("$__rate_interval", "1m"))
        with urllib.request.urlopen(f"{server}/api/v1/rules", timeout=WAIT) as answer:
            groups = json.load(answer)["data"]["groups"]
        self.assertEqual({"ok"}, {rule["health"] for group in groups for rule in group["rules"]} - {"unknown"} | {"ok"})
        self.assertGreater(len(groups[0]["rules"]), 10)

    def start_prometheus(self) -> str:
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="prometheus-")))
        text = (ROOT / "etc/prometheus/prometheus.yml.sample").read_text()
        for old, new in (
            ("15s", "1s"),
            ("zaqar-notify.rules.yml", str(RULES)),
            ("127.0.0.1:9101", f"127.0.0.1:{self.ports['api']}"),
            ("127.0.0.1:9102", f"127.0.0.1:{self.ports['worker']}"),
            ("127.0.0.1:9103", f"127.0.0.1:{self.ports['receive']}"),
        ):
            self.assertIn(old, text)
            text = text.replace(old, new)
        (directory / "prometheus.yml").write_text(text)
        port = free_port()
        arguments = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [PROMETHEUS, *arguments, f"--web.listen-address=127.0.0.1:{port}"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.addCleanup(process.wait, WAIT)
        self.addCleanup(process.terminate)
        server = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            self.assertIsNone(process.poll(), (directory / "log").read_text())
            try:
                with urllib.request.urlopen(f"{server}/-/ready", timeout=WAIT) as answer:
                    return answer.status == 200
            except OSError:
                return False

        wait_for(ready, "Prometheus")
        return server

    def ask(self, server: str, query: str) -> list[object]:
        url = f"{server}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=WAIT) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from error


class SeveralTest(unittest.TestCase):
    def start(self, log_attempts: str = "all") -> tuple[Service, int]:
        port = free_ports()
        service = Service(self, OPTIONS.format(port=port) + f"[delivery_log]\nlog_attempts = {log_attempts}\n")
        return service, port

    def delivered(self, port: int) -> float:
        try:
            return total(scrape(port), "deliveries_total", outcome="delivered")
        except OSError:
            return -1

    def test_workers_beside_each_other_are_summed_and_survive_each_other(self) -> None:
        service, port = self.start(log_attempts="failures")
        service.start_api()
        workers = [service.start("worker") for _ in range(2)]
        endpoint = Endpoint()
        self.enterContext(Endpoints(endpoint))
        service.subscribe(endpoint.url)

        def wait_for_deliveries(number: int) -> None:
            wait_for(lambda: self.delivered(port + 1) == number, f"{number} deliveries")

        def wait_for_workers(number: int) -> None:
            wait_for(lambda: service.log("worker").count(" is ready") == number, f"{number} workers so far")

        # Whichever has the listener, and whichever has sent them: killed in turns, what was counted stays.
        for turn in (1, 2):
            service.post(*range(10))
            wait_for_deliveries(10 * turn)
            workers.append(service.start("worker"))
            wait_for_workers(2 + turn)
            service.kill(workers.pop(0), signal.SIGKILL)
            wait_for_deliveries(10 * turn)
        for worker in workers:
            service.kill(worker, signal.SIGTERM)
        with self.assertRaises(OSError):
            scrape(port + 1)
        self.assertNotIn("zaqar_notify.attempt", service.log("worker"), "none of them failed")

    def test_an_api_process_that_dies_takes_nothing_along(self) -> None:
        service, port = self.start()
        api = service.start_api()
        service.post(1, 2, 3)
        self.assertEqual(3, total(scrape(port), "messages_published_total"))
        before = set(children_of(api.pid))
        victim = int(holder(service.data_dir / "metrics/api/lock"))
        self.assertIn(victim, before)
        os.kill(victim, signal.SIGKILL)

        def shown() -> bool:
            try:
                return total(scrape(port), "messages_published_total") == 3
            except OSError:
                return False

        wait_for(lambda: victim not in children_of(api.pid) and shown(), "the same count")
        wait_for(service.answers, "the API")
        service.post(4)
        wait_for(lambda: total(scrape(port), "messages_published_total") == 4, "one more")

    def test_serve_shows_both(self) -> None:
        port = free_ports()
        with tempfile.TemporaryDirectory() as directory:
            program = Program(
                self,
                ["serve", "--data", directory, "--port", str(free_port())],
                environment={"OS_METRICS__LISTEN": f"127.0.0.1:{port}"},
            )
            program.until("is ready on")
            self.assertIn("messages_published_total 0.0", scrape(port))
            self.assertIn("worker_in_flight 0.0", scrape(port + 1))
            self.assertEqual(0, program.stop())

    def test_a_port_that_is_taken_stops_the_start_with_one_line(self) -> None:
        service, port = self.start()
        with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
            for kind, process in [(kind, service.start(kind)) for kind in ("api", "worker")]:
                self.assertEqual(2, process.wait(WAIT), service.log(kind))
                self.assertIn("[metrics] listen: cannot use 127.0.0.1 port", service.log(kind))
                self.assertNotIn("Traceback", service.log(kind))
                service.processes.remove(process)


def holder(path: pathlib.Path) -> str:
    """The process that holds the lock on the file, as the kernel lists it."""
    inode = path.stat().st_ino
    for _ in range(100):
        for line in pathlib.Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                return fields[4]
        time.sleep(0.05)
    raise AssertionError("nobody holds it")
