import dataclasses
import unittest

from zaqar_notify.matching import wanted
from zaqar_notify.model import Disabled, Message, MessageKind, State, Subscription

MESSAGE = Message(id="m", project="p", queue="q", body_json=b"1", ttl=60, created_at=1000.0, expires_at=1060.0)
SUBSCRIPTION = Subscription(
    id="s", project="p", queue="q", subscriber="log:", ttl=None, options={}, created_at=900.0, expires_at=None
)


class WantedTest(unittest.TestCase):
    def test_live_message_and_subscription(self):
        self.assertIsNone(wanted(MESSAGE, SUBSCRIPTION, 1059.9))

    def test_message_expires_at_its_instant(self):
        self.assertIs(wanted(MESSAGE, SUBSCRIPTION, 1060.0), State.EXPIRED)

    def test_subscription_expires_at_its_instant(self):
        ending = dataclasses.replace(SUBSCRIPTION, ttl=100, expires_at=1000.0)
        self.assertIsNone(wanted(MESSAGE, ending, 999.9))
        self.assertIs(wanted(MESSAGE, ending, 1000.0), State.EXPIRED)

    def test_disabled_subscription(self):
        disabled = dataclasses.replace(SUBSCRIPTION, disabled=Disabled("gone", 950.0))
        self.assertIs(wanted(MESSAGE, disabled, 1000.0), State.SUPPRESSED)

    def test_expired_is_said_before_disabled(self):
        disabled = dataclasses.replace(SUBSCRIPTION, disabled=Disabled("gone", 950.0))
        self.assertIs(wanted(MESSAGE, disabled, 1060.0), State.EXPIRED)

    def test_a_fallback_address_is_sent_to_although_the_subscriber_is_disabled(self):
        disabled = dataclasses.replace(SUBSCRIPTION, disabled=Disabled("gone", 950.0))
        self.assertIsNone(wanted(MESSAGE, disabled, 1000.0, target=1))
        self.assertIs(wanted(MESSAGE, disabled, 1060.0, target=1), State.EXPIRED)
        self.assertIs(wanted(MESSAGE, disabled, 1000.0, target=1, confirmed_only=True), State.SUPPRESSED)

    def test_what_the_owner_is_to_hear_comes_through(self):
        callback = dataclasses.replace(MESSAGE, kind=MessageKind.CALLBACK)
        disabled = dataclasses.replace(SUBSCRIPTION, disabled=Disabled("gone", 950.0))
        self.assertIsNone(wanted(callback, disabled, 1000.0, confirmed_only=True))
        self.assertIs(wanted(callback, disabled, 1060.0, confirmed_only=True), State.EXPIRED)

    def test_who_has_not_confirmed_gets_only_the_request_to_do_so_where_confirmation_is_required(self):
        confirmed = dataclasses.replace(SUBSCRIPTION, confirmed=True)
        request = dataclasses.replace(MESSAGE, kind=MessageKind.CONFIRMATION)
        self.assertIs(wanted(MESSAGE, SUBSCRIPTION, 1000.0, confirmed_only=True), State.SUPPRESSED)
        self.assertIsNone(wanted(MESSAGE, confirmed, 1000.0, confirmed_only=True))
        self.assertIsNone(wanted(request, SUBSCRIPTION, 1000.0, confirmed_only=True))
        self.assertIsNone(wanted(request, confirmed, 1000.0, confirmed_only=True))
        self.assertIs(wanted(request, SUBSCRIPTION, 1060.0, confirmed_only=True), State.EXPIRED)
        test = dataclasses.replace(MESSAGE, kind=MessageKind.TEST)
        self.assertIs(wanted(test, SUBSCRIPTION, 1000.0, confirmed_only=True), State.SUPPRESSED)
        self.assertIsNone(wanted(test, confirmed, 1000.0, confirmed_only=True))
