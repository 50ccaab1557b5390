"""`zaqar-notify serve`: API and worker on one machine, and a receiver, as child processes that are looked after."""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import http.client
import os
import secrets
import select
import shlex
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from http import HTTPStatus

from oslo_config import cfg

from zaqar_notify import __version__, bootstrap, errors
from zaqar_notify.commands import address, curl, database
from zaqar_notify.commands.children import Children
from zaqar_notify.commands.configuration import configure, secrets_path

LOOPBACK = "127.0.0.0/8,::1/128"
ALLOWED_NETWORKS = "OS_GUARD__ALLOWED_NETWORKS"
"""The environment variable by which the development form allows loopback; a value that is there already stays."""
AFTER_KILL = 10.0
"""Seconds that the processes of a killed predecessor may take to give the port free."""
START_TIMEOUT = 60.0
"""Seconds in which all of them have to be ready."""
ACCESS = {
    "none": [],
    "apikey": ["Callers need an API key, in the header Authorization: Bearer; 'zaqar-notify key create' makes one."],
    "keystone": ["Callers need a Keystone token, in the header X-Auth-Token."],
}
"""What `introduction` says about each [auth] strategy."""
ANSWERS = (HTTPStatus.NO_CONTENT, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
"""To a ping: the API is ready."""
TICK = 0.2
"""Seconds between two looks at the processes."""


def run(arguments: argparse.Namespace) -> int:
    conf = configure(arguments)
    bootstrap.set_up_logging(conf)
    address.require_loopback(conf)
    directory = os.path.abspath(conf.data_dir)
    with StopSignals() as signals, lock(directory) as killed:
        make_secrets(directory)
        conf = configure(arguments)
        database.upgrade_schema(conf)
        with reserve(conf, wait=AFTER_KILL if killed else 0.0) as port:
            return look_after(conf, port, directory, arguments.config_files, signals)


def look_after(conf: cfg.ConfigOpts, port: socket.socket, directory: str, files: Sequence[str], signals: StopSignals) -> int:
    """Run API, worker and receiver until a signal comes; returns the exit status."""
    url = address.url(conf.api.host, port.getsockname()[1])
    development = not files and conf.auth.strategy == "none" and ALLOWED_NETWORKS not in os.environ
    flags = [word for file in files for word in ("--config-file", file)]
    children = Children(
        [*flags, "--data", directory, *(["--debug"] if conf.debug else [])],
        listening=["--host", conf.api.host, "--port", str(port.getsockname()[1]), "--port-fd", str(port.fileno())],
        port=port.fileno(),
        environment={**({ALLOWED_NETWORKS: LOOPBACK} if development else {}), **os.environ},
        receiver=conf.receive.listen is not None,
        apart=sorted({scheme.lower() for scheme in conf.worker.apart}),
    )
    with children.running(max(conf.api.graceful_timeout, conf.worker.stop_timeout, conf.receive.stop_timeout) + 5.0):
        wait_until_ready(port, children, signals)
        if not signals.stopping:
            receiving = [f"Bounces are taken by LMTP at {conf.receive.listen}."] if conf.receive.listen else []
            print(introduction(url, directory, development, [*ACCESS[conf.auth.strategy], *receiving]), flush=True)
        while not signals.wait(TICK):
            children.revive()
        print("Stopping ...", flush=True)
    return 0


def reserve(conf: cfg.ConfigOpts, wait: float) -> socket.socket:
    """The bound port, which the API's processes share; raises `CannotStart` when it is not free within ``wait`` seconds."""
    give_up_at = time.monotonic() + wait
    while True:
        try:
            return address.reserve(conf.api.host, conf.api.port)
        except errors.CannotStart:
            if time.monotonic() >= give_up_at:
                raise
        time.sleep(TICK)


# -- the data directory ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(directory: str) -> Iterator[bool]:
    """Make the directory and keep it for this process alone; raises `CannotStart` when another has it.

    Yields whether the one before was killed: it has left its process id in the file.
    """
    path = os.path.join(directory, "serve.lock")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.CannotStart(f"Cannot use the data directory {directory}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.CannotStart(f"The data directory {directory} is in use by process {file.read().strip()}") from error
        killed = file.read() != ""
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield killed
        file.seek(0)
        file.truncate()


def make_secrets(directory: str) -> str:
    """The path of the configuration file with this installation's keys; written once, and never again."""
    path = secrets_path(directory)
    if os.path.exists(path):
        return path
    new = f"{path}.new"
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets_file())
            file.flush()
            os.fsync(file.fileno())
        # A link never replaces a file, and is there as a whole or not at all.
        os.link(new, path)
        os.unlink(new)
        _sync(directory)
    except OSError as error:
        raise errors.CannotStart(f"Cannot write {path}: {error.strerror}") from error
    return path


def secrets_file() -> str:
    return (
        "# Made by 'zaqar-notify serve'. Keep a copy with the database: without these keys, what is encrypted in it is lost.\n"
        f"[encryption]\nkeys = {base64.b64encode(secrets.token_bytes(32)).decode()}\n\n"
        f"[signed_url]\nsecret_key = {secrets.token_hex(32)}\n"
    )


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- signals -----------------------------------------------------------------------------------------------------------------


class StopSignals:
    """SIGINT and SIGTERM, remembered and waited for."""

    def __init__(self) -> None:
        self.stopping = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._former[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._wake)

    def _stop(self, *_: object) -> None:
        self.stopping = True
        os.eventfd_write(self._wake, 1)

    def wait(self, seconds: float) -> bool:
        """True when this process is to stop."""
        if not self.stopping:
            select.select([self._wake], [], [], seconds)
        return self.stopping


# -- start ---------------------------------------------------------------------------------------------------------------


def wait_until_ready(port: socket.socket, children: Children, signals: StopSignals) -> None:
    """Returns early when this process is to stop. Raises `CannotStart`."""
    give_up_at = time.monotonic() + START_TIMEOUT
    others = api = False
    while not (others and api):
        if signals.wait(0.05):
            return
        children.require_alive()
        others = others or children.are_ready()
        api = api or answers(*port.getsockname()[:2])
        if time.monotonic() > give_up_at:
            raise errors.CannotStart(f"Not all processes were ready within {START_TIMEOUT:g} s")


def answers(host: str, port: int) -> bool:
    """Also when it asks who we are: nobody."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/v2/ping", headers={"Client-ID": str(uuid.uuid4()), "X-Project-ID": "ping"})
        return connection.getresponse().status in ANSWERS
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def introduction(url: str, directory: str, development: bool, access: Sequence[str] = ()) -> str:
    lines = [
        "",
        f"zaqar-notify {__version__} is ready on {url}, with its data in {directory}. Ctrl-C stops it.",
        *([f"This is the development form: no authentication, and webhooks to {LOOPBACK} are allowed."] if development else []),
        *access,
        "",
        "In a second terminal, start a receiver, and paste the line that it prints into a third one:",
        "",
        f"{command()} listen" + ("" if url == "http://127.0.0.1:8888" else f" --url {url}"),
        "",
        "Then post a message, and see it come:",
        "",
        curl.post(f"{url}/v2/queues/demo/messages", {"messages": [{"body": {"hello": "world"}}]}, "demo"),
        "",
    ]
    return "\n".join(lines)


def command() -> str:
    """How to call this program from the current directory."""
    if os.path.basename(sys.argv[0]) != "zaqar-notify":
        return f"{shlex.quote(sys.executable)} -m zaqar_notify"
    near = os.path.relpath(sys.argv[0])
    return shlex.quote(sys.argv[0] if near.startswith("..") else near)
