"""`zaqar-notify db copy`: all that one storage has into another one."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from zaqar_notify import bootstrap
from zaqar_notify.commands import show
from zaqar_notify.commands.configuration import configure
from zaqar_notify.errors import CannotStart
from zaqar_notify.storage.base import Storage

STEP = 1000
"""Records that are read and written at a time."""
_REPORT_EVERY = 2.0
"""Seconds between two lines of progress."""


def run(arguments: argparse.Namespace) -> int:
    conf = configure(arguments)
    bootstrap.set_up_logging(conf)
    there = configure(arguments)
    there.set_override("connection", _destination(arguments), "storage")
    names = [show.mask_url(bootstrap.storage_url(each)) for each in (conf, there)]
    if bootstrap.storage_url(conf) == bootstrap.storage_url(there):
        raise CannotStart(f"--to names the storage that is copied, {names[0]}")
    source, destination = bootstrap.build_storage(conf), bootstrap.build_storage(there)
    try:
        source.check()
        source.recover()  # workers that were killed are none
        _require_quiet(source, arguments.while_running)
        destination.upgrade()
        _require_empty(destination, arguments.again)
        print(f"{names[0]} -> {names[1]}", file=sys.stderr)
        copy(source, destination)
        return _compare(source.copy_counts(), destination.copy_counts())
    finally:
        source.close()
        destination.close()


def _destination(arguments: argparse.Namespace) -> str:
    """A password belongs into a file: everybody on the machine can see a command line."""
    if arguments.to is not None:
        return str(arguments.to)
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("connection"), "storage")
    try:
        # The environment may name the storage that is copied.
        conf(
            [],
            project="zaqar-notify-copy",
            default_config_files=[arguments.to_config_file],
            default_config_dirs=[],
            use_env=False,
        )
    except cfg.Error as error:
        raise CannotStart(f"--to-config-file: {' '.join(str(error).split())}") from error
    if not conf.storage.connection:
        raise CannotStart(f"--to-config-file: {arguments.to_config_file} has no [storage] connection")
    return str(conf.storage.connection)


def _require_quiet(source: Storage, while_running: bool) -> None:
    workers = source.members()
    if workers and not while_running:
        names = ", ".join(f"{worker.host or 'unknown'} (process {worker.pid})" for worker in workers[:5])
        raise CannotStart(
            f"Workers are at work on the storage ({len(workers)}): {names}. Stop them and the API first; "
            "--while-running copies a state that nobody has seen at one moment"
        )


def _require_empty(destination: Storage, again: bool) -> None:
    there = {kind: count for kind, count in destination.copy_counts().items() if count}
    if there and not again:
        found = ", ".join(f"{count:,} {kind}" for kind, count in there.items())
        raise CannotStart(f"There is something at the destination already: {found}. --again goes over it")


def copy(source: Storage, destination: Storage) -> None:
    for kind, count in source.copy_counts().items():
        progress = _Progress(kind, count)
        after: Any = None
        while True:
            records, after = source.copy_from(kind, after, STEP)
            if records:
                destination.copy_into(kind, records)
            progress.add(len(records))
            if len(records) < STEP:
                break
        progress.end()


class _Progress:
    """On standard error: a line now and then, and one for each kind at its end."""

    def __init__(self, kind: str, count: int) -> None:
        self._kind = kind
        self._count = count
        self._done = 0
        self._began = self._told_at = time.monotonic()

    def add(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now >= self._told_at + _REPORT_EVERY:
            self._told_at = now
            # More may have come meanwhile.
            self._tell(f"{min(99, 100 * self._done // max(1, self._count))} %", now)

    def end(self) -> None:
        self._tell("done", time.monotonic())

    def _tell(self, how_far: str, now: float) -> None:
        pace = self._done / max(now - self._began, 1e-3)
        print(f"  {self._kind}: {self._done:,} of {self._count:,}, {how_far} ({pace:,.0f}/s)", file=sys.stderr, flush=True)


def _compare(source: Mapping[str, int], destination: Mapping[str, int]) -> int:
    rows = [{"kind": kind, "source": count, "destination": destination.get(kind, 0)} for kind, count in source.items()]
    show.print_rows(rows, ("kind", "source", "destination"), as_json=False)
    wrong = [str(row["kind"]) for row in rows if row["source"] != row["destination"]]
    if wrong:
        print(f"zaqar-notify: the counts differ: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0
