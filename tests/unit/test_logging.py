import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """\
import logging, sys
from zaqar_notify import bootstrap, errors
try:
    conf = bootstrap.configure(config_files=[sys.argv[1]])
    bootstrap.set_up_logging(conf)
except errors.CannotStart as error:
    sys.exit(f"cannot start: {error}")
for name in ("zaqar_notify.worker", "zaqar_notify.attempt", "taskflow.engines", "urllib3.connectionpool"):
    for level in ("debug", "info", "warning"):
        getattr(logging.getLogger(name), level)("said %s", level)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("zaqar_notify").exception("failed")
print("done")
"""
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"


class LoggingTest(unittest.TestCase):
    """In processes of their own: it is global."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def run_with(self, options=""):
        file = self.directory / "conf"
        file.write_text(f"[DEFAULT]\n{options}\n")
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, file],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_by_default_one_line_each_to_standard_error(self):
        done = self.run_with()
        self.assertEqual("done\n", done.stdout)
        lines = done.stderr.splitlines()
        expected = [
            "INFO zaqar_notify.worker: said info",
            "WARNING zaqar_notify.worker: said warning",
            "INFO zaqar_notify.attempt: said info",
            "WARNING zaqar_notify.attempt: said warning",
            "WARNING taskflow.engines: said warning",
            "WARNING urllib3.connectionpool: said warning",
            "ERROR zaqar_notify: failed: ZeroDivisionError: division by zero",
        ]
        for line, rest in zip(lines, expected, strict=False):
            self.assertRegex(line, f"^{STAMP} {rest}$")
        for line in lines[len(expected) :]:
            self.assertRegex(line, f"^{STAMP} ERROR zaqar_notify: ", "each line of a traceback says where it belongs")
        self.assertIn("ZeroDivisionError", lines[-2])

    def test_debug(self):
        done = self.run_with("debug = true")
        self.assertRegex(done.stderr, rf"(?m)^{STAMP} DEBUG zaqar_notify\.worker: said debug *$")
        self.assertNotIn("DEBUG taskflow", done.stderr)

    def test_a_file_takes_the_place_of_standard_error(self):
        log = self.directory / "x.log"
        done = self.run_with(f"log_file = {log}")
        self.assertEqual(("done\n", ""), (done.stdout, done.stderr))
        self.assertIn("zaqar_notify.worker: said info", log.read_text())
        done = self.run_with(f"log_file = {log}\nuse_stderr = true")
        self.assertIn("zaqar_notify.worker: said info", done.stderr)

    def test_json(self):
        done = self.run_with("use_json = true")
        documents = [json.loads(line) for line in done.stderr.splitlines()]
        self.assertEqual("said info", documents[0]["message"])
        self.assertEqual(logging.INFO, documents[0]["levelno"])

    def test_a_configuration_of_ones_own(self):
        log = self.directory / "x.log"
        file = self.directory / "logging.conf"
        sample = (ROOT / "etc/logging.conf.sample").read_text()
        file.write_text(sample.replace("/var/log/zaqar-notify/zaqar-notify.log", str(log)))
        self.run_with(f"log_config_append = {file}")
        self.assertRegex(log.read_text(), r"(?m)^\S+ \d+ INFO zaqar_notify.attempt: said info$")

    def test_what_cannot_be_used_stops_the_start_with_one_line(self):
        broken = self.directory / "broken"
        for text in ("", "[loggers]\nkeys = root\n", "no ini", (ROOT / "etc/logging.conf.sample").read_text() + "args = ("):
            broken.write_text(text)
            self.check_refused(f"log_config_append = {broken}")
        self.check_refused("log_config_append = /nonexistent/file")
        self.check_refused("log_file = /nonexistent/file")
        self.check_refused("default_log_levels = taskflow=LOUD")
        self.check_refused("use_syslog = true\nsyslog_log_facility = NOBODY")
        self.check_refused("publish_errors = true")

    def check_refused(self, options):
        with self.subTest(options):
            done = self.run_with(options)
            self.assertEqual(1, done.returncode, done.stderr)
            self.assertRegex(done.stderr, r"\Acannot start: Cannot set up logging: \S[^\n]*\n\Z")
