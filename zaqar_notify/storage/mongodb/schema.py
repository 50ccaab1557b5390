"""Making the collections and indexes, and telling whether they are those that this code needs.

The collection ``schema`` has one document: the ``revision`` that they have, and the ``oldest_reader``, the oldest revision
whose code may still work on them, so that old and new processes can run side by side while a service is upgraded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from zaqar_notify.errors import CannotStart
from zaqar_notify.storage.mongodb.collections import (
    COLLECTIONS,
    INDEXES,
    LANES,
    OLDEST_READER,
    REVISION,
    SCHEMA,
    Document,
)
from zaqar_notify.storage.mongodb.scope import Scope

_KEY = "schema"
_EXISTS = 48
_NOT_FOUND = 27
_UPGRADE = "run: zaqar-notify db upgrade"


def require_replica_set(hello: Mapping[str, Any]) -> None:
    """Or a cluster of them. ``hello``: what the server says of itself."""
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise CannotStart(
            "[storage] connection: this MongoDB server is no member of a replica set, and only those have transactions. "
            "Start mongod with --replSet and run rs.initiate() once; one member is enough"
        )


def revision(scope: Scope) -> int | None:
    found = _find(scope)
    return None if found is None else int(found["revision"])


def check(scope: Scope) -> None:
    """Raises `CannotStart` when they are not those that this code needs. Writes, so that it says whether writing works."""
    found = _find(scope)
    if found is None:
        raise CannotStart(f"The database has no schema yet; {_UPGRADE}")
    if found["revision"] < REVISION:
        raise CannotStart(f"The database has schema {found['revision']}, this version needs {REVISION}; {_UPGRADE}")
    if found["oldest_reader"] > REVISION:
        raise CannotStart(f"The database has schema {found['revision']}, which is too new for this version ({REVISION})")
    scope[SCHEMA].update_one({"_id": _KEY}, {"$inc": {"checks": 1}})


def _find(scope: Scope) -> Document | None:
    return scope[SCHEMA].find_one({"_id": _KEY})


def upgrade(database: Database[Document]) -> None:
    """Everything in it can be repeated, and done by two at once."""
    there = set(database.list_collection_names())
    for name in COLLECTIONS:
        if name not in there:
            # The first transaction that writes there would make it, and be in the way of all others.
            try:
                database.create_collection(name, check_exists=False)
            except OperationFailure as error:
                if error.code != _EXISTS:
                    raise
    for name, models in _models():
        _drop_changed(database[name], models)
        database[name].create_indexes(models)
    database[LANES].update_many({"pool": None}, {"$set": {"pool": ""}})
    stored = {"revision": REVISION, "oldest_reader": OLDEST_READER}
    database[SCHEMA].update_one({"_id": _KEY}, {"$set": stored}, upsert=True)


def _drop_changed(collection: Collection[Document], models: Iterable[IndexModel]) -> None:
    """Indexes of an earlier revision that had other fields under the same name."""
    there = collection.index_information()
    for model in models:
        name = model.document["name"]
        if name in there and list(model.document["key"].items()) != list(there[name]["key"]):
            try:
                collection.drop_index(name)
            except OperationFailure as error:
                if error.code != _NOT_FOUND:
                    raise


def _models() -> Iterator[tuple[str, list[IndexModel]]]:
    by_collection: dict[str, list[IndexModel]] = {}
    for collection, name, fields, options in INDEXES:
        model = IndexModel([(field, ASCENDING) for field in fields], name=name, **options)
        by_collection.setdefault(collection, []).append(model)
    yield from by_collection.items()
