"""What every notifier has to do: a mixin for a `unittest.TestCase`, to be run against the real counterpart of a transport."""

from __future__ import annotations

import contextlib
import functools
import math
import pickle
import time
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import Delivery, MessageKind, Outcome, OutcomeKind, Priority, Subscription
from zaqar_notify.notifiers import plugins as installed
from zaqar_notify.notifiers.base import Notifier
from zaqar_notify.notifiers.plugins import Broken, Plugin
from zaqar_notify.notifiers.sending import FAILED, LANE_LENGTH, sound
from zaqar_notify.testing.addresses import SilentServer, closed_address
from zaqar_notify.testing.resources import used, without_io
from zaqar_notify.testing.rig import Configuration, Rig, Target, wait_for

_SHORT = 1.0
"""Seconds that an attempt has whose target hangs."""
_CYCLES = 4
"""So often is a notifier made, used and closed: what is left behind each time is a leak, what is left once is not."""
_SECRET_NAMES = ("password", "secret", "token", "api_key", "private_key")
_BODIES: Sequence[Any] = (
    *("text", "", "\u00e5\u00e4\u00f6 \U0001f600 \u0000", "line\r\nline: x", "x" * 5000),
    *(0, -1.5, True, None, [], [1, "two", {"three": None}], {}),
    {"title": "T", "text": "t", "subject": "s", "body": "b", "html": "<b>b</b>", "data": {"a": 1}},
    {"title": 5, "text": [], "subject": {}, "body": None, "html": 7, "data": "x"},
)

Where = Target | str

if TYPE_CHECKING:
    _Base = unittest.TestCase
else:
    _Base = object  # a mixin alone is no test


class NotifierConformance(_Base):
    """Derive from it and from `unittest.TestCase`, and say at least ``scheme``, ``good`` and ``arrived``.

    Where a target is asked for, a URI will do; a `Target` has options and configuration as well.
    """

    scheme: ClassVar[str]
    notifier: ClassVar[type[Notifier] | None] = None
    """The class; None: what is installed for the scheme."""
    bad_targets: ClassVar[Sequence[Where]] = ()
    """That `check` refuses."""
    bad_options: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """That `check` refuses, of a subscription to the good target."""
    secrets: Sequence[str] = ()
    """What must not be told: passwords that are configured, tokens in the good target."""
    body: ClassVar[Any] = {"hello": "world"}
    """Of the messages that are sent to the good target."""
    many: ClassVar[int] = 50
    """So many are sent at once."""
    patience: float = 20.0
    """Seconds after which a test is taken to hang."""
    hang_grace: float = 5.0
    """Seconds after its deadline at which the service gives an attempt up (``[worker] hang_grace``)."""
    ca_file: str | None = None
    """Certificates that the HTTP clients of the service trust."""

    def good(self) -> Where:
        """A target that takes notifications, as long as the test runs."""
        raise NotImplementedError("the test has to say which target is good: good()")

    def arrived(self) -> int | None:
        """How many notifications it has taken; None where that cannot be known."""
        raise NotImplementedError("the test has to say how many notifications have come: arrived()")

    def at(self, address: str) -> Where | None:
        """A target at this address (``127.0.0.1:port``): nobody listens there, or TCP connections are taken and nothing is ever
        answered. None where no address can be chosen."""
        return None

    def configuration(self) -> Configuration:
        """What has to be configured for the good target: values by section and option."""
        return {}

    # -- as a plugin ----------------------------------------------------------------------------------------------------------

    def test_it_is_a_plugin(self) -> None:
        plugin = self._plugin()
        self.assertEqual(self.scheme.lower(), plugin.scheme)
        for place in (plugin.cls.options, plugin.cls.named_options):
            for option in place:
                self.assertFalse(option.multi, f"{option.dest}: an environment variable has one value; use a ListOpt")
                self.assertTrue(option.help, f"{option.dest} has no help text")
                hidden = option.secret or not any(name in option.dest for name in _SECRET_NAMES)
                self.assertTrue(hidden, f"{option.dest} looks like a secret: without secret=True everybody sees its value")

    def test_it_starts_without_any_configuration(self) -> None:
        """What is installed, and not configured, must not keep the service from starting."""
        try:
            rig = Rig(self._plugin(), {}, ca_file=self.ca_file)
        except CannotStart as error:
            self.fail(f"the service does not start: {error}")
        rig.close()

    # -- when somebody subscribes ---------------------------------------------------------------------------------------------

    def test_good_targets_are_accepted(self) -> None:
        target = self._good()
        with self._rig(target) as rig:
            self._check(rig, target)

    def test_bad_targets_are_refused(self) -> None:
        if not self.bad_targets:
            self.skipTest("no bad_targets are named")
        with self._rig(self._good()) as rig:
            for where in self.bad_targets:
                with self.subTest(where):
                    self._assert_refused(rig, _target(where))

    def test_bad_options_are_refused(self) -> None:
        if not self.bad_options:
            self.skipTest("no bad_options are named")
        target = self._good()
        with self._rig(target) as rig:
            for options in self.bad_options:
                with self.subTest(options):
                    self._assert_refused(rig, Target(target.uri, {**target.options, **options}))

    def _assert_refused(self, rig: Rig, target: Target) -> None:
        with self.assertRaises(InvalidRequest) as refused:
            self._check(rig, target)
        self.assertTrue(str(refused.exception).strip(), "the client is not told what to change")

    def test_lane_timeout_and_window(self) -> None:
        target = self._good()
        with self._rig(target) as rig:
            subscription, notifier = target.subscription, rig.notifier
            lane = self._quietly("lane", notifier.lane, subscription)
            self.assertIsInstance(lane, str)
            self.assertTrue(0 < len(lane) <= LANE_LENGTH and "\x00" not in lane, f"no name for a lane: {lane!r}")
            self.assertEqual(lane, notifier.lane(subscription), "its lane is another one each time")
            self._assert_not_told(lane, "the lane")
            timeout = self._quietly("timeout", notifier.timeout, subscription)
            self.assertTrue(timeout is None or 0 < timeout < math.inf, f"no timeout: {timeout!r}")
            most = self._quietly("in_flight", notifier.in_flight, subscription)
            self.assertTrue(most is None or (type(most) is int and most > 0), f"no number in flight: {most!r}")
            self._assert_window(self._quietly("window", notifier.window, subscription))

    def _assert_window(self, window: Any) -> None:
        if window is not None:
            name, least, most = window
            self.assertIsInstance(name, str)
            self.assertTrue(0 <= least <= most < math.inf, f"no window: {window!r}")

    # -- when something is sent -----------------------------------------------------------------------------------------------

    def test_a_good_target_gets_it_once(self) -> None:
        target = self._good()
        with self._rig(target) as rig:
            (outcome,) = self._outcomes(rig, [rig.delivery(target, self.body)])
            self.assertIs(OutcomeKind.DELIVERED, outcome.kind, outcome)
            self._assert_arrived(1)

    def test_anything_may_be_the_body(self) -> None:
        target = self._good()
        kinds = (MessageKind.TEST, MessageKind.CONFIRMATION, MessageKind.CALLBACK)
        with self._rig(target) as rig:
            deliveries = [rig.delivery(target, body) for body in _BODIES]
            deliveries += [rig.delivery(target, self.body, kind=kind) for kind in kinds]
            deliveries += [rig.delivery(target, self.body, priority=priority, collapse_key="k") for priority in Priority]
            deliveries.append(rig.delivery(target, self.body, language="zh-Hant", attributes={"a": ["b"], "c": 1.5}))
            for delivery, outcome in zip(deliveries, self._outcomes(rig, deliveries), strict=True):
                self.assertIsNot(OutcomeKind.OURS, outcome.kind, f"{delivery.message}: {outcome}")

    def test_a_bad_target_is_no_success(self) -> None:
        """What `check` refuses may have been subscribed before the rules were what they are."""
        if not self.bad_targets:
            self.skipTest("no bad_targets are named")
        with self._rig(self._good()) as rig:
            self._assert_no_success(rig, [rig.delivery(_target(where), self.body) for where in self.bad_targets])

    def test_a_target_where_nobody_is(self) -> None:
        where = self.at(closed_address())
        if where is None:
            self.skipTest("no target can be made of an address")
        target = _target(where)
        with self._rig(target) as rig:
            self._assert_no_success(rig, [rig.delivery(target, self.body)])

    def test_a_target_that_hangs(self) -> None:
        server = SilentServer()
        self.addCleanup(server.close)
        where = self.at(server.address)
        if where is None:
            self.skipTest("no target can be made of an address")
        target = _target(where)
        with self._rig(target) as rig:
            delivery = rig.delivery(target, self.body, timeout=_SHORT)
            self._assert_no_success(rig, [delivery])
            ((_, at),) = rig.reports.of(delivery)
            late = at - delivery.deadline
            self.assertLess(late, self.hang_grace, f"{late:.1f} s after its deadline the attempt was not over")

    def test_a_bug_costs_its_own_delivery(self) -> None:
        """One message among others raises whatever is done with it."""
        target = self._good()
        with self._rig(target) as rig:
            before, after = (rig.delivery(target, self.body) for _ in range(2))
            poisoned = rig.delivery(target, self.body)
            poisoned.message = _Poison()  # type: ignore[assignment]
            outcomes = self._outcomes(rig, [before, poisoned, after])
            for outcome in (outcomes[0], outcomes[2]):
                self.assertIs(OutcomeKind.DELIVERED, outcome.kind, f"one that has nothing to do with it: {outcome}")
            self.assertIsNot(OutcomeKind.DELIVERED, outcomes[1].kind, "it was never looked at")
            self._assert_arrived(2)

    def test_many_at_once(self) -> None:
        target = self._good()
        with self._rig(target) as rig:
            deliveries = [rig.delivery(target, self.body, timeout=self.patience) for _ in range(self.many)]
            for outcome in self._outcomes(rig, deliveries):
                self.assertIs(OutcomeKind.DELIVERED, outcome.kind, outcome)
            self._assert_arrived(self.many)

    def test_a_digest_is_one_notification(self) -> None:
        if not self._plugin().cls.digests:
            self.skipTest("it makes no digests")
        target = self._good()
        with self._rig(target) as rig:
            first, *others = (rig.delivery(target, self.body) for _ in range(3))
            first.others = others
            (outcome,) = self._outcomes(rig, [first])
            self.assertIs(OutcomeKind.DELIVERED, outcome.kind, outcome)
            self.assertFalse(any(rig.reports.of(other) for other in others), "the outcome is that of the first for all of them")
            self._assert_arrived(1)

    def test_a_dry_run_sends_nothing(self) -> None:
        cls = self._plugin().cls
        own, named = ("dry_run" in {option.dest for option in options} for options in (cls.options, cls.named_options))
        if not (own or named):
            self.skipTest("it has no option dry_run")
        target = self._good()
        section = self._plugin().section
        dry = {name: dict(values) for name, values in self._configured(target).items()}
        if own:
            dry.setdefault(section, {})
        for name, values in dry.items():
            if own if name == section else named:
                values["dry_run"] = True
        with self._rig(Target(target.uri, target.options, dry)) as rig:
            (outcome,) = self._outcomes(rig, [rig.delivery(target, self.body)])
            self.assertIs(OutcomeKind.DELIVERED, outcome.kind, outcome)
        self._assert_arrived(0)

    def test_nothing_secret_is_logged(self) -> None:
        if not self.secrets:
            self.skipTest("no secrets are named")
        for where in (self._good(), self.at(closed_address())):
            if where is not None:
                target = _target(where)
                with self._rig(target) as rig:
                    self._outcomes(rig, [rig.delivery(target, self.body)])
                for line in rig.logged:
                    self._assert_not_told(line, "the log")

    # -- at the end -----------------------------------------------------------------------------------------------------------

    def test_close_at_any_time(self) -> None:
        target = self._good()
        with self._rig(target) as rig:
            rig.notifier.close()  # before anything was sent
            rig.notifier.close()
        with self._rig(target) as rig:
            self._outcomes(rig, [rig.delivery(target, self.body)])
            rig.notifier.close()
            rig.notifier.close()

    def test_close_gives_everything_back(self) -> None:
        target = self._good()
        self._use_and_close(target)  # what is made once in a process
        before = used()
        for _ in range(_CYCLES):
            self._use_and_close(target)

        def kept() -> tuple[int, int]:
            files, threads = used()
            return files - before[0], threads - before[1]

        if not wait_for(lambda: max(kept()) < _CYCLES, self.patience):
            self.fail("after {} times of use and close {} files (sockets ...) and {} threads are left".format(_CYCLES, *kept()))

    def _use_and_close(self, target: Target) -> None:
        with self._rig(target) as rig:
            self._outcomes(rig, [rig.delivery(target, self.body)])

    # -- how ------------------------------------------------------------------------------------------------------------------

    def _plugin(self) -> Plugin:
        if self.notifier is None:
            mine = [one for one in _installed() if one.scheme == self.scheme.lower()]
            self.assertEqual(1, len(mine), f"{len(mine)} packages serve {self.scheme}: in its entry points")
            found = mine[0]
        else:
            found = installed.examined(self.scheme, self.notifier)
        if isinstance(found, Broken):
            self.fail(found.error)
        return found

    def _good(self) -> Target:
        return _target(self.good())

    def _configured(self, target: Target) -> Configuration:
        """With what the target asks for."""
        usual = self.configuration()
        sections = usual.keys() | target.configuration.keys()
        return {name: {**usual.get(name, {}), **target.configuration.get(name, {})} for name in sections}

    @contextlib.contextmanager
    def _rig(self, target: Target) -> Iterator[Rig]:
        rig = Rig(self._plugin(), self._configured(target), ca_file=self.ca_file)
        try:
            yield rig
        finally:
            rig.close()

    def _check(self, rig: Rig, target: Target) -> None:
        self._quietly("check", rig.notifier.check, target.subscription)

    def _quietly(self, name: str, call: Callable[[Subscription], Any], subscription: Subscription) -> Any:
        """A result that needs neither a network nor another process."""
        with without_io() as done:
            try:
                return call(subscription)
            finally:
                self.assertEqual([], done, f"{name}() has to do no I/O")

    def _outcomes(self, rig: Rig, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """Each is reported, once, with an outcome that the service can use as it is."""
        rig.send(deliveries)
        wait = max(delivery.deadline for delivery in deliveries) - time.monotonic() + self.patience
        if not wait_for(lambda: rig.reports.have(deliveries), wait):
            missing = sum(not rig.reports.of(delivery) for delivery in deliveries)
            self.fail(f"{missing} of {len(deliveries)} deliveries were never reported")
        rig.notifier.close()  # what comes now would come too late anyway
        self.assertEqual([], rig.reports.strange, "something was reported that is no delivery")
        found = [rig.reports.of(delivery) for delivery in deliveries]
        for outcomes in found:
            self.assertEqual(1, len(outcomes), f"a delivery was reported {len(outcomes)} times: {outcomes}")
            self._assert_sound(outcomes[0][0])
        return [outcomes[0][0] for outcomes in found]

    def _assert_sound(self, outcome: Outcome) -> None:
        self.assertEqual(outcome, sound(outcome), "it is not stored as it is, but as what stands second")
        self.assertEqual(outcome, pickle.loads(pickle.dumps(outcome)))  # noqa: S301 - our own
        self._assert_not_told(repr(outcome), "the outcome")

    def _assert_no_success(self, rig: Rig, deliveries: Sequence[Delivery]) -> None:
        for delivery, outcome in zip(deliveries, self._outcomes(rig, deliveries), strict=True):
            about = f"{delivery.subscription.subscriber}: {outcome}"
            self.assertIsNot(OutcomeKind.DELIVERED, outcome.kind, about)
            self.assertFalse(outcome.detail.startswith(FAILED), f"{about}; what goes wrong is an outcome, not an exception")
            self.assertTrue(outcome.detail, f"{about}: nobody is told why")

    def _assert_not_told(self, text: str, where: str) -> None:
        for secret in self.secrets:
            self.assertNotIn(secret, text, f"{where} tells a secret")

    def _assert_arrived(self, count: int) -> None:
        if self.arrived() is not None:
            wait_for(lambda: (self.arrived() or 0) >= count, self.patience)
            self.assertEqual(count, self.arrived(), "so many notifications should have arrived")


class _Poison:
    """What has a bug in it wherever it is touched."""

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError(f"poisoned: {name}")


@functools.cache
def _installed() -> Sequence[Plugin | Broken]:
    plugins, broken = installed.find()
    return [*broken, *plugins]


def _target(where: Where) -> Target:
    return Target(where) if isinstance(where, str) else where
