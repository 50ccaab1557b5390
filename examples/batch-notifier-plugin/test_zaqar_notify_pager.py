import http.server
import json
import threading
import unittest

from zaqar_notify_pager import PagerNotifier

from zaqar_notify.testing import NotifierConformance, Target

TOKEN = "t0ken-of-the-gateway"


class Gateway(http.server.ThreadingHTTPServer):
    """Takes pages of those who know the token."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.pages: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Pages(http.server.BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        page = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = self.headers["authorization"] == f"Bearer {TOKEN}"
        if known and "dry_run" not in self.path:
            self.server.pages.append(page)
        self.send_response(200 if known else 401)
        self.send_header("page-id", str(len(self.server.pages)))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class PagerConformanceTest(NotifierConformance, unittest.TestCase):
    scheme = "pager"
    notifier = PagerNotifier
    bad_targets = ("pager://shop", "pager://shop/12", "pager://unknown/4670")
    secrets = (TOKEN,)

    def setUp(self) -> None:
        self.gateway = Gateway()
        self.addCleanup(self.gateway.close)

    def good(self) -> Target:
        return self.at(f"127.0.0.1:{self.gateway.server_address[1]}")

    def at(self, address: str) -> Target:
        return Target("pager://shop/4670", configuration={"pager_shop": {"url": f"http://{address}/pages"}})

    def configuration(self):
        return {"pager": {"gateways": ["shop"]}, "pager_shop": {"token": TOKEN}}

    def arrived(self) -> int:
        return len(self.gateway.pages)
