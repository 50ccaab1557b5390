"""The servers that tests start: what becomes of them."""

from __future__ import annotations

import pathlib
import shutil
import signal
import subprocess
import sys
import unittest

from tests.servers import base, redis
from tests.system.service import wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STARTS = """
import os, signal, threading
from tests.servers import postgresql, redis

servers = []

def start():
    for server in (postgresql.PostgreSQL(fsync=False), redis.Redis()):
        servers.append(server)
        print(server.pid, server.folder, flush=True)

thread = threading.Thread(target=start)
thread.start()
thread.join()
"""
THREAD_HAS_ENDED = "assert all(server.answers() for server in servers)\n"
FAILS = "raise SystemExit(7)\n"
IS_KILLED = "os.kill(os.getpid(), signal.SIGKILL)\n"


def runs(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class ServersTest(unittest.TestCase):
    def start_and(self, end: str, status: int) -> list[tuple[int, pathlib.Path]]:
        """Pids and folders of servers whose process has come to that end, with that exit status."""
        for program, server, *places in (("postgres", "postgresql", "/usr/lib/postgresql/*/bin"), ("redis-server", "redis")):
            base.find_program(program, server, *places)
        done = subprocess.run(
            [sys.executable, "-c", STARTS + end],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = [line.split() for line in done.stdout.splitlines()]
        self.assertEqual((len(lines), done.returncode), (2, status), done.stderr)
        for _, folder in lines:
            self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        return [(int(pid), pathlib.Path(folder)) for pid, folder in lines]

    def test_they_end_with_the_process_that_uses_them_and_not_with_the_thread(self) -> None:
        for pid, folder in self.start_and(THREAD_HAS_ENDED + FAILS, 7):
            self.assertFalse(runs(pid))
            self.assertFalse(folder.exists())

    def test_they_end_when_that_process_is_killed(self) -> None:
        for pid, _ in self.start_and(IS_KILLED, -signal.SIGKILL):
            wait_for(lambda pid=pid: not runs(pid), "its end")

    def test_a_missing_one_is_named(self) -> None:
        with self.assertRaisesRegex(unittest.SkipTest, "^server missing: carrier-pigeon$"):
            base.find_program("no-such-program", "carrier-pigeon", "/no/such/place")

    def test_data_outlives_a_restart_and_a_kill_until_it_is_cleared(self) -> None:
        server = redis.Redis(self)
        self.assertEqual(server.ask("SET a 1"), "+OK")
        server.restart()
        server.kill()
        server.start()
        self.assertEqual(server.ask("EXISTS a"), ":1")
        server.kill()
        server.clear()
        server.start()
        self.assertEqual(server.ask("EXISTS a"), ":0")
