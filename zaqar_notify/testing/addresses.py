"""Addresses on this machine where things go wrong."""

from __future__ import annotations

import socket

_HOST = "127.0.0.1"


class SilentServer:
    """Takes TCP connections, and whatever is sent, and never answers: the kernel does so for whoever only listens."""

    def __init__(self) -> None:
        self._listener = socket.create_server((_HOST, 0), backlog=128)
        self.address = f"{_HOST}:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()


def closed_address() -> str:
    """Where nobody listens."""
    with socket.create_server((_HOST, 0)) as listener:
        return f"{_HOST}:{listener.getsockname()[1]}"
