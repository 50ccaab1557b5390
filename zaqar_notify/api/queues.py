"""Queues and their metadata."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api.body import read_body
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import read_page
from zaqar_notify.api.service import Service
from zaqar_notify.storage.base import Storage


class QueueSettings:
    """The metadata of queues that act on posting, remembered for a moment: posting reads them with every request.

    What this process changes is seen at once, what another API process changes after ``LIFETIME`` seconds.
    """

    LIFETIME = 0.1
    MOST = 10_000

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}

    def metadata(self, project: str, name: str) -> Mapping[str, Any]:
        now = time.monotonic()
        known = self._known.get((project, name))
        if known is not None and known[0] > now:
            return known[1]
        queue = self._storage.get_queue(project, name)
        metadata = {} if queue is None else queue.metadata
        if len(self._known) >= self.MOST:
            self._known.clear()
        self._known[project, name] = (now + self.LIFETIME, metadata)
        return metadata

    def forget(self, project: str, name: str) -> None:
        self._known.pop((project, name), None)


def with_defaults(metadata: Mapping[str, Any], limits: validation.Limits) -> dict[str, Any]:
    """The metadata with the reserved names that are not set, as Zaqar shows them."""
    return {
        "_max_messages_post_size": limits.max_messages_post_size,
        "_default_message_ttl": limits.default_message_ttl,
        "_default_message_delay": 0,
        "_dead_letter_queue": None,
        "_dead_letter_queue_messages_ttl": None,
        "_max_claim_count": None,
        "_enable_encrypt_messages": False,
        **metadata,
    }


class Queues:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "queues:get_all"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._limits = service.limits

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        project = req.context.project
        detailed = req.get_param_as_bool("detailed", default=False)
        queues, links = read_page(
            req,
            self._limits.max_queues_per_page,
            lambda marker, limit: self._storage.list_queues(project, _name(marker), limit),
            lambda queue: queue.name,
            **({"detailed": "true"} if detailed else {}),
        )
        shown: list[dict[str, Any]] = [{"name": queue.name, "href": f"/v2/queues/{queue.name}"} for queue in queues]
        if detailed:
            for entry, queue in zip(shown, queues, strict=True):
                entry["metadata"] = with_defaults(queue.metadata, self._limits)
        resp.media = {"queues": shown, "links": links}


def _name(marker: str | None) -> str | None:
    if marker is not None:
        validation.check_queue_name(marker)
    return marker


class Queue:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {
        "GET": "queues:get",
        "PUT": "queues:create",
        "PATCH": "queues:update",
        "DELETE": "queues:delete",
    }

    def __init__(self, service: Service, settings: QueueSettings) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._settings = settings

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        found = self._storage.get_queue(req.context.project, queue)
        resp.media = with_defaults({} if found is None else found.metadata, self._limits)

    def on_put(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        limit = self._limits.max_queue_metadata
        raw = read_body(req, limit, "The queue's metadata")
        document = validation.parse_json(raw, limit, "The queue's metadata") if raw else {}
        metadata = validation.queue_metadata(document, self._limits)
        created = self._storage.put_queue(req.context.project, queue, metadata)
        self._settings.forget(req.context.project, queue)
        resp.status = falcon.HTTP_201 if created else falcon.HTTP_204
        resp.location = f"/v2/queues/{queue}"

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        self._storage.delete_queue(req.context.project, queue)
        self._settings.forget(req.context.project, queue)
        resp.status = falcon.HTTP_204
