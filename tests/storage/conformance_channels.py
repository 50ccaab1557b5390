"""What the ways to the devices of people need of a storage: windows, receipts, hints, callbacks, pools. A driver's tests are a
class of `ChannelsConformance` with `make_storage`, beside that of `conformance.StorageConformance`."""

from __future__ import annotations

import collections

from tests.storage.conformance_callbacks import CallbackConformance
from tests.storage.conformance_hints import HintsConformance, TargetsConformance
from tests.storage.conformance_pools import PoolsConformance
from tests.storage.conformance_receipts import ReceiptsConformance, ReportsConformance
from tests.storage.conformance_windows import HeldConformance, SupersedingConformance, WaitingConformance
from tests.storage.contract import StorageCase


class ChannelsConformance(
    CallbackConformance,
    HintsConformance,
    TargetsConformance,
    PoolsConformance,
    ReceiptsConformance,
    ReportsConformance,
    WaitingConformance,
    SupersedingConformance,
    HeldConformance,
):
    def test_no_part_of_these_hides_what_another_has(self) -> None:
        parts = [one for one in ChannelsConformance.__mro__ if issubclass(one, StorageCase)]
        names = collections.Counter(name for one in parts for name in vars(one) if not name.startswith("_"))
        self.assertEqual([], [name for name, count in names.items() if count > 1 and name not in ("setUp", "make_storage")])
