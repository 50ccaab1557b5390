"""Queues: their metadata, what is in them, and who else may use them."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api.body import read_body, read_json
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import read_page
from zaqar_notify.api.service import Service
from zaqar_notify.errors import InvalidRequest, NotFound
from zaqar_notify.model import Message
from zaqar_notify.storage.base import Storage

PATCH_TYPE = "application/openstack-messaging-v2.0-json-patch"
PURGE_ALL = {"resource_types": ["messages", "subscriptions"]}


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
    return {**validation.reserved_defaults(limits), **metadata}


def default_ttl(metadata: Mapping[str, Any], limits: validation.Limits) -> int:
    """Of what is posted to the queue with this metadata. The operator may have lowered the limits since that was stored."""
    ttl: int = metadata.get("_default_message_ttl", limits.default_message_ttl)
    return min(limits.max_message_ttl, ttl)


class Queues:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "queues:get_all"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._limits = service.limits

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        project = req.context.project
        detailed = req.get_param_as_bool("detailed", default=False)
        wanted: Any = {"name": req.get_param("name") or "", "metadata": _metadata_wanted(req)}
        counted = req.get_param_as_bool("with_count", default=False)
        queues, links = read_page(
            req,
            self._limits.max_queues_per_page,
            lambda marker, limit: self._storage.list_queues(project, _name(marker), limit, **wanted),
            lambda queue: queue.name,
            {name: req.get_param(name, default="") for name in req.params if name not in {"marker", "limit"}},
        )
        shown: list[dict[str, Any]] = [{"name": queue.name, "href": f"/v2/queues/{queue.name}"} for queue in queues]
        if detailed:
            for entry, queue in zip(shown, queues, strict=True):
                entry["metadata"] = with_defaults(queue.metadata, self._limits)
        resp.media = {"queues": shown, "links": links}
        if counted:
            resp.media["count"] = self._storage.count_queues(project, **wanted)


_OWN_FIELDS = frozenset({"marker", "limit", "detailed", "name", "with_count"})


def _metadata_wanted(req: falcon.Request) -> dict[str, str]:
    """What is no field of the listing itself: the value that the queue's metadata has to have under the name."""
    wanted = {}
    for name in req.params.keys() - _OWN_FIELDS:
        [value, *more] = req.get_param_as_list(name, required=True)
        if more:
            raise InvalidRequest(f"The query names {name[:64]!r} twice: a queue's metadata has one value under each name.")
        wanted[name] = value
    return wanted


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

    def on_patch(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        if _media_type(req) != PATCH_TYPE:
            raise falcon.HTTPUnsupportedMediaType(
                description=f"A queue's metadata is changed with Content-Type: {PATCH_TYPE}.",
                headers={"Accept-Patch": PATCH_TYPE},
            )
        changes = validation.metadata_changes(read_json(req, self._limits.max_queue_metadata, "The request"))
        changed = self._storage.update_queue(
            req.context.project, queue, lambda metadata: validation.changed_metadata(metadata, changes, self._limits)
        )
        self._settings.forget(req.context.project, queue)
        if changed is None:
            raise NotFound("There is no such queue: make it with PUT first.")
        resp.media = with_defaults(changed, self._limits)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        self._storage.delete_queue(req.context.project, queue)
        self._settings.forget(req.context.project, queue)
        resp.status = falcon.HTTP_204


def _media_type(req: falcon.Request) -> str:
    return (req.content_type or "").partition(";")[0].strip().lower()


class QueueStats:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "queues:stats"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._clock = service.clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        stats = self._storage.stats(req.context.project, queue)
        shown: dict[str, Any] = {"claimed": stats.claimed, "free": stats.free, "total": stats.total}
        now = self._clock()
        for name, message in (("oldest", stats.oldest), ("newest", stats.newest)):
            if message is not None:
                shown[name] = _position(message, now)
        resp.media = {"messages": shown}


def _position(message: Message, now: float) -> dict[str, Any]:
    created = datetime.datetime.fromtimestamp(message.created_at, datetime.UTC)
    return {
        "href": f"/v2/queues/{message.queue}/messages/{message.id}",
        "age": max(0, int(now - message.created_at)),
        "ttl": message.ttl,
        "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class QueuePurge:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "queues:purge"}
    STEP = 500
    """Subscriptions that are deleted in one transaction."""

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._limits = service.limits

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        limit = self._limits.max_queue_metadata
        raw = read_body(req, limit, "The request")
        resources = validation.resources_to_purge(validation.parse_json(raw, limit, "The request") if raw else PURGE_ALL)
        project = req.context.project
        if "messages" in resources:
            self._storage.purge_messages(project, queue)
        if "subscriptions" in resources:
            while self._storage.purge_subscriptions(project, queue, self.STEP):
                pass
        resp.status = falcon.HTTP_204


class QueueShare:
    """Makes pre-signed URLs: for whoever has no other right in the project."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "queues:share"}

    def __init__(self, service: Service) -> None:
        self._limits = service.limits
        self._signer = service.signer
        self._clock = service.clock

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        document = read_json(req, self._limits.max_queue_metadata, "The request")
        share = validation.share(document, self._clock())
        paths = [f"/v2/queues/{queue}/{resource}" for resource in share.resources]
        resp.media = dataclasses.asdict(self._signer.sign(paths, share.methods, req.context.project, share.expires_at))
