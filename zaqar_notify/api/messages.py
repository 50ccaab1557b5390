"""Messages: posted, read, popped and deleted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api.body import read_body
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import next_links
from zaqar_notify.api.queues import QueueSettings, default_ttl
from zaqar_notify.api.service import Service
from zaqar_notify.errors import InvalidRequest, NotFound
from zaqar_notify.model import Message as MessageRecord


class Messages:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {
        "GET": "messages:get_all",
        "POST": "messages:create",
        "DELETE": "messages:delete_all",
    }

    def __init__(self, service: Service, settings: QueueSettings) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._settings = settings
        self._wake = service.wake
        self._clock = service.clock

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        limits = self._limits
        project = req.context.project
        size = limits.max_messages_post_size
        raw = read_body(req, size, "The request")
        metadata = self._settings.metadata(project, queue)
        # The operator may have lowered the limits since the queue's metadata was stored.
        size = min(size, metadata.get("_max_messages_post_size", size))
        ttl = default_ttl(metadata, limits)
        delay = min(limits.max_message_delay, metadata.get("_default_message_delay", limits.default_message_delay))
        document = validation.parse_json(raw, size, "The request")
        drafts = validation.messages(
            document, default_ttl=ttl, default_delay=delay, limits=limits, traceparent=req.get_header("traceparent")
        )
        ids = self._storage.publish(project, queue, drafts, req.context.client_id)
        req.context.published = len(ids)
        self._wake()
        path = f"/v2/queues/{queue}/messages"
        resp.status = falcon.HTTP_201
        # As many as one GET takes: a header with thousands of ids is more than clients and proxies read.
        resp.location = f"{path}?ids={','.join(ids[: limits.max_messages_per_page])}"
        resp.data = json.dumps({"resources": [f"{path}/{message_id}" for message_id in ids]}).encode()

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        ids = req.get_param_as_list("ids")
        resp.media = self._list(req, queue) if ids is None else self._read(req, queue, ids)

    def _read(self, req: falcon.Request, queue: str, ids: list[str]) -> dict[str, Any]:
        asked = validation.ids(ids, self._limits.max_messages_per_page, "ids")
        now = self._clock()
        found = (self._storage.get_message(req.context.project, queue, message_id) for message_id in asked)
        shown = [show(message, now) for message in found if message is not None]
        if not shown:
            raise NotFound("None of these messages is in the queue: they never were, have expired or were deleted.")
        return {"messages": shown}

    def _list(self, req: falcon.Request, queue: str) -> dict[str, Any]:
        asked = {name: req.get_param_as_bool(name, default=False) for name in ("echo", "include_claimed", "include_delayed")}
        limit = validation.page_size(req.get_param("limit"), self._limits.max_messages_per_page)
        found = self._storage.list_messages(
            req.context.project,
            queue,
            req.get_param("marker"),
            limit,
            None if asked["echo"] else req.context.client_id,
            claimed=asked["include_claimed"],
            delayed=asked["include_delayed"],
        )
        now = self._clock()
        # A full page has a next one even if that is empty yet: with its marker a reader waits for what comes.
        others = {name: "true" for name, wanted in asked.items() if wanted}
        links = next_links(req, found[-1].id, limit, others) if len(found) == limit else []
        return {"messages": [show(message, now) for message in found], "links": links}

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        ids, pop = req.get_param_as_list("ids"), req.get_param("pop")
        if (ids is None) == (pop is None):
            raise InvalidRequest("Say either which messages to delete, with ids, or how many to pop, with pop.")
        if ids is not None:
            self._delete(req, queue, ids)
            resp.status = falcon.HTTP_204
        elif pop is not None:
            resp.media = self._pop(req, queue, pop)

    def _delete(self, req: falcon.Request, queue: str, ids: list[str]) -> None:
        claim_ids = req.get_param_as_list("claim_ids")
        if claim_ids is None and self._limits.message_delete_with_claim_id:
            raise InvalidRequest("Messages are deleted with the ids of their claims only: add claim_ids.")
        self._storage.delete_messages(
            req.context.project,
            queue,
            self._some(ids, "ids"),
            None if claim_ids is None else self._some(claim_ids, "claim_ids"),
        )

    def _some(self, texts: list[str], what: str) -> list[str]:
        found = validation.ids(texts, self._limits.max_messages_per_claim_or_pop, what)
        if not found:
            raise InvalidRequest(f"{what} names nothing.")
        return found

    def _pop(self, req: falcon.Request, queue: str, text: str) -> dict[str, Any]:
        if req.get_param("claim_ids") is not None:
            raise InvalidRequest("claim_ids goes with ids: what is claimed cannot be popped.")
        count = validation.how_many(text, self._limits.max_messages_per_claim_or_pop, "pop")
        popped = self._storage.pop_messages(req.context.project, queue, count)
        now = self._clock()
        return {"messages": [show(message, now) for message in popped]}


class Message:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "messages:get", "DELETE": "messages:delete"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._clock = service.clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str) -> None:
        message = self._storage.get_message(req.context.project, queue, message_id)
        if message is None:
            raise NotFound("There is no such message in the queue: it never was, has expired or was deleted.")
        resp.media = show(message, self._clock())

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str) -> None:
        self._storage.delete_message(req.context.project, queue, message_id, req.get_param("claim_id"))
        resp.status = falcon.HTTP_204


def show(message: MessageRecord, now: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": message.id,
        "href": href(message),
        "ttl": message.ttl,
        "age": age(message, now),
    }
    if message.sealed:
        return shown | {"body": None, "sealed": True} | _manner(message)
    body = message.body
    shown |= {"body": body, "checksum": _checksum(body)}
    if message.attributes:
        shown["attributes"] = dict(message.attributes)
    return shown | _manner(message)


def _manner(message: MessageRecord) -> dict[str, str]:
    """What says how it is to be delivered, where that was posted: what clients of Zaqar see otherwise is what they know."""
    priority = None if message.priority is None else message.priority.text
    named = {"collapse_key": message.collapse_key, "priority": priority, "language": message.language}
    return {name: value for name, value in named.items() if value is not None}


def href(message: MessageRecord) -> str:
    """With the claim that has it: clients read the claim's id from there."""
    path = f"/v2/queues/{message.queue}/messages/{message.id}"
    return path if message.claim_id is None else f"{path}?claim_id={message.claim_id}"


def age(message: MessageRecord, now: float) -> int:
    """Whole seconds."""
    return max(0, int(now - message.created_at))


def _checksum(body: Any) -> str:
    """Over Python's default JSON text, as Zaqar's: a client makes it again from the body that it has parsed."""
    return "MD5:" + hashlib.md5(json.dumps(body).encode(), usedforsecurity=False).hexdigest()
