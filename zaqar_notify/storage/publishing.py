"""Storing messages with their outbox entries. Functions of this and the next modules work within the caller's transaction."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from zaqar_notify.model import ENVELOPE_VERSION, Draft
from zaqar_notify.storage import ids, statements


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    project: str
    queue: str
    drafts: Sequence[Draft]
    client_id: str | None = None


def insert(connection: Connection, posts: Sequence[Post], now: float) -> list[list[int]]:
    """Returns the ids of each post's messages. Has to run under the write lock, for the ids' sake."""
    queues: dict[tuple[str, str], int] = {}
    last = 0
    for key in {(post.project, post.queue): None for post in posts if post.drafts}:
        found, last = connection.exec_driver_sql(statements.FIND_QUEUE_AND_LAST_MESSAGE, key).one()
        queues[key] = _make_queue(connection, *key, now) if found is None else found
    if not queues:
        return [[] for _ in posts]
    fresh = iter(ids.rising(last, now, sum(len(post.drafts) for post in posts)))
    messages: list[tuple[Any, ...]] = []
    given = []
    for post in posts:
        made = [_message(next(fresh), queues[post.project, post.queue], draft, post.client_id, now) for draft in post.drafts]
        messages += made
        given.append([message[0] for message in made])
    entries = [(message[0], message[1], 0, 0) for message in messages]
    for rows, inserted in ((statements.INSERT_MESSAGES, messages), (statements.INSERT_ENTRIES, entries)):
        for statement, values in rows.of(inserted):
            connection.exec_driver_sql(statement, values)
    return given


def _message(id: int, queue_id: int, draft: Draft, client_id: str | None, now: float) -> tuple[Any, ...]:
    expires_at = now + draft.ttl
    return (
        id,
        queue_id,
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


def ensure_queue(connection: Connection, project: str, name: str, now: float) -> None:
    if connection.exec_driver_sql(statements.FIND_QUEUE, (project, name)).first() is None:
        _make_queue(connection, project, name, now)


def _make_queue(connection: Connection, project: str, name: str, now: float) -> int:
    return int(connection.exec_driver_sql(statements.INSERT_QUEUE, (project, name, "{}", now)).scalar_one())


def json_list(values: Iterable[Any]) -> tuple[str]:
    """The parameters of a statement whose list is a ``json_each``."""
    return (json.dumps(list(values)),)
