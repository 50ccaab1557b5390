"""What the machine can do at best: a bare libcurl loop that posts signed requests to the sink, without queue or database.

The same work for each request as a delivery has on the wire: a fresh id, timestamp and HMAC-SHA256 signature, the same headers,
a body of the same size, keep-alive, as many in flight. CurlMulti.socket_action with epoll, in a process of its own.
"""

from __future__ import annotations

import base64
import dataclasses
import gc
import hashlib
import hmac
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import time
from collections.abc import Sequence

import pycurl

from benchmarks.sink import raise_file_limit


@dataclasses.dataclass
class Sent:
    requests: int
    wrong: int
    """Failed transfers and answers other than 204."""


def drive(urls: Sequence[str], messages: int, in_flight: int, size: int) -> Sent:
    """Post each of ``messages`` messages to every URL, ``in_flight`` at once over all; returns when all are answered."""
    context = multiprocessing.get_context("spawn")
    results, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, tuple(urls), messages, in_flight, size), daemon=True)
    process.start()
    theirs.close()
    try:
        sent: Sent = results.recv()
    finally:
        results.close()
        process.join(10)
    process.close()
    return sent


def message_ids(messages: int) -> list[str]:
    """The ids that `drive` gives to its messages."""
    return [f"{number:016x}" for number in range(messages)]


def _run(results: multiprocessing.connection.Connection, urls: Sequence[str], messages: int, in_flight: int, size: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    gc.freeze()
    loop = _Loop(urls, messages, in_flight, size)
    results.send(loop.run())
    results.close()
    loop.close()


class _Loop:
    def __init__(self, urls: Sequence[str], messages: int, in_flight: int, size: int) -> None:
        self.ids = message_ids(messages)
        self.urls = urls
        self.next = [0] * len(urls)
        """The next message of each endpoint."""
        self.key = os.urandom(32)
        self.pad = "x" * size
        self.sent = Sent(0, 0)
        self.epoll = select.epoll()
        self.deadline: float | None = None
        self.multi = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_SOCKETFUNCTION, self.watch)
        self.multi.setopt(pycurl.M_TIMERFUNCTION, self.set_timer)
        self.multi.setopt(pycurl.M_MAXCONNECTS, in_flight + len(urls))
        self.running = 0
        self.handles = [self.make(number % len(urls)) for number in range(in_flight)]

    def make(self, endpoint: int) -> pycurl.Curl:
        handle = pycurl.Curl()
        handle.endpoint = endpoint
        handle.setopt(pycurl.URL, self.urls[endpoint])
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.TCP_NODELAY, 1)
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.WRITEFUNCTION, len)
        return handle

    def run(self) -> Sent:
        for handle in self.handles:
            self.start(handle)
        multi, poll = self.multi, self.epoll.poll
        multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        while self.running:
            timeout = 1.0 if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            events = poll(timeout)
            for descriptor, event in events:
                ready = (pycurl.CSELECT_IN if event & ~select.EPOLLOUT else 0) | (
                    pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
                )
                multi.socket_action(descriptor, ready)
            if self.deadline is not None and self.deadline <= time.monotonic():
                self.deadline = None
                multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self.reap()
        return self.sent

    def reap(self) -> None:
        _, done, failed = self.multi.info_read()
        for handle in done:
            if handle.getinfo(pycurl.RESPONSE_CODE) != 204:
                self.sent.wrong += 1
            self.again(handle)
        for handle, _, _ in failed:
            self.sent.wrong += 1
            self.again(handle)

    def again(self, handle: pycurl.Curl) -> None:
        self.multi.remove_handle(handle)
        self.running -= 1
        self.sent.requests += 1
        self.start(handle)

    def start(self, handle: pycurl.Curl) -> None:
        endpoint = handle.endpoint
        if self.next[endpoint] >= len(self.ids):
            return
        message_id = self.ids[self.next[endpoint]]
        self.next[endpoint] += 1
        instant = time.time()
        body = (
            f'{{"body":{{"sent_at":{instant:017.6f},"pad":"{self.pad}"}},"ttl":3600,'
            '"Message_Type":"Notification","queue_name":"benchmark"}'
        ).encode()
        webhook_id = f"{message_id}-{endpoint:016x}"
        timestamp = int(instant)
        signature = base64.b64encode(
            hmac.digest(self.key, b"%s.%d.%s" % (webhook_id.encode(), timestamp, body), hashlib.sha256)
        )
        handle.setopt(
            pycurl.HTTPHEADER,
            [
                f"webhook-id: {webhook_id}",
                f"webhook-timestamp: {timestamp}",
                "webhook-signature: v1," + signature.decode(),
                "Content-Type: application/json",
                "User-Agent: bare-libcurl",
                "zaqar-notify-queue: benchmark",
                f"zaqar-notify-message-id: {message_id}",
                f"zaqar-notify-subscription-id: {endpoint:016x}",
                "zaqar-notify-attempt: 1",
                "Expect:",
            ],
        )
        handle.setopt(pycurl.POSTFIELDS, body)
        self.multi.add_handle(handle)
        self.running += 1

    def watch(self, what: int, descriptor: int, multi: pycurl.CurlMulti, data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            self.epoll.unregister(descriptor)
            return
        events = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            self.epoll.modify(descriptor, events)
        except FileNotFoundError:
            self.epoll.register(descriptor, events)

    def set_timer(self, milliseconds: int) -> None:
        self.deadline = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def close(self) -> None:
        for handle in self.handles:
            handle.close()
        self.multi.close()
        self.epoll.close()
