"""A push service with browsers behind it, twice: one of ours that opens what it gets with a second implementation of RFC 8291,
and the npm package web-push-testing."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import unittest
import urllib.request
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.notifiers.endpoint import Received
from tests.notifiers.http2 import SILENCE, Answer, Http2Server
from tests.notifiers.providers import claims_of, decoded
from zaqar_notify.notifiers.tokens import base64url

MODULES = pathlib.Path(__file__).resolve().parent.parent.parent / "var" / "servers" / "node_modules"

_PROGRAM = """
const {PushApiModel} = require('web-push-testing/src/PushApiModel');
const Server = require('web-push-testing/src/server');
const model = new PushApiModel(), port = Number(process.argv[1]);
const server = new Server(model, port), listen = server._app.listen.bind(server._app);
server._app.listen = (port, ready) => listen(port, '127.0.0.1', ready);
server.startServer();
model.notifyUrl = `http://127.0.0.1:${port}/notify/`;
process.stdin.on('end', () => process.exit(0)).resume();
"""


def point(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class Browser:
    def __init__(self, private: Any = None, auth: bytes | None = None) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        self.auth = auth or os.urandom(16)

    @property
    def keys(self) -> dict[str, str]:
        return {"p256dh": base64url(point(self.private)), "auth": base64url(self.auth)}

    def open(self, sealed: bytes) -> bytes:
        """What is in a message of one record. Raises `InvalidTag`."""
        salt, size, length = sealed[:16], int.from_bytes(sealed[16:20], "big"), sealed[20]
        theirs, record = sealed[21 : 21 + length], sealed[21 + length :]
        if not 17 <= len(record) <= size:
            raise ValueError("more than one record, or none")
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), theirs)
        info = b"WebPush: info\0" + point(self.private) + theirs
        secret = HKDF(SHA256(), 32, self.auth, info).derive(self.private.exchange(ec.ECDH(), public))
        key = HKDF(SHA256(), 16, salt, b"Content-Encoding: aes128gcm\0").derive(secret)
        nonce = HKDF(SHA256(), 12, salt, b"Content-Encoding: nonce\0").derive(secret)
        text, mark, padding = AESGCM(key).decrypt(nonce, record, None).rpartition(b"\x02")
        if not mark or padding.strip(b"\0"):
            raise ValueError("no last record")
        return text


class PushService(Http2Server):
    """Every path is a subscription of `browser` that was made for the application ``key``. It is answered by what stands before
    its ``-``: a status, or well."""

    def __init__(self, key: Any, **options: Any) -> None:
        self.key = key
        self.browser = Browser()
        self.messages: list[Any] = []
        self.retry_after: str | None = None
        super().__init__(self._respond, **options)

    def subscriber(self, name: str = "good-1") -> str:
        return f"webpush+https://127.0.0.1:{self.port}/push/{name}"

    def _respond(self, received: Received) -> Answer | None:
        headers = received.headers
        kind = headers[":path"].removeprefix("/push/").partition("-")[0]
        if kind == "silent":
            return SILENCE
        status = self._look_at(headers) or (int(kind) if kind.isdigit() else 201)
        if status != 201:
            wait = {} if self.retry_after is None else {"retry-after": self.retry_after}
            return Answer(status, wait, f"no {headers[':path']}".encode())
        self.messages.append(json.loads(self.browser.open(received.body)))
        return Answer(201, {"location": f"https://127.0.0.1:{self.port}/message/1"})

    def _look_at(self, headers: dict[str, str]) -> int | None:
        """The status for a request that is not as the RFCs have it."""
        if headers.get("content-encoding") != "aes128gcm" or not headers.get("ttl", "").isdigit():
            return 400
        if headers.get("urgency", "normal") not in ("very-low", "low", "normal", "high") or len(headers.get("topic", "")) > 32:
            return 400
        scheme, _, rest = headers["authorization"].partition(" ")
        given = dict(part.strip().split("=", 1) for part in rest.split(","))
        if scheme != "vapid" or decoded(given["k"]) != point(self.key):
            return 403
        try:
            _, claims = claims_of(given["t"], self.key.public_key())
        except (InvalidSignature, ValueError):
            return 401
        right = claims["aud"] == f"https://127.0.0.1:{self.port}" and claims["sub"] == "mailto:push@example.org"
        return None if right and time.time() < claims["exp"] <= time.time() + 86400 else 401


class WebPushTesting:
    """The npm package, as a child that ends with us."""

    def __init__(self, test: unittest.TestCase) -> None:
        node = shutil.which("node")
        if node is None or not (MODULES / "web-push-testing").is_dir():
            raise unittest.SkipTest("server missing: web-push-testing")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._process = subprocess.Popen(
            [node, "-e", _PROGRAM, str(self.port)],
            env={**os.environ, "NODE_PATH": str(MODULES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        test.addCleanup(self._stop)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError("web-push-testing does not start")

    def _stop(self) -> None:
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, document: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
        return json.loads(text)["data"] if text.startswith(b"{") else None

    def subscribe(self, key: Any) -> Any:
        return self.ask("/subscribe", {"userVisibleOnly": "true", "applicationServerKey": base64url(point(key))})
