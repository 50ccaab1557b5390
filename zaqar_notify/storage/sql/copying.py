"""Moving house: every record, table by table, from where another one was read last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from zaqar_notify.storage.sql import tables

KINDS: Mapping[str, Table] = {
    table.name: table
    for table in (
        tables.projects,
        tables.queues,
        tables.id_floors,
        tables.api_keys,
        tables.alerts,
        tables.subscriptions,
        tables.messages,
        tables.claims,
        tables.lanes,
        tables.outbox,
        tables.jobs,
        tables.deliveries,
        tables.delivery_log,
        tables.receipts,
        tables.windows,
    )
}
_DUE = {"lease": None, "due_at": 0.0}
_NOT_HELD = {"worker_id": None, "held_until": 0.0}


def count(connection: Connection) -> dict[str, int]:
    return {name: connection.execute(select(func.count()).select_from(table)).scalar_one() for name, table in KINDS.items()}


def read(connection: Connection, kind: str, after: Sequence[Any] | None, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
    table = KINDS[kind]
    key = list(table.primary_key.columns)
    query = select(table).order_by(*key).limit(limit)
    if after is not None:
        query = query.where(tuple_(*key) > tuple_(*after))
    records: list[Mapping[str, Any]] = [_without_lease(dict(row)) for row in connection.execute(query).mappings()]
    return records, [records[-1][column.name] for column in key] if records else after


def _without_lease(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("lease") is not None:
        record |= _DUE
    if record.get("held_until") is not None:
        record |= _NOT_HELD
    return record


def store(connection: Connection, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        return
    table = KINDS[kind]
    key = [column.name for column in table.primary_key.columns]
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
    others = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in key}
    statement = insert.on_conflict_do_update(index_elements=key, set_=others)
    # A record may leave out what it has not.
    connection.execute(statement, [{column.name: record.get(column.name) for column in table.columns} for record in records])
