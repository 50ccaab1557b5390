"""Subscribers' endpoints on real sockets, each on a port of its own, that behave in a chosen way and count what they get."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import threading
import time
from collections.abc import Callable


@dataclasses.dataclass
class Arrival:
    at: float
    headers: dict[str, str]
    body: bytes
    status: int


@dataclasses.dataclass
class Endpoint:
    """``status`` is what the n-th request (1, 2, ...) with one webhook-id is answered with; None: never."""

    status: Callable[[int], int | None] = lambda _: 200
    delay: float = 0.0
    headers: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    arrivals: list[Arrival] = dataclasses.field(default_factory=list)
    seen: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    accepted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """2xx answers by webhook-id."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"


class Endpoints:
    """Runs endpoints on a thread of its own: a context manager."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.endpoints = endpoints
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Endpoints:
        self._thread.start()
        for endpoint in self.endpoints:
            server = asyncio.run_coroutine_threadsafe(self._listen(endpoint), self._loop).result(10)
            self._servers.append(server)
        return self

    async def _listen(self, endpoint: Endpoint) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                while await self._answer(endpoint, reader, writer):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, endpoint.host, endpoint.port)
        endpoint.port = server.sockets[0].getsockname()[1]
        return server

    async def _answer(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        webhook_id = headers["webhook-id"]
        endpoint.seen[webhook_id] += 1
        status = endpoint.status(endpoint.seen[webhook_id])
        endpoint.arrivals.append(Arrival(time.time(), headers, body, status or 0))
        if status is None:
            await asyncio.sleep(3600)
        await asyncio.sleep(endpoint.delay)
        # Counted before it is written: the other side may be killed in between, and has then been answered for all we know.
        if 200 <= status < 300:
            endpoint.accepted[webhook_id] += 1
        writer.write(f"HTTP/1.1 {status} X\r\n{endpoint.headers}content-length: 0\r\n\r\n".encode())
        await writer.drain()
        return True

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
