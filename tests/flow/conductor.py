"""A program: what is a worker as far as jobs are concerned. Says when it has begun one, and never ends it."""

from __future__ import annotations

import sys
import threading

from tests.flow.case import KEY
from zaqar_notify import boards
from zaqar_notify.cluster import Cluster, Settings
from zaqar_notify.encryption import Keyring
from zaqar_notify.storage.sql.driver import SqlStorage


class Node:
    """A worker that delivers nothing."""

    def __init__(self, worker_id: int) -> None:
        self.id = worker_id

    def hold_range(self, job_id, ended):
        raise NotImplementedError

    def let_range_go(self, job_id):
        raise NotImplementedError


def main(kind: str, url: str, name: str, lease: str, database: str) -> None:
    storage = SqlStorage(database, keyring=Keyring([KEY]), retention=604800.0, body_retention=None)
    settings = boards.Settings(name, float(lease), 3.0)

    def hang(run):
        print("begun", run.job.id, flush=True)
        while run.goes_on(pause=20.0):
            """For ever."""
        return False

    times = Settings(lease=float(lease), poll_interval=0.05, repost_interval=0.1)
    cluster = Cluster(
        storage, times, lambda turn: boards.load(kind).make(boards.parse(kind, url), settings, turn), {"long": hang}
    )
    cluster.start(Node(storage.join("there", 2, "1")))
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
