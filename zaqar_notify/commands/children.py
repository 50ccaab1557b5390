"""The processes that `zaqar-notify serve` looks after."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from zaqar_notify import errors

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a process that died is started again: doubled each time, from the first again after a long life."""
PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(slots=True)
class Child:
    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]
    started_at: float
    """Like all instants here: ``time.monotonic()`` seconds."""
    needed: bool = True
    """Without it there is no service."""
    pause: float = FIRST_PAUSE
    """Seconds until it is started again when it dies."""
    due_at: float | None = None
    """When it is started again; set while it is dead."""

    def revive(self, now: float) -> None:
        """Start it again, after a pause that grows, when it has died."""
        if self.due_at is None:
            if self.process.poll() is not None:
                pause = FIRST_PAUSE if now - self.started_at > LONGEST_PAUSE else self.pause
                self.pause, self.due_at = min(pause * 2, LONGEST_PAUSE), now + pause
                say(f"the {self.name} ended ({ending(self.process.returncode)}); starting it again in {pause:g} s")
        elif now >= self.due_at:
            self.process, self.started_at, self.due_at = self.start(), now, None


class Children:
    """API and worker, a receiver where one is wanted, and a worker for each scheme that has one of its own. Each process is in
    a session of its own, so that Ctrl-C reaches only the parent, and ends with the parent."""

    def __init__(
        self,
        configuration: Sequence[str],
        *,
        listening: Sequence[str],
        port: int,
        environment: Mapping[str, str],
        receiver: bool = False,
        apart: Sequence[str] = (),
    ) -> None:
        """``port`` is the file descriptor of the bound port, which the API inherits; ``apart`` are the schemes that have a
        worker of their own. Nobody waits for these: what such a scheme is sent with may take its worker down at once."""
        self._configuration = configuration
        self._listening = listening
        self._port = port
        self._environment = environment
        self._say_so = {"worker": "worker", **({"receiver": "receive"} if receiver else {})}
        """The commands of those that say when they are ready."""
        self._apart = apart
        self._children: list[Child] = []
        self._ready = -1
        self._heard = b""

    @contextlib.contextmanager
    def running(self, grace: float) -> Iterator[None]:
        """Started in the beginning; in the end told to stop, and killed after ``grace`` seconds."""
        self._ready, writing = os.pipe()
        try:
            for name, command in self._say_so.items():
                self._add(name, functools.partial(self._start, command, "--ready-fd", str(writing), pass_fds=(writing,)))
            os.close(writing)
            # Whoever starts one of these again does not wait for it.
            for child in self._children:
                child.start = functools.partial(self._start, self._say_so[child.name])
            self._add("api", lambda: self._start("api", *self._listening, pass_fds=(self._port,)))
            for scheme in self._apart:
                self._add(f"worker for {scheme}", functools.partial(self._start, "worker", "--schemes", scheme), needed=False)
            yield
        finally:
            self._stop(grace)
            os.close(self._ready)

    def are_ready(self) -> bool:
        """All but the API."""
        readable, _, _ = select.select([self._ready], [], [], 0)
        if readable:
            self._heard += os.read(self._ready, 64)
        return self._heard.count(b"\n") >= len(self._say_so)

    def require_alive(self) -> None:
        """Raise `CannotStart` when one has ended."""
        for child in self._children:
            if child.needed and child.process.poll() is not None:
                raise errors.CannotStart(
                    f"The {child.name} could not start, as said above ({ending(child.process.returncode)})"
                )

    def revive(self) -> None:
        now = time.monotonic()
        for child in self._children:
            child.revive(now)

    def _add(self, name: str, start: Callable[[], subprocess.Popen[bytes]], needed: bool = True) -> None:
        self._children.append(Child(name, start, start(), time.monotonic(), needed))

    def _start(self, command: str, *more: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "zaqar_notify", command, *self._configuration, *more],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=end_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
        )

    def _stop(self, grace: float) -> None:
        for child in self._children:
            child.process.terminate()
        give_up_at = time.monotonic() + grace
        for child in self._children:
            try:
                child.process.wait(max(0.0, give_up_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"the {child.name} did not stop in {grace:g} s and is killed")
                child.process.kill()
                child.process.wait()


def end_with(parent: int) -> Callable[[], None]:
    """What a child does first: ask for SIGTERM when its parent dies, also by kill -9 (Linux)."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def ending(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def say(text: str) -> None:
    print(f"zaqar-notify: {text}", file=sys.stderr, flush=True)
