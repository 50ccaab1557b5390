"""What the API's tests share: an application over each storage, clients of it, and documents that are good."""

from __future__ import annotations

import base64
import dataclasses
import pathlib
import shutil
import tempfile
import unittest

from falcon import testing

from zaqar_notify.api.app import create_app
from zaqar_notify.api.confirmation import Confirmations
from zaqar_notify.api.identity import Anyone
from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import InvalidRequest, UnknownScheme
from zaqar_notify.feedback import Tokens
from zaqar_notify.model import LogEntry, OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.signing import UrlSigner
from zaqar_notify.storage.base import Closing, Settlement
from zaqar_notify.storage.memory import MemoryStorage
from zaqar_notify.storage.sql.driver import SqlStorage
from zaqar_notify.validation import Limits

CLIENT = "5b0e4a6a-98ac-4d6c-a3d4-4f2c7f2ad0aa"
OTHER_CLIENT = "0f7c2f1e-1d0a-4b5e-8f0e-3f6a1c2b4d5e"
KEYRING = Keyring([base64.b64encode(bytes(32)).decode()])
SIGNER = UrlSigner("secret")
TOKENS = Tokens("secret")
HOOK = {"subscriber": "http://endpoint.example/hook"}


def check_scheme(subscription) -> None:
    """Stands for the notifiers: http is served, and one host is forbidden."""
    scheme, _, rest = subscription.subscriber.partition(":")
    if scheme != "http":
        raise UnknownScheme(f"No notifier serves {scheme}: the schemes are http.")
    if rest.startswith("//forbidden"):
        raise InvalidRequest("This host is not allowed.")
    if "refused" in subscription.options:
        raise InvalidRequest("The option refused is refused.")


def routes(app):
    """(template, resource) of every route."""

    def below(nodes, above):
        for node in nodes:
            path = f"{above}/{node.raw_segment}"
            if node.resource is not None:
                yield path, node.resource
            yield from below(node.children, path)

    return list(below(app._router._roots, ""))


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class OverMemory:
    def make_storage(self, clock):
        return MemoryStorage(keyring=KEYRING, retention=3600.0, body_retention=None, clock=clock)


class OverSql:
    _empty: tempfile.TemporaryDirectory | None = None

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # The schema is made once and copied: making it anew is most of a test's time.
        cls._empty = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls._empty.cleanup)
        storage = cls.open(pathlib.Path(cls._empty.name))
        storage.upgrade()
        storage.close()

    @staticmethod
    def open(directory, **options):
        settings = {"keyring": KEYRING, "retention": 3600.0, "body_retention": None, "busy_timeout": 5.0, "group_commit": 16}
        return SqlStorage(f"sqlite:///{directory / 'test.db'}", **(settings | options))

    def make_storage(self, clock):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        shutil.copytree(self._empty.name, directory.name, dirs_exist_ok=True)
        return self.open(pathlib.Path(directory.name), clock=clock)


class ApiCase(unittest.TestCase):
    limits = Limits()
    loopback_only = False
    require_confirmation = False
    public_url: str | None = None
    rules = None

    def setUp(self) -> None:
        self.clock = Clock()
        self.storage = self.make_storage(self.clock)
        self.addCleanup(self.storage.close)
        self.reports: list[tuple[str, dict[str, str]]] = []
        """Whom providers have reported of, and what."""
        self.wakes: list[int] = []
        """How many messages of the queue ``q`` could be read at each wake-up."""
        self.client = self.make_client()

    def make_storage(self, clock):
        return OverMemory.make_storage(self, clock)

    def make_identity(self, storage):
        return Anyone()

    def make_client(self, storage=None, **limits):
        storage = storage or self.storage
        app = create_app(
            storage,
            limits=dataclasses.replace(self.limits, **limits),
            check=check_scheme,
            wake=lambda: self.wakes.append(len(self.storage.list_messages("p", "q", None, 100))),
            loopback_only=self.loopback_only,
            identity=self.make_identity(storage),
            rules=self.rules,
            signer=SIGNER,
            tokens=TOKENS,
            read_receipt=self.read_receipt,
            confirmations=Confirmations(self.require_confirmation, 3600, self.public_url, SIGNER, self.clock),
            clock=self.clock,
        )
        return testing.TestClient(app)

    def read_receipt(self, subscription, fields) -> Receipt | None:
        """Stands for the notifiers: ``status`` says what became of it."""
        self.reports.append((subscription.subscriber, fields))
        kind = {"delivered": ReceiptKind.DEVICE, "undelivered": ReceiptKind.FAILED}.get(fields.get("status"))
        return kind and Receipt(kind, 0.0, fields.get("reason", ""))

    def call(self, method, path, document=None, *, project="p", client_id=CLIENT, headers=None, client=None, **options):
        """``document`` goes as JSON; ``body=`` goes as it is. A header of None is left out."""
        everything = {"X-Project-ID": project, "Client-ID": client_id, **(headers or {})}
        sent = {name: value for name, value in everything.items() if value is not None}
        if document is not None:
            options["json"] = document
        options.setdefault("remote_addr", "127.0.0.1")
        options.setdefault("host", "localhost")
        return (client or self.client).simulate_request(method, path, headers=sent, **options)

    def ok(self, method, path, document=None, *, status=200, **options):
        answer = self.call(method, path, document, **options)
        self.assertEqual(answer.status_code, status, answer.text)
        self.assertRegex(answer.headers["x-openstack-request-id"], r"\Areq-[0-9a-f-]{36}\Z")
        return answer

    def refused(self, status, method, path, document=None, *, title=None, text="", **options):
        """The answer has the shape of every error; returns its description."""
        answer = self.call(method, path, document, **options)
        self.assertEqual(answer.status_code, status, answer.text)
        self.assertRegex(answer.headers["x-openstack-request-id"], r"\Areq-[0-9a-f-]{36}\Z")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(set(answer.json), {"title", "description"}, answer.text)
        self.assertTrue(answer.json["title"] and answer.json["description"], answer.text)
        if title is not None:
            self.assertEqual(answer.json["title"], title)
        self.assertIn(text, answer.json["description"])
        return answer

    def post(self, *bodies, queue="q", **options) -> list[str]:
        """Ids of the messages."""
        answer = self.ok(
            "POST", f"/v2/queues/{queue}/messages", {"messages": [{"body": body} for body in bodies]}, status=201, **options
        )
        return [href.rpartition("/")[2] for href in answer.json["resources"]]

    def claim(self, queue="q", document=None, query="", **options):
        """The answer to a claim that finds something: the id of the claim, and the messages."""
        answer = self.ok("POST", f"/v2/queues/{queue}/claims?{query}", document, status=201, **options)
        return answer.headers["location"].rpartition("/")[2], answer.json["messages"]

    def subscribe(self, number=0, queue="q", **options) -> str:
        """Id of a new subscription."""
        document = {"subscriber": f"http://endpoint.example/{number}"}
        return self.ok("POST", f"/v2/queues/{queue}/subscriptions", document, status=201, **options).json["subscription_id"]

    def settle(self, message_ids, lines, due_at=None):
        """Work as a worker: one line in the log for each (message, subscription) of ``lines``."""
        worker = self.storage.join()
        taken = self.storage.take(worker, 30.0, entries=100, rows=0)
        self.assertEqual(sorted(entry.message_id for entry in taken.entries), sorted(message_ids))
        settlements = [
            Settlement(message_id, subscription_id, taken.token, False, log=log, due_at=due_at, attempts=1, lines=1)
            for message_id, subscription_id, log in lines
        ]
        closings = [Closing(message_id, taken.token) for message_id in message_ids]
        self.assertEqual(self.storage.settle(settlements, closings), 0)

    def deliver(self, subscription_id, **fields) -> str:
        """Id of a message that was posted and delivered."""
        [message_id] = self.post("x")
        line = LogEntry(1, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED, 204, 0.125, **fields)
        self.settle([message_id], [(message_id, subscription_id, line)])
        return message_id

    def walk(self, path, key, query="", **options):
        """Every page, by the links; yields the entries of each."""
        href = f"{path}?{query}"
        for _ in range(100):
            answer = self.ok("GET", href, **options).json
            yield answer[key]
            if not answer["links"]:
                return
            self.assertEqual([link["rel"] for link in answer["links"]], ["next"])
            href = answer["links"][0]["href"]
        self.fail("The listing does not end.")
