"""Which schemes are sent to, and by whom."""

from __future__ import annotations

import unittest

from zaqar_notify.schemes import ALL, Schemes

PLUGINS = {"webpush+https": "webpush"}


def name_of(subscriber: str) -> str:
    scheme = subscriber.partition(":")[0].lower()
    return PLUGINS.get(scheme, scheme)


class SchemesTest(unittest.TestCase):
    def test_all_are_on_and_everybodys(self) -> None:
        self.assertIsNone(ALL.off("sms:+1"))
        self.assertEqual(("", ("",)), (ALL.pool("sms:+1"), ALL.pools))

    def test_what_is_off(self) -> None:
        schemes = Schemes(name_of, disabled=frozenset({"sms", "webpush"}))
        self.assertEqual("sms is switched off: [notification] disabled_schemes", schemes.off("SMS:+1"))
        self.assertEqual("webpush is switched off: [notification] disabled_schemes", schemes.off("webpush+https://a"))
        self.assertIsNone(schemes.off("https://a"))

    def test_everything_is_off(self) -> None:
        self.assertEqual("notifications are switched off: [notification] enabled", Schemes(name_of, enabled=False).off("x:"))

    def test_what_an_operator_is_told(self) -> None:
        self.assertIsNone(ALL.all_off())
        self.assertIn(
            ": mailto, sms. What would be sent is parked", Schemes(disabled=frozenset({"sms", "mailto"})).all_off() or ""
        )
        self.assertIn(": all notifications. What would be sent is dropped", Schemes(enabled=False, drops=True).all_off() or "")

    def test_whose_it_is(self) -> None:
        schemes = Schemes(name_of, apart=frozenset({"sms", "webpush"}))
        self.assertEqual(["sms", "webpush", ""], [schemes.pool(uri) for uri in ("sms:+1", "webpush+https://a", "https://a")])
