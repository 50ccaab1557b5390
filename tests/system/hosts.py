"""What tests of many hosts need on one machine: hosts in network namespaces, clocks that are wrong, and clients that post all
the time and note how long they were kept waiting."""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
import secrets
import subprocess
import threading
import time
import unittest

from tests.servers.base import find_program, missing
from tests.system.service import Service

WRONG_CLOCK = pathlib.Path(__file__).parent / "wrong_clock"


def clock_off_by(seconds: int) -> dict[str, str]:
    """The environment of a process whose wall clock is wrong, and whose monotonic clock is not."""
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not libraries:
        raise missing("faketime")
    return {
        "LD_PRELOAD": libraries[0],
        "FAKETIME": f"{seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(WRONG_CLOCK),
    }


class Network:
    """Hosts, each a network namespace with two cables to this one: to ``database`` and to ``web``, addresses of this one."""

    def __init__(self, test: unittest.TestCase, hosts: int) -> None:
        self._ip_program = find_program("ip", "iproute", "/sbin", "/usr/sbin")
        if os.getuid() != 0:
            raise unittest.SkipTest("needs root, to make network namespaces")
        token = secrets.token_hex(3)
        number = secrets.randbelow(254)
        self.database = f"10.213.{number}.1"
        self.web = f"10.214.{number}.1"
        self._cables = {"db": f"zn{token}d", "web": f"zn{token}w"}
        self.hosts = [f"zn{token}h{host}" for host in range(hosts)]
        test.addCleanup(self._remove)
        self._require_the_right(token)
        for kind, address in (("db", self.database), ("web", self.web)):
            bridge = self._cables[kind]
            self._ip("link", "add", bridge, "type", "bridge")
            self._ip("address", "add", f"{address}/24", "dev", bridge)
            self._ip("link", "set", bridge, "up")
        for host, name in enumerate(self.hosts):
            self._ip("netns", "add", name)
            self._ip("-netns", name, "link", "set", "lo", "up")
            for kind, address in (("db", self.database), ("web", self.web)):
                cable = f"{self._cables[kind]}{host}"
                self._ip("link", "add", cable, "type", "veth", "peer", "name", kind, "netns", name)
                self._ip("link", "set", cable, "master", self._cables[kind], "up")
                self._ip("-netns", name, "address", "add", f"{address[:-1]}{host + 2}/24", "dev", kind)
                self._ip("-netns", name, "link", "set", kind, "up")

    def _require_the_right(self, token: str) -> None:
        """Root in a container may not have it."""
        try:
            for action in ("add", "delete"):
                self._ip("netns", action, f"zn{token}")
        except subprocess.CalledProcessError:
            raise unittest.SkipTest("needs the right to make network namespaces") from None

    def within(self, host: int) -> list[str]:
        """Stands before a command that is to run on that host."""
        return [self._ip_program, "netns", "exec", self.hosts[host]]

    def cut(self, host: int) -> None:
        """Between the host and the database: nothing gets through, and nobody is told."""
        self._ip("link", "set", f"{self._cables['db']}{host}", "nomaster")

    def heal(self, host: int) -> None:
        self._ip("link", "set", f"{self._cables['db']}{host}", "master", self._cables["db"])

    def _ip(self, *words: str, check: bool = True) -> None:
        subprocess.run([self._ip_program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=check)

    def _remove(self) -> None:
        for name in self.hosts:
            self._ip("netns", "delete", name, check=False)
        for bridge in self._cables.values():
            self._ip("link", "delete", bridge, check=False)


@dataclasses.dataclass
class Load:
    """Clients that post one message after the other until they are told to stop, each until it is acknowledged."""

    service: Service
    clients: int = 4
    pause: float = 0.01
    acknowledged: list[str] = dataclasses.field(default_factory=list)
    refused: int = 0
    worst_stall: float = 0.0
    """The longest that a client tried to post one message, in seconds."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        number = 0
        began = time.monotonic()
        while not self._stop.is_set():
            try:
                self.acknowledged += self.service.post({"client": client, "number": number})
            except (OSError, AssertionError):  # no 201: not acknowledged, whatever became of it
                self.refused += 1
                time.sleep(0.05)
                continue
            self.worst_stall = max(self.worst_stall, time.monotonic() - began)
            number += 1
            self._stop.wait(self.pause)
            began = time.monotonic()

    def stop(self) -> list[str]:
        """What was acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        return self.acknowledged
