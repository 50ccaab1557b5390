"""Wake-ups are hints: they arrive, and nothing that goes wrong with them goes wrong for anyone else."""

import os
import pathlib
import select
import socket
import subprocess
import sys
import tempfile
import unittest

from zaqar_notify.wake import Listener, Waker


class Wake(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = os.path.join(temporary.name, "wake")

    def waker(self) -> Waker:
        waker = Waker(self.directory)
        self.addCleanup(waker.close)
        return waker

    def listener(self) -> Listener:
        listener = Listener(self.directory)
        self.addCleanup(listener.close)
        return listener

    def assert_woken(self, listener: Listener) -> None:
        self.assertEqual(select.select([listener], [], [], 10.0)[0], [listener])
        self.assertTrue(listener.drain())

    def test_a_notification_wakes_and_is_consumed(self) -> None:
        listener = self.listener()
        self.assertFalse(listener.drain())
        self.waker().notify()
        self.assert_woken(listener)
        self.assertFalse(listener.drain())

    def test_a_thousand_notifications_nobody_reads_block_nobody(self) -> None:
        listener, waker = self.listener(), self.waker()
        for _ in range(1000):
            waker.notify()
        self.assert_woken(listener)

    def test_without_a_worker_nothing_happens(self) -> None:
        self.waker().notify()
        self.listener().close()
        self.waker().notify()

    def test_the_socket_of_a_killed_worker_is_removed_by_the_next(self) -> None:
        script = (
            "import sys, time; from zaqar_notify.wake import Listener; Listener(sys.argv[1]); print(flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", script, self.directory], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            process.kill()
        self.assertEqual(os.listdir(self.directory), [f"{process.pid}.sock"])
        self.waker().notify()
        self.listener()
        self.assertEqual(os.listdir(self.directory), [f"{os.getpid()}.sock"])

    def test_a_directory_whose_name_is_too_long_for_a_socket_address(self) -> None:
        self.directory = os.path.join(self.directory, "d" * 120)
        listener = self.listener()
        self.waker().notify()
        self.assert_woken(listener)

    def test_closing_removes_the_socket(self) -> None:
        self.listener().close()
        self.assertEqual(os.listdir(self.directory), [])

    def test_only_the_owner_can_wake(self) -> None:
        self.listener()
        self.assertEqual(pathlib.Path(self.directory).stat().st_mode & 0o077, 0)

    def test_it_is_a_datagram_socket(self) -> None:
        listener = self.listener()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(client.close)
        client.sendto(b"anything", os.path.join(self.directory, f"{os.getpid()}.sock"))
        self.assert_woken(listener)
