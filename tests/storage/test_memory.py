from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.storage import conformance, conformance_channels
from zaqar_notify.storage.memory import MemoryStorage


class MemoryCase(conformance.StorageCase):
    def make_storage(self, clock: Callable[[], float], **options: Any) -> MemoryStorage:
        values: dict[str, Any] = {"retention": conformance.RETENTION, "keyring": conformance.make_keyring(), **options}
        return MemoryStorage(clock=clock, **values)


class MemoryStorageTest(MemoryCase, conformance.StorageConformance):
    pass


class MemoryChannelsTest(MemoryCase, conformance_channels.ChannelsConformance):
    pass
