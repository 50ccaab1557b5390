"""Storing messages with their outbox entries. Functions of this and the next modules work within the caller's transaction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import ENVELOPE_VERSION, Draft, MessageKind
from zaqar_notify.storage import ids, statements
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.tables import KIND_CODES


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    project: str
    queue: str
    drafts: Sequence[Draft]
    client_id: str | None = None
    hold: float | None = None
    """Readers never see the messages, and their entries come due only after so many seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """A queue that is posted to."""

    id: int
    encrypts: bool


def insert(connection: Connection, posts: Sequence[Post], now: float, bodies: Bodies) -> list[list[int]]:
    """Returns the ids of each post's messages. Has to run under the write lock, for the ids' sake."""
    keys = {(post.project, post.queue): None for post in posts if post.drafts}
    if not keys:
        return [[] for _ in posts]
    targets = {key: _target(connection, *key, now) for key in keys}
    fresh = iter(_new_ids(connection, now, sum(len(post.drafts) for post in posts)))
    made = _Made()
    given = []
    for post in posts:
        numbers = []
        for draft in post.drafts:
            number = next(fresh)
            numbers.append(number)
            made.add(number, targets[post.project, post.queue], draft, post, now, bodies)
        given.append(numbers)
    for rows, inserted in (
        (statements.INSERT_MESSAGES, made.plain),
        (statements.INSERT_OTHER_MESSAGES, made.others),
        (statements.INSERT_ENTRIES, made.entries),
    ):
        for statement, values in rows.of(inserted):
            connection.exec_driver_sql(statement, values)
    return given


class _Made:
    """The rows to insert."""

    def __init__(self) -> None:
        self.plain: list[tuple[Any, ...]] = []
        self.others: list[tuple[Any, ...]] = []
        self.entries: list[tuple[Any, ...]] = []

    def add(self, number: int, target: _Target, draft: Draft, post: Post, now: float, bodies: Bodies) -> None:
        if post.hold is None and not draft.delay and not target.encrypts:
            self.plain.append(_message(number, target, draft, post.client_id, now))
            self.entries.append((number, target.id, 0, 0))
            return
        held = None if post.hold is None else now + post.hold
        free_at = now + draft.delay if draft.delay else 0.0
        self.others.append(
            _other_message(number, target, draft, post.client_id, now, bodies, free_at=free_at, shown=held is None)
        )
        self.entries.append((number, target.id, free_at if held is None else max(held, free_at), 0))


def _message(number: int, target: _Target, draft: Draft, client_id: str | None, now: float) -> tuple[Any, ...]:
    """The parameters for INSERT_MESSAGES."""
    expires_at = now + draft.delay + draft.ttl
    return (
        number,
        target.id,
        draft.body_json,
        json.dumps(dict(draft.attributes)) if draft.attributes else None,
        None if draft.parent_id is None else ids.parse(draft.parent_id),
        client_id,
        draft.ttl,
        now,
        expires_at,
        ENVELOPE_VERSION,
        expires_at,
    )


def _other_message(
    number: int,
    target: _Target,
    draft: Draft,
    client_id: str | None,
    now: float,
    bodies: Bodies,
    *,
    free_at: float = 0.0,
    shown: bool = True,
    kind: MessageKind = MessageKind.NOTIFICATION,
) -> tuple[Any, ...]:
    """The parameters for INSERT_OTHER_MESSAGES."""
    if target.encrypts:
        draft = dataclasses.replace(draft, body_json=bodies.seal(number, draft.body_json))
    row = _message(number, target, draft, client_id, now)
    return (*row, free_at, None if shown else now, KIND_CODES[kind], target.encrypts)


def insert_confirmation(
    connection: Connection, project: str, queue: str, subscription: int, draft: Draft, now: float, bodies: Bodies
) -> None:
    """A message that readers never see, with a row for this subscription alone instead of an outbox entry."""
    target = _target(connection, project, queue, now)
    number = _new_ids(connection, now, 1)[0]
    message = _other_message(number, target, draft, None, now, bodies, shown=False, kind=MessageKind.CONFIRMATION)
    row = (number, subscription, None, 0, None, 0, 0, now + draft.delay + draft.ttl)
    for rows, inserted in ((statements.INSERT_OTHER_MESSAGES, message), (statements.PUT_ROWS, row)):
        for statement, values in rows.of([inserted]):
            connection.exec_driver_sql(statement, values)


def ensure_queue(connection: Connection, project: str, name: str, now: float) -> None:
    if connection.exec_driver_sql(statements.FIND_QUEUE, (project, name)).first() is None:
        _make_queue(connection, project, name, now)


def _target(connection: Connection, project: str, name: str, now: float) -> _Target:
    found = connection.exec_driver_sql(statements.FIND_QUEUE_TO_POST_TO, (project, name)).first()
    if found is None:
        return _Target(_make_queue(connection, project, name, now), encrypts=False)
    return _Target(found.id, encrypts=bool(found.encrypts))


def _make_queue(connection: Connection, project: str, name: str, now: float) -> int:
    return int(connection.exec_driver_sql(statements.INSERT_QUEUE, (project, name, "{}", now)).scalar_one())


def _new_ids(connection: Connection, now: float, count: int) -> list[int]:
    return ids.rising(connection.exec_driver_sql(statements.LAST_MESSAGE_ID).scalar_one(), now, count)


def json_list(values: Iterable[Any]) -> tuple[str]:
    """The parameters of a statement whose list is a ``json_each``."""
    return (json.dumps(list(values)),)
