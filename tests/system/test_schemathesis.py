"""schemathesis makes requests from the OpenAPI document, right ones and wrong ones, and judges every answer by it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from tests.system.service import Service

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCHEMATHESIS = str(pathlib.Path(sys.executable).parent / "schemathesis")
CONFIG = "tests/system/schemathesis.toml"
WAIT = 600.0
"""Seconds after which a run is given up: a safety net. It takes about half a minute."""
NOT_ASKED = "/v2/openapi.json"
"""schemathesis leaves out where the document comes from."""

Exchange = tuple[str, int]
"""Method and path, and the status of the answer."""
_CONFIRMATIONS = "/v2/confirmations/{token}"
NOBODY_IS_ASKED: set[Exchange] = {
    (f"GET {_CONFIRMATIONS}", 200),
    (f"POST {_CONFIRMATIONS}", 200),
    (f"POST {_CONFIRMATIONS}", 204),
}
"""To confirm, where that is not required: `tests.api.test_feedback` is."""


class SchemathesisTest(unittest.TestCase):
    def run_schemathesis(self, service: Service, *arguments: str) -> list[Exchange]:
        """The same requests each time. Returns what was sent and answered."""
        report = service.data_dir / "report.ndjson"
        done = subprocess.run(
            [
                *(SCHEMATHESIS, "--config-file", CONFIG, "run", f"{service.url}/v2/openapi.json"),
                *("--generation-deterministic", "--report", "ndjson", "--report-ndjson-path", str(report)),
                *arguments,
            ],
            cwd=ROOT,
            env={**service.environment, "PYTHONPATH": str(ROOT), "SIGNED_URL_SECRET_KEY": service.keys["secret"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT,
            check=False,
        )
        self.assertEqual(0, done.returncode, f"{done.stdout}\nThe service:\n{service.log('api')[-10000:]}")
        return list(exchanges(report))

    def test_every_answer_is_as_documented(self):
        service = Service(self)
        service.start_api()
        # Without authentication nobody is refused, which the check ignored_auth wants; the role opens /v2/health.
        exchanged = self.run_schemathesis(
            service, "--max-examples", "10", "-H", "X-Roles: admin", "--exclude-checks", "ignored_auth"
        )
        self.assertGreater(len(exchanged), 1000)
        # Only refusing would be as documented, too: each route has to have done its work.
        seen = set(exchanged)
        _, document = service.request("GET", "/v2/openapi.json")
        self.assertEqual(set(), successes(document) - seen - NOBODY_IS_ASKED)
        self.assertNotIn("Traceback", service.log("api"))

    def test_every_route_asks_for_a_key(self):
        service = Service(self, options="[auth]\nstrategy = apikey\n")
        key = service.run("key", "create", "--project", "demo", "--roles", "admin").strip()
        service.start_api()
        exchanged = self.run_schemathesis(service, "--phases", "examples", "-H", f"Authorization: Bearer {key}")
        self.assertGreater(sum(status == 401 for _, status in exchanged), 50)


def successes(document: dict[str, Any]) -> set[Exchange]:
    return {
        (f"{method.upper()} {path}", int(status))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters" and path != NOT_ASKED
        for status in operation["responses"]
        if int(status) < 400
    }


def exchanges(report: pathlib.Path) -> Iterator[Exchange]:
    with report.open() as lines:
        for line in lines:
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for case_id, exchange in recorder.get("interactions", {}).items():
                case = recorder["cases"][case_id]["value"]
                if exchange["response"] is not None:
                    yield f"{case['method']} {case['path']}", exchange["response"]["status_code"]
