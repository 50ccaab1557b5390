import io
import json
import logging
import re
import unittest

from zaqar_notify.attempt_log import MOST_AT_ONCE, AttemptLog, attempt_line
from zaqar_notify.model import Delivery, Message, Outcome, OutcomeKind, State, Subscription, delivery_id

KEYS = (
    "delivery message subscription queue project scheme outcome status attempt duration next detail".split()  # noqa: SIM905
)


def make_line(outcome=None, project="demo", subscriber="https://user:secret@a.example/?token=secret", **more):
    message = Message("m1", project, "orders", b'{"card": "secret"}', 60, 0.0, 60.0)
    subscription = Subscription("s1", project, "orders", subscriber, None, {}, 0.0, None, secret="whsec_secret")
    delivery = Delivery(delivery_id("m1", "s1"), 2, 0.0, message, subscription)
    values = {"attempt": 2, "most": 10, "duration": 0.01234, "state": State.PENDING, "due_at": 1.5}
    return attempt_line(delivery, outcome or Outcome(OutcomeKind.RETRY, "500", status=500), **(values | more))


def parsed(line):
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)(?: |$)', line)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


class LineTest(unittest.TestCase):
    def test_it_says_all_that_there_is_to_know(self):
        expected = {
            "delivery": "m1-s1",
            "message": "m1",
            "subscription": "s1",
            "queue": "orders",
            "project": "demo",
            "scheme": "https",
            "outcome": "retry",
            "status": "500",
            "attempt": "2/10",
            "duration": "0.0123",
            "next": "1970-01-01T00:00:01.500Z",
            "detail": "500",
        }
        self.assertEqual(expected, parsed(make_line()))
        self.assertEqual(list(KEYS), list(expected))

    def test_an_end_is_named_where_there_is_no_next_attempt(self):
        found = parsed(make_line(Outcome(OutcomeKind.DELIVERED), state=State.DELIVERED, due_at=None, duration=None))
        expected = {"outcome": "delivered", "next": "delivered", "status": "-", "duration": "-", "detail": ""}
        self.assertEqual(expected, {key: found[key] for key in expected})

    def test_nobody_can_forge_a_line_or_a_key(self):
        forged = 'x" outcome=delivered\n2026-01-01 INFO zaqar_notify.attempt: delivery=1\r\u2028\x1b[31m é'
        line = make_line(Outcome(OutcomeKind.RETRY, forged), project=forged)
        self.assertEqual(1, len(line.splitlines()))
        self.assertTrue(line.isascii() and line.isprintable())
        found = parsed(line)
        self.assertEqual(forged, found["detail"])
        self.assertEqual(forged, found["project"])
        self.assertEqual("retry", found["outcome"])
        self.assertEqual(list(KEYS), list(found))

    def test_it_stays_short(self):
        self.assertLess(len(make_line(Outcome(OutcomeKind.RETRY, "x" * 100_000))), 1000)

    def test_no_secret_is_in_it(self):
        self.assertNotIn("secret", make_line())


class Text(logging.Handler):
    """No stream: gets each line as a record of its own."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


class Writes(io.StringIO):
    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, text):
        self.written.append(text)
        return super().write(text)


class AttemptLogTest(unittest.TestCase):
    def setUp(self):
        self.logger = logging.Logger("zaqar_notify.attempt", logging.INFO)
        self.parent = logging.Logger("parent")
        self.logger.parent = self.parent
        self.stream = Writes()
        self.handler = logging.StreamHandler(self.stream)
        self.log = AttemptLog("all", self.logger)

    def write(self, lines):
        for line in lines:
            self.log.add(line)
        self.log.flush()
        return self.stream.getvalue()

    def test_the_lines_look_like_records_of_their_own(self):
        self.handler.setFormatter(logging.Formatter("%(levelname)s [%(name)s] <%(message)s>"))
        self.parent.addHandler(self.handler)
        lines = [f'a={number} detail="x\\"y %s"' for number in range(500)]
        expected = "".join(f"INFO [zaqar_notify.attempt] <{line}>\n" for line in lines)
        self.assertEqual(expected, self.write(lines))

    def test_they_are_written_many_at_a_time_but_not_more_than_a_pipe_takes_as_one(self):
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.logger.addHandler(self.handler)
        self.write(["x" * 300] * 500)
        written = [len(text) for text in self.stream.written]
        self.assertLessEqual(max(written), MOST_AT_ONCE)
        self.assertLess(len(written), 60)
        self.stream.written.clear()
        self.write(["y" * 10_000, "z"])
        self.assertEqual(2, len(self.stream.written))

    def test_what_a_formatter_changes_is_formatted_alone(self):
        class Json(logging.Formatter):
            def format(self, record):
                return json.dumps({"message": record.getMessage()})

        self.handler.setFormatter(Json())
        self.logger.addHandler(self.handler)
        written = self.write(['a="1"', 'b="2"'])
        self.assertEqual(['a="1"', 'b="2"'], [json.loads(line)["message"] for line in written.splitlines()])

    def test_what_is_no_stream_gets_a_record_for_each(self):
        handler = Text()
        self.logger.addHandler(handler)
        self.write(["a=1", "b=%d"])
        self.assertEqual(["a=1", "b=%d"], [record.getMessage() for record in handler.records])
        self.assertEqual({("zaqar_notify.attempt", "INFO")}, {(record.name, record.levelname) for record in handler.records})

    def test_filters_see_each(self):
        handler = Text()
        self.logger.addHandler(handler)
        self.logger.addFilter(lambda record: "a=2" not in record.getMessage())
        self.write(["a=1", "a=2", "a=3"])
        self.assertEqual(["a=1", "a=3"], [record.getMessage() for record in handler.records])

    def test_levels_count(self):
        self.logger.addHandler(self.handler)
        self.handler.setLevel(logging.WARNING)
        self.assertEqual("", self.write(["a=1"]))
        self.handler.setLevel(logging.INFO)
        self.assertEqual("a=2\n", self.write(["a=2"]))
        quiet = logging.Logger("zaqar_notify.attempt", logging.WARNING)
        quiet.addHandler(self.handler)
        self.log = AttemptLog("all", quiet)
        self.assertEqual("a=2\n", self.write(["a=3"]))

    def test_propagation_counts(self):
        self.parent.addHandler(self.handler)
        self.logger.propagate = False
        self.assertEqual("", self.write(["a=1"]))

    def test_which_attempts(self):
        wanted = {
            name: [kind for kind in OutcomeKind if AttemptLog(name, self.logger).wants(kind)]
            for name in ("all", "failures", "none")
        }
        self.assertEqual(list(OutcomeKind), wanted["all"])
        self.assertEqual([kind for kind in OutcomeKind if kind is not OutcomeKind.DELIVERED], wanted["failures"])
        self.assertEqual([], wanted["none"])
