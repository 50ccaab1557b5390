"""Queues and their metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zaqar_notify.model import Queue
from zaqar_notify.storage.mongodb import publishing
from zaqar_notify.storage.mongodb.collections import LIVE, QUEUES, Document
from zaqar_notify.storage.mongodb.scope import Scope

_SHOWN = ("project", "name", "metadata", "created_at")
_BY_NAME = "ix_queues_name"


def get(scope: Scope, project: str, name: str) -> Queue | None:
    found = publishing.find_queue(scope, project, name)
    return None if found is None else _queue(found)


def put(scope: Scope, project: str, name: str, metadata: str, now: float) -> bool:
    """True when it is new."""
    if scope[QUEUES].update_one({"project": project, "name": name, "deleted_at": LIVE}, {"$set": {"metadata": metadata}}):
        return False
    publishing.make_queue(scope, project, name, now, metadata)
    return True


def change(
    scope: Scope, project: str, name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    found = publishing.find_queue(scope, project, name)
    if found is None:
        return None
    changed = json.dumps(dict(change(json.loads(found["metadata"]))))
    scope[QUEUES].update_one({"_id": found["_id"]}, {"$set": {"metadata": changed}})
    metadata: Mapping[str, Any] = json.loads(changed)
    return metadata


def page(scope: Scope, project: str, marker: str | None, limit: int, *, name: str, metadata: Mapping[str, str]) -> list[Queue]:
    wanted = {**_like(project, name), "name": {**_containing(name), "$gt": marker or ""}}
    in_order: dict[str, Any] = {"sort": [("name", 1)], "hint": _BY_NAME}
    if not metadata:
        return [_queue(found) for found in scope[QUEUES].find(wanted, _SHOWN, limit=limit, **in_order)]
    page: list[Queue] = []
    for queue in _having(scope, wanted, metadata, **in_order):
        page.append(queue)
        if len(page) == limit:
            break
    return page


def count(scope: Scope, project: str, name: str, metadata: Mapping[str, str]) -> int:
    wanted = _like(project, name)
    if metadata:
        return sum(1 for _ in _having(scope, wanted, metadata))
    return scope[QUEUES].count(wanted, hint=_BY_NAME)


def delete(scope: Scope, project: str, name: str, now: float) -> None:
    found = publishing.find_queue(scope, project, name)
    if found is not None:
        _end(scope, found, now)


def renew(scope: Scope, project: str, name: str, now: float) -> None:
    """A new queue takes the place of the old one, which keeps its messages and is pruned with them."""
    found = publishing.find_queue(scope, project, name)
    if found is not None:
        _end(scope, found, now)
        publishing.make_queue(scope, project, name, found["created_at"], found["metadata"], last_id=found["last_id"])


def _end(scope: Scope, queue: Document, now: float) -> None:
    scope[QUEUES].update_one({"_id": queue["_id"]}, {"$set": {"deleted_at": now, "prune_at": now}})


def _like(project: str, part: str) -> dict[str, Any]:
    wanted: dict[str, Any] = {"project": project, "deleted_at": LIVE}
    return {**wanted, "name": _containing(part)} if part else wanted


def _containing(part: str) -> dict[str, Any]:
    if "\0" in part:
        return {"$in": []}  # no name has it, and no regular expression may
    return {"$regex": re.escape(part)} if part else {}


def _having(scope: Scope, wanted: Mapping[str, Any], metadata: Mapping[str, str], **options: Any) -> Iterator[Queue]:
    for document in scope[QUEUES].each(wanted, _SHOWN, **options):
        found = _queue(document)
        if all(key in found.metadata and _text(found.metadata[key]) == text for key, text in metadata.items()):
            yield found


def _text(value: Any) -> str:
    """What a filter compares with."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _queue(document: Document) -> Queue:
    return Queue(document["project"], document["name"], json.loads(document["metadata"]), document["created_at"])
