"""Redis of the distribution."""

from __future__ import annotations

import socket
import unittest
from collections.abc import Sequence

from tests.servers import base


class Redis(base.Server):
    """Keeps its data over a restart when it is ``persistent``, and comes back empty otherwise."""

    name = "redis"

    def __init__(self, test: unittest.TestCase | None = None, host: str = "127.0.0.1", *, persistent: bool = True) -> None:
        self._persistent = persistent
        super().__init__(test, host)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def prepare(self) -> None:
        base.find_program("redis-server", "redis")

    def command(self) -> Sequence[str]:
        keeping = ("--appendonly", "yes", "--appendfsync", "always") if self._persistent else ("--appendonly", "no")
        listening = ("--bind", self.host, "--port", str(self.port), "--protected-mode", "no")
        return [base.find_program("redis-server", "redis"), *listening, *keeping, "--save", "", "--dir", str(self.folder)]

    def answers(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False

    def ask(self, command: str) -> str:
        """The first line of the answer to a command without arguments that need quotes."""
        with socket.create_connection((self.host, self.port), timeout=10) as connection, connection.makefile("rwb") as stream:
            stream.write(command.encode() + b"\r\n")
            stream.flush()
            return stream.readline().decode().rstrip()

    def clear(self) -> None:
        """Forget all data, also of one that runs."""
        if self.process is None:
            super().clear()
        else:
            self.ask("FLUSHALL")


shared = base.Shared(Redis)
