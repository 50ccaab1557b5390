"""Starts the service as a user would, in processes of its own, and stops it by pid."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.servers.base import free_port

WAIT = 60.0
"""Seconds after which a test gives up: a safety net, not a measurement."""

HEADERS = {"Client-ID": "3381af92-2b9e-11e3-b191-71861300734c", "X-Project-ID": "demo", "Content-Type": "application/json"}

CONFIG = """\
[DEFAULT]
data_dir = {data_dir}
[api]
port = {port}
workers = 1
[guard]
allowed_networks = 127.0.0.0/8
[encryption]
keys = {key}
[signed_url]
secret_key = {secret}
[storage]
connection = {storage}
"""


def wait_for(condition: Callable[[], Any], what: str, timeout: float = WAIT) -> Any:
    end = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"gave up waiting for {what}")
        time.sleep(0.02)
    return result


class Service:
    """One data directory and the processes on it. ``options`` are further lines of configuration, ``environment`` further
    variables. ``storage`` is the URL of the storage, without which there is one in the directory. Another host of the same
    service is made ``beside`` the first: it has a directory and processes of its own, and the storage and keys of the first.
    ``within`` stands before the commands that start its processes: ``ip netns exec NAME``."""

    def __init__(
        self,
        test: unittest.TestCase | None = None,
        options: str = "",
        environment: Mapping[str, str] | None = None,
        *,
        storage: str = "",
        beside: Service | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.data_dir = pathlib.Path(self._directory.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = self.data_dir / "test.conf"
        self.storage = beside.storage if beside else storage
        self.keys: dict[str, str] = (
            beside.keys
            if beside
            else {"key": base64.b64encode(secrets.token_bytes(32)).decode(), "secret": secrets.token_hex(32)}
        )
        self.config.write_text(
            CONFIG.format(data_dir=self.data_dir, port=self.port, storage=self.storage, **self.keys) + options
        )
        self.within = within
        self.environment = {**os.environ, **(environment or {})}
        self.processes: list[subprocess.Popen[bytes]] = []
        if test is not None:
            test.addCleanup(self.close)
        if beside is None:
            self.run("db", "upgrade")

    def run(self, *command: str) -> str:
        return subprocess.run(
            self._command(*command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=True,
        ).stdout

    def _command(self, *command: str) -> list[str]:
        return [sys.executable, "-m", "zaqar_notify", *command, "--config-file", str(self.config)]

    def start(self, kind: str) -> subprocess.Popen[bytes]:
        """``kind`` is "api" or "worker"; in a process group of its own, so that a kill takes all of it."""
        with (self.data_dir / f"{kind}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.within, *self._command(kind)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_api(self) -> subprocess.Popen[bytes]:
        process = self.start("api")
        wait_for(self.answers, f"the API\n{self.log('api')}")
        return process

    def answers(self) -> bool:
        try:
            return self.request("GET", "/v2/ping")[0] in (204, 401)  # 401: it wants to know who asks
        except OSError:
            return False

    def kill(self, process: subprocess.Popen[bytes], how: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait(WAIT)
        self.processes.remove(process)

    def log(self, kind: str) -> str:
        path = self.data_dir / f"{kind}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        for process in list(self.processes):
            self.kill(process)
        self._directory.cleanup()

    # -- as a client ---------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, document: Any = None, headers: Mapping[str, str] = HEADERS) -> tuple[int, Any]:
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self.url + path, data, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:
                return answer.status, _document(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _document(error.read())

    def subscribe(self, subscriber: str, queue: str = "demo", **document: Any) -> Any:
        status, answer = self.request("POST", f"/v2/queues/{queue}/subscriptions", {"subscriber": subscriber, **document})
        assert status == 201, (status, answer)
        return answer

    def post(self, *bodies: Any, queue: str = "demo", **fields: Any) -> list[str]:
        """Returns the ids."""
        status, answer = self.request(
            "POST", f"/v2/queues/{queue}/messages", {"messages": [{"body": body, **fields} for body in bodies]}
        )
        assert status == 201, (status, answer)
        return [href.rpartition("/")[2] for href in answer["resources"]]

    def deliveries(self, message_id: str, queue: str = "demo") -> list[dict[str, Any]]:
        status, answer = self.request("GET", f"/v2/queues/{queue}/messages/{message_id}/deliveries")
        assert status == 200, (status, answer)
        return answer["deliveries"]


def _document(body: bytes) -> Any:
    return json.loads(body) if body else None
