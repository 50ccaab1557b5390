"""Other processes that use the storage of a test."""

from __future__ import annotations

import subprocess
import sys

from tests.storage.contract import StorageCase


class ProcessCase(StorageCase):
    def opening(self) -> str:
        """The lines of a program that make ``storage``."""
        raise NotImplementedError

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Another process, that has ``storage``, ``sys`` and ``Draft`` at hand. It closes the storage, unless it is killed."""
        prelude = f"import sys\nfrom zaqar_notify.model import Draft\n{self.opening()}\n"
        command = [sys.executable, "-c", f"{prelude}{program}\nstorage.close()\n", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self._end, process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()
