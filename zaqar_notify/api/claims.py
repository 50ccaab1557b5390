"""Claims: messages that one consumer works on and nobody else sees meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api import messages
from zaqar_notify.api.body import read_body, read_json
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.queues import QueueSettings
from zaqar_notify.api.service import Service
from zaqar_notify.errors import NotFound
from zaqar_notify.model import Message

UNKNOWN = "There is no such claim on the queue: it never was, has expired or was released."


class Claims:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "claims:create"}

    def __init__(self, service: Service, settings: QueueSettings) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._settings = settings
        self._wake = service.wake
        self._clock = service.clock

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        project = req.context.project
        count = validation.page_size(req.get_param("limit"), self._limits.max_messages_per_claim_or_pop)
        size = self._limits.max_queue_metadata
        raw = read_body(req, size, "The claim")
        ttl, grace = validation.claim_terms(validation.parse_json(raw, size, "The claim") if raw else {}, self._limits)
        claimed = self._storage.claim(project, queue, count, ttl, grace)
        # What was claimed too often is posted to the dead-letter queue, whose subscribers are to be told.
        if self._settings.metadata(project, queue).get("_dead_letter_queue") is not None:
            self._wake()
        if claimed is None:
            resp.status = falcon.HTTP_204
            return
        claim, held = claimed
        resp.status = falcon.HTTP_201
        resp.location = href(queue, claim.id)
        resp.media = {"messages": _show(held, self._clock())}


class Claim:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {
        "GET": "claims:get",
        "PATCH": "claims:update",
        "DELETE": "claims:delete",
    }

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._clock = service.clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, claim_id: str) -> None:
        found = self._storage.get_claim(req.context.project, queue, claim_id)
        if found is None:
            raise NotFound(UNKNOWN)
        claim, held = found
        now = self._clock()
        resp.media = {
            "ttl": claim.ttl,
            "age": max(0, int(now - claim.created_at)),
            "href": href(queue, claim.id),
            "messages": _show(held, now),
        }

    def on_patch(self, req: falcon.Request, resp: falcon.Response, queue: str, claim_id: str) -> None:
        document = read_json(req, self._limits.max_queue_metadata, "The claim")
        ttl, grace = validation.claim_terms(document, self._limits)
        if not self._storage.update_claim(req.context.project, queue, claim_id, ttl, grace):
            raise NotFound(UNKNOWN)
        resp.status = falcon.HTTP_204

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str, claim_id: str) -> None:
        self._storage.release_claim(req.context.project, queue, claim_id)
        resp.status = falcon.HTTP_204


def href(queue: str, claim_id: str) -> str:
    return f"/v2/queues/{queue}/claims/{claim_id}"


def _show(held: Sequence[Message], now: float) -> list[dict[str, Any]]:
    return [messages.show(message, now) for message in held]
