"""A gunicorn worker that does for slow clients what a buffering proxy does: they cost a little memory, and never a thread.

gunicorn's gthread worker reads requests and writes answers in the threads that work on them: as many half-sent requests as
there are threads stop it. Here the worker's own loop reads without blocking until a request is complete; only then does a
thread take it, as bytes. The thread writes its answer into memory and sends what the connection takes at once; the loop sends
the rest. All waiting is bounded in time, in number, and in bytes (`Limits`).

The loop owns a connection from its acceptance, a thread from `_hand_over` to `_give_back`, and nobody else at the same time.
Needs epoll: Linux.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import queue
import select
import socket
import sys
import threading
import time
from typing import Any

from gunicorn.http.message import Request
from gunicorn.workers.gthread import ThreadWorker

from zaqar_notify.commands.connections import (
    Addresses,
    Answer,
    Connection,
    Limits,
    Received,
    Waiting,
    error_answer,
    read_body,
    refusal,
)
from zaqar_notify.commands.framing import HEAD_TOO_LARGE, MORE, RequestEnd

MAX_HEAD = 65536
"""Bytes of a request line with all headers; gunicorn's own limits, 100 headers of 8 KiB, are beyond what is worth keeping."""
RECEIVE = 65536
LINGER = 2.0
"""Seconds that a client has to close a connection that is closed here, so that it can still read the answer."""
MAX_DISCARDED = 1 << 20
"""Bytes of a request that nobody reads any more which are read so that the client gets to its answer."""
STOP_LINGER = 1.0
"""Seconds that requests which have begun, or are on their way, may take to arrive when the worker stops."""
HEARTBEAT = 1.0
"""Seconds that the loop waits for events at most; gunicorn kills a worker that it does not hear of for 30."""
PAUSE = 0.1
"""Seconds without new connections when there are no descriptors for them."""
ACCEPTED_AT_ONCE = 100
EVENTS_AT_ONCE = 256
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
WRITABLE = READABLE | select.EPOLLOUT
ENDING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BufferingWorker(ThreadWorker):  # type: ignore[misc]
    """``app.limits`` has the `Limits`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # gunicorn's count of kept connections is not used here, and must not close any.
        self.max_keepalived = sys.maxsize
        limits: Limits = self.app.limits
        self._limits = limits
        self._idle = Waiting(limits.keepalive)
        self._reading = Waiting(limits.read_timeout)
        self._writing = Waiting(limits.write_timeout)
        self._closing = Waiting(LINGER)
        self._connections: dict[int, Connection] = {}
        self._addresses = Addresses(limits.connections_per_address, limits.trusted_proxies)
        self._held = 0
        self._now = time.monotonic()
        self._heartbeat_at = 0.0
        self._listeners: dict[int, Any] = {}
        self._accepting = False
        self._accept_at = 0.0
        self._jobs: queue.SimpleQueue[tuple[Connection, bytes, bool]] = queue.SimpleQueue()
        self._given_back: collections.deque[Connection] = collections.deque()
        self._chunk = memoryview(bytearray(RECEIVE))

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """gunicorn's own worker warns here of what does not hold for this one."""

    def handle_exit(self, sig: int, frame: object) -> None:
        self.alive = False

    # -- the loop ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        # A signal writes here.
        self._epoll.register(self.PIPE[0], select.EPOLLIN)
        for listener in self.sockets:
            listener.setblocking(False)
            # What the kernel has taken, and the client does not, is the kernel's to give up. Connections inherit it.
            timeout = max(1, int(self._limits.write_timeout * 1000))
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
            self._listeners[listener.fileno()] = listener
        for number in range(self.cfg.threads):
            threading.Thread(target=self._work, name=f"request-{number}", daemon=True).start()
        self._accept_again()
        while self.alive and self._is_parent_there():
            self._turn()
        self._stop()

    def _turn(self) -> None:
        events = self._epoll.poll(self._patience(), EVENTS_AT_ONCE)
        self._now = time.monotonic()
        self._take_back()
        for descriptor, mask in events:
            connection = self._connections.get(descriptor)
            if connection is not None:
                self._on_event(connection, mask)
            elif descriptor in self._listeners:
                self._accept(self._listeners[descriptor])
            elif descriptor in (self._wake, self.PIPE[0]):
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
            # Otherwise it is of a connection that has been dropped since.
        # Once more: whoever was given back after an event of its had been noted would wait for another one.
        self._take_back()
        self._expire()
        if not self._accepting:
            self._accept_again()

    def _patience(self) -> float:
        """Seconds until something has to be done without any event."""
        if self._given_back:
            return 0.0
        patience = HEARTBEAT if self._accepting else PAUSE
        for waiting in (self._idle, self._reading, self._writing, self._closing):
            first = waiting.first()
            if first is not None:
                patience = min(patience, first.deadline - self._now)
        return max(0.0, patience)

    def _is_parent_there(self) -> bool:
        if self._now >= self._heartbeat_at:
            self._heartbeat_at = self._now + HEARTBEAT / 2
            self.notify()
            return bool(self.ppid == os.getppid())
        return True

    def _stop(self) -> None:
        """Take no new connections, finish what has begun, and give what is on its way a moment to arrive."""
        self._now = time.monotonic()
        give_up_at = self._now + self.cfg.graceful_timeout
        for listener in self._listeners.values():
            # Nobody else would answer those who have connected: each process has a queue of its own.
            self._accept(listener)
        self._accepting = False
        for descriptor, listener in self._listeners.items():
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)
            listener.close()
        self._listeners.clear()
        for waiting in (self._idle, self._reading, self._closing):
            waiting.shorten(STOP_LINGER, self._now)
        while self._connections and self._now < give_up_at:
            self.notify()
            self._turn()

    def _on_event(self, connection: Connection, mask: int) -> None:
        waiting = connection.waiting
        if mask & ENDING:
            connection.ending = True
        if waiting is None:
            connection.readable = True
        elif waiting is self._closing:
            self._discard(connection)
        elif waiting is self._writing:
            connection.readable = True
            if mask & (select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR):
                self._write(connection)
        else:
            self._read(connection)

    def _expire(self) -> None:
        for waiting in (self._idle, self._reading, self._writing, self._closing):
            while (first := waiting.first()) is not None and first.deadline <= self._now:
                if waiting is self._reading and first.received:
                    self._refuse_late(first)
                else:
                    self._drop(first)

    # -- connections -------------------------------------------------------------------------------------------------------

    def _accept(self, listener: Any) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if len(self._connections) >= self._limits.max_connections and not self._has_victim():
                self._stop_accepting()
                return
            try:
                client_socket, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS and not self._make_room():
                    self._accept_at = self._now + PAUSE
                    self._stop_accepting()
                    return
                # All others concern one connection that is gone already (accept(2)).
                continue
            self._add(client_socket, client, listener)
            if len(self._connections) > self._limits.max_connections:
                self._make_room()

    def _add(self, client_socket: socket.socket, client: Any, listener: Any) -> None:
        client_socket.setblocking(False)
        connection = Connection(client_socket, client, listener.getsockname(), self._addresses.counted(client))
        self._connections[client_socket.fileno()] = connection
        self._wait(connection, self._reading)
        self._epoll.register(client_socket, READABLE)
        if self._addresses.is_exceeded(connection.address):
            self._refuse(connection, 429, "Too many connections from this address wait for a request.")

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for descriptor in self._listeners:
                self._epoll.unregister(descriptor)

    def _accept_again(self) -> None:
        if self._now < self._accept_at:
            return
        if self._listeners and (len(self._connections) < self._limits.max_connections or self._has_victim()):
            self._accepting = True
            for descriptor in self._listeners:
                self._epoll.register(descriptor, select.EPOLLIN)

    def _has_victim(self) -> bool:
        return any(waiting.connections for waiting in (self._closing, self._idle, self._reading, self._writing))

    def _make_room(self) -> bool:
        """Drop the connection that costs its client least and has waited longest; False when threads have all of them.

        A flood of connections that send nothing, or half a request, so pushes itself out, and not who comes with a whole one.
        """
        for waiting in (self._closing, self._idle, self._reading, self._writing):
            first = waiting.first()
            if first is not None:
                self._drop(first)
                return True
        return False

    def _wait(self, connection: Connection, waiting: Waiting | None) -> None:
        """Move the connection to the end of those in ``waiting``; None: to a thread, or out of the loop."""
        if connection.waiting is not None:
            del connection.waiting.connections[connection]
        if connection.address is not None:
            self._addresses.add(connection.address, self._counts(waiting) - self._counts(connection.waiting))
        connection.waiting = waiting
        if waiting is not None:
            connection.deadline = self._now + waiting.patience
            waiting.connections[connection] = None

    def _counts(self, waiting: Waiting | None) -> int:
        return int(waiting is self._idle or waiting is self._reading)

    def _hold(self, connection: Connection, size: int) -> None:
        self._held += size - connection.held
        connection.held = size

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.socket.fileno()]
        self._wait(connection, None)
        self._hold(connection, 0)
        connection.socket.close()

    # -- reading -----------------------------------------------------------------------------------------------------------

    def _read(self, connection: Connection) -> None:
        """Receive until a request is complete or nothing more is there."""
        while True:
            try:
                size = connection.socket.recv_into(self._chunk)
            except BlockingIOError:
                connection.readable = False
                return
            except OSError:
                self._drop(connection)
                return
            # A short one has emptied the socket: the next byte brings an event.
            connection.readable = size == RECEIVE or connection.ending
            if size == 0:
                self._end_input(connection)
                return
            self._add_received(connection, bytes(self._chunk[:size]))
            if self._advance(connection) or not connection.readable:
                return

    def _add_received(self, connection: Connection, data: bytes) -> None:
        if connection.received:
            if not isinstance(connection.received, bytearray):
                connection.received = bytearray(connection.received)
            connection.received += data
        else:
            connection.received = data

    def _end_input(self, connection: Connection) -> None:
        """The client has closed its side. A body that is cut off gets an answer; before that there is nothing to answer."""
        connection.ended = True
        if connection.received and connection.end is not None and connection.end.head_size:
            self._refuse(connection, 400, "The request's body could not be read to its end.")
        else:
            self._drop(connection)

    def _advance(self, connection: Connection) -> bool:
        """Hand over the request if it is complete; True when nothing more is to be read for it now."""
        end = connection.end
        if end is None:
            end = connection.end = RequestEnd(MAX_HEAD, self._limits.max_body)
        size = end.find(connection.received)
        if size > 0:
            self._hand_over(connection, size, whole=True)
            return True
        if size == MORE:
            return self._wait_for_more(connection, end)
        if size == HEAD_TOO_LARGE:
            self._refuse(connection, 431, f"The request line and the headers may have at most {MAX_HEAD} bytes together.")
        else:
            self._hand_over(connection, len(connection.received), whole=False)
        return True

    def _wait_for_more(self, connection: Connection, end: RequestEnd) -> bool:
        if connection.held == 0:
            # The first bytes of a request: its time begins.
            self._wait(connection, self._reading)
        self._hold(connection, len(connection.received))
        if self._held > self._limits.max_buffered:
            self._relieve(connection)
            if connection.waiting is not self._reading:
                return True
        if end.expects_continue:
            end.expects_continue = False
            with contextlib.suppress(OSError):
                connection.socket.send(CONTINUE)
        return False

    def _relieve(self, newest: Connection) -> None:
        """Refuse half-sent requests, those first that have been waited for longest, until the rest may be held."""
        for connection in [*self._reading.connections]:
            if connection.held and connection is not newest:
                self._refuse_busy(connection)
            if self._held <= self._limits.max_buffered:
                return
        self._refuse_busy(newest)

    # -- threads -----------------------------------------------------------------------------------------------------------

    def _hand_over(self, connection: Connection, size: int, *, whole: bool) -> None:
        """``size`` bytes are a ``whole`` request, or all there is of one that has no end or is not waited for."""
        received = connection.received
        if size == len(received):
            data, connection.received = bytes(received), b""
        else:
            data, connection.received = bytes(received[:size]), received[size:]
        connection.end = None
        self._hold(connection, len(received))
        self._wait(connection, None)
        self._jobs.put((connection, data, whole))

    def _work(self) -> None:
        while True:
            connection, data, whole = self._jobs.get()
            connection.keep = self._answer(connection, data, whole)
            connection.unsent = connection.sock.take()
            try:
                connection.send()
            except OSError:
                connection.unsent, connection.keep = b"", False
            self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        """The loop hears of it now if it has something to do with it, and otherwise when it wakes for something else."""
        urgent = connection.unsent or not connection.keep or connection.received or not self._accepting
        self._given_back.append(connection)
        # Looked at after the append: the loop sets it first and looks for the connection afterwards.
        if urgent or connection.readable:
            os.eventfd_write(self._wake, 1)

    def _answer(self, connection: Connection, data: bytes, whole: bool) -> bool:
        """In a thread: the request's answer, into ``connection.sock``; returns whether another request may follow."""
        received = Received(data)
        request = None
        try:
            request = Request(self.cfg, received, connection.client)
            if whole:
                request.body = read_body(request, received)
            else:
                request.force_close()
            return bool(self.handle_request(request, connection))
        except StopIteration:
            # gunicorn's word for a connection that has to be closed; what was written of the answer has been thrown away.
            return False
        except Exception as error:  # noqa: BLE001 - as in gunicorn: the parser's refusals, and what the application let through
            connection.sock.take()
            self.handle_error(request, connection.sock, connection.client, error)
            return False

    def handle_error(self, req: Any, client: Answer, addr: Any, exc: Exception) -> None:
        """As gunicorn does it, but with the document that every error of this API has."""
        status = refusal(exc)
        if status is None:
            self.log.error("Error handling a request", exc_info=exc)
            answer = error_answer(500, "The service failed at this request; its log has the reason.")
        else:
            self.log.debug("Invalid request from %s: %s", addr[0], exc)
            answer = error_answer(status, str(exc) or type(exc).__name__)
        client.sendall(answer)

    def _take_back(self) -> None:
        while self._given_back:
            connection = self._given_back.popleft()
            self._hold(connection, len(connection.received))
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """After an answer: send the rest of it, close, or begin with the next request."""
        if connection.unsent:
            self._hold(connection, len(connection.received) + len(connection.unsent))
            if self._held > self._limits.max_buffered:
                self._drop(connection)
                return
            self._wait(connection, self._writing)
            self._epoll.modify(connection.socket, WRITABLE)
        elif not connection.keep:
            self._close(connection)
        elif connection.received:
            self._wait(connection, self._reading)
            if not self._advance(connection) and connection.readable:
                self._read(connection)
        else:
            self._wait(connection, self._idle)
            if connection.readable:
                self._read(connection)
            elif self._addresses.is_exceeded(connection.address):
                self._drop(connection)

    # -- writing -----------------------------------------------------------------------------------------------------------

    def _write(self, connection: Connection) -> None:
        before = len(connection.unsent)
        try:
            connection.send()
        except OSError:
            self._drop(connection)
            return
        if not connection.unsent:
            self._epoll.modify(connection.socket, READABLE)
            self._hold(connection, len(connection.received))
            self._go_on(connection)
        elif len(connection.unsent) < before:
            self._wait(connection, self._writing)

    def _refuse_late(self, connection: Connection) -> None:
        if self.alive:
            self._refuse(connection, 408, f"The request did not arrive within {self._limits.read_timeout:g} s.")
        else:
            self._refuse_busy(connection)

    def _refuse_busy(self, connection: Connection) -> None:
        self._refuse(connection, 503, "The service is stopping, or holds too many unfinished requests.")

    def _refuse(self, connection: Connection, status: int, description: str) -> None:
        """Answer in the loop, and close."""
        connection.received = b""
        connection.end = None
        connection.keep = False
        connection.unsent = error_answer(status, description)
        try:
            connection.send()
        except OSError:
            self._drop(connection)
            return
        self._hold(connection, 0)
        self._go_on(connection)

    def _close(self, connection: Connection) -> None:
        """Say that no more will come, and wait until the client has closed: a reset would take the answer away from it."""
        try:
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(connection)
            return
        connection.received = b""
        self._hold(connection, 0)
        self._wait(connection, self._closing)
        self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        while not connection.ended and connection.discarded < MAX_DISCARDED:
            try:
                size = connection.socket.recv_into(self._chunk)
            except BlockingIOError:
                return
            except OSError:
                break
            if size == 0:
                break
            connection.discarded += size
        self._drop(connection)
