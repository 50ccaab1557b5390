"""A third party's package, in a fresh environment beside this one, is found by its scheme."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import unittest
import zipfile

from tests.system.service import WAIT, free_port
from tests.system.serving import Client, Program

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class PluginTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        cls.addClassCleanup(directory.cleanup)
        cls.directory = pathlib.Path(directory.name)
        cls.wheels = [cls.wheel(ROOT), cls.wheel(ROOT / "examples/notifier-plugin")]
        cls.bin = cls.environment() / "bin"

    @classmethod
    def wheel(cls, source: pathlib.Path) -> pathlib.Path:
        """Built from a plain copy, so that the source stays as it is and nothing of git is needed."""
        copy = cls.directory / "source" / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*", "var", "build", "*.egg-info", "__pycache__"))
        out = cls.directory / "wheels" / source.name
        cls.run_python(sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(copy))
        (wheel,) = out.glob("*.whl")
        return wheel

    @classmethod
    def environment(cls) -> pathlib.Path:
        """A new environment with both wheels, and what they need from the environment of the tests."""
        fresh = cls.directory / "fresh"
        cls.run_python(sys.executable, "-m", "venv", "--without-pip", str(fresh))
        (site,) = fresh.glob("lib/python*/site-packages")
        python = str(fresh / "bin/python")
        # Run by the fresh interpreter, and told to remove nothing: the environment of the tests has to stay as it is.
        command = ("--python", python, "install", "--no-deps", "--no-index", "--ignore-installed")
        cls.run_python(sys.executable, *PIP, *command, *map(str, cls.wheels))
        # Entries of its own come first, so the installed package is found before the one that is under test here.
        (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return fresh

    @staticmethod
    def run_python(*command: str) -> None:
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * WAIT,
            check=False,
            env={key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"},
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_wheel_holds_all_of_the_package(self):
        with zipfile.ZipFile(self.wheels[0]) as wheel:
            inside = {name for name in wheel.namelist() if name.startswith("zaqar_notify/")}
        tracked = {
            str(path.relative_to(ROOT))
            for path in ROOT.glob("zaqar_notify/**/*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        self.assertEqual(tracked, inside)

    def test_it_is_listed_with_its_package(self):
        done = subprocess.run(
            [self.bin / "zaqar-notify", "notifiers"], cwd="/", capture_output=True, text=True, timeout=WAIT, check=True
        )
        self.assertRegex(done.stdout, r"(?m)^udp +zaqar_notify_udp:UdpNotifier +zaqar-notify-udp +0\.1\.0$")
        self.assertRegex(done.stdout, r"(?m)^https +zaqar_notify\.notifiers\.webhook:WebhookNotifier +zaqar-notify +\S+$")

    def test_it_is_chosen_by_its_scheme(self):
        port = free_port()
        serve = Program(
            self,
            ["serve", "--port", str(port), "--data", str(self.directory / "var")],
            command=[str(self.bin / "zaqar-notify")],
            cwd="/",
        )
        serve.until("is ready on")
        client = Client(f"http://127.0.0.1:{port}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(WAIT)
            client.subscribe(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
            client.post({"over": "udp"})
            self.assertEqual(b'{"over":"udp"}', receiver.recv(65536))
        status, answer = client.request("POST", "/v2/queues/demo/subscriptions", {"subscriber": "udp://"})
        self.assertEqual(400, status)
        self.assertIn("udp://host:port", re.sub(r"\s+", " ", answer["description"]))
        self.assertEqual(0, serve.stop())
