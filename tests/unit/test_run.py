"""`make test` on trees with a few tests of their own."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

RUN = pathlib.Path(__file__).resolve().parent.parent / "run.py"

TESTS = """\
import unittest

class Tests(unittest.TestCase):
"""
PASSES = "    def test_passes(self): pass\n"
FAILS = "    def test_fails(self): self.fail('on purpose')\n"
SKIPS = "    def test_skips(self): self.skipTest('not today')\n"
MISSES = "".join(
    f"    def test_{name}_{number}(self): self.skipTest('server missing: {name}')\n"
    for name, count in (("postfix", 2), ("redis", 1))
    for number in range(count)
)


class RunTest(unittest.TestCase):
    def run_tests(self, tests: str, **environment: str) -> tuple[int, list[str]]:
        """The exit status, and the lines that are printed, for a class with these tests."""
        with tempfile.TemporaryDirectory() as directory:
            folder = pathlib.Path(directory, "tests")
            folder.mkdir()
            (folder / "__init__.py").touch()
            (folder / "test_some.py").write_text(tests)
            pathlib.Path(directory, ".stestr.conf").write_text("[DEFAULT]\ntest_path=./tests\ntop_dir=./\n")
            done = subprocess.run(
                [sys.executable, shutil.copy(RUN, folder), "--no-lint"],
                env={key: value for key, value in os.environ.items() if key != "CI"} | environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        self.assertEqual("", done.stderr)
        return done.returncode, done.stdout.splitlines()

    def test_what_is_counted(self):
        status, lines = self.run_tests(TESTS + PASSES + SKIPS + MISSES)
        self.assertEqual((0, "1 passed, 0 failed, 4 skipped"), (status, lines[-1]))
        self.assertIn("server missing: postfix (2 tests skipped)", lines)
        self.assertIn("server missing: redis (1 tests skipped)", lines)
        self.assertIn("skipped tests.test_some.Tests.test_skips: not today", lines)

    def test_a_missing_server_is_a_failure_under_ci(self):
        status, lines = self.run_tests(TESTS + PASSES + SKIPS + MISSES, CI="true")
        self.assertEqual((1, "1 passed, 3 failed, 1 skipped"), (status, lines[-1]))
        self.assertIn("server missing: postfix (2 tests skipped)", lines)

    def test_under_ci_other_skips_are_none(self):
        self.assertEqual((0, "1 passed, 0 failed, 1 skipped"), self.ending(TESTS + PASSES + SKIPS, CI="true"))

    def test_a_failure(self):
        status, lines = self.run_tests(TESTS + PASSES + FAILS)
        self.assertEqual((1, "1 passed, 1 failed, 0 skipped"), (status, lines[-1]))
        self.assertIn("failed: tests.test_some.Tests.test_fails", lines)
        self.assertTrue(any("on purpose" in line for line in lines))

    def test_no_test_ran(self):
        for tests, last in (("", "0 passed, 0 failed, 0 skipped"), (TESTS + SKIPS, "0 passed, 0 failed, 1 skipped")):
            with self.subTest(tests=tests):
                status, lines = self.run_tests(tests)
                self.assertEqual((1, last), (status, lines[-1]))
                self.assertIn("no test ran", lines)

    def test_a_module_that_cannot_be_imported(self):
        status, lines = self.run_tests("import nothing_of_this_name\n")
        self.assertEqual((1, "0 passed, 0 failed, 0 skipped"), (status, lines[-1]))
        self.assertTrue(any("nothing_of_this_name" in line for line in lines))

    def ending(self, tests: str, **environment: str) -> tuple[int, str]:
        status, lines = self.run_tests(tests, **environment)
        return status, lines[-1]
