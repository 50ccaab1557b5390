"""Deliver again, to one subscription, what has failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import falcon

from zaqar_notify import replay
from zaqar_notify.api.body import read_json
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.queues import QueueSettings, default_ttl
from zaqar_notify.api.service import Service
from zaqar_notify.api.subscriptions import UNKNOWN
from zaqar_notify.errors import Conflict, NotFound
from zaqar_notify.model import Job
from zaqar_notify.storage.base import REPLAY, Storage

MOST_AT_ONCE = 10
"""Replays of a project that are not done: one that asks for many must not hold up those of others."""
_PAGE = 100
_MOST_PAGES = 20


class Replaying:
    """A job, which the workers do: there may be very many deliveries."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "deliveries:replay"}
    signable = False
    """Who may post messages by a pre-signed URL has no say in what becomes of them."""

    def __init__(self, service: Service, settings: QueueSettings) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._settings = settings
        self._wake = service.wake

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        asked = replay.parse(
            read_json(req, self._limits.max_messages_post_size, "The request"),
            now=self._storage.now(),
            default_ttl=default_ttl(self._settings.metadata(project, queue), self._limits),
            limits=self._limits,
        )
        if self._storage.get_subscription(project, queue, subscription_id) is None:
            raise NotFound(UNKNOWN)
        self._require_room(project, subscription_id)
        details = {"queue": queue, "subscription_id": subscription_id, **asked.details()}
        resp.media = {"job_id": self._storage.add_job(project, REPLAY, details)}
        resp.status = falcon.HTTP_202
        self._wake()

    def _require_room(self, project: str, subscription_id: str) -> None:
        mine = [job for job in _open_jobs(self._storage) if job.kind == REPLAY and job.project == project]
        if any(job.details.get("subscription_id") == subscription_id for job in mine):
            raise Conflict("A replay of this subscription is under way: wait until it is done.")
        if len(mine) >= MOST_AT_ONCE:
            raise Conflict(f"{len(mine)} replays of this project are under way: wait until one is done.")


def _open_jobs(storage: Storage) -> Iterator[Job]:
    """As far as one request looks."""
    marker = None
    for _ in range(_MOST_PAGES):
        page = storage.list_jobs(marker, _PAGE, failed=False)
        yield from page
        if len(page) < _PAGE:
            return
        marker = page[-1].id
