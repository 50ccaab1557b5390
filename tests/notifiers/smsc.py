"""A real message centre for SMPP: the npm package smpp, run by node. tests/servers.sh installs it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import queue
import shutil
import subprocess
import threading
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODULES = ROOT / "var" / "servers" / "node_modules"
USER, PASSWORD = "notify", "s3cret"


def is_there() -> bool:
    return shutil.which("node") is not None and (MODULES / "smpp").is_dir()


class MessageCentre:
    """``smsc.js`` says what it answers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._new: queue.Queue[dict[str, Any]] = queue.Queue()
        self._echoes: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            ["node", pathlib.Path(__file__).with_name("smsc.js"), MODULES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port = int(self.wait("listening")["port"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it ends by that
        self._process.wait(20)
        self._reader.join()
        self._process.stdout.close()

    def wait(self, event: str) -> dict[str, Any]:
        """The next one of its kind."""
        while (found := self._new.get(timeout=20))["event"] != event:
            pass
        return found

    def forget(self) -> None:
        """What came of an earlier test; some of it may be under way still."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._new.get(timeout=0.1)
        self.events.clear()

    def catch_up(self) -> None:
        """All that has happened so far is in ``events``."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._echoes.get(timeout=20)

    def submitted(self) -> list[dict[str, Any]]:
        self.catch_up()
        return [event for event in self.events if event["event"] == "submit_sm"]

    def count(self, event: str) -> int:
        self.catch_up()
        return sum(one["event"] == event for one in self.events)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "echo":
                self._echoes.put(event)
                continue
            self.events.append(event)
            self._new.put(event)
