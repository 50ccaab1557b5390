"""The channels beside webhooks: how many notifications a second a worker hands to a provider that answers at once.

One message for very many subscribers: devices, browsers, telephone numbers, mailboxes. They are put straight into the database,
the message is posted, and a worker is started; its rate is that from the first to the last arrival. The provider is on this
machine as well: nginx with HTTP/2 and TLS (pushes) or HTTP/1.1 (the gateway), whose access log is what is counted, and aiosmtpd
in a process of its own.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiosmtpd.controller import UnthreadedController
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks import filling, sink
from benchmarks.generator import PROJECT
from benchmarks.report import Figure, Measure
from benchmarks.scenarios import QUEUE, Bench, ratio
from benchmarks.service import Service, ServiceFailed
from tests.notifiers.endpoint import certificate

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
START_TIMEOUT = 20.0
IDLE_TIMEOUT = 30.0
"""Seconds without an arrival after which no more is waited for."""
DEVICES = 9000
"""Subscribers; more than 10,000 would be a huge fan-out, which is another figure."""
MAILBOXES = 3000
BODY = {"title": "Your order", "text": "It has left our warehouse today and should be with you tomorrow. " * 2}

_CONFIG = """\
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1000; }}
http {{
    log_format arrivals '$msec $connection $request_uri';
    access_log {log} arrivals;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    keepalive_requests 100000000;
    client_body_buffer_size 64k;
    http2_max_concurrent_streams 1000;
    server {{
        listen 127.0.0.1:{port} {protocol};
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        {locations}
    }}
}}
"""


@dataclasses.dataclass(frozen=True)
class Arrivals:
    first_at: float
    last_at: float
    count: int
    connections: int

    @property
    def per_second(self) -> float:
        return ratio(self.count - 1, self.last_at - self.first_at)


class Provider:
    """nginx, which answers each path as ``locations`` say."""

    def __init__(self, protocol: str, locations: str) -> None:
        if NGINX is None:
            raise ServiceFailed("nginx is missing: tests/servers.sh installs it")
        reserved = sink.reserve(1)[0]
        self.port: int = reserved.getsockname()[1]
        reserved.close()
        self._folder = tempfile.TemporaryDirectory(prefix="provider-")
        directory = Path(self._folder.name)
        self.log = directory / "access.log"
        config = directory / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                directory=directory,
                log=self.log,
                port=self.port,
                protocol=protocol,
                certificate=certificate().file,
                locations=locations,
            )
        )
        self._process = subprocess.Popen([NGINX, "-c", config], stdin=subprocess.DEVNULL, start_new_session=True)

    def __enter__(self) -> Provider:
        _wait_for_port(self.port)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._folder.cleanup()

    def arrivals(self) -> Arrivals:
        return _arrivals([line.split(" ", 2) for line in self.log.read_text().splitlines()])

    def count(self) -> int:
        with self.log.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _arrivals(lines: Sequence[Sequence[str]]) -> Arrivals:
    instants = [float(line[0]) for line in lines] or [0.0]
    return Arrivals(min(instants), max(instants), len(lines), len({line[1] for line in lines}))


def _wait_for_port(port: int) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > give_up_at:
                raise ServiceFailed(f"the provider on port {port} does not start") from None
            time.sleep(0.05)
        else:
            return


# -- the channels --------------------------------------------------------------------------------------------------------------


def pushes(bench: Bench) -> list[Figure]:
    """Pushes to an APNs-like service over one connection: to good tokens, and where every token is bad; and web pushes, each
    encrypted for its own browser."""
    with _folder() as folder:
        good, bad = (_apns(bench, folder, bad=bad) for bad in (False, True))
        web = _webpush(bench, folder)
    apns = [
        Measure("pushes", good.per_second, "/s", 3000),
        Measure("connections", good.connections, at_most=1),
        Measure("every token is bad", ratio(good.per_second, bad.per_second), "times slower", at_most=2),
    ]
    expected = bench.pick(DEVICES, 100)
    return [
        Figure("pushes to an APNs-like service over one connection", apns, faults=_missing(expected, good, bad)),
        Figure(
            "web pushes, encryption included",
            [Measure("pushes", web.per_second, "/s", 1500)],
            faults=_missing(expected, web),
        ),
    ]


def gateway(bench: Bench) -> list[Figure]:
    """Short messages to a gateway that speaks HTTP."""
    answers = 'location / { default_type application/json; return 200 \'{"id": "1", "status": "accepted"}\'; }'
    with Provider("", answers) as provider:
        settings = {
            "sms": {"gateways": "bench"},
            "sms_bench": {
                "url": f"http://127.0.0.1:{provider.port}/send",
                "body": '{"to": {to}, "text": {text}}',
                "content_type": "application/json",
                "id": "id",
                "internal": "true",
            },
        }
        number = bench.pick(DEVICES, 100)
        arrived = _fan_out(bench, settings, [f"sms:+4670{one:07d}" for one in range(number)], provider)
    measures = [Measure("messages", arrived.per_second, "/s", 3000)]
    return [Figure("short messages to an HTTP gateway", measures, faults=_missing(number, arrived))]


def mails(bench: Bench) -> list[Figure]:
    """Mails to aiosmtpd, on connections that are kept."""
    number = bench.pick(MAILBOXES, 50)
    with MailServer() as server:
        settings = {
            "email": {
                "host": "127.0.0.1",
                "port": server.port,
                "starttls": "never",
                "sender": "Notify <notify@example.com>",
            }
        }
        arrived = _fan_out(bench, settings, [f"mailto:user{one}@example.org" for one in range(number)], server)
    measures = [
        Measure("mails", arrived.per_second, "/s", 600),
        Measure("connections", arrived.connections),
    ]
    return [Figure("mails to aiosmtpd on kept connections", measures, faults=_missing(number, arrived))]


def _apns(bench: Bench, folder: Path, *, bad: bool) -> Arrivals:
    key = folder / "apns.p8"
    key.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    answer = 'return 410 \'{"reason": "Unregistered", "timestamp": 9999999999000}\';' if bad else "return 200;"
    with Provider("ssl http2", f"location /3/device/ {{ {answer} }}") as provider:
        settings = {
            "webhook": {"ca_file": certificate().file},
            "apns": {"apps": "shop"},
            "apns_shop": {
                "team": "TEAM123456",
                "key_id": "KEY1234567",
                "key_file": key,
                "topic": "org.example.shop",
                "url": f"https://127.0.0.1:{provider.port}",
            },
        }
        return _fan_out(bench, settings, [f"apns://shop/{one:064x}" for one in range(bench.pick(DEVICES, 100))], provider)


def _webpush(bench: Bench, folder: Path) -> Arrivals:
    key = folder / "vapid.pem"
    key.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    number = bench.pick(DEVICES, 100)
    browser = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = browser.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    options = {"keys": {"p256dh": _base64(point), "auth": _base64(bytes(16))}}
    with Provider("ssl http2", "location /push/ { return 201; }") as provider:
        settings = {
            "webhook": {"ca_file": certificate().file},
            "webpush": {"key_file": key, "subject": "mailto:push@example.org"},
        }
        subscribers = [f"webpush+https://127.0.0.1:{provider.port}/push/{one:032x}" for one in range(number)]
        return _fan_out(bench, settings, subscribers, provider, options)


def _fan_out(
    bench: Bench,
    settings: Mapping[str, Mapping[str, object]],
    subscribers: Sequence[str],
    provider: Provider | MailServer,
    options: Mapping[str, Any] | None = None,
) -> Arrivals:
    """Post one message to all of them, start a worker, and wait until the provider has had as many notifications."""
    with bench.service(settings) as service:
        service.start_api()
        _subscribe(service, subscribers, json.dumps(options or {}))
        status, document = service.request("POST", f"/v2/queues/{QUEUE}/messages", {"messages": [{"body": BODY}]})
        if status != 201:
            raise ServiceFailed(f"the message was answered {status} {document}")
        service.start_worker()
        _wait_for_arrivals(provider, len(subscribers))
    return provider.arrivals()


def _subscribe(service: Service, subscribers: Sequence[str], options: str) -> None:
    storage = service.open_storage()
    try:
        storage.put_queue(PROJECT, QUEUE, {})
        made = filling.subscriptions(PROJECT, QUEUE, [""], len(subscribers), time.time())
        records = (
            {**record, "subscriber": subscriber, "options": options}
            for record, subscriber in zip(made, subscribers, strict=True)
        )
        for batch in filling.batches(records):
            storage.copy_into("subscriptions", batch)
    finally:
        storage.close()


def _wait_for_arrivals(provider: Provider | MailServer, wanted: int) -> None:
    seen, give_up_at = 0, time.monotonic() + IDLE_TIMEOUT
    while seen < wanted and time.monotonic() < give_up_at:
        time.sleep(0.2)
        found = provider.count()
        if found > seen:
            seen, give_up_at = found, time.monotonic() + IDLE_TIMEOUT


def _missing(expected: int, *arrived: Arrivals) -> list[str]:
    return [f"{one.count:,} arrived of {expected:,}" for one in arrived if one.count != expected]


# -- mail ----------------------------------------------------------------------------------------------------------------------


class MailServer:
    """aiosmtpd in a process of its own, which notes when which mail came over which connection."""

    def __init__(self) -> None:
        reserved = sink.reserve(1)[0]
        self.port: int = reserved.getsockname()[1]
        reserved.close()
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="mail-")
        self._log = Path(self._folder.name) / "arrivals"
        self._log.touch()
        self._process = context.Process(target=_receive_mails, args=(self.port, str(self._log)), daemon=True)

    def __enter__(self) -> MailServer:
        self._process.start()
        _wait_for_port(self.port)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.join()
        self._folder.cleanup()

    def count(self) -> int:
        return self._log.read_bytes().count(b"\n")

    def arrivals(self) -> Arrivals:
        return _arrivals([line.split(" ") for line in self._log.read_text().splitlines()])


class _Handler:
    def __init__(self, log: Any) -> None:
        self._log = log

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - what aiosmtpd calls it
        self._log.write(f"{time.time():.6f} {session.peer[1]} {envelope.rcpt_tos[0]}\n")
        return "250 OK"


def _receive_mails(port: int, log: str) -> None:
    import asyncio

    loop = asyncio.new_event_loop()
    with open(log, "a", buffering=1) as file:
        controller = UnthreadedController(_Handler(file), hostname="127.0.0.1", port=port, loop=loop)
        controller.begin()
        loop.run_forever()


# -- keys ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keys-") as folder:
        yield Path(folder)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
