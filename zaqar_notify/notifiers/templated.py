"""Notifiers whose requests can be made by templates. Each template is bounded, but thousands of them are not: they are not run
on the worker's own thread, which serves all others."""

from __future__ import annotations

import abc
import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from zaqar_notify.model import Delivery, Outcome, OutcomeKind
from zaqar_notify.notifiers.base import BatchNotifier, Report
from zaqar_notify.notifiers.http import HttpClients


class TemplatedNotifier(BatchNotifier):
    """What has templates is started from a thread of its own, one at a time; all else at once."""

    templated: ClassVar[bool] = True

    def __init__(self, conf: Any, http: HttpClients, log: logging.Logger) -> None:
        super().__init__(conf, http, log)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._aside: queue.SimpleQueue[tuple[Delivery, Report] | None] = queue.SimpleQueue()
        self._closing = False

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        plain = []
        for delivery in deliveries:
            if delivery.templates:
                self._put_aside(delivery, report)
            else:
                plain.append(delivery)
        if plain:
            self._start_many(plain, report)

    @abc.abstractmethod
    def _start_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        """As `send_many`; from any thread."""

    def close(self) -> None:
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is not None:
            self._aside.put(None)
            thread.join()

    def _put_aside(self, delivery: Delivery, report: Report) -> None:
        with self._lock:
            if not self._closing:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=f"{self.section}-templates", daemon=True)
                    self._thread.start()
                self._aside.put((delivery, report))
                return
        report(delivery, Outcome(OutcomeKind.OURS, "stopped"))

    def _run(self) -> None:
        while (item := self._aside.get()) is not None:
            delivery, report = item
            if self._closing:
                report(delivery, Outcome(OutcomeKind.OURS, "stopped"))
            elif time.monotonic() >= delivery.deadline:
                report(delivery, Outcome(OutcomeKind.OURS, "the templates of others took too long"))
            else:
                self._start(delivery, report)

    def _start(self, delivery: Delivery, report: Report) -> None:
        try:
            self._start_many([delivery], report)
        except Exception as error:  # a bug costs this delivery, not the thread
            self.log.exception("Delivery %s could not be sent", delivery.id)
            report(delivery, Outcome(OutcomeKind.OURS, f"The notifier failed: {type(error).__name__}"))
