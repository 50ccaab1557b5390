"""An SQLite storage in a folder of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from tests.storage import conformance, processes
from zaqar_notify.storage.sql.driver import SqlStorage


class SqlCase(processes.ProcessCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        # Migrating takes longer than most tests.
        cls.empty = os.path.join(folder.name, "empty.db")
        storage = cls.storage_at(cls.empty)
        storage.upgrade()
        storage.close()

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.folder = folder.name
        self.path = os.path.join(self.folder, "notify.db")
        shutil.copyfile(self.empty, self.path)
        super().setUp()
        # After the storage is closed: cleanups run in reverse order.
        self._cleanups.insert(0, (folder.cleanup, (), {}))

    @staticmethod
    def storage_at(path: str, **options: Any) -> SqlStorage:
        values: dict[str, Any] = {"retention": conformance.RETENTION, "keyring": conformance.make_keyring(), **options}
        return SqlStorage(f"sqlite:///{path}", **values)

    def make_storage(self, clock: Callable[[], float], **options: Any) -> SqlStorage:
        return self.storage_at(self.path, clock=clock, **options)

    def another(self) -> SqlStorage:
        storage = self.storage_at(self.path, clock=self.clock)
        self.addCleanup(storage.close)
        return storage

    def opening(self) -> str:
        return f"from tests.storage.case import SqlCase\nstorage = SqlCase.storage_at({self.path!r})"
