"""Another queue service's app, with subscriptions, deliveries and notifications mounted on it."""

import io
import json
import logging
import threading
import unittest
from typing import ClassVar
from wsgiref.simple_server import WSGIRequestHandler, make_server

import falcon
import falcon.asgi
import falcon.inspect
from falcon import testing

from tests.api.case import CLIENT, HOOK, TOKENS, Clock, OverMemory, OverSql, check_scheme
from zaqar_notify import validation
from zaqar_notify.api import feedback, mount
from zaqar_notify.api.app import create_app
from zaqar_notify.api.extension import IDS_HEADER, MOST_IDS_IN_HEADER, TEMPLATES, NotificationService
from zaqar_notify.errors import StorageUnavailable
from zaqar_notify.feedback import PATHS, UNSUBSCRIBE, Use
from zaqar_notify.model import Priority, delivery_id
from zaqar_notify.signing import UrlSigner
from zaqar_notify.storage.base import Closing
from zaqar_notify.validation import Limits

HEADERS = {"X-Project-ID": "p", "Client-ID": CLIENT}
MESSAGES = "/v2/queues/{queue_name}/messages"
SIGNER = UrlSigner("key")


class ForeignMessages:
    """Answers as it is told, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[object] = []
        self.answer = self.hrefs

    def hrefs(self, req, resp, queue_name) -> None:
        count = len(self.given[-1]["messages"])
        resp.status = falcon.HTTP_201
        resp.media = {"resources": [f"/v2/queues/{queue_name}/messages/foreign-{len(self.given)}-{n}" for n in range(count)]}

    def on_post(self, req, resp, queue_name) -> None:
        self.given.append(req.get_media())
        self.answer(req, resp, queue_name)

    def on_get(self, req, resp, queue_name) -> None:
        resp.media = {"messages": "foreign"}


class ForeignMessage:
    def on_get(self, req, resp, queue_name, message_id) -> None:
        resp.media = {"message": message_id}


class Broken:
    """A storage that fails at one thing."""

    def __init__(self, storage, method) -> None:
        self._storage = storage
        self._method = method

    def __getattr__(self, name):
        if name == self._method:
            return self._fail
        return getattr(self._storage, name)

    def _fail(self, *arguments):
        raise StorageUnavailable("The database is locked.")


class ExtensionCase(unittest.TestCase):
    loopback_only = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.storage = self.make_storage(self.clock)
        self.addCleanup(self.storage.close)
        self.worker = self.storage.join()
        self.wakes: list[list[str]] = []
        """What was due at each wake-up."""
        self.foreign = ForeignMessages()
        self.client = self.mounted()

    def make_storage(self, clock):
        return OverMemory.make_storage(self, clock)

    def service(self, storage=None, **limits):
        storage = storage or self.storage
        limits = Limits(**limits)

        def make_api(identity):
            return create_app(
                storage,
                limits=limits,
                check=check_scheme,
                wake=self.wake,
                loopback_only=self.loopback_only and identity is None,
                identity=identity,
                signer=SIGNER,
                tokens=TOKENS,
                clock=self.clock,
            )

        return NotificationService(storage, limits, self.wake, make_api)

    def wake(self) -> None:
        self.wakes.append(self.due())

    def app(self, *, middleware=None, **options):
        app = falcon.App(middleware=middleware, **options)
        app.add_route(MESSAGES, self.foreign)
        app.add_route(MESSAGES + "/{message_id}", ForeignMessage())
        return app

    def mounted(self, *, app=None, storage=None, limits=None, **options):
        app = app or self.app()
        mount(app, self.service(storage, **(limits or {})), **options)
        return testing.TestClient(app)

    def post(self, *bodies, client=None, headers=HEADERS, queue="q", **options):
        if bodies:
            options["json"] = {"messages": [{"body": body} for body in bodies]}
        return (client or self.client).simulate_post(f"/v2/queues/{queue}/messages", headers=headers, **options)

    def due(self) -> list[str]:
        """The bodies of what a worker would send now; it has them then."""
        taken = self.storage.take(self.worker, 30.0, entries=1000, rows=0)
        messages = self.storage.load([entry.message_id for entry in taken.entries], ()).messages
        self.storage.settle([], [Closing(entry.message_id, taken.token) for entry in taken.entries])
        return [json.loads(messages[entry.message_id].body_json) for entry in taken.entries]

    def deliveries(self, message_id, client=None, **options):
        path = f"/v2/queues/q/messages/{message_id}/deliveries"
        return (client or self.client).simulate_get(path, headers=HEADERS, **options)

    def assert_nothing_is_left(self) -> None:
        """It has been dropped: it does not come due either."""
        self.clock.now += 3000
        self.assertEqual([], self.due())


class PostingTest(ExtensionCase):
    def test_a_post_is_released_with_the_foreign_ids(self):
        answer = self.post("one", "two")
        self.assertEqual(201, answer.status_code)
        self.assertEqual({"resources": ["/v2/queues/q/messages/foreign-1-0", "/v2/queues/q/messages/foreign-1-1"]}, answer.json)
        self.assertNotIn(IDS_HEADER, answer.headers)
        self.assertNotIn("x-openstack-request-id", answer.headers)
        self.assertEqual([["one", "two"]], self.wakes)
        self.assertEqual(200, self.deliveries("foreign-1-0").status_code)
        self.assertEqual(404, self.deliveries("foreign-1-2").status_code)

    def test_the_resource_gets_the_body_as_it_was_posted(self):
        document = {"messages": [{"body": {"ä": 1}, "ttl": 100, "unknown": None}], "other": [1]}
        for options in ({"json": document}, {"body": json.dumps(document), "content_type": "application/json; charset=utf-8"}):
            self.assertEqual(201, self.post(**options).status_code)
            self.assertEqual(document, self.foreign.given[-1])

    def test_a_resource_may_read_it_in_any_way(self):
        class Reading:
            def __init__(self, read_from):
                self.read_from = read_from

            def on_post(self, req, resp, queue_name):
                read.append(self.read_from(req))

        read = []
        for read_from in (
            lambda req: req.stream.read(),
            lambda req: req.bounded_stream.read(),
            lambda req: req.env["wsgi.input"].read(int(req.env["CONTENT_LENGTH"])),
        ):
            app = falcon.App()
            app.add_route(MESSAGES, Reading(read_from))
            self.assertEqual(200, self.post("x", client=self.mounted(app=app)).status_code)
        self.assertEqual([{"messages": [{"body": "x"}]}] * 3, [json.loads(raw) for raw in read])

    def test_nothing_is_due_while_the_resource_runs(self):
        seen = []

        def answer(req, resp, queue_name):
            seen.append(self.due())
            self.foreign.hrefs(req, resp, queue_name)

        self.foreign.answer = answer
        self.post("x")
        self.assertEqual([[]], seen)
        self.assertEqual([["x"]], self.wakes)

    def test_the_queue_is_the_one_that_the_resource_gets(self):
        for slashes in ("/", "//", "///"):
            seen = []
            self.foreign.answer = lambda req, resp, queue_name: seen.append(queue_name)  # noqa: B023
            path = f"{slashes}v2/queues/q/messages"
            answer = self.client.simulate_post(path, headers=HEADERS, json={"messages": [{"body": "x"}]})
            self.assertEqual(["q"], seen)
            self.assertEqual(200, self.deliveries(answer.headers[IDS_HEADER]).status_code, path)

    def test_ttl_and_project(self):
        self.post(json={"messages": [{"body": 1, "ttl": 100}, {"body": 2}]}, headers={"X-Project-ID": "other"})
        taken = self.storage.take(self.worker, 30.0, entries=10, rows=0).entries
        self.assertEqual([], taken)  # they were taken at the wake-up
        self.assertEqual([[1, 2]], self.wakes)
        self.assertEqual(404, self.deliveries("foreign-1-0").status_code)
        other = {**HEADERS, "X-Project-ID": "other"}
        answer = self.client.simulate_get("/v2/queues/q/messages/foreign-1-0/deliveries", headers=other)
        self.assertEqual(200, answer.status_code)

    def test_the_messages_are_not_in_our_queues(self):
        self.post("x")
        self.assertEqual([], self.storage.list_messages("p", "q", None, 10))

    def test_what_is_not_accepted_is_dropped(self):
        def raising(error):
            def answer(req, resp, queue_name):
                raise error

            return answer

        def status(status):
            def answer(req, resp, queue_name):
                resp.status = status
                resp.media = {"resources": ["/v2/queues/q/messages/1"]}

            return answer

        for answer, expected in (
            (raising(falcon.HTTPBadRequest()), 400),
            (raising(falcon.HTTPStatus(503)), 503),
            (raising(RuntimeError("a bug")), 500),
            (status(500), 500),
            (status("409 Conflict"), 409),
            (status(falcon.HTTP_303), 303),
        ):
            with self.subTest(expected), self.unnoticed(), io.StringIO() as errors:
                self.foreign.answer = answer
                result = self.post("x", wsgierrors=errors)
                self.assertEqual(expected, result.status_code)
                self.assertNotIn(IDS_HEADER, result.headers)
                self.assert_nothing_is_left()

    def unnoticed(self):
        self.wakes.clear()
        return _Unchanged(self, self.wakes)

    def test_any_2xx_releases(self):
        def raising(req, resp, queue_name):
            raise falcon.HTTPStatus(202)

        def no_content(req, resp, queue_name):
            resp.status = 204

        for answer in (raising, no_content):
            self.wakes.clear()
            self.foreign.answer = answer
            result = self.post("x")
            self.assertIn(result.status_code, (202, 204))
            self.assertEqual([["x"]], self.wakes)
            self.assertEqual(200, self.deliveries(result.headers[IDS_HEADER]).status_code)

    def test_what_the_process_leaves_behind_comes_due(self):
        class Killed(BaseException):
            pass

        def dying(req, resp, queue_name):
            raise Killed

        self.foreign.answer = dying
        with self.assertRaises(Killed):
            self.post("x")
        self.clock.now += 29
        self.assertEqual([], self.due())
        self.clock.now += 2
        self.assertEqual(["x"], self.due())

    def test_held_for(self):
        def dying(req, resp, queue_name):
            raise KeyboardInterrupt

        self.foreign.answer = dying
        client = self.mounted(held_for=5.0)
        with self.assertRaises(KeyboardInterrupt):
            self.post("x", client=client)
        self.clock.now += 4
        self.assertEqual([], self.due())
        self.clock.now += 2
        self.assertEqual(["x"], self.due())

    def test_what_comes_due_while_the_resource_runs_is_not_sent_again(self):
        def slow(req, resp, queue_name):
            self.clock.now += 31
            seen.append(self.due())
            self.foreign.hrefs(req, resp, queue_name)

        seen = []
        self.foreign.answer = slow
        self.assertEqual(201, self.post("x").status_code)
        self.assertEqual([["x"]], seen)
        self.assertEqual([[]], self.wakes)
        self.assertEqual(200, self.deliveries("foreign-1-0").status_code)

    def test_other_methods_and_routes_are_left_alone(self):
        self.assertEqual({"messages": "foreign"}, self.client.simulate_get("/v2/queues/q/messages").json)
        self.assertEqual({"message": "1"}, self.client.simulate_get("/v2/queues/q/messages/1").json)
        self.assertEqual(404, self.client.simulate_post("/v2/queues/q/nowhere", json={}).status_code)
        self.assertEqual(404, self.client.simulate_get("/v2/queues").status_code)
        self.assertEqual(404, self.client.simulate_get("/v2/ping").status_code)
        answer = self.client.simulate_put("/v2/queues/q/messages")
        self.assertEqual(405, answer.status_code)
        self.assertNotIn("x-openstack-request-id", answer.headers)
        self.assertEqual([], self.wakes)

    def test_chunked(self):
        for raw, expected in ((b'{"messages": [{"body": 1}]}', 201), (b" " * 262145, 400)):
            environ = testing.create_environ("/v2/queues/q/messages", method="POST", headers=HEADERS)
            environ.update({"wsgi.input": io.BytesIO(raw), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"})
            environ.pop("CONTENT_LENGTH", None)
            statuses = []
            b"".join(self.client.app(environ, lambda status, headers: statuses.append(status)))  # noqa: B023
            self.assertEqual(expected, int(statuses[0][:3]))
        self.assertEqual([[1]], self.wakes)


class _Unchanged:
    def __init__(self, test, values) -> None:
        self._test = test
        self._values = values

    def __enter__(self) -> None: ...

    def __exit__(self, *_) -> None:
        self._test.assertEqual([], self._values)


class OverSqlTest(OverSql, ExtensionCase):
    """What the storage has a part in, over the other storage."""

    make_storage = OverSql.make_storage
    test_a_post_is_released_with_the_foreign_ids = PostingTest.test_a_post_is_released_with_the_foreign_ids
    test_nothing_is_due_while_the_resource_runs = PostingTest.test_nothing_is_due_while_the_resource_runs
    test_what_is_not_accepted_is_dropped = PostingTest.test_what_is_not_accepted_is_dropped
    unnoticed = PostingTest.unnoticed
    test_what_the_process_leaves_behind_comes_due = PostingTest.test_what_the_process_leaves_behind_comes_due
    test_what_comes_due_while_the_resource_runs_is_not_sent_again = (
        PostingTest.test_what_comes_due_while_the_resource_runs_is_not_sent_again
    )


class RefusedTest(ExtensionCase):
    def refused(self, text, *, client=None, **options):
        answer = self.post(client=client, **options)
        self.assertEqual(400, answer.status_code, answer.text)
        self.assertEqual({"title", "description"}, set(answer.json))
        self.assertIn(text, answer.json["description"])
        self.assertEqual([], self.foreign.given)
        self.assert_nothing_is_left()

    def test_documents(self):
        for body, text in (
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"\xff", "not UTF-8"),
            (b"[]", "JSON object"),
            (b'{"messages": []}', "at least one message"),
            (b'{"messages": [{"ttl": 60}]}', 'no "body"'),
            (b'{"messages": [{"body": 1, "ttl": 1}]}', "ttl"),
            (b'{"messages": [{"body": "\\ud800"}]}', "surrogate"),
            (b'{"messages": [{"body": %s}]}' % (b"[" * 5000 + b"]" * 5000), "nested"),
            (b'{"messages": [{"body": 1e999}]}', "out of range"),
            (b" " * 262145, "at most 262144"),
        ):
            with self.subTest(text):
                self.refused(text, body=body)

    def test_lengths(self):
        for length, expected in (("abc", 400), ("-1", 400), ("", 400), ("9" * 20, 400), ("27", 201)):
            environ = testing.create_environ("/v2/queues/q/messages", method="POST", headers=HEADERS)
            environ.update({"wsgi.input": io.BytesIO(b'{"messages": [{"body": 1}]} and more'), "CONTENT_LENGTH": length})
            statuses = []
            b"".join(self.client.app(environ, lambda status, headers: statuses.append(status)))  # noqa: B023
            self.assertEqual(expected, int(statuses[0][:3]), length)
        self.assertEqual(1, len(self.foreign.given))

    def test_bodies_that_end_too_early(self):
        self.refused("4 of 5", body="{}  ", headers={**HEADERS, "Content-Length": "5"})

    def test_projects(self):
        document = {"messages": [{"body": 1}]}
        for headers, text in (
            ({}, "names no project"),
            ({"X-Project-ID": " "}, "names no project"),
            ({"X-Project-ID": "x" * 257}, "256 characters"),
        ):
            with self.subTest(text):
                self.refused(text, json=document, headers=headers)

    def test_queue_names(self):
        document = {"messages": [{"body": 1}]}
        self.refused("64 characters", json=document, queue="q" * 65)
        self.refused("letters", json=document, queue="a%20b")

    def test_the_project_that_the_app_names(self):
        def project(req):
            return req.get_header("Tenant")

        client = self.mounted(project=project)
        self.refused("names no project", client=client, json={"messages": [{"body": 1}]})
        self.assertEqual(201, self.post("x", client=client, headers={"Tenant": "p", "X-Project-ID": "other"}).status_code)
        self.assertEqual(200, self.deliveries("foreign-1-0").status_code)

    def test_not_strict(self):
        client = self.mounted(strict=False)
        self.foreign.answer = lambda req, resp, queue_name: None
        document = {"text": "something else"}
        for options in (
            {"json": document},
            {"json": {"messages": [{"body": 1, "ttl": 1}]}},
            {"json": document, "headers": {}},
            {"json": document, "queue": "a%20b"},
        ):
            with self.assertLogs("zaqar_notify.api.extension", logging.WARNING) as logs:
                self.assertEqual(200, self.post(client=client, **options).status_code)
            self.assertIn("nobody is notified", logs.output[0])
            self.assertEqual(options["json"], self.foreign.given[-1])
        self.assert_nothing_is_left()
        self.assertEqual(400, self.post(client=client, body=b" " * 262145).status_code)

    def test_limits(self):
        client = self.mounted(limits={"max_messages_post_size": 100})
        self.refused("at most 100", client=client, json={"messages": [{"body": "x" * 100}]})


class StorageOutOfReachTest(ExtensionCase):
    def test_hold(self):
        answer = self.post("x", client=self.mounted(storage=Broken(self.storage, "hold")))
        self.assertEqual(503, answer.status_code)
        self.assertEqual("1", answer.headers["retry-after"])
        self.assertEqual({"title", "description"}, set(answer.json))
        self.assertEqual([], self.foreign.given)

    def test_release(self):
        with self.assertLogs("zaqar_notify.api.extension", logging.WARNING):
            answer = self.post("x", client=self.mounted(storage=Broken(self.storage, "release")))
        self.assertEqual(201, answer.status_code)
        self.assertEqual(200, self.deliveries(answer.headers[IDS_HEADER]).status_code)
        self.assertEqual([[]], self.wakes)
        self.clock.now += 31
        self.assertEqual(["x"], self.due())

    def test_drop(self):
        def conflict(req, resp, queue_name):
            resp.status = 409

        self.foreign.answer = conflict
        with self.assertLogs("zaqar_notify.api.extension", logging.WARNING):
            answer = self.post("x", client=self.mounted(storage=Broken(self.storage, "drop")))
        self.assertEqual(409, answer.status_code)


class ForeignIdsTest(ExtensionCase):
    def answering(self, **attributes):
        def answer(req, resp, queue_name):
            resp.status = falcon.HTTP_201
            for name, value in attributes.items():
                setattr(resp, name, value)

        self.foreign.answer = answer

    def test_where_they_are_found(self):
        for number, make in enumerate(
            (
                lambda document: {"media": document},
                lambda document: {"text": json.dumps(document)},
                lambda document: {"data": json.dumps(document).encode()},
                lambda document: {"text": json.dumps(document), "data": b"not sent", "media": "not sent"},
            )
        ):
            with self.subTest(number):
                hrefs = {"resources": [f"/v2/queues/q/messages/{number}a?claim_id=1", f"https://host.example/m/{number}%2Bb/"]}
                self.answering(**make(hrefs))
                self.assertNotIn(IDS_HEADER, self.post("one", "two").headers)
                self.assertEqual(200, self.deliveries(f"{number}a").status_code)
                self.assertEqual(200, self.deliveries(f"{number}%2Bb").status_code)

    def test_where_there_are_none(self):
        for attributes in (
            {},
            {"text": "created"},
            {"text": "[" * 100_000},
            {"data": b"\xff"},
            {"media": []},
            {"media": {"ids": ["1", "2"]}},
            {"media": {"resources": "12"}},
            {"media": {"resources": [1, 2]}},
            {"media": {"resources": ["/1"]}},
            {"media": {"resources": ["/1", "/2", "/3"]}},
            {"media": {"resources": ["/1", "/1"]}},
            {"media": {"resources": ["/1", ""]}},
            {"media": {"resources": ["/1", "/a%0D%0Ab"]}},
            {"media": {"resources": ["/1", "/" + "x" * 256]}},
            {"stream": io.BytesIO(b'{"resources": ["/1", "/2"]}')},
        ):
            with self.subTest(str(attributes)[:60]):
                self.answering(**attributes)
                answer = self.post("one", "two")
                self.assertEqual(201, answer.status_code)
                ids = answer.headers[IDS_HEADER].split(",")
                self.assertEqual(2, len(ids))
                for message_id in ids:
                    self.assertEqual(message_id, self.deliveries(message_id).status_code == 200 and message_id)

    def test_a_callable_of_the_app(self):
        self.answering(media={"ids": ["7", "8"], "resources": ["/1", "/2"]})
        client = self.mounted(message_ids=lambda resp: resp.media["ids"])
        self.assertNotIn(IDS_HEADER, self.post("one", "two", client=client).headers)
        self.assertEqual(200, self.deliveries("7").status_code)
        self.assertEqual(404, self.deliveries("1").status_code)
        client = self.mounted(message_ids=lambda resp: None)
        self.assertIn(IDS_HEADER, self.post("one", "two", client=client).headers)

    def test_a_callable_that_fails_loses_nothing(self):
        with io.StringIO() as errors:
            client = self.mounted(message_ids=lambda resp: resp.media["ids"])
            self.assertEqual(500, self.post("x", client=client, wsgierrors=errors).status_code)
            self.assertIn("KeyError", errors.getvalue())
        self.clock.now += 31
        self.assertEqual(["x"], self.due())

    def test_an_id_that_was_there_before(self):
        self.answering(media={"resources": ["/same"]})
        for body in ("one", "two"):
            self.assertEqual(201, self.post(body).status_code)
        self.assertEqual([["one"], ["two"]], self.wakes)
        self.assertEqual(200, self.deliveries("same").status_code)

    def test_a_header_has_its_bounds(self):
        self.answering()
        answer = self.post(*range(MOST_IDS_IN_HEADER + 1))
        self.assertEqual(MOST_IDS_IN_HEADER, len(answer.headers[IDS_HEADER].split(",")))


class ForeignIdsOverSqlTest(OverSql, ExtensionCase):
    make_storage = OverSql.make_storage
    answering = ForeignIdsTest.answering
    test_where_they_are_found = ForeignIdsTest.test_where_they_are_found
    test_an_id_that_was_there_before = ForeignIdsTest.test_an_id_that_was_there_before


class Recorder:
    """A middleware of the app's own."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def process_response(self, req, resp, resource, req_succeeded) -> None:
        self.seen.append(resp.status_code)
        resp.set_header("x-foreign", "yes")


class Guarding:
    def process_resource(self, req, resp, resource, params) -> None:
        if req.get_header("Password") != "right":
            raise falcon.HTTPUnauthorized


class Cache:
    """Answers in the place of the resource."""

    def process_resource(self, req, resp, resource, params) -> None:
        resp.status = 201
        resp.media = {"resources": ["/cached"]}
        resp.complete = True


class MiddlewareTest(ExtensionCase):
    def test_the_apps_own_sees_every_answer(self):
        for independent in (True, False):
            with self.subTest(independent=independent):
                recorder = Recorder()
                client = self.mounted(app=self.app(middleware=[recorder], independent_middleware=independent))
                answers = [
                    self.post("x", client=client),
                    client.simulate_get("/v2/queues/q/subscriptions", headers=HEADERS),
                    client.simulate_get("/v2/queues/q/subscriptions"),
                    self.post(client=client, body=b"{"),
                    client.simulate_get("/nowhere"),
                ]
                self.assertEqual([201, 200, 400, 400, 404], recorder.seen)
                self.assertEqual(["yes"] * 5, [answer.headers["x-foreign"] for answer in answers])
        self.assertEqual(2, len(self.wakes))

    def test_one_that_refuses(self):
        before, after = self.app(middleware=[Guarding()]), self.app()
        clients = [self.mounted(app=before), self.mounted(app=after)]
        after.add_middleware(Guarding())
        for client in clients:
            self.assertEqual(401, self.post("x", client=client).status_code)
            self.assertEqual(401, client.simulate_get("/v2/queues/q/subscriptions", headers=HEADERS).status_code)
            self.assert_nothing_is_left()
            self.assertEqual(201, self.post("x", client=client, headers={**HEADERS, "Password": "right"}).status_code)
        self.assertEqual([["x"], ["x"]], self.wakes)

    def test_one_that_answers_itself(self):
        before, after = self.app(middleware=[Cache()]), self.app()
        clients = [self.mounted(app=before), self.mounted(app=after)]
        after.add_middleware(Cache())
        for client in clients:
            self.assertEqual(201, self.post("x", client=client).status_code)
            self.assert_nothing_is_left()
        self.assertEqual([], self.wakes)

    def test_one_that_commits_when_the_resource_is_done(self):
        class Committing:
            def process_response(self, req, resp, resource, req_succeeded):
                raise falcon.HTTPInternalServerError

        app = self.app()
        client = self.mounted(app=app)
        app.add_middleware(Committing())
        self.assertEqual(500, self.post("x", client=client).status_code)
        self.assert_nothing_is_left()

    def test_error_handlers_and_serializers_of_the_app_stay_its_own(self):
        def teapot(req, resp, error, params):
            resp.status = 418
            resp.text = "foreign"

        app = self.app()
        app.add_error_handler(Exception, teapot)
        app.set_error_serializer(lambda req, resp, error: setattr(resp, "text", "serialized"))
        client = self.mounted(app=app)
        self.assertEqual((404, "serialized"), _answered(client.simulate_get("/nowhere")))
        self.assertEqual((405, "serialized"), _answered(client.simulate_put("/v2/queues/q/messages")))

        def fail(req, resp, queue_name):
            raise RuntimeError

        self.foreign.answer = fail
        self.assertEqual((418, "foreign"), _answered(self.post("x", client=client)))
        for answer, status in (
            (self.post(client=client, body=b"{"), 400),
            (client.simulate_get("/v2/queues/q/subscriptions/1", headers=HEADERS), 404),
            (client.simulate_get("/v2/queues/q/subscriptions"), 400),
            (client.simulate_put("/v2/queues/q/subscriptions", headers=HEADERS), 405),
        ):
            self.assertEqual(status, answer.status_code)
            self.assertEqual({"title", "description"}, set(answer.json))


def _answered(answer) -> tuple[int, str]:
    return answer.status_code, answer.text


class RoutesTest(ExtensionCase):
    def test_they_are_those_of_the_api(self):
        api = create_app(self.storage, limits=Limits(), check=check_scheme, wake=lambda: None, loopback_only=False)
        ours = {
            route.path
            for route in falcon.inspect.inspect_routes(api)
            if "/subscriptions" in route.path or "/deliveries" in route.path
        }
        self.assertEqual(ours, set(TEMPLATES))

    def test_subscriptions(self):
        path = "/v2/queues/q/subscriptions"
        created = self.client.simulate_post(path, headers=HEADERS, json=HOOK)
        self.assertEqual(201, created.status_code, created.text)
        one = created.headers["location"]
        self.assertEqual(f"{path}/{created.json['subscription_id']}", one)
        self.assertIn("x-openstack-request-id", created.headers)
        shown = self.client.simulate_get(one, headers=HEADERS)
        self.assertEqual(HOOK["subscriber"], shown.json["subscriber"])
        self.assertEqual("application/json", shown.headers["content-type"])
        listed = self.client.simulate_get(path, headers=HEADERS, params={"limit": 1})
        self.assertEqual([one], [f"{path}/{shown['id']}" for shown in listed.json["subscriptions"]])
        changed = self.client.simulate_patch(one, headers=HEADERS, json={"ttl": 100})
        self.assertEqual((204, ""), _answered(changed))
        self.assertEqual(100, self.client.simulate_get(one, headers=HEADERS).json["ttl"])
        self.assertEqual({"deliveries": [], "links": []}, self.client.simulate_get(one + "/deliveries", headers=HEADERS).json)
        self.assertEqual(204, self.client.simulate_post(one + "/enable", headers=HEADERS).status_code)
        confirmed = self.client.simulate_put(one + "/confirm", headers=HEADERS, json={"confirmed": True})
        self.assertEqual(204, confirmed.status_code, confirmed.text)
        self.assertIs(True, self.client.simulate_get(one, headers=HEADERS).json["confirmed"])
        self.assertEqual(200, self.client.simulate_options(path).status_code)
        self.assertIn("POST", self.client.simulate_options(path).headers["allow"])
        self.assertEqual("GET, POST, OPTIONS", self.client.simulate_put(path, headers=HEADERS).headers["allow"])
        self.assertEqual(204, self.client.simulate_delete(one, headers=HEADERS).status_code)
        self.assertEqual(404, self.client.simulate_get(one, headers=HEADERS).status_code)

    def test_links_of_ids_with_special_characters(self):
        for number in range(2):
            document = {"subscriber": f"{HOOK['subscriber']}/{number}"}
            created = self.client.simulate_post("/v2/queues/q/subscriptions", headers=HEADERS, json=document)
            self.assertEqual(201, created.status_code)
        self.wake = lambda: None
        client = self.mounted(message_ids=lambda resp: ["a?b#c%"])
        self.assertEqual(201, self.post("x", client=client).status_code)
        page = self.deliveries("a%3Fb%23c%25", params={"limit": 1}).json
        [link] = page["links"]
        path, _, query = link["href"].partition("?")
        following = self.client.simulate_get(path, query_string=query, headers=HEADERS).json
        self.assertEqual(2, len({one["subscription_id"] for one in page["deliveries"] + following["deliveries"]}))

    def test_one_delivery_by_the_id_that_the_app_gave(self):
        self.wake = lambda: None
        client = self.mounted(message_ids=lambda resp: ["a?b#c%"])
        created = client.simulate_post("/v2/queues/q/subscriptions", headers=HEADERS, json=HOOK).json
        self.assertEqual(201, self.post("x", client=client).status_code)
        path = f"/v2/queues/q/messages/a%3Fb%23c%25/deliveries/{created['subscription_id']}"
        shown = client.simulate_get(path, headers=HEADERS).json
        self.assertEqual(("a?b#c%", "pending"), (shown["message_id"], shown["state"]))
        cancelled = client.simulate_post(f"{path}/cancel", headers=HEADERS)
        self.assertEqual((204, path), (cancelled.status_code, cancelled.headers["location"]))
        again = client.simulate_post(f"{path}/redeliver", headers=HEADERS)
        self.assertEqual((202, path), (again.status_code, again.headers["location"]))
        pinged = client.simulate_post(f"/v2/queues/q/subscriptions/{created['subscription_id']}/ping", headers=HEADERS)
        self.assertEqual(202, pinged.status_code)
        self.assertEqual("pending", client.simulate_get(pinged.headers["location"], headers=HEADERS).json["state"])

    def test_the_trace_of_a_post_is_kept(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        self.wake = lambda: None
        headers = {**HEADERS, "traceparent": trace}
        self.assertEqual(201, self.post("x", client=self.mounted(), headers=headers).status_code)
        taken = self.storage.take(self.worker, 30.0, entries=10, rows=0)
        [message] = self.storage.load([entry.message_id for entry in taken.entries], ()).messages.values()
        self.assertEqual({"traceparent": trace}, message.attributes)

    def test_how_a_message_is_to_be_delivered_is_kept(self):
        self.wake = lambda: None
        manner = {"collapse_key": "order-7", "priority": "high", "language": "pt-BR"}
        posted = {"json": {"messages": [{"body": "x", **manner}]}}
        self.assertEqual(201, self.post(client=self.mounted(), **posted).status_code)
        self.assertEqual([{"body": "x", **manner}], self.foreign.given[-1]["messages"])
        taken = self.storage.take(self.worker, 30.0, entries=10, rows=0)
        [message] = self.storage.load([entry.message_id for entry in taken.entries], ()).messages.values()
        self.assertEqual(("order-7", Priority.HIGH, "pt-BR"), (message.collapse_key, message.priority, message.language))
        wrong = {"json": {"messages": [{"body": "x", "priority": 9}]}}
        self.assertEqual(400, self.post(client=self.mounted(), **wrong).status_code)
        with self.assertLogs("zaqar_notify.api.extension", logging.WARNING):
            self.assertEqual(201, self.post(client=self.mounted(strict=False), **wrong).status_code)
        self.assertEqual([], self.due())

    def test_links_in_notifications(self):
        """They are followed by people and providers that the app does not know."""

        def project(req):
            raise AssertionError("nobody is asked who calls")

        client = self.mounted(project=project)
        subscription = self.storage.subscribe(
            validation.subscription(HOOK, project="p", queue="q", limits=Limits(), now=self.clock.now)
        ).subscription
        for template in feedback.TEMPLATES:
            for method in ("GET", "POST"):
                answer = client.simulate_request(method, template.format(token="x"))
                self.assertEqual(405 if (method, template) == ("GET", feedback.TEMPLATES[0]) else 403, answer.status_code)
                self.assertEqual("no-store", answer.headers["cache-control"])
        path = PATHS[UNSUBSCRIBE][1] + TOKENS.make(Use.UNSUBSCRIBE, delivery_id("1" * 16, subscription.id))
        page = client.simulate_get(path)
        self.assertEqual((200, "text/html; charset=utf-8"), (page.status_code, page.headers["content-type"]))
        self.assertIn("queue q ", page.text)
        self.assertEqual(204, client.simulate_post(path, body=b"List-Unsubscribe=One-Click").status_code)
        self.assertIsNone(self.storage.get_subscription("p", "q", subscription.id))

    def test_the_app_authenticates(self):
        self.loopback_only = True
        client = self.mounted(project=lambda req: req.get_header("Tenant"))
        path = "/v2/queues/q/subscriptions"
        public = {"remote_addr": "192.0.2.1", "headers": {"Client-ID": CLIENT, "X-Project-ID": "p", "Tenant": "t"}}
        created = client.simulate_post(path, json=HOOK, **public)
        self.assertEqual(201, created.status_code, created.text)
        self.assertIsNotNone(self.storage.get_subscription("t", "q", created.json["subscription_id"]))
        self.assertEqual(403, self.mounted().simulate_post(path, json=HOOK, **public).status_code)
        del public["headers"]["Tenant"]
        self.assertEqual(401, client.simulate_get(path, **public).status_code)

    def test_a_subscriber_confirms_by_its_signature_alone(self):
        self.loopback_only = True
        client = self.mounted(project=lambda req: req.get_header("Tenant"))
        headers = {"Client-ID": CLIENT, "Tenant": "t"}
        created = client.simulate_post("/v2/queues/q/subscriptions", json=HOOK, headers=headers, remote_addr="192.0.2.1")
        path = created.headers["location"] + "/confirm"
        signed = SIGNER.sign([path], ["PUT"], "t", self.clock.now + 60)
        headers = {
            "URL-Paths": ",".join(signed.paths),
            "URL-Methods": ",".join(signed.methods),
            "URL-Expires": signed.expires,
            "URL-Signature": signed.signature,
            "X-Project-ID": "t",
        }
        for wrong, status in ({"URL-Signature": "0" * 64}, 403), ({"X-Project-ID": "p"}, 403), ({}, 204):
            answer = client.simulate_put(path, json={"confirmed": True}, headers=headers | wrong, remote_addr="192.0.2.1")
            self.assertEqual(status, answer.status_code, answer.text)

    def test_projects_are_kept_apart(self):
        created = self.client.simulate_post("/v2/queues/q/subscriptions", headers=HEADERS, json=HOOK)
        other = {**HEADERS, "X-Project-ID": "other"}
        self.assertEqual(404, self.client.simulate_get(created.headers["location"], headers=other).status_code)

    def test_paths_as_the_app_reads_them(self):
        app = self.app()
        app.req_options.strip_url_path_trailing_slash = True
        client = self.mounted(app=app)
        self.assertEqual(200, client.simulate_get("/v2/queues/q/subscriptions/", headers=HEADERS).status_code)
        self.assertEqual(400, client.simulate_get("/v2/queues/%C3%A4/subscriptions", headers=HEADERS).status_code)
        self.assertEqual(400, client.simulate_get("/v2/queues/%FF/subscriptions", headers=HEADERS).status_code)
        self.assertEqual(201, self.post("x", client=client, queue="q").status_code)

    def test_other_names_of_fields(self):
        class Messages:
            def on_post(self, req, resp, name):
                resp.status = 201
                resp.media = {"resources": ["/7"]}

        class Message:
            def on_get(self, req, resp, name, number): ...

        for number in ("{number}", "{number:int}"):
            with self.subTest(number):
                app = falcon.App()
                app.add_route("/v2/queues/{name}/messages", Messages())
                app.add_route(f"/v2/queues/{{name}}/messages/{number}", Message())
                client = self.mounted(app=app, queue_field="name", message_field="number")
                self.assertEqual(201, self.post("x", client=client).status_code)
                self.assertEqual(200, self.deliveries("7", client=client).status_code)
                created = client.simulate_post(
                    "/v2/queues/q/subscriptions", headers=HEADERS, json={"subscriber": f"http://h/{number}"}
                )
                self.assertEqual(201, created.status_code)


class MisfitTest(ExtensionCase):
    def misfit(self, kind, text, app, **options):
        before = None if not isinstance(app, falcon.App) else [route.path for route in falcon.inspect.inspect_routes(app)]
        with self.assertRaisesRegex(kind, text):
            mount(app, self.service(), **options)
        if before is not None:
            self.assertEqual(before, [route.path for route in falcon.inspect.inspect_routes(app)])

    def test_kinds(self):
        self.misfit(TypeError, r"falcon\.App \(WSGI\).*zaqar-notify api", falcon.asgi.App())
        self.misfit(TypeError, "needs a falcon.App, and this is", lambda environ, start_response: [])

    def test_names_of_fields(self):
        self.misfit(ValueError, r"queue_field='queue_name'\)", self.app(), queue_field="queue")
        self.misfit(ValueError, r"message_field='message_id'\)", self.app(), message_field="id")
        self.misfit(ValueError, "has to be a field's name", self.app(), queue_field="a b")
        self.misfit(ValueError, "has to be a field's name", self.app(), message_field="{message_id}")

    def test_routes(self):
        self.misfit(ValueError, "no route for POST /v2/queues/{queue_name}/messages", falcon.App())
        reading = falcon.App()
        reading.add_route(MESSAGES + "/{message_id}", ForeignMessage())
        reading.add_route(MESSAGES, type("ReadOnly", (), {"on_get": ForeignMessages.on_get})())
        self.misfit(ValueError, "no route for POST", reading)
        app = self.app()
        self.mounted(app=app)
        self.misfit(ValueError, "subscriptions already", app)
        taken = self.app()
        taken.add_route("/v2/receipts/{number}", ForeignMessage())
        self.misfit(ValueError, "receipts/{number} already", taken)

    def test_held_for(self):
        self.misfit(ValueError, "held_for", self.app(), held_for=0)


class Quiet(WSGIRequestHandler):
    def log_message(self, format, *args) -> None: ...


class SocketTest(ExtensionCase):
    """Over wsgiref's server, whose input does not end with the body."""

    headers: ClassVar = {**HEADERS, "Content-Type": "application/json"}

    def test_posting(self):
        import http.client

        server = make_server("127.0.0.1", 0, self.client.app, handler_class=Quiet)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(thread.join, 10)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        self.addCleanup(connection.close)
        document = json.dumps({"messages": [{"body": "x"}]})
        for path, body, status in (
            ("/v2/queues/q/messages", document, 201),
            ("/v2/queues/q/subscriptions", json.dumps(HOOK), 201),
            ("/v2/queues/q/messages", "{", 400),
        ):
            connection.request("POST", path, body, self.headers)
            answer = connection.getresponse()
            answer.read()
            self.assertEqual(status, answer.status)
        self.assertEqual([["x"]], self.wakes)
