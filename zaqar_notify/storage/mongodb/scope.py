"""The collections as one method sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pymongo
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from zaqar_notify.storage import ids
from zaqar_notify.storage.mongodb.collections import COUNTERS, Document

_AT_ONCE = 10_000
"""In one answer of the server where they fit, and not a hundred first."""


class Bound:
    """A collection as one method sees it: within its transaction, or its snapshot, or neither."""

    __slots__ = ("_collection", "_session")

    def __init__(self, collection: Collection[Document], session: ClientSession | None) -> None:
        self._collection = collection
        self._session = session

    def find(
        self,
        filter: Mapping[str, Any],
        projection: Any = None,
        *,
        sort: Sequence[tuple[str, int]] | None = None,
        limit: int = 0,
        hint: str | None = None,
    ) -> list[Document]:
        """All of them; ``limit`` 0 is no limit."""
        found = self._collection.find(
            filter, projection, sort=sort, limit=limit, hint=hint, batch_size=limit or _AT_ONCE, session=self._session
        )
        return found.to_list()

    def find_one(
        self,
        filter: Mapping[str, Any],
        projection: Any = None,
        *,
        sort: Sequence[tuple[str, int]] | None = None,
        hint: str | None = None,
    ) -> Document | None:
        return self._collection.find_one(filter, projection, sort=sort, hint=hint, session=self._session)

    def each(self, filter: Mapping[str, Any], projection: Any = None, **options: Any) -> Iterator[Document]:
        """A page of the server's answer at a time."""
        with self._collection.find(filter, projection, session=self._session, **options) as found:
            yield from found

    def aggregate(self, pipeline: Sequence[Mapping[str, Any]], *, hint: str | None = None) -> list[Document]:
        options: dict[str, Any] = {} if hint is None else {"hint": hint}
        return self._collection.aggregate(pipeline, session=self._session, batchSize=_AT_ONCE, **options).to_list()

    def count(self, filter: Mapping[str, Any], *, hint: str | None = None, limit: int | None = None) -> int:
        options: dict[str, Any] = {"hint": hint, "limit": limit}
        return self._collection.count_documents(
            filter, session=self._session, **{name: value for name, value in options.items() if value is not None}
        )

    def estimate(self) -> int:
        """How many documents the collection has, from what the server remembers: after a crash it may err by some. Not for
        transactions and snapshots."""
        return self._collection.estimated_document_count()

    def insert_one(self, document: Document) -> None:
        self._collection.insert_one(document, session=self._session)

    def insert_many(self, documents: Sequence[Document], *, ordered: bool = False) -> None:
        if documents:
            self._collection.insert_many(documents, ordered=ordered, session=self._session)

    def update_one(self, filter: Mapping[str, Any], update: Any, *, upsert: bool = False, hint: str | None = None) -> int:
        """How many it found."""
        return self._collection.update_one(filter, update, upsert=upsert, hint=hint, session=self._session).matched_count

    def update_many(self, filter: Mapping[str, Any], update: Any, *, hint: str | None = None) -> int:
        """How many it found."""
        return self._collection.update_many(filter, update, hint=hint, session=self._session).matched_count

    def find_one_and_update(
        self,
        filter: Mapping[str, Any],
        update: Any,
        projection: Any = None,
        *,
        sort: Sequence[tuple[str, int]] | None = None,
        upsert: bool = False,
        after: bool = True,
    ) -> Document | None:
        found: Document | None = self._collection.find_one_and_update(
            filter,
            update,
            projection,
            sort=sort,
            upsert=upsert,
            return_document=pymongo.ReturnDocument.AFTER if after else pymongo.ReturnDocument.BEFORE,
            session=self._session,
        )
        return found

    def delete_one(self, filter: Mapping[str, Any]) -> int:
        """How many are gone."""
        return self._collection.delete_one(filter, session=self._session).deleted_count

    def delete_many(self, filter: Mapping[str, Any], *, hint: str | None = None) -> int:
        """How many are gone."""
        return self._collection.delete_many(filter, hint=hint, session=self._session).deleted_count

    def bulk_write(self, requests: Sequence[Any], *, ordered: bool = False) -> Any:
        return self._collection.bulk_write(requests, ordered=ordered, session=self._session) if requests else None


class Scope:
    """The collections, by name, as one method sees them."""

    __slots__ = ("_bound", "_collections", "session")

    def __init__(self, collections: Database[Document], session: ClientSession | None = None) -> None:
        self._collections = collections
        self._bound: dict[str, Bound] = {}
        self.session = session

    def __getitem__(self, name: str) -> Bound:
        bound = self._bound.get(name)
        if bound is None:
            bound = self._bound[name] = Bound(self._collections[name], self.session)
        return bound

    def number(self, name: str) -> int:
        """The next number of a collection whose documents are counted: 1, 2, 3, with gaps. At once, whatever becomes of the
        transaction, so that two of them do not meet here."""
        return self.numbers(name, 1)[0]

    def numbers(self, name: str, count: int) -> Sequence[int]:
        """So many of them."""
        found = self._collections[COUNTERS].find_one_and_update(
            {"_id": name}, {"$inc": {"last": count}}, upsert=True, return_document=pymongo.ReturnDocument.AFTER
        )
        last = int(found["last"])  # type: ignore[index]  # an upsert finds one
        return range(last - count + 1, last + 1)

    def rising_id(self, name: str, now: float) -> int:
        """An id like those of messages, above all that this has given out before. At once, as `number`."""
        above = {"$add": [{"$ifNull": ["$last", 0]}, 1]}
        found = self._collections[COUNTERS].find_one_and_update(
            {"_id": name},
            [{"$set": {"last": {"$max": [above, ids.rising(0, now, 1)[0]]}}}],
            upsert=True,
            return_document=pymongo.ReturnDocument.AFTER,
        )
        return int(found["last"])  # type: ignore[index]  # an upsert finds one
