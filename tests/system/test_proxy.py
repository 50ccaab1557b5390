"""The configuration of nginx that the documentation shows, with a real nginx."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from tests.system.service import HEADERS, WAIT, Service, free_port, wait_for
from zaqar_notify.feedback import PATHS

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "operations.md"
NAME = "notify.example.com"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")

MAIN = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 500; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    {documented}
}}
"""


def documented(language: str, text: str) -> str:
    """The block of the documentation in this language that has this text in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if text in block]
    return found


@unittest.skipUnless(NGINX, "server missing: nginx")
class ProxyTest(unittest.TestCase):
    def start(self, options: str) -> Service:
        service = Service(self, options)
        service.start_api()
        directory = tempfile.TemporaryDirectory(prefix="nginx-")
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.make_certificate()
        self.port = free_port()
        self.start_nginx(service)
        return service

    def make_certificate(self) -> None:
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                    "-days",
                    "2",
                ),
                *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
                *("-keyout", self.directory / "key", "-out", self.directory / "certificate"),
            ],
            capture_output=True,
            check=True,
            timeout=WAIT,
        )
        self.tls = ssl.create_default_context(cafile=str(self.directory / "certificate"))

    def start_nginx(self, service: Service) -> None:
        text = documented("nginx", "zaqar_notify")
        for old, new in (
            ("127.0.0.1:8888", f"127.0.0.1:{service.port}"),
            ("listen 443", f"listen 127.0.0.1:{self.port}"),
            (f"/etc/nginx/{NAME}.pem", str(self.directory / "certificate")),
            (f"/etc/nginx/{NAME}.key", str(self.directory / "key")),
            ("/var/log/nginx/access.log", str(self.directory / "access.log")),
        ):
            self.assertEqual(text.count(old), 1, old)
            text = text.replace(old, new)
        file = self.directory / "nginx.conf"
        # As root it would change to a user who may not write here.
        user = "user root;\n" if os.geteuid() == 0 else ""
        file.write_text(user + MAIN.format(directory=self.directory, documented=text))
        with (self.directory / "error.log").open("wb") as log:
            nginx = subprocess.Popen(
                [NGINX, "-p", self.directory, "-c", file], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.addCleanup(nginx.wait, WAIT)
        self.addCleanup(nginx.terminate)
        wait_for(lambda: self.listens(nginx), "nginx")

    def listens(self, nginx: subprocess.Popen[bytes]) -> bool:
        self.assertIsNone(nginx.poll(), (self.directory / "error.log").read_text())
        try:
            socket.create_connection(("127.0.0.1", self.port), WAIT).close()
        except ConnectionRefusedError:
            return False
        return True

    def connect(self) -> ssl.SSLSocket:
        connection = self.tls.wrap_socket(socket.create_connection(("127.0.0.1", self.port), WAIT), server_hostname=NAME)
        self.addCleanup(connection.close)
        return connection

    def request(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        client = http.client.HTTPConnection(NAME)
        client.sock = self.connect()
        try:
            client.request(method, path, body, {**HEADERS, **headers})
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def test_with_keys(self):
        service = self.start(documented("ini", "trusted_proxies").replace("[api]\n", "[api]\nconnections_per_address = 1\n"))
        key = service.run("key", "create", "--project", "demo", "--roles", "admin").strip()
        bearer = {"Authorization": f"Bearer {key}"}
        self.assertEqual(self.request("GET", "/v2/queues")[0], 401)
        document = json.dumps({"messages": [{"body": "x" * 100_000}]}).encode()
        status, answer = self.request("POST", "/v2/queues/demo/messages", document, **bearer)
        self.assertEqual(status, 201)
        status, answer = self.request("GET", json.loads(answer)["resources"][0], **bearer)
        self.assertEqual((status, len(json.loads(answer)["body"])), (200, 100_000))
        pieces = (document[start : start + 1000] for start in range(0, len(document), 1000))
        self.assertEqual(self.request("POST", "/v2/queues/demo/messages", pieces, **bearer)[0], 201)
        # Too large, in the API's own words, and for nginx itself.
        status, answer = self.request("POST", "/v2/queues/demo/messages", b"x" * 300_000, **bearer)
        self.assertEqual((status, set(json.loads(answer))), (400, {"title", "description"}))
        self.assertEqual(self.request("POST", "/v2/queues/demo/messages", b"x" * 1_100_000, **bearer)[0], 413)
        self.half_sent_requests_do_not_reach_the_api(service)
        self.links_are_not_logged()

    def links_are_not_logged(self) -> None:
        for path in PATHS.values():
            self.assertEqual(self.request("POST", path[1] + "token")[0], 403)
        self.assertEqual(self.request("GET", "/v2/queues/last")[0], 401)
        log = self.directory / "access.log"
        wait_for(lambda: "/v2/queues/last" in log.read_text(), "the log")
        self.assertNotIn("token", log.read_text())

    def half_sent_requests_do_not_reach_the_api(self, service: Service) -> None:
        for number in range(60):
            self.connect().sendall(
                b"POST /v2/queues/demo/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"[: 30 + number]
            )
        started = time.monotonic()
        self.assertEqual(self.request("GET", "/v2/queues")[0], 401)
        self.assertLess(time.monotonic() - started, 1.0)

    def test_without_authentication_nothing_gets_through(self):
        self.start("")
        for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}):
            status, answer = self.request("GET", "/v2/queues", **headers)
            self.assertEqual(status, 403)
            self.assertIn(b"forwarded", answer)
