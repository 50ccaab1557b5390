"""What docs/channels says of e-mail, short messages and Slack."""

import pathlib
import re
import tempfile
import unittest

from zaqar_notify import bootstrap
from zaqar_notify.notifiers.gateways import PLACEHOLDERS, PRESETS, WORDS
from zaqar_notify.notifiers.reporting import REPORTING
from zaqar_notify.notifiers.smpp import OUTCOMES

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "channels"
BLOCK = re.compile(r"^```ini\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class ExamplesTest(unittest.TestCase):
    def test_each_configuration_starts(self) -> None:
        for name in ("email", "sms", "slack", "apprise"):
            for block in BLOCK.findall((DOCS / f"{name}.md").read_text()):
                with self.subTest(block), tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
                    gateways = re.findall(r"^\[sms_(\w+)\]", block, re.MULTILINE)
                    if gateways and "[sms]" not in block:
                        file.write(f"[sms]\ngateways = {', '.join(gateways)}\n")
                    file.write(block.replace("= ...", "= s3cret"))
                    file.flush()
                    bootstrap.build_notifiers(bootstrap.configure(config_files=[file.name])).close()


class TablesTest(unittest.TestCase):
    TEXT = (DOCS / "sms.md").read_text()

    def test_codes_of_the_presets(self) -> None:
        (head,) = re.findall(r"^\| preset \|( `target` .*)\|$", self.TEXT, re.MULTILINE)
        words = re.findall(r"`(\w+)`", head)
        for name in ("twilio", "vonage"):
            (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", self.TEXT, re.MULTILINE)
            shown = {code: word for word, cell in zip(words, row.split("|"), strict=True) for code in re.findall(r"\d+", cell)}
            usual = {code: word for code, word in PRESETS[name].outcomes.items() if word != "retry"}
            self.assertEqual(usual, shown)

    def test_values_of_reports(self) -> None:
        for name, reporting in REPORTING.items():
            if name == "generic":
                continue
            (row,) = re.findall(rf"^\| `{name}` \((.*?)\) \|(.*)\|$", self.TEXT, re.MULTILINE)
            delivered, failed, gone = (set(re.findall(r"`(\w+)`", cell)) for cell in row[1].split("|"))
            self.assertEqual((reporting.delivered, reporting.failed, reporting.gone), (delivered, failed, gone), name)
            if name != "kannel":
                self.assertEqual([reporting.state, reporting.code], re.findall(r"`([\w-]+)`", row[0]))

    def test_statuses_of_smpp(self) -> None:
        rows = re.findall(r"^\| (0x.*?) \| ([A-Z]+)(, a strike)?.*\|$", self.TEXT, re.MULTILINE)
        kinds = {"throttled": ("THROTTLED", ""), "target": ("REJECTED", ", a strike"), "auth": ("AUTH", "")}
        shown = {}
        for codes, *kind in rows:
            for code in codes.split(", "):
                first, _, last = code.partition("-")
                if first.startswith("0x"):
                    for status in range(int(first, 16), int(last or first, 16) + 1):
                        shown[status] = tuple(kind)
        expected = {
            status: kinds.get(word, ("RETRY" if word == "retry" else "REJECTED", ""))
            for status, word in OUTCOMES.items()
            if word != "retry" or status == 0x08
        }
        self.assertEqual(expected, shown)

    def test_placeholders_and_words(self) -> None:
        for name in PLACEHOLDERS:
            self.assertIn(f"`{{{name}}}`", self.TEXT)
        for word in WORDS:
            self.assertIn(f"`{word}`", self.TEXT)
