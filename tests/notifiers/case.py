from __future__ import annotations

import queue
import socket
import threading
import time
import unittest
from typing import Any

from tests.notifiers.endpoint import OK, Behave, Endpoint
from zaqar_notify.guard import Guard
from zaqar_notify.notifiers.http import HttpClients, Request, Response

WAIT = 20.0
"""Seconds after which a test is taken to hang."""

LOOPBACK = ["127.0.0.0/8", "::1/128"]


def look_up(name: str) -> list[str]:
    """Names under ``.test`` lead to this machine, all others do not exist."""
    if name.endswith(".test"):
        return ["127.0.0.1"]
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class HttpCase(unittest.TestCase):
    def endpoint(self, reply: bytes | Behave = OK, **options: Any) -> Endpoint:
        endpoint = Endpoint(reply, **options)
        self.addCleanup(endpoint.close)
        return endpoint

    def clients(self, allowed: list[str] | None = None, **options: Any) -> HttpClients:
        guard = options.pop("guard", None) or Guard(LOOPBACK if allowed is None else allowed)
        clients = HttpClients(guard, max_timeout=20.0, **{"look_up": look_up, **options})
        self.addCleanup(clients.close)
        return clients

    def send(
        self,
        clients: HttpClients,
        *urls: str,
        timeout: float = WAIT,
        body: bytes = b"{}",
        internal: bool = False,
        **options: Any,
    ) -> list[Response]:
        """The responses, in the order of the URLs. ``internal``: through the engine that judges no address."""
        answers: queue.Queue[tuple[Request, Response]] = queue.Queue()
        requests = [
            Request(
                url,
                ["Content-Type: application/json"],
                body,
                time.monotonic() + timeout,
                lambda request, response: answers.put((request, response)),
                **options,
            )
            for url in urls
        ]
        (clients.internal_engine() if internal else clients.engine()).send_many(requests)
        found = dict(answers.get(timeout=WAIT) for _ in requests)
        return [found[request] for request in requests]

    def send_one(self, clients: HttpClients, url: str, **options: Any) -> Response:
        return self.send(clients, url, **options)[0]


def wait_for(event: threading.Event) -> None:
    if not event.wait(WAIT):
        raise TimeoutError("what the test waits for did not happen")
