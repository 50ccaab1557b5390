"""`zaqar-notify cluster`: who is at work, what waits, and whether that needs a look."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from oslo_config import cfg

from zaqar_notify import bootstrap
from zaqar_notify.commands import database, show
from zaqar_notify.model import Member
from zaqar_notify.storage.base import Depths

_COLUMNS = ("id", "host", "pid", "version", "state", "joined_at", "seen", "entries", "rows", "lanes", "jobs")


@dataclasses.dataclass(frozen=True, slots=True)
class BoardState:
    kind: str
    url: str
    """Without what is secret in it."""
    posted: int = 0
    claimed: int = 0
    error: str | None = None
    """Why it does not answer; None: it does."""


def status(arguments: argparse.Namespace) -> int:
    with database.opened(arguments) as (conf, storage):
        now = storage.now()
        depths, members = storage.depths(), storage.members()
    board = look_at_board(conf)
    workers = [_worker(member, now, conf.worker.lease) for member in members]
    oldest = None if depths.oldest_at is None else max(0.0, now - depths.oldest_at)
    wrong = problems(workers, depths, oldest, board, arguments.max_age)
    if arguments.json:
        backlog = {**dataclasses.asdict(depths), "oldest_age": oldest}
        found = {"workers": workers, "backlog": backlog, "board": None if board is None else dataclasses.asdict(board)}
        print(json.dumps({**found, "problems": wrong, "healthy": not wrong}, indent=2))
    else:
        show.print_rows([{**worker, "seen": _ago(worker["seen"])} for worker in workers], _COLUMNS, as_json=False)
        print()
        show.print_rows(_backlog(depths, oldest), ("waiting", "number"), as_json=False)
        print()
        print("\n".join([*_about(board), *(f"needs a look: {problem}" for problem in wrong)] or ["all is well"]))
    return 1 if wrong else 0


def problems(
    workers: Sequence[dict[str, object]], depths: Depths, oldest: float | None, board: BoardState | None, max_age: float
) -> list[str]:
    """What somebody should look at."""
    found = []
    if not any(worker["state"] == "alive" for worker in workers):
        found.append("no worker is at work")
    if depths.failed_jobs:
        found.append(f"{depths.failed_jobs} jobs have failed: zaqar-notify job list --failed")
    if oldest is not None and oldest > max_age:
        found.append(f"the oldest message that is not matched yet has been waiting for {oldest:.0f} s")
    if board is not None and board.error is not None:
        found.append(f"the job board does not answer: {board.error}")
    return found


def look_at_board(conf: cfg.ConfigOpts) -> BoardState | None:
    """None where there is to be none."""
    make = bootstrap.board_maker(conf)
    if make is None:
        return None
    from taskflow import exceptions

    kind, url = conf.cluster.jobboard, show.mask_url(conf.cluster.connection)
    board = make(0)
    try:
        board.connect()
        listing = board.listing()
        claimed = sum(board.find_owner(posting) is not None for posting in listing)
        return BoardState(kind, url, posted=len(listing), claimed=claimed)
    except (exceptions.TaskFlowException, *board.errors) as error:
        return BoardState(kind, url, error=" ".join(str(error).split()) or type(error).__name__)
    finally:
        board.close()


def _worker(member: Member, now: float, lease: float) -> dict[str, object]:
    """One that has not said for a whole lease that it lives has died; another worker will find it out."""
    shown = dataclasses.asdict(member)
    return {
        **shown,
        "state": "alive" if now - member.seen_at <= lease else "silent",
        "joined_at": show.instant(member.joined_at),
        "seen_at": show.instant(member.seen_at) if member.seen_at else None,
        "seen": round(max(0.0, now - member.seen_at)) if member.seen_at else None,
    }


def _ago(seconds: object) -> str | None:
    """None for a worker of an older version, which never says that it lives."""
    return None if seconds is None else f"{seconds} s ago"


def _backlog(depths: Depths, oldest: float | None) -> list[dict[str, object]]:
    waiting = {
        "messages to match": depths.outbox,
        "age of the oldest, in seconds": None if oldest is None else round(oldest),
        "deliveries that wait for a retry": depths.pending,
        "deliveries that are parked": depths.parked,
        "deliveries in flight for long": depths.in_flight,
        "open circuit breakers": depths.breakers,
        "jobs": depths.jobs,
        "jobs that have failed": depths.failed_jobs,
    }
    return [{"waiting": name, "number": number} for name, number in waiting.items()]


def _about(board: BoardState | None) -> list[str]:
    if board is None or board.error is not None:
        return []
    return [f"job board {board.url}: {board.posted} jobs, {board.claimed} of them claimed"]
