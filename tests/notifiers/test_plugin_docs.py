"""docs/plugins.md: what it shows is what the examples are, and what it tells of is all that there is."""

from __future__ import annotations

import inspect
import pathlib
import re
import textwrap
import unittest

from oslo_config import cfg

from zaqar_notify.model import OutcomeKind
from zaqar_notify.notifiers import base
from zaqar_notify.notifiers.base import Notifier
from zaqar_notify.testing import NotifierConformance

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/plugins.md").read_text()
EXAMPLES = [path for folder in ("notifier-plugin", "batch-notifier-plugin") for path in (ROOT / "examples" / folder).iterdir()]
BLOCK = re.compile(r"^```(python|toml|ini|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class PageTest(unittest.TestCase):
    def setUp(self) -> None:
        self.sources = [path.read_text() for path in EXAMPLES if path.is_file()]

    def blocks(self, *kinds: str) -> list[str]:
        return [block for kind, block in BLOCK.findall(TEXT) if kind in kinds]

    def test_what_it_shows_is_in_the_examples(self) -> None:
        shown = self.blocks("python", "toml", "ini")
        excerpts = [block for block in shown if any(block.strip("\n") in source for source in self.sources)]
        self.assertGreater(len(excerpts), 10)
        # The rest has imports that work, and is Python.
        for block in shown:
            if block not in excerpts:
                with self.subTest(block):
                    compile(textwrap.dedent(block), "docs/plugins.md", "exec")
                    imports = [line for line in block.splitlines() if re.match("from|import", line)]
                    self.assertTrue(imports)
                    exec("\n".join(imports), {})

    def test_all_outcomes_are_explained(self) -> None:
        self.assertEqual([kind.name for kind in OutcomeKind], re.findall(r"^\| `([A-Z]+)` \|", TEXT, re.MULTILINE))

    def test_all_of_a_notifier_is_mentioned(self) -> None:
        public = {name for name in vars(Notifier) if not name.startswith("_")} | {"received", "send", "send_many"}
        self.assertLessEqual({"check", "lane", "most_threads", "digests"}, public)
        self.assertEqual(set(), {name for name in public if f"`{name}" not in TEXT and f"`self.{name}" not in TEXT})
        self.assertIn(f"`most_threads` ({Notifier.most_threads},", TEXT)
        self.assertTrue(inspect.isclass(base.BatchNotifier))

    def test_all_of_the_conformance_is_mentioned(self) -> None:
        public = {name for name in vars(NotifierConformance) if not name.startswith(("_", "test_"))}
        public |= set(NotifierConformance.__annotations__)
        self.assertLessEqual({"scheme", "good", "secrets"}, public)
        self.assertEqual(set(), {name for name in public - {"hang_grace"} if f"`{name}" not in TEXT})

    def test_the_links_within_it_lead_somewhere(self) -> None:
        titles = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
            self.assertIn(anchor, anchors)

    def test_the_environment_can_set_an_option_as_it_says(self) -> None:
        (variable,) = re.findall(r"`(OS_UDP__\w+)=512`", TEXT)
        self.assertEqual("OS_UDP__MAX_BYTES", variable)
        self.assertTrue(any('cfg.IntOpt("max_bytes"' in source for source in self.sources))
        self.assertFalse(cfg.IntOpt("max_bytes").multi)
