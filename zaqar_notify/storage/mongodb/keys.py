"""Keys of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zaqar_notify.errors import Conflict
from zaqar_notify.model import ApiKey
from zaqar_notify.storage.mongodb.collections import API_KEYS, Document, without_nulls
from zaqar_notify.storage.mongodb.scope import Scope


def add(scope: Scope, key: ApiKey) -> None:
    if scope[API_KEYS].find_one({"_id": key.id}, ["_id"]) is not None:
        raise Conflict("There is a key with this id already.")
    values = {
        "_id": key.id,
        "project": key.project,
        "roles": json.dumps(key.roles),
        "name": key.name,
        "secret_hash": key.secret_hash,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
    scope[API_KEYS].insert_one(without_nulls(values))


def get(scope: Scope, key_id: str) -> ApiKey | None:
    found = scope[API_KEYS].find_one({"_id": key_id})
    return None if found is None else _key(found)


def of(scope: Scope, project: str | None) -> list[ApiKey]:
    wanted: Mapping[str, Any] = {} if project is None else {"project": project}
    return [_key(found) for found in scope[API_KEYS].find(wanted, sort=[("created_at", 1), ("_id", 1)])]


def revoke(scope: Scope, key_id: str, now: float) -> bool:
    live = {"_id": key_id, "revoked_at": {"$exists": False}}
    return scope[API_KEYS].update_one(live, {"$set": {"revoked_at": now}}) > 0


def _key(found: Document) -> ApiKey:
    return ApiKey(
        found["_id"],
        found["project"],
        tuple(json.loads(found["roles"])),
        found["name"],
        found["secret_hash"],
        found["created_at"],
        found.get("revoked_at"),
    )
