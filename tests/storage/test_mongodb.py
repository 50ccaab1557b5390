from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo.write_concern import WriteConcern

from tests.servers import mongodb
from tests.storage import conformance, conformance_at_once, conformance_channels, conformance_windows
from zaqar_notify.storage.mongodb import collections
from zaqar_notify.storage.mongodb.driver import MongoStorage


class MongoCase(conformance.StorageCase):
    """A storage on a database of the test class, which is empty before each test."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        server = mongodb.shared()
        cls.url = server.new_database()
        cls.addClassCleanup(server.drop, cls.url)
        cls.client = mongodb.client(cls.url)
        cls.addClassCleanup(cls.client.close)
        cls.database = cls.client.get_default_database()
        storage = cls.storage_at(cls.url)
        storage.upgrade()
        storage.close()

    def setUp(self) -> None:
        self._empty()
        super().setUp()

    def _empty(self) -> None:
        """Whatever a test left: to drop and make the collections takes longer than most tests."""
        for name in collections.COLLECTIONS:
            if name != collections.SCHEMA:
                self.database.get_collection(name, write_concern=WriteConcern(1)).delete_many({})
        # What comes after sees what a majority has: with this, that has all of it.
        self.database[collections.SCHEMA].update_one({}, {"$inc": {"emptied": 1}})

    @staticmethod
    def storage_at(url: str, **options: Any) -> MongoStorage:
        values: dict[str, Any] = {"retention": conformance.RETENTION, "keyring": conformance.make_keyring(), **options}
        return MongoStorage(url, **values)

    def make_storage(self, clock: Callable[[], float], **options: Any) -> MongoStorage:
        return self.storage_at(self.url, clock=clock, **options)

    def another(self) -> MongoStorage:
        storage = self.storage_at(self.url, clock=self.clock)
        self.addCleanup(storage.close)
        return storage


class MongoConformanceTest(MongoCase, conformance.StorageConformance):
    def setUp(self) -> None:
        super().setUp()
        # About bodies and secrets that cannot be opened.
        self.catch_log()


class MongoChannelsTest(
    MongoCase,
    conformance_channels.ChannelsConformance,
    conformance_windows.RepeatedWindowConformance,
    conformance_at_once.AtOnceConformance,
    conformance_at_once.KilledHolderConformance,
):
    def opening(self) -> str:
        return f"from tests.storage.test_mongodb import MongoCase\nstorage = MongoCase.storage_at({self.url!r})"
