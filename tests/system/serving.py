"""Commands of `zaqar-notify` that run on, started as a user would, and what they print."""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import unittest
from collections.abc import Sequence

from tests.system.service import WAIT, Service

COMMAND = str(pathlib.Path(sys.executable).parent / "zaqar-notify")

CURL_LINE = r"^curl (?:[^\n]*\\\n)*[^\n]*[^\\\n]\n"
"""A curl line with its continuations."""


class Program:
    """A running command; both of its outputs are read, line by line."""

    def __init__(
        self,
        test: unittest.TestCase,
        words: Sequence[str],
        *,
        command: Sequence[str] = (COMMAND,),
        cwd: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.output = ""
        self._test = test
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [*command, *words],
            cwd=cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        test.addCleanup(self._end)

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until the pattern is found in what was not looked at yet; the test fails if it does not come."""
        seen = ""
        while not (found := re.search(pattern, seen, re.MULTILINE)):
            try:
                line = self._lines.get(timeout=WAIT)
            except queue.Empty:
                line = None
            if line is None:
                self._test.fail(f"no {pattern!r} in:\n{self.output}")
            seen += line
            self.output += line
        return found

    def stop(self, how: int = signal.SIGINT) -> int:
        """The exit status."""
        self.process.send_signal(how)
        return self.process.wait(WAIT)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def children_of(pid: int) -> dict[int, str]:
    """Process ids of the children, with their command lines."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child): pathlib.Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in text.split()}


class Client(Service):
    """The client's half of a service that something else has started."""

    def __init__(self, url: str) -> None:  # nothing is made or started
        self.url = url
