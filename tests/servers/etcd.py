"""etcd of the distribution, one member; the JSON gateway of its version 3 answers on the same port."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence

from tests.servers import base


class Etcd(base.Server):
    name = "etcd"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def prepare(self) -> None:
        base.find_program("etcd", "etcd")
        self._peer_port = base.free_port()

    def command(self) -> Sequence[str]:
        peer = f"http://{self.host}:{self._peer_port}"
        return [
            base.find_program("etcd", "etcd"),
            *("--name", "one", "--data-dir", "data", "--logger", "zap", "--log-level", "warn"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
            *("--heartbeat-interval", "20", "--election-timeout", "200"),
        ]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
                return json.load(answer)["health"] == "true"
        except (OSError, ValueError):
            return False


shared = base.Shared(Etcd)
