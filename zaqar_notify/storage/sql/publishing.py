"""Storing messages with their outbox entries. Functions of this and the next modules work within the caller's transaction."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import ENVELOPE_VERSION, Draft, MessageKind, Subscription
from zaqar_notify.storage import ids
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.codes import KIND_CODES
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import numbering, projects, statements
from zaqar_notify.storage.sql.statements import json_list


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
    subscription: int | None = None
    """They are for this one alone: readers never see them, and each has a row, due at once, instead of an entry."""
    kind: MessageKind = MessageKind.NOTIFICATION


class _Target:
    """A queue that is posted to, now."""

    __slots__ = ("bodies", "encrypts", "id", "now", "project_id", "retention")

    def __init__(self, found: Any, now: float, bodies: Bodies, retention: Retention) -> None:
        self.id: int = found.id
        self.project_id: int = found.project_id
        self.encrypts = bool(found.encrypts)
        self.now = now
        self.bodies = bodies
        self.retention = retention

    def message(self, number: int, draft: Draft, client_id: str | None) -> tuple[Any, ...]:
        """The parameters for INSERT_MESSAGES."""
        begins_at = self.now + draft.delay
        expires_at = begins_at + draft.ttl
        return (
            number,
            self.id,
            draft.body_json,
            json.dumps(dict(draft.attributes)) if draft.attributes else None,
            None if draft.parent_id is None else ids.parse(draft.parent_id),
            client_id,
            draft.ttl,
            self.now,
            expires_at,
            ENVELOPE_VERSION,
            self.retention.first_look(begins_at, expires_at),
        )

    def other_message(
        self,
        number: int,
        draft: Draft,
        client_id: str | None = None,
        *,
        free_at: float = 0.0,
        shown: bool = True,
        kind: MessageKind = MessageKind.NOTIFICATION,
        encrypts: bool = False,
    ) -> tuple[Any, ...]:
        """The parameters for INSERT_OTHER_MESSAGES."""
        encrypts = encrypts or self.encrypts
        if encrypts:
            draft = dataclasses.replace(draft, body_json=self.bodies.seal(number, draft.body_json))
        deleted_at = None if shown else self.now
        hints = draft.collapse_key, draft.priority and int(draft.priority), draft.language
        return (*self.message(number, draft, client_id), free_at, deleted_at, KIND_CODES[kind], encrypts, *hints)


def _targets(
    connection: Connection, keys: Iterable[tuple[str, str]], count: int, *, now: float, bodies: Bodies, retention: Retention
) -> tuple[dict[tuple[str, str], _Target], list[int]]:
    """With ids for so many messages. Nobody else posts there before this transaction has ended, so that ids rise in the order
    of commits."""
    targets: dict[tuple[str, str], _Target] = {}
    wanted = numbering.wanted(now, count)
    missing = sorted(keys)
    last = 0
    while missing:
        (asked,) = json_list(missing)
        for found in connection.exec_driver_sql(statements.FIND_QUEUES_TO_POST_TO, {**wanted, "asked": asked}).all():
            targets[found.project, found.name] = _Target(found, now, bodies, retention)
            last = found.last
        missing = [key for key in missing if key not in targets]
        for project, name in missing:
            make_queue(connection, project, name, now)
    return targets, numbering.above(last, wanted, count)


def insert(connection: Connection, posts: Sequence[Post], now: float, bodies: Bodies, retention: Retention) -> list[list[int]]:
    """Returns the ids of each post's messages."""
    keys = {(post.project, post.queue) for post in posts if post.drafts}
    if not keys:
        return [[] for _ in posts]
    count = sum(len(post.drafts) for post in posts)
    targets, numbers = _targets(connection, keys, count, now=now, bodies=bodies, retention=retention)
    fresh = iter(numbers)
    made = _Made()
    given = []
    for post in posts:
        numbers = list(itertools.islice(fresh, len(post.drafts)))
        for number, draft in zip(numbers, post.drafts, strict=True):
            made.add(number, draft, post, targets[post.project, post.queue])
        given.append(numbers)
    made.store(connection)
    return given


class _Made:
    """The rows to insert."""

    def __init__(self) -> None:
        self.plain: list[tuple[Any, ...]] = []
        self.others: list[tuple[Any, ...]] = []
        self.entries: list[tuple[Any, ...]] = []
        self.rows: list[tuple[Any, ...]] = []

    def add(self, number: int, draft: Draft, post: Post, target: _Target) -> None:
        due_at = 0.0
        if post.subscription is not None:
            self.others.append(target.other_message(number, draft, shown=False, kind=post.kind, encrypts=post.encrypts))
            expires_at = target.now + draft.delay + draft.ttl
            self.rows.append(statements.due_row(number, post.subscription, expires_at, target.project_id))
            return
        if post.hold is None and not draft.delay and not target.encrypts and not post.encrypts and not _has_hints(draft):
            self.plain.append(target.message(number, draft, post.client_id))
        else:
            due_at = free_at = target.now + draft.delay if draft.delay else 0.0
            if post.hold is not None:
                due_at = max(free_at, target.now + post.hold)
            shown = post.hold is None
            self.others.append(
                target.other_message(number, draft, post.client_id, free_at=free_at, shown=shown, encrypts=post.encrypts)
            )
        self.entries.append((number, target.id, due_at, 0, target.project_id))

    def store(self, connection: Connection) -> None:
        statements.store(
            connection,
            (statements.INSERT_MESSAGES, self.plain),
            (statements.INSERT_OTHER_MESSAGES, self.others),
            (statements.INSERT_ENTRIES, self.entries),
            (statements.PUT_ROWS, self.rows),
        )


def _has_hints(draft: Draft) -> bool:
    return draft.collapse_key is not None or draft.priority is not None or draft.language is not None


def insert_for_one(
    connection: Connection,
    subscription: Subscription,
    draft: Draft,
    kind: MessageKind,
    *,
    now: float,
    bodies: Bodies,
    retention: Retention,
) -> int:
    """A message that readers never see, with a row for this subscription alone instead of an outbox entry."""
    post = Post(subscription.project, subscription.queue, (draft,), subscription=ids.parse(subscription.id), kind=kind)
    [[number]] = insert(connection, [post], now, bodies, retention)
    return number


def ensure_queue(connection: Connection, project: str, name: str, now: float) -> None:
    """Nobody else changes it before this transaction has ended."""
    while connection.exec_driver_sql(statements.FIND_QUEUE_TO_CHANGE, (project, name)).first() is None:
        make_queue(connection, project, name, now)


def make_queue(connection: Connection, project: str, name: str, created_at: float, metadata: str = "{}") -> bool:
    """False when somebody else has just made it."""
    values = (project, name, metadata, created_at, projects.number_of(connection, project))
    return connection.exec_driver_sql(statements.INSERT_QUEUE, values).rowcount > 0
