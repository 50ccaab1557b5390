"""Queues and their metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from zaqar_notify.model import Queue
from zaqar_notify.storage.sql import publishing, statements
from zaqar_notify.storage.sql.tables import queues


def find(connection: Connection, project: str, name: str) -> int | None:
    number: int | None = connection.exec_driver_sql(statements.FIND_QUEUE, (project, name)).scalar()
    return number


def _find_to_change(connection: Connection, project: str, name: str) -> Row[Any] | None:
    return connection.exec_driver_sql(statements.FIND_QUEUE_TO_CHANGE, (project, name)).first()


def get(connection: Connection, project: str, name: str) -> Queue | None:
    found = connection.execute(_select(project).where(queues.c.name == name)).first()
    return None if found is None else _queue(*found)


def put(connection: Connection, project: str, name: str, metadata: str, now: float) -> bool:
    """True when it is new."""
    while (found := _find_to_change(connection, project, name)) is None:
        if publishing.make_queue(connection, project, name, now, metadata):
            return True
    _store(connection, found.id, metadata)
    return False


def change(
    connection: Connection, project: str, name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    found = _find_to_change(connection, project, name)
    if found is None:
        return None
    changed = json.dumps(dict(change(json.loads(found.metadata))))
    _store(connection, found.id, changed)
    metadata: Mapping[str, Any] = json.loads(changed)
    return metadata


def _store(connection: Connection, number: int, metadata: str) -> None:
    connection.execute(update(queues).where(queues.c.id == number).values(metadata=metadata))


def page(
    connection: Connection, project: str, marker: str | None, limit: int, *, name: str, metadata: Mapping[str, str]
) -> list[Queue]:
    query = _matching(_select(project), name).where(queues.c.name > (marker or "")).order_by(queues.c.name)
    if not metadata:
        return [_queue(*found) for found in connection.execute(query.limit(limit))]
    page: list[Queue] = []
    for found in _having(connection, query, metadata):
        page.append(found)
        if len(page) == limit:
            break
    return page


def count(connection: Connection, project: str, name: str, metadata: Mapping[str, str]) -> int:
    if metadata:
        return sum(1 for _ in _having(connection, _matching(_select(project), name), metadata))
    query = select(func.count()).where(queues.c.project == project, queues.c.deleted_at.is_(None))
    return int(connection.execute(_matching(query, name)).scalar_one())


def delete(connection: Connection, project: str, name: str, now: float) -> None:
    found = _find_to_change(connection, project, name)
    if found is not None:
        _end(connection, found.id, now)


def renew(connection: Connection, project: str, name: str, now: float) -> None:
    """A new queue takes the place of the old one, which keeps its messages and is pruned with them."""
    found = _find_to_change(connection, project, name)
    if found is not None:
        _end(connection, found.id, now)
        publishing.make_queue(connection, project, name, found.created_at, found.metadata)


def _end(connection: Connection, number: int, now: float) -> None:
    connection.execute(update(queues).where(queues.c.id == number).values(deleted_at=now, prune_at=now))


def _select(project: str) -> Select[Any]:
    column = queues.c
    return select(column.project, column.name, column.metadata, column.created_at).where(
        column.project == project, column.deleted_at.is_(None)
    )


def _matching(query: Select[Any], part: str) -> Select[Any]:
    """Not LIKE, which does not tell cases apart and knows wildcards."""
    return query.where(func.replace(queues.c.name, part, "") != queues.c.name) if part else query


def _having(connection: Connection, query: Select[Any], metadata: Mapping[str, str]) -> Iterator[Queue]:
    for row in connection.execute(query):
        found = _queue(*row)
        if all(key in found.metadata and _text(found.metadata[key]) == text for key, text in metadata.items()):
            yield found


def _text(value: Any) -> str:
    """What a filter compares with."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _queue(project: str, name: str, metadata: str, created_at: float) -> Queue:
    return Queue(project, name, json.loads(metadata), created_at)
