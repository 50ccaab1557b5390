"""Real servers on 127.0.0.1 that behave as a test wants."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import functools
import ipaddress
import os
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclasses.dataclass
class Received:
    line: str
    headers: dict[str, str]
    body: bytes


Behave = Callable[["Endpoint", Any, Received], None]


class Endpoint:
    """Answers each request with ``reply``: the bytes, or what a function does with (endpoint, connection, request)."""

    def __init__(self, reply: bytes | Behave = OK, *, tls: ssl.SSLContext | None = None) -> None:
        self.reply = reply
        self.requests: list[Received] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/hook"

    def named(self, name: str) -> str:
        return self.url.replace("127.0.0.1", name)

    def close(self) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            self._converse(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _converse(self, connection: socket.socket) -> None:
        # What a client that gives up, or a test that ends, does to a connection is not this server's failure.
        with contextlib.suppress(OSError, ValueError):
            if self._tls is not None:
                with self._tls.wrap_socket(connection, server_side=True) as secured:
                    self._requests(secured)
            else:
                self._requests(connection)

    def _requests(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        with stream:
            while line := stream.readline():
                received = _read(line, stream)
                self.requests.append(received)
                if isinstance(self.reply, bytes):
                    connection.sendall(self.reply)
                else:
                    self.reply(self, connection, received)


def _read(line: bytes, stream: Any) -> Received:
    headers: dict[str, str] = {}
    while (header := stream.readline().decode().rstrip("\r\n")) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Received(line.decode().strip(), headers, stream.read(int(headers.get("content-length", 0))))


# -- behaviours ---------------------------------------------------------------------------------------------------------------


def silent(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    """Never answers."""
    endpoint.stopping.wait()


def reset(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    """Cuts the connection with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    raise OSError


def hang_up(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    """Closes the connection without an answer."""
    connection.shutdown(socket.SHUT_RDWR)


def slow_body(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    """Begins an answer and sends a byte of its body now and then."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not endpoint.stopping.wait(0.05):
        connection.sendall(b"x")


def cut_body(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    connection.shutdown(socket.SHUT_RDWR)


def endless_body(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not endpoint.stopping.is_set():
        connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")


def endless_headers(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not endpoint.stopping.is_set():
        connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")


def proxy(endpoint: Endpoint, connection: socket.socket, request: Received) -> None:
    """An egress proxy: opens the tunnel that CONNECT asks for (to 127.0.0.1, whatever the name), and carries bytes."""
    port = int(request.line.split()[1].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as onward:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_carry, args=(onward, connection))
        back.start()
        _carry(connection, onward)
        back.join()
    raise OSError


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


# -- certificates -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Certificate:
    """A self-signed certificate for 127.0.0.1 and ``secure.test``; ``file`` is what a client has to trust."""

    file: str

    def context(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


@functools.cache
def certificate() -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(tz=datetime.UTC)
    names = [x509.DNSName("secure.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, directory)
    file = os.path.join(directory, "certificate.pem")
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open(file, "wb") as stream:
        stream.write(private + signed.public_bytes(serialization.Encoding.PEM))
    return Certificate(file)
