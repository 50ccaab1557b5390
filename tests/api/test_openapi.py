import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jsonschema

from tests.api.case import KEYRING, TOKENS, ApiCase, check_scheme, routes
from zaqar_notify import validation
from zaqar_notify.api import deliveries, feedback, messages, subscriptions
from zaqar_notify.api.app import create_app
from zaqar_notify.api.identity import Anyone, ApiKeys, KeystoneTokens
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.openapi.document import SIGNED, document
from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.feedback import Use
from zaqar_notify.model import (
    DeliveryRecord,
    Disabled,
    Exchange,
    LogEntry,
    Message,
    OutcomeKind,
    Priority,
    Receipt,
    ReceiptKind,
    State,
    Subscription,
    delivery_id,
)
from zaqar_notify.storage.memory import MemoryStorage
from zaqar_notify.validation import Limits

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
STRATEGIES = (None, "none", "apikey", "keystone")


def operations(described):
    """(path, method, operation), and the parameters of the path."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield path, method, operation, methods.get("parameters", [])


def parts(node):
    """Every object in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from parts(value)
    elif isinstance(node, list):
        for value in node:
            yield from parts(value)


def resolve(described, node):
    while "$ref" in node:
        target = described
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def errors(described, schema, value):
    """What is wrong with the value; an empty list when nothing is."""
    whole = {"$schema": DIALECT, "components": described["components"], **schema}
    checker = jsonschema.FormatChecker(["uuid"])
    return [error.message for error in jsonschema.Draft202012Validator(whole, format_checker=checker).iter_errors(value)]


class DocumentTest(ApiCase):
    def test_it_describes_each_route_and_method(self):
        described = {(path, method) for path, method, _, _ in operations(document(Limits()))}
        served = {
            (path, name.removeprefix("on_"))
            for path, resource in routes(self.client.app)
            for name in dir(resource)
            if name.startswith("on_")
        }
        self.assertEqual(served, described)
        self.assertGreater(len(served), 30)

    def test_who_may_is_as_the_resources_have_it(self):
        resources = dict(routes(self.client.app))
        for strategy in STRATEGIES:
            for path, method, operation, _ in operations(document(Limits(), strategy)):
                with self.subTest(path=path, method=method, strategy=strategy):
                    self.check_security(resources[path], path, method, operation)

    def check_security(self, resource, path, method, operation):
        if resource.access is not Access.ZAQAR:
            self.assertEqual([], operation["security"])
            self.assertNotIn("x-policy-action", operation)
            self.assertTrue("403" in operation["responses"] or resource.access is Access.PUBLIC)
            return
        action = resource.rules["GET" if method == "head" else method.upper()]
        self.assertEqual(action, operation["x-policy-action"])
        signed = {name: [] for name in SIGNED}
        of_queue = re.match(r"/v2/queues/\{queue\}/(messages|claims|subscriptions)", path) is not None
        of_queue = of_queue and getattr(resource, "signable", True)
        self.assertEqual(of_queue, signed in operation["security"], "what pre-signed URLs can be made for")
        self.assertTrue([one for one in operation["security"] if len(one) == 1])
        optional = getattr(resource, "client_id_optional_when_signed", False)
        client_id = "ClientIdUnlessSigned" if optional else "ClientId"
        self.assertIn({"$ref": f"#/components/parameters/{client_id}"}, operation["parameters"])
        self.assertIn({"$ref": "#/components/parameters/ProjectId"}, operation["parameters"])

    def test_the_parameters_are_those_of_the_path(self):
        described = document(Limits())
        for path, method, operation, shared in operations(described):
            named = [resolve(described, parameter) for parameter in [*shared, *operation.get("parameters", [])]]
            self.assertEqual(
                re.findall(r"\{(\w+)\}", path), [parameter["name"] for parameter in named if parameter["in"] == "path"], method
            )
            names = [(parameter["in"], parameter["name"]) for parameter in named]
            self.assertEqual(len(names), len(set(names)), (path, method))

    def test_references_and_links_lead_somewhere(self):
        for strategy in STRATEGIES:
            described = document(Limits(), strategy)
            ids = [operation["operationId"] for _, _, operation, _ in operations(described)]
            self.assertEqual(len(ids), len(set(ids)))
            used = set()
            for part in parts(described):
                if "$ref" in part:
                    resolve(described, part)
                    used.add(part["$ref"])
                if isinstance(part.get("operationId"), str):
                    self.assertIn(part["operationId"], ids)
            for kind in ("schemas", "parameters", "headers", "responses"):
                if (strategy, kind) != ("none", "responses"):  # nobody is asked to authenticate there
                    for name in described["components"][kind]:
                        self.assertIn(f"#/components/{kind}/{name}", used)
            schemes = {name for _, _, operation, _ in operations(described) for one in operation["security"] for name in one}
            self.assertEqual(schemes, set(described["components"]["securitySchemes"]))

    def test_the_schemas_are_schemas(self):
        described = document(Limits())
        for part in parts(described):
            if "schema" in part:
                jsonschema.Draft202012Validator.check_schema(part["schema"])
        for schema in described["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)

    def test_the_examples_are_as_their_schemas_say(self):
        for strategy in STRATEGIES:
            described = document(Limits(), strategy)
            examples = [part for part in parts(described) if "schema" in part and "example" in part]
            self.assertGreater(len(examples), 50)
            for part in examples:
                self.assertEqual([], errors(described, part["schema"], part["example"]), part["example"])

    def test_bodies_have_examples(self):
        for part in parts(document(Limits())):
            for media_type in part.get("content", {}).values():
                self.assertIn("example", media_type)

    def test_objects_that_the_service_makes_have_nothing_else(self):
        described = document(Limits())
        for name in ("Message", "Queue", "Subscription", "Claim", "Delivery", "Error", "SignedUrl", "Stats", "Health"):
            self.assertIs(described["components"]["schemas"][name]["additionalProperties"], False)

    def test_every_answer_has_a_request_id_and_errors_say_what_to_change(self):
        described = document(Limits())
        for path, method, operation, _ in operations(described):
            for status, reference in operation["responses"].items():
                answer = resolve(described, reference)
                self.assertIn("x-openstack-request-id", answer["headers"], (path, method, status))
                if int(status) >= 400 and status != "406":
                    contents = dict(answer["content"])
                    self.assertEqual({"$ref": "#/components/schemas/Error"}, contents.pop("application/json")["schema"])
                    pages = {"text/html"} if path in feedback.PAGES and status in ("400", "403", "404", "410", "503") else set()
                    self.assertEqual(pages, set(contents))

    def test_the_copy_in_the_documentation_is_current(self):
        made = subprocess.run(
            [sys.executable, "-m", "zaqar_notify.api.openapi"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        self.assertEqual(
            made,
            (ROOT / "docs/api/openapi.json").read_text(),
            "make it anew: .venv/bin/python -m zaqar_notify.api.openapi > docs/api/openapi.json",
        )


class ServedTest(ApiCase):
    PATH = "/v2/openapi.json"

    def test_anyone_gets_it(self):
        answer = self.ok("GET", self.PATH, project=None, client_id=None, headers={"Accept": "text/html"})
        self.assertEqual("application/json", answer.headers["content-type"])
        self.assertEqual(document(Limits(), "none"), answer.json)
        self.assertEqual(answer.json, self.ok("GET", self.PATH).json)

    def test_it_has_the_limits_of_the_installation(self):
        changed = {
            field.name: 70 + number
            for number, field in enumerate(dataclasses.fields(Limits))
            if field.type in ("int", "int | None") and not field.name.startswith("default_")
        }
        described = self.call("GET", self.PATH, client=self.make_client(**changed)).text
        for name, value in changed.items():
            self.assertRegex(described, rf"\b{value}\b", name)
        loose = self.call("GET", self.PATH, client=self.make_client(client_id_uuid_safe="off")).json
        self.assertEqual(
            {"type": "string", "minLength": 1, "maxLength": validation.MAX_CLIENT_ID},
            loose["components"]["parameters"]["ClientId"]["schema"],
        )
        short = self.call("GET", self.PATH, client=self.make_client(default_subscription_ttl=4711)).text
        self.assertIn("4711", short)

    def test_it_has_the_way_to_authenticate_of_the_installation(self):
        class Others:
            challenge = None

        identities = {
            Anyone(): "none",
            ApiKeys(self.storage, lifetime=1.0): "apikey",
            KeystoneTokens(): "keystone",
            Others(): None,
        }
        for identity, strategy in identities.items():
            app = create_app(
                self.storage, limits=Limits(), check=check_scheme, wake=lambda: None, loopback_only=False, identity=identity
            )
            shown = self.call("GET", self.PATH, client=type(self.client)(app)).json
            self.assertEqual(document(Limits(), strategy), shown)
        self.assertEqual(
            [{"apiKey": []}, {"apiKeyToken": []}], document(Limits(), "apikey")["paths"]["/v2/queues"]["get"]["security"]
        )
        self.assertTrue(document(Limits(), "none")["components"]["parameters"]["ProjectId"]["required"])
        self.assertNotIn("required", document(Limits(), "apikey")["components"]["parameters"]["ProjectId"])


class Unreachable(MemoryStorage):
    def list_queues(self, *arguments, **options):
        raise StorageUnavailable("The database is locked.")

    def check(self):
        raise CannotStart("The database has another schema.")

    def volume(self):
        raise StorageUnavailable("The database is locked.")


class RareAnswersTest(ApiCase):
    """Answers to which a client alone, as schemathesis is one, does not bring a service."""

    described = document(Limits(), "apikey")

    def check_answer(self, answer, path, method="get"):
        documented = resolve(self.described, self.described["paths"][path][method]["responses"][str(answer.status_code)])
        for name, reference in documented["headers"].items():
            header = resolve(self.described, reference)
            self.assertEqual([], errors(self.described, header["schema"], answer.headers[name.lower()]))
        if "content" not in documented:
            self.assertEqual(b"", answer.content)
            return
        media_type = answer.headers["content-type"].partition(";")[0]
        content = documented["content"][media_type]
        value = answer.text if media_type == "text/html" else answer.json
        self.assertEqual([], errors(self.described, content["schema"], value))

    def check_shown(self, name, shown):
        self.assertEqual([], errors(self.described, {"$ref": f"#/components/schemas/{name}"}, json.loads(json.dumps(shown))))

    def test_not_acceptable(self):
        answer = self.call("GET", "/v2/queues", headers={"Accept": "text/html"})
        self.assertEqual(406, answer.status_code)
        self.check_answer(answer, "/v2/queues")

    def test_unauthorized(self):
        app = create_app(
            self.storage,
            limits=Limits(),
            check=check_scheme,
            wake=lambda: None,
            loopback_only=False,
            identity=ApiKeys(self.storage, lifetime=1.0),
        )
        answer = self.call("GET", "/v2/queues", client=type(self.client)(app))
        self.assertEqual(401, answer.status_code)
        self.check_answer(answer, "/v2/queues")

    def test_forbidden(self):
        answer = self.call("GET", "/v2/health")
        self.assertEqual(403, answer.status_code)
        self.check_answer(answer, "/v2/health")

    def test_confirmations(self):
        path = "/v2/confirmations/{token}"
        self.require_confirmation = True
        self.client = self.make_client()
        subscription_id = self.subscribe()
        [delivery] = self.ok("GET", f"/v2/queues/q/subscriptions/{subscription_id}/deliveries").json["deliveries"]
        token = TOKENS.make(Use.CONFIRM, delivery_id(delivery["message_id"], subscription_id))
        statuses = []
        for _ in range(2):
            for accept in ("text/html", "application/json"):
                for method in ("get", "post"):
                    answer = self.call(method.upper(), path.format(token=token), headers={"Accept": accept})
                    statuses.append(answer.status_code)
                    self.check_answer(answer, path, method)
            self.clock.now += 3600
        self.assertEqual([200, 200, 200, 204, *([410] * 4)], statuses)

    def test_storage_out_of_reach(self):
        client = self.make_client(Unreachable(keyring=KEYRING, retention=1.0, body_retention=None, clock=self.clock))
        with self.assertLogs("zaqar_notify.api"):
            for path in ("/v2/queues", "/v2/ping"):
                answer = self.call("GET", path, client=client)
                self.assertEqual(503, answer.status_code)
                self.check_answer(answer, path)
            health = self.call("GET", "/v2/health", client=client, headers={"X-Roles": "admin"})
        self.assertEqual(200, health.status_code)
        self.assertIsNone(health.json["message_volume"])
        self.check_answer(health, "/v2/health")

    def test_messages(self):
        message = Message("0" * 16, "p", "q", b'{"a":1}', 60, self.clock.now, self.clock.now + 60)
        rare = {"foreign_id": "theirs", "claim_id": "0" * 16, "attributes": {"a": ["b"], "c": 1.5, "d": True}}
        rare |= {"collapse_key": "k", "priority": Priority.LOW, "language": "zh-Hant"}
        for shown in (message, dataclasses.replace(message, **rare), dataclasses.replace(message, body_json=b"", sealed=True)):
            self.check_shown("Message", messages.show(shown, self.clock.now))

    def test_subscriptions(self):
        subscription = Subscription("0" * 16, "p", "q", "http://a.example/", None, {}, self.clock.now, None, sealed=True)
        self.check_shown("Subscription", subscriptions.show(subscription, self.clock.now))
        for enable_by in ("owner", "operator"):
            disabled = dataclasses.replace(subscription, disabled=Disabled("gone", self.clock.now, enable_by))
            self.check_shown("Subscription", subscriptions.show(disabled, self.clock.now))
        failing = dataclasses.replace(subscription, strikes=2, failing_since=self.clock.now)
        self.check_shown("Subscription", subscriptions.show(failing, self.clock.now))

    def test_deliveries(self):
        ended = LogEntry(2, self.clock.now, State.EXPIRED)
        attempts = [
            LogEntry(1, self.clock.now, state, outcome, 503, 0.25, "busy") for state in State for outcome in OutcomeKind
        ]
        for log in ((), (ended,), attempts):
            for due in (None, self.clock.now):
                record = DeliveryRecord("0" * 16, "1" * 16, State.PENDING, due, tuple(log))
                self.check_shown("Delivery", deliveries.show(record))
        receipts = tuple(
            Receipt(kind, self.clock.now, detail) for kind, detail in zip(ReceiptKind, ("", "ok", "no"), strict=True)
        )
        line = LogEntry(1, self.clock.now, State.DELIVERED, OutcomeKind.DELIVERED, target=5)
        for heard in ((), receipts, *((receipt,) for receipt in receipts)):
            record = DeliveryRecord("0" * 16, "1" * 16, State.DELIVERED, None, (line,), heard)
            self.check_shown("Delivery", deliveries.show(record))
        exchange = Exchange({"method": "POST"}, None, {"name": 0.25})
        for shown in (exchange, dataclasses.replace(exchange, response={"status": 200}), None):
            line = LogEntry(1, self.clock.now, State.PENDING, OutcomeKind.RETRY, exchange=shown)
            record = DeliveryRecord("0" * 16, "1" * 16, State.PENDING, None, (line,))
            self.check_shown("Delivery", deliveries.show(record, exchanges=True))
