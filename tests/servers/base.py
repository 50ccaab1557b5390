"""A server as a child of the test process: its folder, its port, its start and its end."""

from __future__ import annotations

import abc
import atexit
import concurrent.futures
import contextlib
import glob
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

WAIT = 60.0
"""Seconds after which a test gives up: a safety net, not a measurement."""

T = TypeVar("T")


def free_port() -> int:
    """A port from 20000 to 32767: above, the kernel hands ports out to others."""
    for _ in range(1000):
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def find_program(name: str, server: str, *places: str) -> str:
    """The path of a server's program in PATH, or in one of the places (patterns; the last in the alphabet wins); skips the
    test without it."""
    found = shutil.which(name)
    for place in places:
        found = found or next(iter(sorted(glob.glob(f"{place}/{name}"), reverse=True)), None)
    if found is None:
        raise missing(server)
    return found


def missing(name: str) -> unittest.SkipTest:
    return unittest.SkipTest(f"server missing: {name}")


def family(pid: int) -> Iterator[int]:
    """The process and its descendants, parents first."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from family(int(child))


class Server(abc.ABC):
    """Started when made; ``close`` ends it and removes its folder, at the latest at the end of the test process. When the
    test process is killed, the kernel ends it."""

    name: ClassVar[str]
    environment: ClassVar[str] = ""
    """A variable with the URL of a server to use instead; while it is set, none is started here."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    quit_signal: ClassVar[signal.Signals] = signal.SIGKILL
    """The quickest end that leaves nothing behind outside of the server's folder."""

    account: Sequence[str] = ()
    """Words for setpriv: whom to run as."""

    def __init__(self, test: unittest.TestCase | None = None, host: str = "127.0.0.1") -> None:
        if self.environment and os.environ.get(self.environment):
            raise unittest.SkipTest(f"needs a server of its own, and {self.environment} names one to use")
        self.host = host
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"zaqar-notify-{self.name}-"))
        atexit.register(self.close)
        if test is not None:
            test.addCleanup(self.close)
        try:
            self.prepare()
            self._start_anywhere()
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Make what has to be in the folder before the first start; look for the programs."""

    @abc.abstractmethod
    def command(self) -> Sequence[str]:
        """The server in the foreground, on ``host`` and ``port``, with everything it writes in ``folder``."""

    @abc.abstractmethod
    def answers(self) -> bool:
        """Whether it does what it is for; raises nothing while it cannot."""

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """On the port, and with the data, that it had before."""
        self.launch()
        self.wait_for(self.answers, "an answer")

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        """As an administrator would; does nothing when it does not run."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """With SIGKILL, and its children with it."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        for pid in family(self.pid):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in family(self.pid):
            os.kill(pid, signal.SIGCONT)

    def clear(self) -> None:
        """Forget all data; for a server that does not run."""
        assert self.process is None, f"{self.name} runs"
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.prepare()

    def close(self) -> None:
        if os.getpid() != self._owner:
            return  # a fork of the test process
        atexit.unregister(self.close)
        self._end(self.quit_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + WAIT
        while not (result := condition()):
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"{self.name} has ended\n{self.log}")
            if time.monotonic() > end:
                raise AssertionError(f"gave up waiting for {what} of {self.name}\n{self.log}")
            time.sleep(0.02)
        return result

    def launch(self) -> None:
        """Start it, and do not wait."""
        assert self.process is None, f"{self.name} runs"
        setpriv = find_program("setpriv", "setpriv")
        with (self.folder / "log").open("ab") as log:
            command = [setpriv, *self.account, "--pdeathsig", self.quit_signal.name.removeprefix("SIG"), *self.command()]
            self.process = _starter.submit(_start, command, self.folder, log.fileno()).result()

    def _start_anywhere(self) -> None:
        """Another process may take the free port first: then another port is tried."""
        for attempt in range(3):
            self.port = free_port()
            try:
                self.start()
            except AssertionError:
                if attempt == 2 or self.process is None or self.process.poll() is None:
                    raise
                self._end(self.quit_signal)
            else:
                return

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        pids = list(family(self.process.pid)) if how == signal.SIGKILL else [self.process.pid]
        for pid in pids:
            for number in (how, signal.SIGCONT):  # a paused one would not hear of it
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        try:
            self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


# The kernel ends a child when the *thread* that started it does: this one lasts as long as the process.
_starter = concurrent.futures.ThreadPoolExecutor(1, "server-starter")


def _start(command: Sequence[str], folder: pathlib.Path, log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


class Shared:
    """Makes something at its first use and hands out the same one from then on; what is missing is looked for once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: Any = None
        self._skip: unittest.SkipTest | None = None

    def __call__(self) -> Any:
        if self._skip is not None:
            raise self._skip
        if self._made is None:
            try:
                self._made = self._make()
            except unittest.SkipTest as skip:
                self._skip = skip
                raise
        return self._made
