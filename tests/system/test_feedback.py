"""The links in notifications against a service that runs, which says nothing of them in its logs and metrics."""

from __future__ import annotations

import unittest
import urllib.error
import urllib.request
from typing import Any

from tests.system.endpoints import Endpoint, Endpoints
from tests.system.service import WAIT, Service, wait_for
from tests.system.test_metrics import free_ports
from zaqar_notify.feedback import PATHS, Links, Tokens
from zaqar_notify.model import delivery_id

OPTIONS = """
[DEFAULT]
debug = true
[metrics]
listen = 127.0.0.1:{port}
[api]
public_url = https://notify.example.org/
[worker]
poll_interval = 0.1
"""
BROWSER = {"Accept": "text/html"}


def follow(method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, str]:
    """As a browser or a provider does: none of our headers. Redirects would be followed."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            assert answer.url == url, "it leads elsewhere"
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class FeedbackTest(unittest.TestCase):
    def test_links(self) -> None:
        port = free_ports()
        service = Service(self, OPTIONS.format(port=port))
        service.start_api()
        service.start("worker")
        endpoint = Endpoint()
        with Endpoints(endpoint):
            subscription_id = service.subscribe(endpoint.url)["subscription_id"]
            [message_id] = service.post("x")
            wait_for(lambda: service.deliveries(message_id)[0]["progress"] == "accepted", "the delivery")
        made = Links(Tokens(service.keys["secret"]), service.url, delivery_id(message_id, subscription_id))
        links = {name: made[name] for name in PATHS}
        for _ in range(2):
            self.assertEqual((204, ""), follow("POST", links["acknowledge"], b"")[::2])
        [delivery] = service.deliveries(message_id)
        self.assertEqual("acknowledged", delivery["progress"])
        self.assertAlmostEqual(delivery["attempts"][0]["at"], delivery["acknowledged_at"], delta=2 * WAIT)
        self.assertEqual((200, ""), follow("GET", f"{links['receipt']}?status=delivered")[::2])
        self.assertEqual(204, follow("POST", links["receipt"], b"status=delivered")[0])
        self.assertEqual(400, follow("POST", links["receipt"], b"x" * 20000)[0])
        self.assertEqual(410, follow("POST", links["confirm"], b"")[0])
        self.assertEqual(403, follow("POST", links["acknowledge"] + "0", b"")[0])
        status, headers, page = follow("GET", links["unsubscribe"], **BROWSER)
        self.assertEqual((200, "no-store"), (status, headers["Cache-Control"]))
        self.assertIn("the queue demo ", page)
        path = f"/v2/queues/demo/subscriptions/{subscription_id}"
        self.assertEqual(200, service.request("GET", path)[0])
        self.assertEqual(204, follow("POST", links["unsubscribe"], b"List-Unsubscribe=One-Click")[0])
        self.assertEqual(404, service.request("GET", path)[0])
        self.assertEqual(200, follow("POST", links["unsubscribe"], b"", **BROWSER)[0])
        metrics = follow("GET", f"http://127.0.0.1:{port}/metrics")[2]
        for name, url in links.items():
            signature = url.rpartition("-")[2]
            self.assertIn(PATHS[name][1] + "{token}", metrics)
            for place in (metrics, service.log("api"), service.log("worker")):
                self.assertNotIn(signature, place)
