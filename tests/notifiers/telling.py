"""A transport of a line each way, ``tell://host:port``: its server, and notifiers that are as they should be."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import socketserver
import threading
import time
import unittest
import urllib.parse
from collections.abc import Sequence
from typing import Any, ClassVar

from oslo_config import cfg

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers.base import BatchNotifier, Report, SingleNotifier


class TellServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, test: unittest.TestCase) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.told: list[bytes] = []
        thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        test.addCleanup(self.server_close)
        test.addCleanup(self.shutdown)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        if line.endswith(b"\n"):
            self.server.told.append(line)
            self.wfile.write(b"ok\n")


def address(subscription: Subscription) -> tuple[str, int]:
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(subscription.subscriber)
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    raise InvalidRequest("The subscriber has to be tell://host:port.")


def tell(delivery: Delivery) -> Outcome:
    try:
        with socket.create_connection(address(delivery.subscription), delivery.deadline - time.monotonic()) as connection:
            connection.settimeout(max(delivery.deadline - time.monotonic(), 0.01))
            connection.sendall(delivery.message.body_json + b"\n")
            if connection.makefile("rb").readline() != b"ok\n":
                return Outcome(OutcomeKind.RETRY, "no answer")
    except InvalidRequest as error:
        return Outcome(OutcomeKind.REJECTED, str(error), target=True)
    except OSError as error:
        return Outcome(OutcomeKind.RETRY, str(error))
    return Outcome(OutcomeKind.DELIVERED)


class _Checks:
    section: ClassVar[str] = "tell"
    options: ClassVar[list[cfg.Opt]] = [
        cfg.StrOpt("password", secret=True, help="Not used."),
        cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
    ]
    conf: Any

    def check(self, subscription: Subscription) -> None:
        address(subscription)
        if not isinstance(subscription.options.get("loud", False), bool):
            raise InvalidRequest("options.loud has to be true or false.")


class Tell(_Checks, SingleNotifier):
    def send(self, delivery: Delivery) -> Outcome:
        return Outcome(OutcomeKind.DELIVERED, "dry run: not sent") if self.conf.dry_run else tell(delivery)


class TellMany(_Checks, BatchNotifier):
    _pool: concurrent.futures.ThreadPoolExecutor | None = None

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(8)
        for delivery in deliveries:
            self._pool.submit(self._send, delivery, report)

    def _send(self, delivery: Delivery, report: Report) -> None:
        try:
            outcome = Outcome(OutcomeKind.DELIVERED, "dry run") if self.conf.dry_run else tell(delivery)
        except Exception as error:
            self.log.exception("a bug")
            outcome = Outcome(OutcomeKind.OURS, f"a bug: {type(error).__name__}")
        report(delivery, outcome)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
