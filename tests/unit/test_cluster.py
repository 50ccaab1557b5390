"""Which jobs are put on a board; tests/flow/test_boards.py has the boards."""

import types
import unittest

from tests.storage.contract import RETENTION, make_keyring
from zaqar_notify.cluster import Poster, Settings
from zaqar_notify.storage.base import CUT, REPLAY
from zaqar_notify.storage.memory import MemoryStorage


class List:
    """As much of a board as posting needs."""

    def __init__(self) -> None:
        self.posted: list[types.SimpleNamespace] = []

    def post(self, name: str, details: dict[str, str]) -> types.SimpleNamespace:
        self.posted.append(types.SimpleNamespace(name=name, details=details))
        return self.posted[-1]


class PosterTest(unittest.TestCase):
    def setUp(self) -> None:
        self.storage = MemoryStorage(keyring=make_keyring(), retention=RETENTION)
        self.board = List()
        self.poster = Poster(self.storage, Settings(most_posted=6))

    def post(self) -> list[str]:
        self.poster.hurry()
        return [posting.details["job_id"] for posting in self.poster.post_missing(self.board, list(self.board.posted))]

    def test_what_is_missing_is_posted_once_the_oldest_first(self) -> None:
        made = [self.storage.add_job("p", CUT, {}) for _ in range(8)]
        self.assertEqual(made[:6], self.post())
        self.assertEqual([], self.post())
        del self.board.posted[:2]
        self.assertEqual(made[:2], self.post())

    def test_replays_keep_no_fan_out_off_the_board(self) -> None:
        replays = [self.storage.add_job("p", REPLAY, {}) for _ in range(20)]
        fan_outs = [self.storage.add_job("p", CUT, {}) for _ in range(2)]
        self.assertEqual([*replays[:3], *fan_outs], self.post())
        del self.board.posted[0]
        self.assertEqual([replays[0]], self.post())
