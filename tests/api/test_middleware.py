import contextlib
import unittest

import falcon
from falcon import testing

from tests.api.case import CLIENT, ApiCase, routes
from zaqar_notify.api.app import create_app
from zaqar_notify.api.identity import Anyone, SignedRequests
from zaqar_notify.api.middleware import Access, Callers, HeaderRules
from zaqar_notify.api.policy import Rules
from zaqar_notify.errors import Forbidden
from zaqar_notify.signing import UrlSigner
from zaqar_notify.validation import Limits

IDS = {"queue": "q", "message_id": "0" * 16, "claim_id": "0" * 16, "subscription_id": "0" * 16}


def zaqar_routes(app):
    """(method, path) of everything that asks for a caller."""
    return [
        (name.removeprefix("on_").upper(), template.format(**IDS))
        for template, resource in routes(app)
        if resource.access is Access.ZAQAR
        for name in dir(resource)
        if name.startswith("on_")
    ]


class HeaderRulesTest(ApiCase):
    def refused_everywhere(self, title, **headers):
        for method, path in zaqar_routes(self.client.app):
            with self.subTest(method=method, path=path):
                if method == "HEAD":
                    self.assertEqual(self.call(method, path, **headers).status_code, 400)
                else:
                    self.refused(400, method, path, title=title, headers={"X-Roles": "admin"}, **headers)

    def test_client_id(self):
        self.refused_everywhere("Missing header value", client_id=None)
        self.refused_everywhere("Missing header value", client_id="")
        self.refused_everywhere("Wrong UUID value", client_id="me")
        for spelled in (CLIENT.upper(), CLIENT.replace("-", ""), "{" + CLIENT + "}"):
            self.ok("GET", "/v2/queues", client_id=spelled)

    def test_client_id_that_is_no_uuid(self):
        client = self.make_client(client_id_uuid_safe="off")
        self.ok("GET", "/v2/queues", client_id="me", client=client)
        self.ok("GET", "/v2/queues", client_id="x" * 256, client=client)
        self.refused(400, "GET", "/v2/queues", client_id="x" * 257, client=client)
        self.refused(400, "GET", "/v2/queues", client_id=None, title="Missing header value", client=client)

    def test_project(self):
        self.refused_everywhere("Missing header value", project=None)
        self.refused_everywhere("Empty project header not allowed", project="")
        self.refused_everywhere("Empty project header not allowed", project="  ")
        self.refused_everywhere("Invalid queue identification", project="x" * 257)
        self.ok("GET", "/v2/queues", project="x" * 256)

    def test_accept(self):
        for accept in ("text/html", "application/xml, text/*", "application/json;q=0", "nonsense"):
            for method, path in zaqar_routes(self.client.app):
                with self.subTest(method=method, path=path, accept=accept):
                    answer = self.ok(method, path, status=406, headers={"Accept": accept, "X-Roles": "admin"})
                    self.assertEqual(answer.content, b"")
        for accept in ("application/json", "*/*", "application/*", "text/html, application/json;q=0.1", ""):
            self.ok("GET", "/v2/queues", headers={"Accept": accept})

    def test_a_refused_request_changes_nothing(self):
        document = {"messages": [{"body": 1}]}
        self.ok("POST", "/v2/queues/q/messages", document, status=406, headers={"Accept": "text/html"})
        self.refused(400, "PUT", "/v2/queues/q", {}, client_id=None)
        self.assertEqual(self.ok("GET", "/v2/queues").json["queues"], [])

    def test_forms(self):
        for content_type in (
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-Urlencoded; charset=utf-8",
        ):
            self.refused(
                400,
                "POST",
                "/v2/queues/q/messages",
                body='{"messages": [{"body": 1}]}',
                headers={"Content-Type": content_type},
                text="Content-Type: application/json",
            )
            self.ok("PUT", "/v2/queues/q", status=201, headers={"Content-Type": content_type})
            self.ok("DELETE", "/v2/queues/q", status=204)

    def test_other_content_types(self):
        for number, content_type in enumerate(("application/json", "text/plain", "nonsense", None)):
            self.ok("PUT", f"/v2/queues/q{number}", status=201, body="{}", headers={"Content-Type": content_type})

    def test_request_ids_differ(self):
        first, second = self.ok("GET", "/v2/queues"), self.ok("GET", "/v2/queues")
        self.assertNotEqual(first.headers["x-openstack-request-id"], second.headers["x-openstack-request-id"])


class Echo:
    rules = {"GET": "queues:get_all"}

    def __init__(self, access):
        self.access = access

    def on_get(self, req, resp):
        resp.media = {"project": req.context.get("project")}

    def on_put(self, req, resp):
        raise AssertionError("somebody got here")


class AccessTest(unittest.TestCase):
    """The rules are a property of the resource, whatever its path."""

    def client(self, access):
        callers = Callers(Anyone(), SignedRequests(UrlSigner("k")), Rules.defaults())
        app = falcon.App(middleware=[callers, HeaderRules(strict_client_id=True)])
        app.add_route("/v2/queues", Echo(access))
        return testing.TestClient(app)

    def test_zaqar(self):
        client = self.client(Access.ZAQAR)
        self.assertEqual(client.simulate_get("/v2/queues").status_code, 400)
        headers = {"Client-ID": CLIENT, "X-Project-ID": "p"}
        self.assertEqual(client.simulate_get("/v2/queues", headers=headers).json, {"project": "p"})

    def test_what_has_no_action_is_nobodys(self):
        callers = Callers(Anyone(), SignedRequests(UrlSigner("k")), Rules.defaults())
        headers = {"X-Project-ID": "p", "X-Roles": "admin"}
        for method, allowed in (("GET", True), ("HEAD", True), ("PATCH", True), ("OPTIONS", True), ("PUT", False)):
            request = falcon.Request(testing.create_environ(method=method, headers=headers))
            with self.subTest(method=method), contextlib.nullcontext() if allowed else self.assertRaises(Forbidden):
                callers.process_resource(request, falcon.Response(), Echo(Access.ZAQAR), {})

    def test_signed_and_public(self):
        for access in (Access.SIGNED, Access.PUBLIC):
            answer = self.client(access).simulate_get("/v2/queues", headers={"Accept": "text/html"})
            self.assertEqual((answer.status_code, answer.json), (200, {"project": None}))


class LoopbackOnlyTest(ApiCase):
    loopback_only = True

    def test_loopback(self):
        for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
            self.ok("GET", "/v2/queues", remote_addr=address)

    def test_elsewhere(self):
        for address in ("192.0.2.1", "10.0.0.1", "0.0.0.0", "::", "::ffff:10.0.0.1", "fe80::1%lo", "localhost", ""):
            for method, path in [*zaqar_routes(self.client.app), ("GET", "/"), ("GET", "/nowhere"), ("TRACE", "/v2/ping")]:
                with self.subTest(address=address, method=method, path=path):
                    answer = self.call(method, path, remote_addr=address)
                    self.assertEqual(answer.status_code, 403)
                    self.assertIn("x-openstack-request-id", answer.headers)
                    if method != "HEAD":
                        self.assertIn("loopback", answer.json["description"])

    def test_forwarded(self):
        for header in ("X-Forwarded-For", "Forwarded"):
            for value in ("127.0.0.1", "for=127.0.0.1", ""):
                with self.subTest(header=header, value=value):
                    self.refused(403, "GET", "/v2/queues", headers={header: value}, text="forwarded")
                    self.refused(403, "GET", "/nowhere", headers={header: value}, text="forwarded")

    def test_a_page_whose_name_leads_here_all_of_a_sudden(self):
        for host in ("example.org", "example.org:8888", "127.0.0.1.example.org", "localhost.example.org", "192.0.2.1", "[::2]"):
            with self.subTest(host):
                self.refused(403, "GET", "/v2/queues", headers={"Host": host}, text="Host header")
        for host in ("localhost", "LOCALHOST:1", "notify.localhost", "127.0.0.1:8888", "[::1]:8888", "[::1]", ""):
            with self.subTest(host):
                self.ok("GET", "/v2/queues", headers={"Host": host})

    def test_unix_socket(self):
        app = create_app(self.storage, limits=Limits(), check=lambda _: None, wake=lambda: None, loopback_only=True)
        environ = testing.create_environ("/v2/ping", headers={"Client-ID": CLIENT, "X-Project-ID": "p"})
        self.assertNotIn("REMOTE_ADDR", environ)
        statuses = []
        b"".join(app(environ, lambda status, headers: statuses.append(status)))
        self.assertEqual(statuses, ["403 Forbidden"])


class WithoutLoopbackOnlyTest(ApiCase):
    def test_anywhere(self):
        self.ok("GET", "/v2/queues", remote_addr="192.0.2.1", headers={"X-Forwarded-For": "192.0.2.2"})
