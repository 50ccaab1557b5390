"""ZooKeeper of the distribution, standing alone. TaskFlow asks it for its version with the words ``envi`` and ``srvr``."""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Sequence

from tests.servers import base

JAR = "/usr/share/java/zookeeper.jar"
"""Its manifest names the other archives."""

# A session whose client has gone ends at a multiple of tickTime; the shortest session that a client may ask for is twice that.
CONFIG = """\
dataDir={folder}/data
clientPortAddress={host}
clientPort={port}
tickTime=500
admin.enableServer=false
4lw.commands.whitelist=*
maxClientCnxns=0
forceSync=no
"""


class ZooKeeper(base.Server):
    name = "zookeeper"

    @property
    def url(self) -> str:
        return f"zookeeper://{self.host}:{self.port}"

    @property
    def hosts(self) -> str:
        """As kazoo wants it."""
        return f"{self.host}:{self.port}"

    def prepare(self) -> None:
        base.find_program("java", "zookeeper")
        if not pathlib.Path(JAR).exists():
            raise base.missing("zookeeper")
        (self.folder / "data").mkdir()

    def command(self) -> Sequence[str]:
        config = self.folder / "zoo.cfg"
        config.write_text(CONFIG.format(folder=self.folder, host=self.host, port=self.port))
        # The rest keeps one that does little from taking as many threads and as much memory as the machine would give.
        small = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
        return [
            base.find_program("java", "zookeeper"),
            *small,
            *(
                "-cp",
                JAR,
                "-Dzookeeper.jmx.log4j.disable=true",
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                str(config),
            ),
        ]

    def answers(self) -> bool:
        try:
            return self.ask("ruok") == "imok" and "Mode: standalone" in self.ask("srvr")
        except OSError:
            return False

    def ask(self, word: str) -> str:
        """The answer to a four-letter word."""
        with socket.create_connection((self.host, self.port), timeout=10) as connection:
            connection.sendall(word.encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


shared = base.Shared(ZooKeeper)
