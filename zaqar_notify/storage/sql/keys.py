"""Keys of the API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from zaqar_notify.errors import Conflict
from zaqar_notify.model import ApiKey
from zaqar_notify.storage.sql import statements
from zaqar_notify.storage.sql.tables import api_keys


def add(connection: Connection, key: ApiKey) -> None:
    roles = json.dumps(key.roles)
    values = (key.id, key.project, roles, key.name, key.secret_hash, key.created_at, key.revoked_at)
    if not connection.exec_driver_sql(statements.INSERT_KEY, values).rowcount:
        raise Conflict("There is a key with this id already.")


def get(connection: Connection, key_id: str) -> ApiKey | None:
    found = connection.exec_driver_sql(statements.GET_KEY, (key_id,)).first()
    return None if found is None else _key(found)


def of(connection: Connection, project: str | None) -> list[ApiKey]:
    column = api_keys.c
    query = select(api_keys).order_by(column.created_at, column.id)
    if project is not None:
        query = query.where(column.project == project)
    return [_key(found) for found in connection.execute(query)]


def revoke(connection: Connection, key_id: str, now: float) -> bool:
    column = api_keys.c
    live = update(api_keys).where(column.id == key_id, column.revoked_at.is_(None))
    return connection.execute(live.values(revoked_at=now)).rowcount > 0


def _key(row: Sequence[Any]) -> ApiKey:
    number, project, roles, name, secret_hash, created_at, revoked_at = row
    return ApiKey(number, project, tuple(json.loads(roles)), name, secret_hash, created_at, revoked_at)
