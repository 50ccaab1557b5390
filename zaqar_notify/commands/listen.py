"""`zaqar-notify listen`: a small receiver for webhooks that says how to subscribe it, and prints what comes."""

from __future__ import annotations

import argparse
import http.server
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from zaqar_notify import errors, signing
from zaqar_notify.commands import address, curl

MAX_BODY = 1 << 20
"""Bytes of a notification that are read."""


def run(arguments: argparse.Namespace) -> int:
    secret = arguments.secret or signing.make_secret()
    receiver = Receiver(
        arguments.host,
        arguments.port,
        key=parse_secret(secret),
        status=arguments.status,
        delay=arguments.delay,
        output=lambda line: print(line, flush=True),
    )
    with receiver:
        for number in (signal.SIGINT, signal.SIGTERM):
            # shutdown() waits for the loop that this handler has interrupted.
            signal.signal(number, lambda *_: threading.Thread(target=receiver.shutdown).start())
        document = {"subscriber": receiver.url, "options": {"secret": secret}}
        line = curl.post(f"{arguments.url.rstrip('/')}/v2/queues/{arguments.queue}/subscriptions", document, arguments.project)
        print(f"Listening on {receiver.url}. Ctrl-C ends it.\n\nSubscribe it, in another terminal:\n\n{line}\n", flush=True)
        receiver.serve_forever(poll_interval=0.1)
    return 0


def parse_secret(text: str) -> bytes:
    try:
        return signing.parse_secret(text)
    except errors.InvalidRequest as error:
        raise errors.CannotStart(f"--secret: {error}") from error


class Receiver(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, *, key: bytes, status: int = 204, delay: float = 0.0, output: Callable[[str], None]
    ) -> None:
        """``delay`` is seconds; ``output`` gets a line for each notification, one at a time."""
        self.key = key
        self.status = status
        self.delay = delay
        self._output = output
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise errors.CannotStart(f"Cannot listen on {host} port {port}: {error}; choose another --port") from error

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return address.url(str(host), port) + "/"

    def print(self, text: str) -> None:
        with self._lock:
            self._output(text)

    def repeated(self, delivery_id: str) -> bool:
        with self._lock:
            known = delivery_id in self._seen
            self._seen.add(delivery_id)
            return known


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120
    server: Receiver

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        self.server.print(self._describe(body))
        time.sleep(self.server.delay)
        self._answer(self.server.status)

    def _describe(self, body: bytes) -> str:
        header = self.headers.get
        delivery_id = header("webhook-id", "")
        timestamp, signatures = header("webhook-timestamp", ""), header("webhook-signature", "")
        signed = signing.verify(self.server.key, delivery_id, timestamp, body, signatures, now=time.time())
        fields = [
            time.strftime("%H:%M:%S"),
            f"queue {header('zaqar-notify-queue', '-')}",
            f"message {header('zaqar-notify-message-id', '-')}",
            f"attempt {header('zaqar-notify-attempt', '-')}",
            f"signature {'ok' if signed else 'WRONG'}",
            *(["(again)"] if self.server.repeated(delivery_id) else []),
            message_of(body),
        ]
        return printable("  ".join(fields))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: each notification has its line already."""


def message_of(body: bytes) -> str:
    """The message's own body where the notification has Zaqar's format, else the notification as it is."""
    try:
        document = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
    if isinstance(document, dict) and "body" in document:
        document = document["body"]
    return json.dumps(document, ensure_ascii=False)


def printable(text: str) -> str:
    """Nothing in it can command the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
