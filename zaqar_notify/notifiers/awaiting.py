"""Which delivery a report of a message centre is about: by the ids that it gave to what it accepted from this process."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from zaqar_notify.model import ReceiptKind

MOST = 50_000
MOST_EARLY = 1000
"""Short messages whose report is awaited, and reports that came before the answer that says what they are about: the oldest are
forgotten."""

KINDS = {
    "DELIVRD": ReceiptKind.DEVICE,
    "EXPIRED": ReceiptKind.FAILED,
    "DELETED": ReceiptKind.FAILED,
    "UNDELIV": ReceiptKind.FAILED,
    "REJECTD": ReceiptKind.FAILED,
}
"""What a state in a report means (SMPP 3.4, appendix B); those that are not here (``ENROUTE``, ``ACCEPTD``, ``UNKNOWN``) end
nothing."""


class Report(NamedTuple):
    """What a message centre says of a short message later."""

    message_id: str
    state: str
    """``DELIVRD``, ``UNDELIV``, ``EXPIRED`` and so on."""
    error: str = ""
    """The network's own code."""


@dataclasses.dataclass(slots=True, eq=False)
class _Awaited:
    delivery_id: str
    left: int
    """Short messages of it that the device does not have yet."""
    ended: bool = False


class Awaiting:
    """To be used by one thread."""

    def __init__(self) -> None:
        self._awaited: collections.OrderedDict[str, _Awaited] = collections.OrderedDict()
        self._early: collections.OrderedDict[str, Report] = collections.OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._awaited)

    def accepted(self, delivery_id: str, message_ids: Iterable[str]) -> list[Report]:
        """All parts of a text were accepted, under these ids. Returns the reports of them that were here before that."""
        ids = set(message_ids)
        self._awaited.update(dict.fromkeys(ids, _Awaited(delivery_id, len(ids))))
        while len(self._awaited) > MOST:
            self._awaited.popitem(last=False)
        return [self._early.pop(one) for one in ids if one in self._early]

    def reported(self, report: Report) -> tuple[str, ReceiptKind] | None:
        """The delivery that this ends, and how: where all its parts have arrived, or the first that will not."""
        kind = KINDS.get(report.state)
        if kind is None:
            return None
        awaited = self._awaited.pop(report.message_id, None)
        if awaited is None:
            self._early[report.message_id] = report
            if len(self._early) > MOST_EARLY:
                self._early.popitem(last=False)
            return None
        awaited.left -= 1
        if awaited.ended or (kind is ReceiptKind.DEVICE and awaited.left):
            return None
        awaited.ended = True
        return awaited.delivery_id, kind
