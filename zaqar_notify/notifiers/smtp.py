"""Mails over SMTP (RFC 5321), on connections that are kept: each belongs to a thread, which sends one mail after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import queue
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from zaqar_notify.errors import CannotStart

_Item = TypeVar("_Item")

_GOODBYE = 1.0  # seconds that QUIT and RSET may take
_ENHANCED = re.compile(rb"\s*([245]\.\d{1,3}\.\d{1,3})(?=\s|$)")
_LEAST = 0.001  # a timeout of 0 would mean: do not block


class Stage(enum.Enum):
    """How far it went."""

    NAME = "look-up of the mail server"
    CONNECT = "connection to the mail server"
    TLS = "TLS with the mail server"
    LOGIN = "login at the mail server"
    SENDER = "sender"
    RECIPIENT = "recipient"
    DATA = "message"


class Failed(Exception):
    """It was not sent. ``code`` and ``text`` are the server's answer; without a ``code`` there was none, and ``text`` says
    why."""

    def __init__(self, stage: Stage, code: int | None, text: bytes) -> None:
        super().__init__(stage, code, text)
        self.stage = stage
        self.code = code
        self.text = text

    @property
    def enhanced(self) -> str:
        """The code of RFC 3463, such as ``5.1.1``; empty: none."""
        match = _ENHANCED.match(self.text)
        return match[1].decode() if match else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int
    starttls: str = "always"
    """``always``, ``if-offered`` or ``never``."""
    tls: bool = False
    """TLS from the first byte on (RFC 8314)."""
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    ca_file: str | None = None
    helo: str | None = None
    connect_timeout: float = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Envelope:
    sender: str
    recipient: str
    mail: bytes
    """Headers and body, with CRLF."""
    id: str
    """Comes back in a delivery status notification (RFC 3461)."""
    notify: str | None = None
    """What the server is asked to report, ``FAILURE`` or ``SUCCESS,FAILURE``; None: nothing is asked."""

    @property
    def utf8(self) -> bool:
        """The addresses need a server that takes UTF-8 (RFC 6531)."""
        return not (self.recipient.isascii() and self.sender.isascii())


# -- sockets with one deadline for all that is done on them -------------------------------------------------------------------


class _Plain(socket.socket):
    deadline = 0.0

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(max(self.deadline - time.monotonic(), _LEAST))
        return super().recv_into(*arguments, **options)

    def sendall(self, *arguments: Any, **options: Any) -> None:
        self.settimeout(max(self.deadline - time.monotonic(), _LEAST))
        super().sendall(*arguments, **options)


class _Secured(ssl.SSLSocket):
    deadline = 0.0

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(max(self.deadline - time.monotonic(), _LEAST))
        return super().recv_into(*arguments, **options)

    def send(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(max(self.deadline - time.monotonic(), _LEAST))
        return super().send(*arguments, **options)


@functools.lru_cache(maxsize=64)
def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Raises `CannotStart` for a file that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise CannotStart(f"The file of certificates {ca_file} cannot be used: {error}") from error
    context.sslsocket_class = _Secured
    return context


class _Client(smtplib.SMTP):
    """smtplib's, over sockets that end at ``deadline``."""

    def __init__(self, server: Server, deadline: float) -> None:
        self._server = server
        self._deadline = deadline
        # A name keeps smtplib from asking the resolver for one.
        super().__init__(server.host, server.port, local_hostname=server.helo or "localhost")
        if not server.helo and self.sock is not None:
            self.local_hostname = _literal(self.sock)

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        timeout = max(min(self._server.connect_timeout, self._deadline - time.monotonic()), _LEAST)
        with socket.create_connection((host, port), timeout) as dialled:
            opened = _Plain(fileno=dialled.detach())
        opened.deadline = self._deadline
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._server.tls:
            return opened
        opened.settimeout(max(self._deadline - time.monotonic(), _LEAST))
        secured = tls_context(self._server.ca_file).wrap_socket(opened, server_hostname=host)
        secured.deadline = self._deadline  # type: ignore[attr-defined]
        return secured

    def end_at(self, deadline: float) -> None:
        """What is done from here on fails at ``deadline``."""
        sock: Any = self.sock
        sock.deadline = deadline
        sock.settimeout(max(deadline - time.monotonic(), _LEAST))


def _literal(opened: socket.socket) -> str:
    """What to call ourselves where we have no name: the address (RFC 5321, 4.1.3)."""
    address = opened.getsockname()[0].partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


# -- one connection -----------------------------------------------------------------------------------------------------------


class Connection:
    """To be used by one thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client: _Client | None = None
        self.phases: dict[str, float] = {}
        """``time.monotonic()`` at the end of each step of the last `send`."""

    def send(self, envelope: Envelope, deadline: float) -> bytes:
        """The server's answer to a mail that it has taken; `Failed` if it has not."""
        self.phases = {}
        kept = self._client is not None
        try:
            return self._send(envelope, deadline)
        except Failed as failed:
            # Servers end connections that were idle, or take nothing more on those that have carried enough.
            had_enough = failed.stage is Stage.SENDER and (failed.code is None or 400 <= failed.code < 500)
            if not (kept and had_enough):
                raise
        self.close()
        return self._send(envelope, deadline)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                client.end_at(time.monotonic() + _GOODBYE)
                client.quit()
            client.close()

    def _send(self, envelope: Envelope, deadline: float) -> bytes:
        client = self._client
        if client is None:
            client = self._client = self._open(deadline)
        client.end_at(deadline)
        try:
            return self._transact(client, envelope)
        except Failed as failed:
            if failed.code is None or failed.code == 421:
                self._drop()
            else:
                self._reset(client)
            raise

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _reset(self, client: _Client) -> None:
        """What was begun is forgotten, so that the connection can carry the next mail."""
        code = 0
        if client.sock is not None:  # else smtplib has closed it
            client.end_at(time.monotonic() + _GOODBYE)
            with contextlib.suppress(OSError, smtplib.SMTPException):
                code, _ = client.docmd("RSET")
        if code != 250:
            self._drop()

    # -- opening --------------------------------------------------------------------------------------------------------------

    def _open(self, deadline: float) -> _Client:
        client = _try(Stage.CONNECT, lambda: _Client(self._server, deadline))
        try:
            self._introduce(client, deadline)
        except Failed:
            client.close()
            raise
        return client

    def _introduce(self, client: _Client, deadline: float) -> None:
        server = self._server
        self.phases["connect"] = time.monotonic()
        _try(Stage.CONNECT, client.ehlo_or_helo_if_needed)
        if not server.tls and server.starttls != "never":
            self._secure(client, deadline)
        if server.username is not None:
            _try(Stage.LOGIN, lambda: client.login(server.username or "", server.password or ""))
            self.phases["login"] = time.monotonic()

    def _secure(self, client: _Client, deadline: float) -> None:
        server = self._server
        if not client.has_extn("starttls"):
            if server.starttls == "always" or server.username is not None:
                why = b"the server does not offer STARTTLS" + (
                    b"" if server.username is None else b", and gets no password without"
                )
                raise Failed(Stage.TLS, None, why)
            return
        client.end_at(deadline)  # TLS is made within the time that is left now
        code, text = _try(Stage.TLS, lambda: client.starttls(context=tls_context(server.ca_file)))
        if code != 220:
            raise Failed(Stage.TLS, code, text)
        client.end_at(deadline)
        self.phases["tls"] = time.monotonic()
        _try(Stage.TLS, client.ehlo_or_helo_if_needed)

    # -- one mail -------------------------------------------------------------------------------------------------------------

    def _transact(self, client: _Client, envelope: Envelope) -> bytes:
        size = client.esmtp_features.get("size", "")
        if size.isdigit() and 0 < int(size) < len(envelope.mail):
            raise Failed(Stage.DATA, 552, f"5.3.4 {len(envelope.mail)} bytes; the server takes {size}".encode())
        if envelope.utf8 and not client.has_extn("smtputf8"):
            raise Failed(Stage.RECIPIENT, 553, b"5.6.7 the address is not ASCII, and the server does not offer SMTPUTF8")
        client.command_encoding = "utf-8" if envelope.utf8 else "ascii"
        _expect(Stage.SENDER, lambda: client.docmd(f"MAIL FROM:<{envelope.sender}>{_mail_options(client, envelope)}"))
        _expect(Stage.RECIPIENT, lambda: client.docmd(f"RCPT TO:<{envelope.recipient}>{_recipient_options(client, envelope)}"))
        self.phases["recipient"] = time.monotonic()
        return _expect(Stage.DATA, lambda: client.data(envelope.mail))


def _mail_options(client: _Client, envelope: Envelope) -> str:
    options = ""
    if client.has_extn("size"):
        options += f" SIZE={len(envelope.mail)}"
    if envelope.utf8:
        options += " SMTPUTF8 BODY=8BITMIME"
    if envelope.notify and client.has_extn("dsn"):
        options += f" RET=HDRS ENVID={_xtext(envelope.id)}"
    return options


def _recipient_options(client: _Client, envelope: Envelope) -> str:
    return f" NOTIFY={envelope.notify}" if envelope.notify and client.has_extn("dsn") else ""


def _xtext(text: str) -> str:
    """RFC 3461, 4."""
    return "".join(one if "!" <= one <= "~" and one not in "+=" else f"+{ord(one):02X}" for one in text if ord(one) < 128)


def _expect(stage: Stage, ask: Callable[[], tuple[int, bytes]]) -> bytes:
    code, text = _try(stage, ask)
    if not 200 <= code < 300:
        raise Failed(stage, code, text)
    return text


_Answer = TypeVar("_Answer")


def _try(stage: Stage, ask: Callable[[], _Answer]) -> _Answer:
    try:
        return ask()
    except smtplib.SMTPResponseException as error:
        raise Failed(stage, error.smtp_code, _bytes(error.smtp_error)) from error
    except smtplib.SMTPServerDisconnected as error:
        # smtplib hides the reason in its context.
        raise Failed(stage, None, _why(error.__context__ if isinstance(error.__context__, OSError) else error)) from error
    except smtplib.SMTPNotSupportedError as error:
        raise Failed(stage, 504, _bytes(str(error))) from error
    except smtplib.SMTPException as error:
        # Of login(): none of the ways that the server offers is known.
        raise Failed(stage, 504 if stage is Stage.LOGIN else None, _bytes(str(error))) from error
    except socket.gaierror as error:
        raise Failed(Stage.NAME, None, _why(error)) from error
    except ssl.SSLError as error:
        raise Failed(Stage.TLS, None, _why(error)) from error
    except (OSError, ValueError) as error:
        raise Failed(stage, None, _why(error)) from error


def _why(error: BaseException) -> bytes:
    if isinstance(error, TimeoutError):
        return b"no answer in time"
    return _bytes(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "replace") if isinstance(text, str) else text


# -- many connections ---------------------------------------------------------------------------------------------------------


class Pool(Generic[_Item]):
    """At most ``size`` threads, each with a connection of its own, started as they are needed and ended after ``idle`` seconds
    without work. ``work`` does one item and must not raise; ``discard`` is told of those that are left over in the end."""

    def __init__(
        self,
        server: Server,
        size: int,
        idle: float,
        *,
        work: Callable[[Connection, _Item], None],
        discard: Callable[[_Item], None],
    ) -> None:
        self._server = server
        self._size = size
        self._idle = idle
        self._work = work
        self._discard = discard
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._open = 0
        """Items that wait or are worked on."""
        self._closed = False

    def put(self, item: _Item) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._open += 1
                if len(self._threads) < min(self._open, self._size):
                    thread = threading.Thread(target=self._run, name=f"smtp-{self._server.host}", daemon=True)
                    self._threads.add(thread)
                    thread.start()
                self._queue.put(item)
        if closed:
            self._discard(item)

    def close(self, wait: float = 2.0) -> None:
        """What is under way is finished, within ``wait`` seconds; what waits is discarded."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                self._discard(item)
        for _ in threads:
            self._queue.put(None)
        end = time.monotonic() + wait
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0.0))

    def _run(self) -> None:
        connection = Connection(self._server)
        while (item := self._next()) is not None:
            self._work(connection, item)
            with self._lock:
                self._open -= 1
        connection.close()

    def _next(self) -> _Item | None:
        """None: this thread is to end; it is not counted any more."""
        while True:
            try:
                item = self._queue.get(timeout=self._idle)
            except queue.Empty:
                item = None
            with self._lock:
                if item is not None:
                    return item
                if self._closed or self._queue.empty():  # else something came in this very moment
                    self._threads.discard(threading.current_thread())
                    return None
