import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import unittest

from tests.system.service import WAIT, Service, free_port, wait_for
from tests.system.serving import COMMAND, CURL_LINE, Client, Program, children_of


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *words],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


class Case(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        self.addCleanup(directory.cleanup)
        self.data = pathlib.Path(directory.name, "var")
        self.port = free_port()

    def serve(self, *words: str, **environment: str) -> Program:
        return Program(self, ["serve", "--port", str(self.port), "--data", str(self.data), *words], environment=environment)

    def refused(self, *words: str) -> str:
        """The one line with which the command ends, with exit status 2."""
        done = run(*words)
        self.assertEqual(2, done.returncode, done.stderr)
        self.assertEqual("", done.stdout)
        said = [line for line in done.stderr.splitlines() if " INFO " not in line]
        self.assertEqual(1, len(said), done.stderr)
        self.assertTrue(said[0].startswith("zaqar-notify: "), said[0])
        return said[0]


class ServeTest(Case):
    def test_from_nothing_to_stopped_and_back_again(self):
        serve = self.serve()
        serve.until(f"is ready on http://127.0.0.1:{self.port}")
        serve.until("development form.*127.0.0.0/8")
        serve.until(f"zaqar-notify listen --url http://127.0.0.1:{self.port}$")
        line = serve.until(CURL_LINE)[0]
        self.assertIn("/v2/queues/demo/messages", line)
        secrets = self.data / "secrets.conf"
        self.assertEqual(0o600, stat.S_IMODE(secrets.stat().st_mode))
        self.assertEqual(0o700, stat.S_IMODE(self.data.stat().st_mode))
        first_secrets = secrets.read_text()
        self.assertRegex(run("config", "--data", str(self.data)).stdout, rf"(?m)^encryption +keys +\*+ +file {secrets}$")

        client = Client(f"http://127.0.0.1:{self.port}")
        message_id = client.post({"n": 1})[0]
        self.assertEqual(0, serve.stop(signal.SIGINT))
        self.assertFalse(client.answers())

        again = self.serve()
        again.until("is ready on")
        self.assertEqual({"n": 1}, client.request("GET", f"/v2/queues/demo/messages/{message_id}")[1]["body"])
        self.assertEqual(first_secrets, secrets.read_text())
        self.assertEqual(0, again.stop(signal.SIGTERM))
        self.assertNotIn("Traceback", serve.output + again.output)

    def test_what_dies_is_started_again(self):
        serve = self.serve()
        serve.until("is ready on")
        client = Client(f"http://127.0.0.1:{self.port}")
        for kind in ("worker", "api"):
            (old,) = [pid for pid, command in children_of(serve.process.pid).items() if f" {kind} " in command]
            os.kill(old, signal.SIGKILL)
            serve.until(rf"the {kind} ended \(by signal SIGKILL\); starting it again in 1 s")
            wait_for(
                lambda kind=kind: [c for c in children_of(serve.process.pid).values() if f" {kind} " in c], f"a new {kind}"
            )
        wait_for(client.answers, "the new API")
        self.assertEqual(0, serve.stop())

    def test_children_end_with_a_serve_that_is_killed_and_a_new_one_starts(self):
        serve = self.serve()
        serve.until("is ready on")
        children = list(children_of(serve.process.pid))
        self.assertEqual(2, len(children))
        self.assertLess(serve.stop(signal.SIGKILL), 0)
        again = self.serve()
        again.until("is ready on")
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children), "the end of the old processes")
        self.assertEqual(0, again.stop())

    def test_a_data_directory_in_use(self):
        serve = self.serve()
        serve.until("is ready on")
        said = self.refused("serve", "--port", str(free_port()), "--data", str(self.data))
        self.assertIn(f"in use by process {serve.process.pid}", said)
        said = self.refused("serve", "--port", str(self.port), "--data", f"{self.data}2")
        self.assertIn(f"Port {self.port} on 127.0.0.1 is taken", said)
        said = self.refused("api", "--port", str(self.port), "--data", str(self.data))
        self.assertIn(f"Port {self.port} on 127.0.0.1 is taken", said)

    def test_with_a_configuration_file_nothing_is_allowed_implicitly(self):
        file = self.data.with_suffix(".conf")
        file.write_text("[api]\nworkers = 1\n")
        serve = self.serve("--config-file", str(file))
        serve.until("is ready on")
        serve.until("^curl")
        self.assertNotIn("development", serve.output)
        status, answer = Client(f"http://127.0.0.1:{self.port}").request(
            "POST", "/v2/queues/demo/subscriptions", {"subscriber": "http://127.0.0.1:9/"}
        )
        self.assertEqual((400, "Address not allowed"), (status, answer["title"]))
        self.assertEqual(0, serve.stop())

    def test_a_worker_that_cannot_start_ends_it(self):
        file = self.data.with_suffix(".conf")
        file.write_text("[worker]\nlease = 12\n")  # shorter than [webhook] timeout allows
        serve = self.serve("--config-file", str(file))
        serve.until("lease")
        self.assertEqual(2, serve.process.wait(WAIT))
        self.assertNotIn("Traceback", serve.output)


class StartTest(Case):
    def test_a_taken_port(self):
        with socket.create_server(("127.0.0.1", self.port)):
            self.assertIn(f"Port {self.port} ", self.refused("serve", "--port", str(self.port), "--data", str(self.data)))

    def test_files_that_cannot_be_read(self):
        self.assertIn("/nowhere.conf", self.refused("serve", "--config-file", "/nowhere.conf", "--data", str(self.data)))
        file = self.data.with_suffix(".conf")
        file.write_text("no section\n")
        self.assertIn(str(file), self.refused("config", "--config-file", str(file)))

    def test_a_database_without_a_schema(self):
        service = Service(self)
        for path in service.data_dir.glob("zaqar-notify.db*"):
            path.unlink()
        for kind in ("api", "worker"):
            self.assertIn("db upgrade", self.refused(kind, "--config-file", str(service.config)))

    def test_db_upgrade_says_what_it_did(self):
        service = Service(self)
        self.assertRegex(service.run("db", "upgrade"), "already has the schema")
        for path in service.data_dir.glob("zaqar-notify.db*"):
            path.unlink()
        self.assertRegex(service.run("db", "upgrade"), "upgraded to the schema")


class ApiTest(Case):
    def test_it_stops_after_running_requests_and_hides_its_software(self):
        service = Service(self)
        api = service.start_api()
        with socket.create_connection(("127.0.0.1", service.port), WAIT) as client:
            body = b'{"messages": [{"body": 1}]}'
            head = (
                "POST /v2/queues/demo/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                "Client-ID: 3381af92-2b9e-11e3-b191-71861300734c\r\nX-Project-ID: demo\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body[:5])
            api.send_signal(signal.SIGTERM)
            client.sendall(body[5:])
            answer = client.recv(65536).decode()
        self.assertTrue(answer.startswith("HTTP/1.1 201"), answer)
        self.assertNotIn("gunicorn", answer)
        self.assertEqual(0, api.wait(WAIT))
        self.assertNotIn("Traceback", service.log("api"))

    def test_requests_that_stop_in_the_middle_do_not_hold_its_threads(self):
        service = Service(self, "[api]\nthreads = 2\nread_timeout = 0.5\n")
        service.start_api()
        whole = (
            "POST /v2/queues/demo/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Client-ID: 3381af92-2b9e-11e3-b191-71861300734c\r\nX-Project-ID: demo\r\nContent-Length: 9\r\n\r\n{"
        )
        for part in (whole, whole[:40], whole[:40], whole[:-9]):
            stuck = socket.create_connection(("127.0.0.1", service.port), WAIT)
            self.addCleanup(stuck.close)
            stuck.sendall(part.encode())
        self.assertEqual(1, len(service.post("after them")))
        self.assertNotIn("Traceback", service.log("api"))


class ListenTest(Case):
    def test_from_subscribing_to_a_right_signature(self):
        serve = self.serve()
        serve.until("is ready on")
        url = f"http://127.0.0.1:{self.port}"
        listen = Program(self, ["listen", "--port", "0", "--url", url, "--queue", "orders"])
        subscriber = listen.until(r"Listening on (\S+)\. ")[1]
        line = listen.until(CURL_LINE)[0]
        secret = re.search("whsec_[^\"']+", line)[0]
        client = Client(url)
        client.subscribe(subscriber, queue="orders", options={"secret": secret})
        message_id = client.post({"n": 1}, queue="orders")[0]
        found = listen.until(r"^\d\d:\d\d:\d\d  queue orders  message (\S+)  attempt 1  signature (\S+)  (.*)$")
        self.assertEqual((message_id, "ok", '{"n": 1}'), found.groups())
        self.assertEqual(0, listen.stop())
        self.assertNotIn("Traceback", listen.output)
        self.assertEqual(0, serve.stop())
        self.assertNotIn(secret, serve.output)

    def test_many_connections_at_once(self):
        listen = Program(self, ["listen", "--port", "0"])
        port = int(listen.until(r"Listening on http://127.0.0.1:(\d+)/")[1])
        threads = [
            threading.Thread(target=lambda: socket.create_connection(("127.0.0.1", port), WAIT).close()) for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(0, listen.stop())
        self.assertNotIn("Traceback", listen.output)
