"""An LMTP server (RFC 2033): what a mail server hands over is taken here, and answered for each recipient.

It is written for reports. Whoever refuses a bounce for good makes the mail server write another one, to nobody who could read
it: so a mail may be of any size, of which the beginning is kept, its lines of any length, its addresses in any form. Each
connection has a thread, of which there is a limited number, and each command, and each mail, a time to arrive in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from zaqar_notify import __version__
from zaqar_notify.errors import CannotStart

LOG = logging.getLogger(__name__)

MOST_COMMAND = 4096
"""Bytes of a command. Addresses and their parameters are longer than RFC 5321 thinks."""
MOST_RECIPIENTS = 100
MOST_MISTAKES = 20
"""After so many commands that it does not know a connection is ended."""
USUAL = "127.0.0.1:8824"
"""Where it listens unless it is told otherwise."""
_UNIX = "unix:"
_CHUNK = 65536
_PATH = r"\s*:\s*(?:<([^<>]*)>|([^\s<>]+))"
_FROM = re.compile(rf"FROM{_PATH}", re.IGNORECASE)
_TO = re.compile(rf"TO{_PATH}", re.IGNORECASE)

Take = Callable[[str, Sequence[str], bytes], Sequence[str]]
"""Gets a sender (empty: a report's), recipients, and a mail or its beginning; returns an answer for each recipient."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """``[receive]``; durations are seconds."""

    max_size: int = 1048576
    """Bytes that are kept of a mail."""
    max_connections: int = 50
    timeout: float = 60.0
    """For each command to arrive, and for each mail."""
    stop_timeout: float = 30.0


class Server:
    """``listener`` is bound, and belongs to this from now on. ``closing`` is called at the very end of `run`."""

    def __init__(self, listener: socket.socket, take: Take, limits: Limits, closing: Callable[[], None] = lambda: None) -> None:
        self._listener = listener
        self._take = take
        self._limits = limits
        self._closing = closing
        self._name = socket.gethostname()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._sessions: dict[_Session, threading.Thread] = {}
        self._stopping = False

    def start(self) -> None:
        """From now on connections wait to be served, by `run`."""
        self._listener.listen(self._limits.max_connections)
        self._listener.setblocking(False)
        LOG.info("ready for mails at %s", _shown(self._listener))

    def run(self) -> None:
        """Returns when `stop` was called, and mails that were on their way in are answered or ``stop_timeout`` has passed."""
        while not self._stopping:
            select.select([self._listener.fileno(), self._wake], [], [])
            if not self._stopping:
                self._accept()
        _close(self._listener)
        self._end_sessions()
        self._closing()

    def stop(self) -> None:
        """Safe to call from a signal handler and from other threads."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # it has gone already, or there are no descriptors left
            LOG.debug("a connection was not taken: %s", error)
            time.sleep(0 if isinstance(error, BlockingIOError | ConnectionError) else 0.1)
            return
        session = _Session(connection, self._name, self._take, self._limits)
        thread = threading.Thread(target=self._serve, args=(session,), name="lmtp", daemon=True)
        with self._lock:
            room = len(self._sessions) < self._limits.max_connections
            if room:
                self._sessions[session] = thread
        if room:
            thread.start()
        else:
            session.refuse()

    def _serve(self, session: _Session) -> None:
        try:
            session.run()
        except Exception:
            LOG.exception("an LMTP session has failed")
        finally:
            session.close()
            with self._lock:
                del self._sessions[session]

    def _end_sessions(self) -> None:
        with self._lock:
            left = dict(self._sessions)
        for session in left:
            session.finish()
        end = time.monotonic() + self._limits.stop_timeout
        for thread in left.values():
            thread.join(max(end - time.monotonic(), 0.0))


# -- the address --------------------------------------------------------------------------------------------------------------


def bind(address: str) -> socket.socket:
    """``host:port``, or ``unix:`` and a path. Raises `CannotStart`."""
    try:
        return _bind_path(address.removeprefix(_UNIX)) if address.startswith(_UNIX) else _bind_port(*address.rsplit(":", 1))
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise CannotStart(f"[receive] listen: cannot use {address}: {why}") from error


def _bind_port(host: str, port: str) -> socket.socket:
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # Connections of a former process that are not quite over must not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        # With that option a port is taken but once somebody listens.
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_path(path: str) -> socket.socket:
    """Who may reach it is said by the mode of its folder: the mail server has a user of its own."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_over(path):
                raise
            os.unlink(path)
            listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103
    except BaseException:
        listener.close()
        raise
    return listener


def _is_left_over(path: str) -> bool:
    """A socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as probe:
        return stat.S_ISSOCK(os.stat(path).st_mode) and probe.connect_ex(path) == errno.ECONNREFUSED


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{_UNIX}{name}"
    return f"[{name[0]}]:{name[1]}" if listener.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def _close(listener: socket.socket) -> None:
    path = listener.getsockname() if listener.family == socket.AF_UNIX else None
    listener.close()
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)


# -- a connection -------------------------------------------------------------------------------------------------------------


class _Ended(Exception):
    """The other side has gone, or was too slow."""


class _Session:
    def __init__(self, connection: socket.socket, name: str, take: Take, limits: Limits) -> None:
        self._socket = connection
        self._name = name
        self._take = take
        self._limits = limits
        self._received = bytearray()
        self._greeted = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._busy = False
        """With a mail."""
        self._finishing = False
        self._commands: Mapping[str, Callable[[str], str | None]] = {
            "LHLO": self._hello,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda _: "250 2.0.0 ok",
            "VRFY": lambda _: "252 2.0.0 send it",
            "QUIT": self._quit,
        }

    def refuse(self) -> None:
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.send(b"421 4.3.2 too many connections\r\n")
        self._socket.close()

    def finish(self) -> None:
        """End after the mail that is on its way in, where there is one. Safe to call from other threads."""
        self._finishing = True
        if not self._busy:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._socket.close()

    def run(self) -> None:
        with contextlib.suppress(_Ended):
            self._say(f"220 {self._name} zaqar-notify {__version__} LMTP")
            mistakes = 0
            while mistakes < MOST_MISTAKES and not self._finishing:
                verb, rest = self._command()
                do = self._commands.get(verb)
                answer = do(rest) if do else "500 5.5.1 unknown, or too long; this is LMTP"
                if answer is None:
                    return
                mistakes += answer.startswith("50")
                self._say(answer)
            self._say("421 4.3.2 closing")

    # -- commands -------------------------------------------------------------------------------------------------------------

    # Each returns an answer, in one or more lines; None: this was the end, and is answered.

    def _quit(self, _: str) -> None:
        self._say("221 2.0.0 bye")

    def _rset(self, _: str) -> str:
        self._sender = None
        self._recipients = []
        return "250 2.0.0 ok"

    def _hello(self, rest: str) -> str:
        if not rest:
            return "501 5.5.4 LHLO needs a name"
        self._greeted = True
        self._rset("")
        return "\r\n".join((f"250-{self._name}", "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", "250 ENHANCEDSTATUSCODES"))

    def _mail(self, rest: str) -> str:
        match = _FROM.match(rest)
        if not self._greeted or self._sender is not None:
            return "503 5.5.1 not now"
        if match is None:
            return "501 5.5.4 MAIL FROM:<address>"
        self._sender = match[1] or match[2] or ""
        return "250 2.1.0 ok"

    def _rcpt(self, rest: str) -> str:
        match = _TO.match(rest)
        if self._sender is None:
            return "503 5.5.1 MAIL comes first"
        if match is None:
            return "501 5.5.4 RCPT TO:<address>"
        if len(self._recipients) >= MOST_RECIPIENTS:
            return "452 4.5.3 too many recipients"
        self._recipients.append(match[1] or match[2] or "")
        return "250 2.1.5 ok"

    def _data(self, _: str) -> str:
        if not self._recipients:
            return "503 5.5.1 RCPT comes first"
        self._busy = True
        try:
            self._say("354 go on, and end with a dot")
            answers = self._answers(self._content())
            self._rset("")
            return "\r\n".join(answers)
        finally:
            self._busy = False

    def _answers(self, content: bytes) -> Sequence[str]:
        try:
            return self._take(self._sender or "", self._recipients, content)
        except Exception:
            LOG.exception("a mail could not be dealt with")
            return ["451 4.3.0 try again later"] * len(self._recipients)

    # -- the connection -------------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._socket.settimeout(self._limits.timeout)
        try:
            self._socket.sendall(f"{text}\r\n".encode("ascii", "replace"))
        except OSError as error:
            raise _Ended from error

    def _receive(self, deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            chunk = self._socket.recv(_CHUNK)
        except OSError as error:
            raise _Ended from error
        if not chunk or time.monotonic() > deadline:
            raise _Ended
        self._received += chunk

    def _command(self) -> tuple[str, str]:
        """Verb and what follows; both are empty where it was too long."""
        deadline, too_long = time.monotonic() + self._limits.timeout, False
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MOST_COMMAND:
                self._received.clear()
                too_long = True
            self._receive(deadline)
        text = self._received[:end].decode("utf-8", "replace")
        del self._received[: end + 1]
        if too_long or end > MOST_COMMAND:
            return "", ""
        verb, _, rest = text.strip().partition(" ")
        return verb.upper(), rest

    def _content(self) -> bytes:
        """All up to a line that is a dot; kept is the beginning."""
        deadline = time.monotonic() + self._limits.timeout
        kept, begins = bytearray(), True
        while True:
            end = self._received.find(b"\r\n")
            if end < 0 and len(self._received) <= _CHUNK:
                self._receive(deadline)
                continue
            # Of a line that does not end all is taken but what may be the half of its end.
            size = end + 2 if end >= 0 else len(self._received) - 1
            piece = bytes(self._received[:size])
            del self._received[:size]
            if begins and piece == b".\r\n":
                return bytes(kept)
            if begins and piece.startswith(b"."):
                piece = piece[1:]
            kept += piece[: max(self._limits.max_size - len(kept), 0)]
            begins = end >= 0
