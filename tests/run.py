"""Runs the linters, the types and all tests; ends with a line of its own, ``N passed, N failed, N skipped``.

Fails when a linter does, when a test does, and when no test ran. Skips with the reason ``server missing: NAME`` are counted by
name; under ``CI=true`` each of them is a failure.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import subunit
import testtools

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(sys.executable).parent
LINTERS = (
    ("ruff", "format", "--check", "--quiet", "."),
    ("ruff", "check", "--quiet", "."),
    ("mypy", "--no-error-summary"),
    ("lint-imports",),
)
SERVER_MISSING = "server missing: "
OUTPUT = "output of stestr"
CONCURRENCY = 4
"""Test processes; many of the tests wait for leases and timeouts rather than for one of the two cores of a build machine."""
# A status that is not listed (a test process that died in the middle of a test) counts as failed.
PASSED = ("success", "xfail")


@dataclasses.dataclass
class Totals:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    missing: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Skipped tests by the server that they miss."""
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, test: Mapping[str, Any]) -> None:
        if test["status"] in PASSED:
            self.passed += 1
        elif test["status"] == "skip":
            self.add_skip(test["id"], text_of(test, "reason"))
        elif test["status"] != "exists":
            self.failed += 1
            self.failures.append(test["id"])
            print(f"FAILED {test['id']} ({test['status']})", flush=True)
            for name in test["details"]:
                print(text_of(test, name).rstrip(), flush=True)

    def add_skip(self, test_id: str, reason: str) -> None:
        self.skipped += 1
        if reason.startswith(SERVER_MISSING):
            self.missing[reason.removeprefix(SERVER_MISSING).strip()] += 1
        else:
            print(f"skipped {test_id}: {reason}", flush=True)

    def count_missing_as_failed(self) -> None:
        self.failed += self.missing.total()
        self.skipped -= self.missing.total()


def text_of(test: Mapping[str, Any], name: str) -> str:
    detail = test["details"].get(name)
    return detail.as_text() if detail is not None and detail.content_type.type == "text" else ""


class Output(testtools.StreamResult):
    """Shows what stestr prints between the results: above all modules that cannot be imported."""

    def status(self, *_: Any, file_name: str | None = None, file_bytes: bytes | None = None, **more: Any) -> None:
        if file_name == OUTPUT and file_bytes:
            sys.stdout.write(file_bytes.decode(errors="replace"))
            sys.stdout.flush()


def run_linters() -> list[str]:
    failed = []
    for command in LINTERS:
        title = " ".join(command[:2]) if command[0] == "ruff" else command[0]
        done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, text=True, capture_output=True, check=False)
        print(f"{title}: {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
        if done.returncode != 0:
            print((done.stdout + done.stderr).rstrip(), flush=True)
            failed.append(title)
    return failed


def run_tests(pattern: Sequence[str]) -> tuple[Totals, bool]:
    """The totals, and whether stestr itself went through; it does not when a test module cannot be imported."""
    totals = Totals()
    with subprocess.Popen(
        [BIN / "stestr", "run", "--subunit", "--concurrency", str(CONCURRENCY), *pattern],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        results = testtools.CopyStreamResult([testtools.StreamToDict(totals.add), Output()])
        results.startTestRun()
        subunit.ByteStreamToStreamResult(process.stdout, non_subunit_name=OUTPUT).run(results)
        results.stopTestRun()
    return totals, process.returncode == 0


def test(pattern: Sequence[str]) -> tuple[Totals, list[str]]:
    """Run the tests, print what there is to say, and return the totals and every other reason to fail."""
    started = time.monotonic()
    totals, complete = run_tests(pattern)
    reasons = []
    if not complete:
        reasons.append("stestr could not run everything; see above")
    if totals.passed + totals.failed == 0:
        reasons.append("no test ran")
    print(f"tests took {time.monotonic() - started:.0f} s")
    for name, count in sorted(totals.missing.items()):
        print(f"server missing: {name} ({count} tests skipped)")
    if os.environ.get("CI") == "true" and totals.missing:
        totals.count_missing_as_failed()
        reasons.append("a missing server is a failure under CI=true; tests/servers.sh installs them")
    for test_id in totals.failures:
        print(f"failed: {test_id}")
    return totals, reasons


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-lint", action="store_true", help="tests alone")
    parser.add_argument("--only-lint", action="store_true", help="linters and types alone")
    parser.add_argument("pattern", nargs="*", help="only tests whose id matches one of these regular expressions")
    arguments = parser.parse_args()

    reasons = [] if arguments.no_lint else [f"{title} failed" for title in run_linters()]
    totals = Totals()
    if not arguments.only_lint:
        totals, more = test(arguments.pattern)
        reasons += more
    for reason in reasons:
        print(reason)
    if not arguments.only_lint:
        print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped")
    return 1 if reasons or totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
