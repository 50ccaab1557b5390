"""What is settled again, because nobody could say what became of the commit."""

from __future__ import annotations

from tests.storage.contract import LANE, LEASE, NOW, StorageCase
from zaqar_notify.model import Draft, State
from zaqar_notify.storage.base import Closing, Failure, Settlement


class RepeatedConformance(StorageCase):
    def test_what_is_settled_again_is_settled_once(self) -> None:
        done, ended, waiting, parked = (self.subscribe(f"http://{name}/").id for name in "abcd")
        [message] = self.publish()
        token = self.take(self.storage.join()).token
        failed = {
            "log": self.failed(),
            "due_at": NOW,
            "attempts": 1,
            "lines": 1,
            "failure": Failure(NOW, True, 3, 1e9, "strikes", "longest"),
        }
        copies = (("out", Draft(b"1", 60)),)
        settled = [
            Settlement(message, done, token, from_row=False, log=self.delivered(), publish=copies),
            Settlement(message, ended, token, from_row=False, **failed),
            Settlement(message, waiting, token, from_row=False, **failed),
            Settlement(message, parked, token, from_row=False, park=LANE),
        ]
        self.assertEqual(0, self.storage.settle(settled))
        other = self.storage.join()
        rows = self.storage.take(other, LEASE, entries=0, rows=10)
        self.assertEqual({ended, waiting}, {row.subscription_id for row in rows.rows})
        end = Settlement(message, ended, rows.token, from_row=True, log=self.delivered(2))
        self.assertEqual(0, self.storage.settle([end]))
        self.assertEqual(0, self.storage.settle(settled))
        self.assertEqual(0, self.storage.settle(settled, [Closing(message, token)]))
        expected = [State.DELIVERED, State.DELIVERED, State.IN_FLIGHT, State.PARKED]
        self.assertEqual(expected, [self.state(message, one) for one in (done, ended, waiting, parked)])
        self.assertEqual(1, self.storage.stats("p", "out").free, "a copy is published once")
        self.assertEqual(1, self.storage.get_subscription("p", "q", waiting).strikes, "a failure counts once")
        last = Settlement(message, waiting, rows.token, from_row=True, log=self.delivered(2))
        self.assertEqual(0, self.storage.settle([last]), "who has taken it meanwhile keeps it")
