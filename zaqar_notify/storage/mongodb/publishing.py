"""Storing messages with their outbox entries. Functions of this and the next modules work within the caller's transaction."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence

from pymongo import UpdateOne

from zaqar_notify.model import ENVELOPE_VERSION, Draft, MessageKind
from zaqar_notify.storage import ids
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.codes import KIND_CODES
from zaqar_notify.storage.mongodb import floors, projects
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    LIVE,
    MESSAGES,
    OUTBOX,
    QUEUES,
    Document,
    delivery_key,
    without_nulls,
)
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.retention import Retention

_ENCRYPTS = "_enable_encrypt_messages"


@dataclasses.dataclass(slots=True)
class Means:
    """What storing messages takes, beside a transaction."""

    bodies: Bodies
    retention: Retention
    last_id: int = 0
    """The greatest that this process has given out: its own ids rise over all queues."""


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    project: str
    queue: str
    drafts: Sequence[Draft]
    client_id: str | None = None
    hold: float | None = None
    """Readers never see the messages, and their entries come due only after so many seconds."""
    encrypts: bool = False
    """Also where the queue does not."""


class _Target:
    """A queue that is posted to, now."""

    __slots__ = ("_means", "_now", "encrypts", "id", "project_id")

    def __init__(self, queue: Document, now: float, means: Means) -> None:
        self.id: int = queue["_id"]
        self.project_id: int = queue["project_id"]
        metadata = queue["metadata"]
        # Looking for the name in the text first: large metadata without it is not parsed.
        self.encrypts = _ENCRYPTS in metadata and json.loads(metadata).get(_ENCRYPTS) is True
        self._now = now
        self._means = means

    def message(
        self,
        number: int,
        draft: Draft,
        client_id: str | None = None,
        *,
        shown: bool = True,
        kind: MessageKind = MessageKind.NOTIFICATION,
        encrypts: bool = False,
    ) -> Document:
        now, body = self._now, draft.body_json
        encrypts = encrypts or self.encrypts
        if encrypts:
            body = self._means.bodies.seal(number, body)
        begins_at = now + draft.delay
        expires_at = begins_at + draft.ttl
        optional = {
            "attributes": json.dumps(dict(draft.attributes)) if draft.attributes else None,
            "parent_id": None if draft.parent_id is None else ids.parse(draft.parent_id),
            "client_id": client_id,
            "collapse_key": draft.collapse_key,
            "priority": None if draft.priority is None else int(draft.priority),
            "language": draft.language,
        }
        return {
            "_id": number,
            "queue_id": self.id,
            "body": body,
            "ttl": draft.ttl,
            "created_at": now,
            "expires_at": expires_at,
            "deleted_at": LIVE if shown else now,
            "version": ENVELOPE_VERSION,
            "prune_at": self._means.retention.first_look(begins_at, expires_at),
            "free_at": begins_at if draft.delay else 0.0,
            "claims": 0,
            "kind": KIND_CODES[kind],
            "encrypted": encrypts,
            **without_nulls(optional),
        }

    def entry(self, number: int, draft: Draft, hold: float | None) -> Document:
        due_at = self._now + draft.delay if draft.delay else 0.0
        if hold is not None:
            due_at = max(due_at, self._now + hold)
        return {
            "_id": number,
            "queue_id": self.id,
            "due_at": due_at,
            "takes": 0,
            "project_id": self.project_id,
            "cancelled": 0,
        }


def insert(scope: Scope, posts: Sequence[Post], now: float, means: Means) -> list[list[int]]:
    """Returns the ids of each post's messages."""
    keys = {(post.project, post.queue): None for post in posts if post.drafts}
    if not keys:
        return [[] for _ in posts]
    count = sum(len(post.drafts) for post in posts)
    reserved = _reserve(scope, next(iter(keys)), now, means, count) if len(keys) == 1 else None
    if reserved is None:
        queues = _find_or_make(scope, keys, now)
        reserved = queues, give_ids(scope, queues.values(), now, means, count)
    queues, numbers = reserved
    fresh = iter(numbers)
    targets = {key: _Target(queue, now, means) for key, queue in queues.items()}
    messages: list[Document] = []
    entries: list[Document] = []
    given = []
    for post in posts:
        numbers = list(itertools.islice(fresh, len(post.drafts)))
        for number, draft in zip(numbers, post.drafts, strict=True):
            target = targets[post.project, post.queue]
            messages.append(target.message(number, draft, post.client_id, shown=post.hold is None, encrypts=post.encrypts))
            entries.append(target.entry(number, draft, post.hold))
        given.append(numbers)
    scope[MESSAGES].insert_many(messages)
    scope[OUTBOX].insert_many(entries)
    return given


def insert_for_one(scope: Scope, post: Post, subscription: int, kind: MessageKind, *, now: float, means: Means) -> int:
    """One message that readers never see, with a row for this subscription alone instead of an outbox entry."""
    [draft] = post.drafts
    queue = ensure_queue(scope, post.project, post.queue, now)
    number = give_ids(scope, [queue], now, means, 1)[0]
    target = _Target(queue, now, means)
    scope[MESSAGES].insert_one(target.message(number, draft, shown=False, kind=kind, encrypts=post.encrypts))
    scope[DELIVERIES].insert_one(
        {
            "_id": delivery_key(number, subscription),
            "subscription_id": subscription,
            "due_at": 0.0,
            "attempts": 0,
            "lines": 0,
            "expires_at": now + draft.delay + draft.ttl,
            "project_id": target.project_id,
            "again": 0,
        }
    )
    return number


# -- queues --------------------------------------------------------------------------------------------------------------------


def _find_or_make(scope: Scope, keys: Collection[tuple[str, str]], now: float) -> dict[tuple[str, str], Document]:
    names: dict[str, list[str]] = {}
    for project, name in keys:
        names.setdefault(project, []).append(name)
    conditions = [{"project": project, "name": {"$in": asked}, "deleted_at": LIVE} for project, asked in names.items()]
    if not conditions:
        return {}
    found = scope[QUEUES].find(conditions[0] if len(conditions) == 1 else {"$or": conditions})
    queues = {(queue["project"], queue["name"]): queue for queue in found}
    return {key: queues.get(key) or make_queue(scope, *key, now) for key in keys}


def find_queue(scope: Scope, project: str, name: str) -> Document | None:
    return scope[QUEUES].find_one({"project": project, "name": name, "deleted_at": LIVE})


def ensure_queue(scope: Scope, project: str, name: str, now: float) -> Document:
    return find_queue(scope, project, name) or make_queue(scope, project, name, now)


def make_queue(scope: Scope, project: str, name: str, created_at: float, metadata: str = "{}", *, last_id: int = 0) -> Document:
    queue = {
        "_id": scope.number(QUEUES),
        "project": project,
        "name": name,
        "metadata": metadata,
        "created_at": created_at,
        "deleted_at": LIVE,
        "project_id": projects.number_of(scope, project),
        "last_id": max(last_id, floors.of_new_queue(scope)),
    }
    scope[QUEUES].insert_one(queue)
    return queue


def _reserve(
    scope: Scope, key: tuple[str, str], now: float, means: Means, count: int
) -> tuple[dict[tuple[str, str], Document], list[int]] | None:
    """`_find_or_make` and `give_ids` in one step, for one queue that is there. Where many post to one queue each step counts:
    from the first to the commit the others wait."""
    project, name = key
    drafted = ids.rising(means.last_id, now, count)
    first = {"$max": [{"$add": ["$last_id", 1]}, drafted[0]]}
    found = scope[QUEUES].find_one_and_update(
        {"project": project, "name": name, "deleted_at": LIVE},
        [{"$set": {"last_id": {"$add": [first, drafted[-1] - drafted[0]]}}}],
    )
    if found is None:
        return None
    means.last_id = found["last_id"]
    above = found["last_id"] - drafted[-1]
    return {key: found}, [above + number for number in drafted]


def give_ids(scope: Scope, queues: Collection[Document], now: float, means: Means, count: int) -> list[int]:
    """Ids above all that were given to any of these queues before, which from now on have these."""
    floor = max(means.last_id, *(queue["last_id"] for queue in queues))
    given = ids.rising(floor, now, count)
    means.last_id = given[-1]
    scope[QUEUES].bulk_write([UpdateOne({"_id": queue["_id"]}, {"$set": {"last_id": given[-1]}}) for queue in queues])
    for queue in queues:
        queue["last_id"] = given[-1]
    return given
