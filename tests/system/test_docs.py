"""Does what the pages under docs/api show, with the real curl and against a service that runs.

A page is a session in a shell: its ``sh`` blocks are done in order. A line ``NAME=value`` gives a variable the value that the
run has in place of the one that the page shows; all else is done as it is written. An ``http`` block is what the line before it
was answered with, or, when it begins with a request, what the subscriber at ``$HOOK`` received. What differs from run to run
(ids, secrets, signatures, instants, ages) has to have the same shape, and be the same wherever the page shows the same; all
else has to be what the page shows. ``...`` as the last key of an object stands for more of them.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from tests.system.endpoints import Arrival, Endpoint, Endpoints
from tests.system.service import WAIT, Service, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "docs" / "api"

OPTIONS = {"subscriptions.md": "[notification]\nrequire_confirmation = true\n"}
"""Configuration that a page asks for."""

BLOCK = re.compile(r"^```(sh|http)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^(?=curl |cat |grep |[A-Z_]+=)", re.MULTILINE)
"""Where the commands of a block begin."""
ASSIGNMENT = re.compile(r"([A-Z_]+)=(\S+)\s*")

VARYING = re.compile(
    r"""(?: (?P<url>http://127\.0\.0\.1:\d+)
          | (?P<instant>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?)
          | (?P<request>req-[0-9a-f-]{36})
          | (?P<secret>whsec_[A-Za-z0-9+/]+=*)
          | (?P<signature>v1,[A-Za-z0-9+/]+=*)
          | (?P<id>(?<![0-9a-f])(?:[0-9a-f]{16}|[0-9a-f]{64})(?![0-9a-f])) )""",
    re.VERBOSE,
)
MEASURED = {"age", "at", "next_attempt_at", "duration", "seconds", "webhook-timestamp"}
"""Keys and headers whose numbers differ from run to run."""

ALL_PROJECTS = "body.message_volume."
"""Counts what the other pages have left behind too."""


class Differs(AssertionError):
    """What came is not what the page shows."""


@dataclasses.dataclass
class Comparison:
    """What of this run stands for what the page shows: by the text that is shown."""

    known: dict[str, str]

    def values(self, shown, came, where):
        if isinstance(shown, dict) and isinstance(came, dict):
            self.objects(shown, came, where)
        elif isinstance(shown, list) and isinstance(came, list) and len(shown) == len(came):
            for number, pair in enumerate(zip(shown, came, strict=True)):
                self.values(*pair, f"{where}[{number}]")
        elif isinstance(shown, str) and isinstance(came, str):
            self.texts(shown, came, where)
        elif self.measured(where) and self.number(shown) and self.number(came):
            pass
        elif type(shown) is not type(came) or shown != came:
            raise Differs(f"{where}: the page has {shown!r}, the run {came!r}")

    def objects(self, shown, came, where):
        expected = [key for key in shown if key != "..."]
        if set(expected) - set(came) or ("..." not in shown and set(came) - set(expected)):
            raise Differs(f"{where}: the page has the keys {list(shown)}, the run {list(came)}")
        for key in expected:
            self.values(shown[key], came[key], f"{where}.{key}")

    @staticmethod
    def measured(where):
        return where.rpartition(".")[2] in MEASURED or where.startswith(ALL_PROJECTS)

    @staticmethod
    def number(value):
        return isinstance(value, int | float) and not isinstance(value, bool)

    def texts(self, shown, came, where):
        if blanked(shown) != blanked(came):
            raise Differs(f"{where}: the page has {shown!r}, the run {came!r}")
        for ours, theirs in zip(VARYING.finditer(shown), VARYING.finditer(came), strict=True):
            if ours.lastgroup == "instant":  # two may fall together on the page and not in the run
                self.known[ours[0]] = theirs[0]
            elif self.known.setdefault(ours[0], theirs[0]) != theirs[0]:
                raise Differs(f"{where}: for {ours[0]} of the page the run had {self.known[ours[0]]} and has {theirs[0]}")

    def translated(self, text):
        """The page's text with the values of this run."""
        for shown in sorted(self.known, key=len, reverse=True):
            text = re.sub(rf"(?<![0-9A-Za-z]){re.escape(shown)}(?![0-9A-Za-z])", lambda _, shown=shown: self.known[shown], text)
        return text


def blanked(text):
    return VARYING.sub(lambda match: f"<{match.lastgroup}>", text)


class Page:
    def __init__(self, test, name, service, project, endpoint):
        self.test = test
        self.name = name
        self.endpoint = endpoint
        self.received = 0
        self.comparison = Comparison(
            {"http://127.0.0.1:8888": service.url, "http://127.0.0.1:8090": endpoint.url.rstrip("/"), "demo": project}
        )
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        test.addCleanup(directory.cleanup)
        self.environment = {name: os.environ[name] for name in ("PATH",)} | {"HOME": directory.name}
        self.directory = directory.name
        self.project = project
        self.last = ""
        self.answered = ""
        self.shown = 0

    def run(self, text):
        for kind, block in BLOCK.findall(text):
            if kind == "sh":
                self.do(block)
            elif block.startswith("HTTP/"):
                self.compare_answer(block)
            else:
                self.compare_request(block)

    def do(self, block):
        for command in filter(None, COMMANDS.split(block)):
            assigned = ASSIGNMENT.fullmatch(command)
            if assigned:
                self.environment[assigned[1]] = self.comparison.translated(assigned[2])
            else:
                self.last = command
                self.answered = self.shell(command)

    def shell(self, line):
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        self.test.assertEqual(0, done.returncode, f"{self.name}: {line}{done.stderr}")
        return done.stdout

    def compare_answer(self, block):
        """Deliveries need a moment until they are what the page shows."""
        shown = split(block)
        repeatable = "/deliveries" in self.last
        end = time.monotonic() + WAIT
        while True:
            try:
                self.compare(shown, split(self.answered.replace("\r\n", "\n")))
                break
            except Differs as difference:
                if not repeatable or time.monotonic() > end:
                    self.test.fail(f"{self.name}:\n{self.last}\n{difference}\n\nThe answer:\n{self.answered}")
                time.sleep(0.1)
                self.answered = self.shell(self.last)
        self.shown += 1

    def compare_request(self, block):
        wait_for(lambda: len(self.endpoint.arrivals) > self.received, f"{self.name}: {block}")
        arrival = self.endpoint.arrivals[self.received]
        self.received += 1
        try:
            self.compare(split(block), of_arrival(arrival, block))
        except Differs as difference:
            self.test.fail(f"{self.name}: the subscriber got something else: {difference}\n{arrival.headers}\n{arrival.body!r}")
        self.shown += 1

    def compare(self, shown, came):
        """Headers that the page does not show are not looked at."""
        comparison = Comparison(dict(self.comparison.known))
        if shown[0] != came[0]:
            raise Differs(f"the page has {shown[0]!r}, the run {came[0]!r}")
        for name, value in shown[1].items():
            if name not in came[1]:
                raise Differs(f"the page has the header {name}, the run {list(came[1])}")
            if name not in MEASURED:
                comparison.texts(value, came[1][name], name)
        if (shown[2] == "") != (came[2] == ""):
            raise Differs(f"the page has the body {shown[2]!r}, the run {came[2]!r}")
        if shown[2]:
            comparison.values(json.loads(shown[2]), self.as_on_the_page(json.loads(came[2])), "body")
        self.comparison = comparison

    def as_on_the_page(self, value):
        """The project of this run is called as on the page."""
        return json.loads(json.dumps(value).replace(self.project, "demo"))


def split(text):
    """The first line, the headers by their names in lower case, and the body."""
    head, _, body = text.partition("\n\n")
    first, *lines = head.strip().splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first.strip(), headers, body.strip()


def of_arrival(arrival: Arrival, block: str):
    return block.splitlines()[0], arrival.headers, arrival.body.decode()


@unittest.skipUnless(shutil.which("curl") and shutil.which("bash"), "server missing: curl")
class DocsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = started(Service())
        cls.addClassCleanup(cls.service.close)

    def page(self, name):
        service = self.service
        if name in OPTIONS:
            service = started(Service(self, OPTIONS[name]))
        endpoint = Endpoint()
        with Endpoints(endpoint):
            project = f"demo{time.time_ns()}"
            page = Page(self, name, service, project, endpoint)
            first = (PAGES / "index.md").read_text()
            page.run("".join(f"```sh\n{block}```\n" for kind, block in BLOCK.findall(first) if "cat >" in block))
            headers = pathlib.Path(page.directory, "headers")
            headers.write_text(headers.read_text().replace("demo", project))
            page.run((PAGES / name).read_text())
        self.assertGreater(page.shown, 0)

    def test_there_is_a_test_for_each_page(self):
        tested = {name.removeprefix("test_page_").replace("_", "-") for name in dir(self) if name.startswith("test_page_")}
        self.assertEqual(tested, {path.stem for path in PAGES.glob("*.md")})

    def test_every_curl_line_is_followed_by_its_answer(self):
        for path in PAGES.glob("*.md"):
            blocks = BLOCK.findall(path.read_text())
            for (kind, block), following in zip(blocks, [*blocks[1:], ("", "")], strict=True):
                if kind == "sh" and "curl" in block:
                    with self.subTest(page=path.name, line=block):
                        self.assertEqual(1, len(re.findall(r"^curl ", block, re.MULTILINE)))
                        self.assertEqual("http", following[0])

    def test_links_lead_somewhere(self):
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
                with self.subTest(page=path.name, target=target):
                    self.assertTrue((path.parent / target).exists())

    def test_page_index(self):
        self.page("index.md")

    def test_page_home(self):
        self.page("home.md")

    def test_page_ping_health(self):
        self.page("ping-health.md")

    def test_page_queues(self):
        self.page("queues.md")

    def test_page_messages(self):
        self.page("messages.md")

    def test_page_claims(self):
        self.page("claims.md")

    def test_page_subscriptions(self):
        self.page("subscriptions.md")

    def test_page_deliveries(self):
        self.page("deliveries.md")

    def test_page_feedback(self):
        self.page("feedback.md")

    def test_page_signed_urls(self):
        self.page("signed-urls.md")


def started(service):
    service.start_api()
    service.start("worker")
    return service


class ComparisonTest(unittest.TestCase):
    """What the comparison lets pass and what it does not."""

    def differs(self, shown, came, **known):
        with self.assertRaises(Differs):
            Comparison(known).values(shown, came, "body")

    def test_the_same(self):
        Comparison({}).values({"a": [1, None, "x"]}, {"a": [1, None, "x"]}, "body")

    def test_ids_are_the_same_where_the_page_has_the_same(self):
        one, two = "0123456789abcdef", "fedcba9876543210"
        Comparison({}).values([one, f"/x/{one}"], [two, f"/x/{two}"], "body")
        self.differs([one, one], [two, one])
        self.differs([one], ["x"])
        self.differs([f"/x/{one}"], [f"/y/{two}"])

    def test_numbers(self):
        Comparison({}).values({"age": 1, "ttl": 60}, {"age": 2, "ttl": 60}, "body")
        self.differs({"ttl": 60}, {"ttl": 61})
        self.differs({"age": 1}, {"age": None})
        self.differs(1, True)

    def test_keys(self):
        Comparison({}).values({"a": 1, "...": "..."}, {"a": 1, "b": 2}, "body")
        self.differs({"a": 1}, {"a": 1, "b": 2})
        self.differs({"a": 1, "b": 2, "...": "..."}, {"a": 1})

    def test_variables(self):
        comparison = Comparison({})
        comparison.values("/messages/0123456789abcdef", "/messages/fedcba9876543210", "body")
        self.assertEqual("fedcba9876543210", comparison.translated("0123456789abcdef"))
