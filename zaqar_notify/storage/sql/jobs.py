"""Long work: jobs and who holds them, and the huge fan-outs that are cut into ranges of subscribers.

Each statement that changes a job says all that has to be true of it, so that none depends on what was read before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import Job
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import CUT, RANGE, Closing, Entry
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.statements import json_list

_Run = Callable[..., Any]

_PARTS = ("message_id", "after", "last")
"""The details of a part of a fan-out, which are columns."""


# -- jobs ----------------------------------------------------------------------------------------------------------------------


def add(connection: Connection, project: str, kind: str, details: Mapping[str, Any], now: float) -> str:
    run = connection.exec_driver_sql
    message, after, last, queue = None, None, None, None
    if kind in (CUT, RANGE):
        message, after, last = (None if details.get(name) is None else ids.parse(details[name]) for name in _PARTS)
        queue = run(statements.FIND_QUEUE_OF_MESSAGE, (message,)).scalar()
        details = {name: value for name, value in details.items() if name not in _PARTS}
    return _insert(
        run, project, kind, now, details=json.dumps(dict(details)), message=message, queue=queue, after=after, last=last
    )


def _insert(run: _Run, project: str, kind: str, now: float, *, details: str = "{}", cancelled: int = 0, **part: Any) -> str:
    number = ids.rising(run(statements.LAST_JOB_ID).scalar_one(), now, 1)[0]
    values = {"id": number, "project": project, "kind": kind, "details": details, "now": now, "cancelled": cancelled, **part}
    run(statements.INSERT_JOB, values)
    return ids.show(number)


def page(connection: Connection, behind: int, limit: int, failed: bool | None) -> list[Job]:
    statement = statements.LIST_JOBS
    if failed is not None:
        statement = statements.LIST_FAILED_JOBS if failed else statements.LIST_OPEN_JOBS
    return [_job(*row) for row in connection.exec_driver_sql(statement, (behind, limit))]


def get(connection: Connection, number: int) -> Job | None:
    found = connection.exec_driver_sql(statements.GET_JOB, (number,)).first()
    return None if found is None else _job(*found)


def find_free(connection: Connection, now: float) -> int | None:
    """The oldest that nobody holds."""
    number: int | None = connection.exec_driver_sql(statements.FIND_FREE_JOB, (now,)).scalar()
    return number


def hold(connection: Connection, worker_id: int, number: int | None, now: float, until: float) -> Job | None:
    """``number`` None: the oldest that nobody holds."""
    wanted = find_free(connection, now) if number is None else number
    while wanted is not None:
        asked = {"worker": worker_id, "job": wanted, "now": now, "until": until}
        held = connection.exec_driver_sql(statements.HOLD_JOB, asked).first()
        if held is not None:
            return _job(*held)
        # Somebody was quicker.
        wanted = find_free(connection, now) if number is None else None
    return None


def change(connection: Connection, statement: str, worker_id: int, number: int, now: float, **values: Any) -> bool:
    """One of the statements that change a held job; False when this worker does not hold it."""
    return connection.exec_driver_sql(statement, {"job": number, "worker": worker_id, "now": now, **values}).rowcount > 0


def _job(number: int, *columns: Any) -> Job:
    project, kind, details, created_at, takes, worker_id, held_until, error, *part = columns
    shown: dict[str, Any] = json.loads(details)
    if kind in (CUT, RANGE):
        shown |= {name: None if value is None else ids.show(value) for name, value in zip(_PARTS, part, strict=True)}
    return Job(ids.show(number), project, kind, shown, created_at, takes, worker_id, held_until, error)


# -- fan-outs ------------------------------------------------------------------------------------------------------------------


def cut(connection: Connection, worker_id: int, number: int, size: int, now: float) -> bool:
    """One step; see `Storage.cut`."""
    run = connection.exec_driver_sql
    found = run(statements.JOB_TO_CUT, {"job": number, "kind": CUT, "worker": worker_id, "now": now}).first()
    if found is None:
        return False
    end = None
    if found.queue is not None:
        after = found.after_id or 0
        end = _end_of_range(run, found.project, found.queue, after, size - 1)
        if end is not None or _end_of_range(run, found.project, found.queue, after, 0) is not None:
            part = {"message": found.message_id, "queue": found.queue_id, "after": found.after_id, "last": end}
            _insert(run, found.project, RANGE, now, cancelled=found.cancelled, **part)
    if end is None:
        run(statements.REMOVE_JOB, {"job": number})
        return False
    run(statements.ADVANCE_CUT, {"job": number, "after": end})
    return True


def _end_of_range(run: _Run, project: str, queue: str, after: int, offset: int) -> int | None:
    number: int | None = run(statements.END_OF_RANGE, (project, queue, after, offset)).scalar()
    return number


def cut_entry(connection: Connection, closing: Closing, now: float) -> None:
    """A job takes the place of an outbox entry, whose lease has to be that of the closing."""
    run = connection.exec_driver_sql
    message, after = ids.parse(closing.message_id), None if closing.after is None else ids.parse(closing.after)
    found = run(statements.CUT_ENTRY, (message, closing.token)).first()
    if found is not None:
        project = run(statements.PROJECT_OF_QUEUE, (found.queue_id,)).scalar_one()
        part = {"message": message, "queue": found.queue_id, "after": after, "last": None}
        _insert(run, project, CUT, now, cancelled=found.cancelled, **part)


def close_page(run: _Run, closing: Closing) -> None:
    number = ids.parse(closing.job_id or "")
    if closing.after is None:
        run(statements.CLOSE_RANGE, (number, closing.token))
    else:
        run(statements.ADVANCE_RANGE, (ids.parse(closing.after), number, closing.token))


def take_pages(
    run: _Run, ranges: Collection[str], *, worker_id: int, token: int, now: float, until: float
) -> tuple[list[Entry], list[str]]:
    """The next pages of ranges, and those of the ranges that this worker does not hold."""
    if not ranges:
        return [], []
    asked = {name: ids.parse(name) for name in ranges}
    (listed,) = json_list(number for number in asked.values() if number is not None)
    held_by = {"asked": listed, "kind": RANGE, "worker": worker_id, "now": now}
    pages = run(statements.TAKE_PAGES, {**held_by, "token": token, "until": until}).all()
    held = set(run(statements.HELD_RANGES, held_by).scalars())
    entries = [
        Entry(ids.show(message), after and ids.show(after), 1, job_id=ids.show(number), last=last and ids.show(last))
        for number, message, after, last in sorted(pages)
    ]
    return entries, [name for name, number in asked.items() if number not in held]


def fences(run: _Run, numbers: Collection[int]) -> dict[int, tuple[int, int]]:
    """By job: the token of the page that is under a lease, and how many deliveries of the job were cancelled."""
    if not numbers:
        return {}
    return {number: (lease, cancelled) for number, lease, cancelled in run(statements.LEASED_PAGES, json_list(numbers))}
