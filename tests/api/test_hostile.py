"""Whatever a client sends, the answer is an answer: never a 500, and every error has the shape of an error.

The requests are made from the application's own table of routes, so that a new route is tried too.
"""

import copy
import json
import urllib.parse

from falcon import testing

from tests.api.case import CLIENT, HOOK, TOKENS, ApiCase, OverMemory, OverSql, routes
from zaqar_notify.api.queues import PATCH_TYPE
from zaqar_notify.feedback import PATHS
from zaqar_notify.model import delivery_id

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

DOCUMENTS = {
    ("/v2/queues/{queue}", "PUT"): {
        "_default_message_ttl": 60,
        "_default_message_delay": 0,
        "_max_messages_post_size": 262144,
        "_dead_letter_queue": "dead",
        "_dead_letter_queue_messages_ttl": 60,
        "_max_claim_count": 2,
        "_enable_encrypt_messages": False,
        "_flavor": "x",
        "_retry_policy": {
            "retries_with_no_delay": 3,
            "schedule": [0, 5],
            "max_attempts": 5,
            "minimum_delay_retries": 3,
            "minimum_delay": 5,
            "maximum_delay": 30,
            "maximum_delay_retries": 3,
            "retry_backoff_function": "linear",
            "ignore_subscription_override": True,
        },
        "_templates": {"email": {"subject": "{{ body.a }}", "text": {"de": "x", "default": "{% if body %}y{% endif %}"}}},
        "own": {"a": [1]},
    },
    ("/v2/queues/{queue}", "PATCH"): [
        {"op": "add", "path": "/metadata/_max_claim_count", "value": 2},
        {"op": "replace", "path": "/metadata/_dead_letter_queue", "value": "dead"},
        {"op": "remove", "path": "/metadata/_retry_policy"},
    ],
    ("/v2/queues/{queue}/share", "POST"): {"paths": ["messages"], "methods": ["GET"], "expires": "2030-01-31T12:00:00"},
    ("/v2/queues/{queue}/messages", "POST"): {
        "messages": [
            {
                "body": {"a": 1},
                "ttl": 60,
                "delay": 0,
                "attributes": {"a": "x", "b": ["y"]},
                "collapse_key": "k",
                "priority": "high",
                "language": "en",
            }
        ]
    },
    ("/v2/queues/{queue}/claims", "POST"): {"ttl": 60, "grace": 60},
    ("/v2/queues/{queue}/claims/{claim_id}", "PATCH"): {"ttl": 60, "grace": 60},
    ("/v2/queues/{queue}/subscriptions", "POST"): {
        "subscriber": "http://endpoint.example/new",
        "ttl": 60,
        "options": {
            "secret": "x",
            "_retry_policy": {"minimum_delay": 5},
            "schedule": [0, 5],
            "max_attempts": 5,
            "max_in_flight": 2,
            "rate": 1.5,
            "dead_letter_queue": "dead",
            "window": {"min": 1, "max": 2},
            "fallback": ["http://endpoint.example/second"],
            "callback": "http://endpoint.example/owner",
            "templates": {"*": {"text": "{{ body }}"}},
            "language": "de-AT",
        },
    },
    ("/v2/queues/{queue}/subscriptions/{subscription_id}", "PATCH"): {
        "subscriber": "http://endpoint.example/new",
        "ttl": 60,
        "options": {
            "_retry_policy": {"minimum_delay": 5, "retry_backoff_function": "linear"},
            "window": {"seconds": 5},
            "fallback": ["http://endpoint.example/second"],
        },
    },
    ("/v2/queues/{queue}/subscriptions/{subscription_id}/confirm", "PUT"): {"confirmed": True},
    ("/v2/queues/{queue}/messages/{message_id}/deliveries/{subscription_id}/redeliver", "POST"): {"ttl": 60},
    ("/v2/queues/{queue}/subscriptions/{subscription_id}/replay", "POST"): {
        "since": 0,
        "until": "2030-01-31T12:00:00Z",
        "states": ["dead"],
        "ttl": 60,
    },
    ("/v2/queues/{queue}/purge", "POST"): {"resource_types": ["messages", "subscriptions"]},
    ("/v2/receipts/{token}", "POST"): {"status": "delivered", "reason": "ok", "to": {"number": 1}},
}
"""A good document for each route that takes one; each value in it is replaced by each of WRONG."""

WITHOUT = {
    (f"/v2/queues/{{queue}}/{path}", "POST")
    for path in (
        "subscriptions/{subscription_id}/enable",
        "subscriptions/{subscription_id}/ping",
        "messages/{message_id}/deliveries/{subscription_id}/cancel",
    )
} | {(f"/v2/{path}/{{token}}", "POST") for path in ("acknowledgements", "unsubscriptions", "confirmations")}
"""What takes none."""

WRONG = [
    None,
    True,
    -1,
    2**63 - 1,
    -(2**63),
    1.5,
    1e308,
    "",
    "\0",
    "\ud800",
    "\U0001f600" * 50,
    "9999-12-31T23:59:59-23:59",
    "/metadata/~",
    [],
    [[]],
    {},
    {"": {"\udfff": None}},
]

RAW = [
    b"",
    b" ",
    b"{",
    b"}",
    b"[1,]",
    b"{'messages': []}",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"\x00",
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"\\udc00": 1}',
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"ttl": 9223372036854775808}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b"-" + b"1" * 5000,
    b'{"messages": [{"body": ' + b"[" * 20_000 + b"]" * 20_000 + b"}]}",
    b'{"a": ' * 20_000 + b"1" + b"}" * 20_000,
    b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
    b"[" * 100_000,
    b'{"ttl": 60, "ttl": "x", "ttl": {}}',
    b'{"messages": [{"body": 1}], "messages": 5}',
    b'{"confirmed": true, "confirmed": []}',
    b'{"paths": ["messages"], "paths": null}',
    b"null",
    b"true",
    b"-0",
    b"1e5",
    b'"text"',
    b"[]",
    b"{}",
    b"[null, [], {}]",
    b'{"subscriber": "http://[::1"}',
    b'{"subscriber": "http://endpoint.example:99999999/"}',
    b'{"subscriber": "http://endpoint.example/", "options": {"secret": "whsec_\\u0000"}}',
    b'{"subscriber": "http://endpoint.example/", "options": {"secret": "whsec_\\u00e4"}}',
    b'{"_default_message_ttl": 1e2}',
    b"x" * 300_000,
]

FIELDS = (
    "state",
    "since",
    "until",
    "exchanges",
    "marker",
    "limit",
    "ids",
    "claim_ids",
    "claim_id",
    "pop",
    "echo",
    "include_claimed",
    "include_delayed",
    "detailed",
    "name",
    "with_count",
    "colour",
)

TEXTS = [
    "\0",
    "\udcff",
    "ä\U0001f600",
    "../..",
    "a/b",
    "%",
    "%zz",
    "x" * 3000,
    "'; DROP TABLE messages; --",
    "9" * 400,
    "-1",
    "1e3",
    "٣",
    "\n",
    ",",
    "[]",
    "$",
]
"""For ids, names and the values of queries; the surrogate stands for a byte that is no UTF-8."""

HEADERS = [
    "",
    " ",
    "\xff",
    "x" * 5000,
    "{",
    "*/*;q=x",
    'a,b;c="',
    "-1",
    "\xb2",
    "%00",
    "zn_x_y",
    "Bearer",
    "Bearer \xe4",
    "text/\xff",
    "9" * 30,
]
NAMES = (
    "Client-ID",
    "X-Project-ID",
    "X-Roles",
    "Accept",
    "Content-Type",
    "Authorization",
    "X-Auth-Token",
    "URL-Signature",
    "URL-Paths",
    "URL-Methods",
    "URL-Expires",
    "X-Forwarded-For",
    "Expect",
    "Range",
    "If-Match",
)


def quote(text):
    return urllib.parse.quote(text, safe="", errors="surrogateescape")


def spoiled(document):
    """Copies of a document, each with one value (or the whole) replaced by something wrong, or left out."""
    places = [()]
    for place in places:
        value = at(document, place)
        if isinstance(value, dict | list):
            places.extend((*place, key) for key in (value if isinstance(value, dict) else range(len(value))))
    yield from WRONG
    for place in places[1:]:
        for wrong in WRONG:
            changed = copy.deepcopy(document)
            at(changed, place[:-1])[place[-1]] = wrong
            yield changed
        changed = copy.deepcopy(document)
        del at(changed, place[:-1])[place[-1]]
        yield changed


def at(document, place):
    for key in place:
        document = document[key]
    return document


class HostileTests:
    """Nothing that a client sends makes the service fail."""

    def setUp(self):
        super().setUp()
        self.ok("PUT", "/v2/queues/q", {"colour": "red"}, status=201)
        subscription_id = self.ok("POST", "/v2/queues/q/subscriptions", HOOK, status=201).json["subscription_id"]
        self.delivered = delivery_id(self.deliver(subscription_id), subscription_id)
        self.ids = {
            "queue": "q",
            "message_id": self.post("free", "claimed")[0],
            "claim_id": self.claim(query="limit=1")[0],
            "subscription_id": subscription_id,
        }

    def routes(self, *methods):
        """(template, method) of each that is served; those that take away what others need come last."""
        found = [
            (template, method)
            for template, resource in routes(self.client.app)
            for method in methods
            if hasattr(resource, f"on_{method.lower()}")
        ]
        self.assertTrue(found)
        return sorted(
            found, key=lambda route: (route[1] == "DELETE", route[0].endswith(("/purge", "/unsubscriptions/{token}")))
        )

    def path(self, template, **changed):
        tokens = {path: TOKENS.make(use, self.delivered) for use, path in PATHS.values()}
        return template.format(**self.ids | {"token": tokens.get(template.removesuffix("{token}"))} | changed)

    def send(self, method, path, **options):
        headers = {"X-Roles": "admin", **(options.pop("headers", None) or {})}
        answer = self.call(method, path, headers=headers, **options)
        self.assertLess(answer.status_code, 500, (method, path[:200], str(options)[:500], answer.text))
        if answer.status_code >= 400 and answer.status_code != 406 and method != "HEAD":
            self.assertEqual(set(answer.json), {"title", "description"}, (method, path[:200]))
            self.assertLess(len(answer.content), 2000, "what is wrong is not repeated at any length")
        return answer

    def test_bodies(self):
        for template, method in self.routes("POST", "PUT", "PATCH"):
            headers = {"Content-Type": PATCH_TYPE if (template, method) == ("/v2/queues/{queue}", "PATCH") else None}
            for raw in RAW:
                self.send(method, self.path(template), body=raw, headers=headers)
        self.still_whole()

    def test_bodies_where_none_is_wanted(self):
        for template, method in self.routes("GET", "HEAD", "DELETE", "OPTIONS"):
            for raw in (b"{", b"\xff", b"x" * 300_000):
                self.send(method, self.path(template), body=raw)

    def test_wrong_values(self):
        takers = set(self.routes("POST", "PUT", "PATCH")) - WITHOUT
        self.assertEqual(takers, set(DOCUMENTS), "every route that takes a document is tried")
        for (template, method), good in DOCUMENTS.items():
            headers = {"Content-Type": PATCH_TYPE if isinstance(good, list) else "application/json"}
            for document in spoiled(good):
                self.send(method, self.path(template), body=json.dumps(document), headers=headers)
        self.still_whole()

    def test_queries(self):
        for template, method in self.routes("GET", "POST", "DELETE"):
            path = self.path(template)
            for field in FIELDS:
                for text in TEXTS:
                    self.send(method, f"{path}?{field}={quote(text)}")
                self.send(method, f"{path}?{field}=1&{field}=2&{field}={'3' * 50}")
            for query in (
                "&&&",
                "=",
                "=x",
                "%",
                "%00=%00",
                "%ff=%ff",
                "a" * 3000,
                "limit",
                "&".join(f"k{n}=v" for n in range(300)),
            ):
                self.send(method, f"{path}?{query}")

    def test_ids(self):
        for template, method in self.routes(*METHODS):
            for field in (*self.ids, "token"):
                if f"{{{field}}}" in template:
                    for text in TEXTS:
                        self.send(method, self.path(template, **{field: quote(text)}))
        self.still_whole()

    def test_paths(self):
        for text in TEXTS:
            for path in ("/{}", "/v2/{}", "/v2/queues/q/{}", "/v2/queues/q/messages/x/{}", "/{0}/{0}/{0}/{0}/{0}/{0}"):
                for method in METHODS:
                    self.send(method, path.format(quote(text)))

    def test_headers(self):
        document = {"messages": [{"body": 1}]}
        for method, path, body in (
            ("POST", "/v2/queues/q/messages", json.dumps(document)),
            ("GET", "/v2/queues/q/messages", None),
            ("PATCH", "/v2/queues/q", "[]"),
            ("PUT", f"/v2/queues/q/subscriptions/{self.ids['subscription_id']}/confirm", '{"confirmed": true}'),
            ("GET", "/v2/health", None),
            ("GET", "/", None),
            *((method, self.path("/v2/receipts/{token}"), body) for method, body in (("GET", None), ("POST", "{}"))),
            *((method, self.path("/v2/confirmations/{token}"), None) for method in ("GET", "POST")),
        ):
            for name in NAMES:
                for value in HEADERS:
                    self.send(method, path, body=body, headers={name: value})
            signed = {name: "x" for name in NAMES if name.startswith("URL-")}
            for name in signed:
                for value in HEADERS:
                    self.send(method, path, body=body, headers={**signed, name: value})

    def test_content_lengths(self):
        # A server hands on what it likes: gunicorn refuses most of these itself.
        for length in ("", "x", "-1", "\xb2", "1e3", "5", "9" * 30):
            environ = testing.create_environ(
                "/v2/queues/q/messages", method="POST", headers={"Client-ID": CLIENT, "X-Project-ID": "p"}, body="{}"
            )
            environ.update(CONTENT_LENGTH=length, REMOTE_ADDR="127.0.0.1")
            statuses = []
            answer = b"".join(self.client.app(environ, lambda status, headers, to=statuses: to.append(status)))
            self.assertEqual((statuses[0][:3], set(json.loads(answer))), ("400", {"title", "description"}), length)

    def still_whole(self):
        """What got in can be read by everybody."""
        for path in (
            "",
            "/q",
            "/q/stats",
            "/q/messages?echo=true&include_claimed=true&include_delayed=true",
            "/q/subscriptions",
        ):
            self.ok("GET", f"/v2/queues{path}")
        self.ok("GET", "/v2/queues?detailed=true")
        self.call("POST", "/v2/queues/q/claims")
        self.ok("DELETE", "/v2/queues/q/messages?pop=20")


SUBSCRIPTION = "/v2/queues/{queue}/subscriptions/{subscription_id}"


class HostileMemoryTest(OverMemory, HostileTests, ApiCase):
    pass


class HostileSqlTest(OverSql, HostileTests, ApiCase):
    pass
