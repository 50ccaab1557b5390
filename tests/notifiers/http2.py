"""A small HTTP/2 server over TLS whose connections end as those of large providers do: by GOAWAY, in the middle of traffic."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

from tests.notifiers.endpoint import Endpoint, Received, certificate


@dataclasses.dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""


SILENCE = None
"""No answer at all: the stream stays open."""

Reply = Callable[[Received], Answer | None]


class Http2Server(Endpoint):
    """``respond`` answers each request; a request's ``:path`` and ``:method`` are among its headers.

    After each ``goaway_every`` streams of a connection it is told to end: what came before is answered, what comes after is
    ignored; then it waits for the client to close it or, ``abrupt``, says nothing more. ``streams``: how many may be open at
    once.
    """

    def __init__(self, respond: Reply, *, goaway_every: int = 0, abrupt: bool = False, streams: int = 1000) -> None:
        self.respond = respond
        self.goaway_every = goaway_every
        self.abrupt = abrupt
        self.streams = streams
        self.ended = 0
        """Connections that were told to end."""
        self.most_open = 0
        """Streams that were open at once on one connection."""
        super().__init__(tls=certificate().context("h2"))

    def _requests(self, connection: Any) -> None:
        connection.settimeout(None)
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            _Conversation(self, connection).run()


class _Conversation:
    def __init__(self, server: Http2Server, connection: ssl.SSLSocket) -> None:
        self._server = server
        self._socket = connection
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, Received] = {}
        self._streams = 0
        self._last: int | None = None

    def run(self) -> None:
        state = self._state
        limits = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._server.streams}
        state.local_settings = h2.settings.Settings(client=False, initial_values=limits)
        state.initiate_connection()
        self._socket.sendall(state.data_to_send())
        while data := self._socket.recv(65536):
            for event in state.receive_data(data):
                self._hear(event)
            self._socket.sendall(state.data_to_send())
            if self._server.abrupt and self._last is not None and not any(stream <= self._last for stream in self._requests):
                socket.socket.shutdown(self._socket, socket.SHUT_WR)  # not TLS's own end

    def _hear(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._requests[event.stream_id] = Received(event.stream_id, dict(event.headers), b"")
            self._server.most_open = max(self._server.most_open, len(self._requests))
            self._streams += 1
            if self._streams == self._server.goaway_every:
                self._go_away(event.stream_id)
        elif isinstance(event, h2.events.DataReceived):
            self._requests[event.stream_id].body += event.data
            if event.flow_controlled_length:
                self._state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._answer(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._requests.pop(event.stream_id, None)

    def _go_away(self, last: int) -> None:
        self._last = last
        self._server.ended += 1
        frame = hyperframe.frame.GoAwayFrame(last_stream_id=last, additional_data=b'{"reason":"Shutdown"}')
        # By hand: h2 itself would answer nothing any more.
        self._socket.sendall(self._state.data_to_send() + frame.serialize())

    def _answer(self, stream: int) -> None:
        if self._last is not None and stream > self._last:
            return
        received = self._requests[stream]
        self._server.requests.append(received)
        answer = self._server.respond(received)
        if answer is None:
            return
        del self._requests[stream]
        self._state.send_headers(stream, [(":status", str(answer.status)), *answer.headers.items()], end_stream=not answer.body)
        if answer.body:
            self._state.send_data(stream, answer.body, end_stream=True)
