"""The benchmark's own parts: a benchmark that counts wrongly proves nothing."""

from __future__ import annotations

import http.client
import json
import math
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
from pathlib import Path

from benchmarks import bare_libcurl, generator, report
from benchmarks.report import Figure, Measure
from benchmarks.scenarios import percentile
from benchmarks.sink import ANSWERS, REFUSES, SILENT, Behaviour, Comparison, Sink

ROOT = Path(__file__).parents[2]


def notify(url: str, message_id: str, *, parts: int = 1) -> int:
    """Post a notification as the service does, in so many pieces; returns the status of the answer."""
    body = b'{"body": {"sent_at": 1000.5}}'
    request = b"POST / HTTP/1.1\r\nZaqar-Notify-Message-Id: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        message_id.encode(),
        len(body),
        body,
    )
    address = urllib.parse.urlsplit(url)
    size = -(-len(request) // parts)
    with socket.create_connection((address.hostname, address.port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), size):
            connection.sendall(request[start : start + size])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status


class SinkTest(unittest.TestCase):
    def test_it_agrees_when_each_message_came_once_to_each_healthy_endpoint(self) -> None:
        with Sink([ANSWERS, Behaviour(status=200, delay=0.01), REFUSES, SILENT]) as sink:
            for message in ("a", "b"):
                self.assertEqual(204, notify(sink.urls[0], message))
                self.assertEqual(200, notify(sink.urls[1], message, parts=3))
            self.assertEqual(Comparison(expected=4, arrived=4, missing=0, unknown=0, duplicates=0), sink.compare(["a", "b"]))
            self.assertTrue(sink.compare(["a", "b"]).agrees)
            self.assertEqual([2, 2, 0, 0], sink.attempts())
            self.assertEqual([1000.5] * 4, list(sink.arrivals().sent_at))

    def test_it_sees_what_is_missing_twice_or_unknown(self) -> None:
        with Sink([ANSWERS]) as sink:
            for message in ("a", "a", "c"):
                notify(sink.urls[0], message)
            counts = sink.compare(["a", "b"])
            self.assertEqual(Comparison(expected=2, arrived=3, missing=1, unknown=1, duplicates=1), counts)
            self.assertFalse(counts.agrees)
            sink.forget()
            self.assertEqual(0, sink.count())

    def test_a_failing_endpoint_is_not_expected_to_have_anything(self) -> None:
        with Sink([ANSWERS, Behaviour(status=500)]) as sink:
            notify(sink.urls[0], "a")
            self.assertEqual(500, notify(sink.urls[1], "a"))
            self.assertTrue(sink.compare(["a"]).agrees)
            self.assertEqual([1, 1], sink.attempts())

    def test_a_refusing_endpoint_refuses(self) -> None:
        with Sink([REFUSES]) as sink, self.assertRaises(ConnectionRefusedError):
            notify(sink.urls[0], "a")


class GeneratorTest(unittest.TestCase):
    def test_a_request_is_well_formed_and_of_the_size_asked_for(self) -> None:
        request = generator.request_template(generator.Load(port=1, queue="q", batch=2, size=300))
        head, _, body = request.replace(generator._PLACE, b"1700000000.123456").partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d" % len(body), head)
        messages = json.loads(body)["messages"]
        self.assertEqual([1700000000.123456] * 2, [message["body"]["sent_at"] for message in messages])
        self.assertEqual([300] * 2, [len(json.dumps(message["body"], separators=(",", ":"))) for message in messages])

    def test_a_reply_that_is_not_201_is_a_fault(self) -> None:
        with Sink([Behaviour(status=503)]) as sink:
            port = urllib.parse.urlsplit(sink.urls[0]).port
            assert port is not None
            posted = generator.post(generator.Load(port, "q", posts=3, clients=2))
        self.assertEqual(3, len(posted.faults))
        self.assertIn("503", posted.faults[0])
        self.assertEqual([], posted.accepted)


class BareLoopTest(unittest.TestCase):
    def test_each_message_comes_to_each_endpoint_once(self) -> None:
        with Sink([ANSWERS] * 3) as sink:
            sent = bare_libcurl.drive(sink.urls, messages=20, in_flight=6, size=100)
            self.assertEqual(bare_libcurl.Sent(requests=60, wrong=0), sent)
            self.assertTrue(sink.compare(bare_libcurl.message_ids(20)).agrees)


class ReportTest(unittest.TestCase):
    def test_a_figure_with_a_wrong_count_or_reply_is_invalid_however_good(self) -> None:
        good = [Measure("posts", 9000, "/s", at_least=2500)]
        self.assertEqual("yes", Figure("f", good, Comparison(1, 1, 0, 0, 0)).verdict())
        self.assertEqual("INVALID", Figure("f", good, Comparison(2, 1, 1, 0, 0)).verdict())
        self.assertEqual("INVALID", Figure("f", good, faults=["HTTP/1.1 500"]).verdict())
        self.assertEqual("no", Figure("f", [Measure("p99", 41, "ms", at_most=40)]).verdict())
        self.assertEqual("no", Figure("f", [Measure("ratio", math.nan, at_least=40)]).verdict())

    def test_each_invalid_figure_is_complained_about(self) -> None:
        figures = [Figure("lost", [], Comparison(2, 1, 1, 0, 0)), Figure("refused", [], faults=["503"]), Figure("fine", [])]
        self.assertEqual(["lost", "refused"], [line.partition(":")[0] for line in report.complaints(figures)])

    def test_percentiles_are_by_nearest_rank(self) -> None:
        self.assertEqual(99, percentile(range(1, 101), 99))
        self.assertEqual(3, percentile([3, 1, 2], 99))
        self.assertTrue(math.isnan(percentile([], 50)))

    def test_the_table_in_the_docs_is_replaced_and_the_text_around_it_kept(self) -> None:
        machine = {
            "cores": 2, "cpu": "c", "memory_gib": 1, "kernel": "k", "file_system": "f", "fsync_ms": 1, "python": "p",
            "sqlite": "s", "libcurl": "l", "packages": {}, "revision": None,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "performance.md")
            path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
            for _ in range(2):
                figures = [Figure("one", [Measure("p50", 5, "ms", at_most=7)])]
                report.write_docs(path, {"SQLite": figures}, machine, "now", by_storage=False)
            text = path.read_text()
        self.assertTrue(text.startswith(f"before\n{report.BEGIN}\n"))
        self.assertTrue(text.endswith(f"{report.END}\nafter\n"))
        self.assertNotIn("old", text)
        self.assertEqual(1, text.count("| one | p50 <= 7 ms | p50 5 ms | yes |"))

    def test_storages_stand_side_by_side(self) -> None:
        one = [Figure("drain", [Measure("rate", 500, "/s", at_least=400), Measure("p50", 9, "ms", at_most=7)])]
        other = [Figure("drain", [Measure("rate", 300, "/s", at_least=400), Measure("p50", 8, "ms")])]
        invalid = [Figure("drain", [Measure("rate", 900, "/s"), Measure("p50", 1, "ms")], faults=["a wrong reply"])]
        made = {"A 1": one, "B 2": other, "C 3": invalid}
        wanted = [
            ("figure", "A 1", "B 2", "C 3"),
            ("drain: rate (/s)", "500", "300 (reach: 400)", "INVALID"),
            ("drain: p50 (ms)", "9 (reach: 7)", "8", "INVALID"),
        ]
        self.assertEqual(wanted, report.compared_rows(made))
        self.assertEqual(["figure", "A", "1"], report.compared(made).splitlines()[0].split()[:3])

    def test_the_docs_have_room_for_the_tables(self) -> None:
        text = (ROOT / "docs" / "performance.md").read_text()
        marks = (report.BEGIN, report.END, report.BEGIN_STORAGES, report.END_STORAGES)
        self.assertEqual([1] * 4, [text.count(mark) for mark in marks])


class WholeTest(unittest.TestCase):
    def test_a_quick_run_counts_the_same_on_both_sides(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            results = Path(directory, "results.json")
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks",
                    "--quick",
                    "--only",
                    "latency",
                    "--json",
                    results,
                    "--directory",
                    directory,
                ],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            document = json.loads(results.read_text())
            self.assertEqual([results], list(Path(directory).iterdir()))
        self.assertTrue(document["quick"])
        ((storage, figures),) = document["figures"].items()
        self.assertTrue(storage.startswith("SQLite 3."))
        for figure in figures:
            self.assertTrue(figure["valid"], figure)
            self.assertGreaterEqual(figure["counts"]["expected"], 20)
            self.assertEqual(figure["counts"]["expected"], figure["counts"]["arrived"])
