"""`zaqar-notify job`: long jobs, listed, shown, retried and dropped while the service runs."""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Iterator

from zaqar_notify import __version__, errors
from zaqar_notify.commands import database, show
from zaqar_notify.model import Job
from zaqar_notify.storage.base import Storage

PAGE = 100
DROP_LEASE = 30.0
"""Seconds for which a job is held while it is dropped."""
_COLUMNS = ("id", "kind", "project", "state", "worker", "takes", "created_at", "about", "error")
_ABOUT = ("message_id", "queue", "subscription_id")


def list_jobs(arguments: argparse.Namespace) -> int:
    with database.opened(arguments) as (_, storage):
        now = storage.now()
        rows = [_row(job, now) for job in _jobs(storage, True if arguments.failed else None, arguments.limit)]
    show.print_rows(rows, _COLUMNS, arguments.json)
    return 0


def show_job(arguments: argparse.Namespace) -> int:
    with database.opened(arguments) as (_, storage):
        job, now = _get(storage, arguments.id), storage.now()
    print(json.dumps({**_row(job, now), "details": dict(job.details)}, indent=2))
    return 0


def retry(arguments: argparse.Namespace) -> int:
    with database.opened(arguments) as (_, storage):
        ids = arguments.ids if not arguments.all else [job.id for job in _jobs(storage, True, None)]
        for job_id in ids:
            _get(storage, job_id)
            if not storage.retry_job(job_id) and not arguments.all:
                raise errors.Conflict(f"Job {job_id} has not failed")
    return 0


def drop(arguments: argparse.Namespace) -> int:
    """Who finishes a job has to hold it: for a moment this process is a worker."""
    with database.opened(arguments) as (_, storage):
        job = _get(storage, arguments.id)
        worker_id = storage.join(socket.gethostname(), os.getpid(), __version__)
        try:
            if job.error is not None:
                storage.retry_job(job.id)
            if storage.hold_job(worker_id, DROP_LEASE, job.id) is None:
                holder = _get(storage, job.id).worker_id
                raise errors.Conflict(
                    f"Worker {holder} is at work on job {job.id}: try again when it is done, or stop it first"
                )
            storage.finish_job(worker_id, job.id)
        finally:
            storage.leave(worker_id)
    return 0


def _jobs(storage: Storage, failed: bool | None, limit: int | None) -> Iterator[Job]:
    """Page by page: there may be very many."""
    marker = None
    while limit is None or limit > 0:
        page = storage.list_jobs(marker, PAGE if limit is None else min(PAGE, limit), failed=failed)
        yield from page
        if len(page) < PAGE:
            return
        marker = page[-1].id
        limit = None if limit is None else limit - len(page)


def _get(storage: Storage, job_id: str) -> Job:
    job = storage.get_job(job_id)
    if job is None:
        raise errors.NotFound(
            f"There is no job {job_id}: it is done, or it never was; 'zaqar-notify job list' shows those there are"
        )
    return job


def _row(job: Job, now: float) -> dict[str, object]:
    held = job.held_until > now
    state = "failed" if job.error is not None else "running" if held else "waiting"
    return {
        "id": job.id,
        "kind": job.kind,
        "project": job.project,
        "state": state,
        "worker": job.worker_id if held else None,
        "takes": job.takes,
        "created_at": show.instant(job.created_at),
        "about": " ".join(str(job.details[name]) for name in _ABOUT if job.details.get(name)),
        "error": job.error,
    }
