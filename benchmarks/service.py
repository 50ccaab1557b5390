"""The service under test: `zaqar-notify api` and `zaqar-notify worker` as processes of their own on a database of their own."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import filling, generator, sink
from zaqar_notify import bootstrap
from zaqar_notify.storage.base import Storage

COMMAND = (sys.executable, "-m", "zaqar_notify")
START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0

Settings = Mapping[str, Mapping[str, object]]


class ServiceFailed(Exception):
    """The service did not start, or answered what it must not; the message has the end of its log."""


class Service:
    """Starts nothing by itself: see `start_api` and `start_worker`. Leaving the context stops all and removes the database."""

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True)
        reserved = sink.reserve(1)[0]
        self.port: int = reserved.getsockname()[1]
        reserved.close()
        self.config = directory / "benchmark.conf"
        self.config.write_text(_config(directory / "data", self.port, settings or {}))
        self.key: str | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        self.start_api()
        self.start_worker()

    def start_api(self) -> None:
        """Make the database and start the API; returns when it answers."""
        self._run("db", "upgrade")
        self._start("api")
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            self._check("api")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/v2/ping")[0] in (204, 401):
                    return
            time.sleep(0.05)
        raise ServiceFailed(f"the API does not answer after {START_TIMEOUT:g} s\n{self._log('api')}")

    def start_worker(self, number: int = 0) -> None:
        """Returns at once."""
        self._start("worker", number)

    def stop(self) -> None:
        """Worker first, gracefully; what does not stop is killed."""
        for name in sorted(self._processes, reverse=True):
            process = self._processes.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def make_key(self) -> str:
        """An API key that may do everything; it is sent with all requests from now on."""
        self.key = self._run("key", "create", "--project", generator.PROJECT, "--roles", "read,publish,subscribe,admin").strip()
        return self.key

    def request(self, method: str, path: str, document: object = None, project: str = generator.PROJECT) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(generator.HOST, self.port, timeout=30)
        headers = {
            "Client-ID": generator.CLIENT_ID,
            "X-Project-ID": project,
            "Accept": "application/json",
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self.key}"} if self.key else {}),
        }
        try:
            connection.request(method, path, None if document is None else json.dumps(document), headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(body) if body else None

    def subscribe(self, queue: str, urls: Sequence[str], project: str = generator.PROJECT) -> None:
        for url in urls:
            path, wanted = f"/v2/queues/{queue}/subscriptions", {"subscriber": url, "options": {}}
            status, document = self.request("POST", path, wanted, project)
            if status != 201:
                raise ServiceFailed(f"subscribing {url} was answered {status} {document}")

    def open_storage(self) -> Storage:
        return bootstrap.build_storage(bootstrap.configure(config_files=[str(self.config)]))

    def fill_subscriptions(self, queue: str, urls: Sequence[str], number: int) -> None:
        """So many subscribers, evenly over ``urls``, each with a path of its own; straight into the database."""
        storage = self.open_storage()
        try:
            storage.put_queue(generator.PROJECT, queue, {})
            for batch in filling.batches(filling.subscriptions(generator.PROJECT, queue, urls, number, time.time())):
                storage.copy_into("subscriptions", batch)
        finally:
            storage.close()

    def greatest_resident(self) -> int:
        """The most memory that the worker has had so far, in bytes."""
        return _resident(self._processes["worker"].pid, "VmHWM:")

    def resident(self) -> dict[str, list[int]]:
        """Resident memory in bytes: of each API worker (not the process that starts them), and of the worker."""
        for name in self._processes:
            self._check(name)
        api = self._processes["api"].pid
        return {
            "api worker": [_resident(process) for process in _children(api) or [api]],
            "worker": [_resident(self._processes["worker"].pid)],
        }

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*COMMAND, *arguments, "--config-file", self.config], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceFailed(
                f"zaqar-notify {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def _start(self, command: str, number: int = 0) -> None:
        name = f"{command}-{number}" if number else command
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*COMMAND, command, "--config-file", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then stops the service in order
            )

    def _check(self, name: str) -> None:
        status = self._processes[name].poll()
        if status is not None:
            raise ServiceFailed(f"zaqar-notify {name} left with exit status {status}\n{self._log(name)}")

    def _log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]


def _config(data: Path, port: int, settings: Settings) -> str:
    """A configuration as in production, with loopback endpoints allowed; ``settings`` are added."""
    groups: dict[str, dict[str, object]] = {
        "DEFAULT": {"data_dir": data},
        "api": {"port": port},
        "guard": {"allowed_networks": "127.0.0.0/8"},
        "encryption": {"keys": base64.b64encode(secrets.token_bytes(32)).decode()},
        "signed_url": {"secret_key": secrets.token_hex(32)},
        "worker": {"stop_timeout": 2},
    }
    for group, options in settings.items():
        groups.setdefault(group, {}).update(options)
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()) for group, options in groups.items()
    )


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The second field is the name in brackets and may hold spaces; the parent's id is the second after it.
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return sorted(found)


def _resident(process: int, field: str = "VmRSS:") -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ServiceFailed(f"process {process} has ended")
