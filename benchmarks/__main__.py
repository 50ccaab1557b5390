"""``python -m benchmarks``: make the figures, print the table, write JSON."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import channels, databases, machine, report, scenarios, taking
from benchmarks.report import Figure
from benchmarks.scenarios import Bench
from benchmarks.service import ServiceFailed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench-results"

SCENARIOS: Mapping[str, Callable[[Bench], list[Figure]]] = {
    "posting": scenarios.posting,
    "keys": scenarios.keys,
    "fanout": scenarios.fanout,
    "drain": scenarios.drain,
    "watched": scenarios.watched,
    "fairness": scenarios.fairness,
    "latency": scenarios.latency,
    "neighbours": scenarios.neighbours,
    "thousand": scenarios.thousand,
    "memory": scenarios.memory,
    "taking": taking.taking,
    "matching": taking.matching,
    "nodes": scenarios.nodes,
    "huge": scenarios.huge,
    "pushes": channels.pushes,
    "gateway": channels.gateway,
    "mails": channels.mails,
}
COMPARED = ("posting", "fanout", "drain", "latency", "taking", "matching", "nodes")
"""What is measured on each storage that is named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when all counts agree, targets reached or not; 1 when a count or a reply is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write_docs and (options.only or options.quick):
        parser.error("--write-docs puts a whole table into the docs: leave out --only and --quick")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    parent = options.directory or RESULTS
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        about = machine.describe(directory)
        made = make_all(options.only or list(COMPARED if options.storage else SCENARIOS), directory, options)
    except ServiceFailed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    path = options.json or RESULTS / f"{made_at.replace(':', '')[:17]}.json"
    report.write_json(path, report.document(made, about, made_at, options.quick))
    figures = [figure for group in made.values() for figure in group]
    table = report.compared(made) if options.storage else report.table(figures)
    print(f"\n{report.machine_text(about)}\n\n{table}\n\nwritten: {os.path.relpath(path)}")
    if options.quick:
        print("made with --quick: the loads were too short to measure anything")
    if options.write_docs:
        report.write_docs(DOCS, made, about, made_at, by_storage=bool(options.storage))
    complaints = report.complaints(figures)
    for complaint in complaints:
        print(f"benchmarks: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def make_all(names: Sequence[str], directory: Path, options: argparse.Namespace) -> dict[str, list[Figure]]:
    """By storage."""
    made = {}
    for storage in options.storage or ["sqlite"]:
        with databases.start(storage) as places:
            if options.storage:
                print(f"on {places.about}:", file=sys.stderr, flush=True)
            made[places.about] = make(names, Bench(directory, options.quick, places))
    return made


def make(names: Sequence[str], bench: Bench) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        made = SCENARIOS[name](bench)
        for figure in made:
            figure.seconds = figure.seconds or time.monotonic() - began
        figures += made
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the service on this machine.")
    parser.add_argument(
        "--storage",
        action="append",
        choices=list(databases.KINDS),
        help="measure on this storage; given several times: side by side in one table. Without --only: "
        f"{', '.join(COMPARED)}. Without --storage: all figures, on the embedded database",
    )
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--quick", action="store_true", help="very short loads: shows that the benchmark works, measures nothing"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the results go (default: bench-results/<instant>.json)"
    )
    parser.add_argument("--directory", type=Path, help="where the databases go (default: bench-results/)")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
