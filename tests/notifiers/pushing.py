from __future__ import annotations

import json
import logging
import queue
import tempfile
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from oslo_config import cfg

from tests.notifiers.case import WAIT, HttpCase
from tests.notifiers.endpoint import certificate
from zaqar_notify import feedback
from zaqar_notify.model import Delivery, Message, Outcome, Subscription
from zaqar_notify.notifiers.http import HttpClients
from zaqar_notify.notifiers.push import PushNotifier
from zaqar_notify.notifiers.sections import Section

_Kind = TypeVar("_Kind", bound=PushNotifier)


def message(body: Any = "hello", *, ttl: int = 300, number: int = 1, **fields: Any) -> Message:
    now = time.time()
    return Message(f"m{number}", "p", "demo", json.dumps(body).encode(), ttl, now, now + ttl, **fields)


def subscription(uri: str, options: Mapping[str, Any] | None = None) -> Subscription:
    return Subscription("s1", "p", "demo", uri, None, options or {}, time.time() - 3600, None)


def delivery(
    uri: str, sent: Message | None = None, options: Mapping[str, Any] | None = None, *, timeout: float = WAIT, **fields: Any
) -> Delivery:
    sent = sent or message()
    return Delivery(f"{sent.id}-s1", 1, time.monotonic() + timeout, sent, subscription(uri, options), **fields)


LINKS = {name: f"https://notify.example.org/{name}" for name in feedback.PATHS}


class PushCase(HttpCase):
    """Notifiers with their named sections, and a folder for key files."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def server(self, made: Any) -> Any:
        self.addCleanup(made.close)
        return made

    def trusting(self, **options: Any) -> HttpClients:
        return self.clients(ca_file=certificate().file, **options)

    def notifier(
        self, cls: type[_Kind], named: Mapping[str, Mapping[str, Any]], clients: HttpClients | None = None, **values: Any
    ) -> _Kind:
        conf = cfg.ConfigOpts()
        conf.register_opts(cls.options, cls.section)
        conf([], project="tests", default_config_files=[], default_config_dirs=[])
        conf.set_override(cls.named_by, list(named), cls.section)
        for name, value in values.items():
            conf.set_override(name, value, cls.section)
        for name, options in named.items():
            conf.register_opts(cls.named_options, f"{cls.section}_{name}")
            for option, value in options.items():
                conf.set_override(option, value, f"{cls.section}_{name}")
        log = logging.getLogger(f"tests.{cls.section}")
        return cls(Section(conf, cls.section, cls), clients or self.trusting(), log)

    def deliver(self, notifier: PushNotifier, *deliveries: Delivery) -> list[Outcome]:
        """The outcomes, in the order of the deliveries; each is reported once."""
        reports: queue.Queue[tuple[Delivery, Outcome]] = queue.Queue()
        notifier.send_many(deliveries, lambda delivery, outcome: reports.put((delivery, outcome)))
        found = dict(reports.get(timeout=WAIT) for _ in deliveries)
        self.assertTrue(reports.empty())
        return [found[delivery] for delivery in deliveries]
