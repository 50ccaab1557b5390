"""A program: a worker that delivers huge fan-outs, and notes each delivery in a file before it answers."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable

from tests.flow.case import DELIVERED, KEY, LOG
from zaqar_notify.cluster import Cluster
from zaqar_notify.cluster import Settings as JobSettings
from zaqar_notify.encryption import Keyring
from zaqar_notify.lanes import Limits
from zaqar_notify.model import Delivery
from zaqar_notify.notifiers.base import BatchNotifier, Report
from zaqar_notify.notifiers.sending import Senders
from zaqar_notify.retry import Policy
from zaqar_notify.storage.sql.driver import SqlStorage
from zaqar_notify.wake import Listener
from zaqar_notify.worker import Settings, Worker

PAGE, CUT_AFTER, RANGE = 50, 200, 400
MOST_IN_FLIGHT, MICRO_BATCH = 60, 40


class Noting(BatchNotifier):
    def __init__(self, path: str) -> None:
        super().__init__(None, None, LOG)
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def send_many(self, deliveries: Iterable[Delivery], report: Report) -> None:
        for delivery in deliveries:
            os.write(self.file, f"{delivery.subscription.id}\n".encode())
            report(delivery, DELIVERED)


def main(database: str, directory: str, path: str) -> None:
    logging.disable(logging.CRITICAL)
    storage = SqlStorage(database, keyring=Keyring([KEY]), retention=604800.0)
    notifier = Noting(path)
    senders = Senders(lambda _: notifier, threads=1, timeout=1.0, max_timeout=20.0)
    worker = Worker(
        storage,
        senders.route,
        Listener(directory),
        settings=Settings(page=PAGE, cut_after=CUT_AFTER, micro_batch=MICRO_BATCH, poll_interval=0.05, settle_delay=0.01),
        limits=Limits(max_in_flight=MOST_IN_FLIGHT),
        policy=Policy(),
        jobs=Cluster(storage, JobSettings(range=RANGE, poll_interval=0.05)),
    )
    worker.start()
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
