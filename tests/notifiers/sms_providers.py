"""SMS gateways over real HTTP, which check what the providers' documents ask for and answer as they say."""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.notifiers.endpoint import Endpoint, Received, answer

E164 = re.compile(r"\+[1-9]\d{6,14}")


def fetch(url: str, data: bytes | None = None, kind: str = "application/x-www-form-urlencoded") -> int:
    """The status of the answer."""
    request = urllib.request.Request(url, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answered:
            return int(answered.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


class Provider:
    """``codes``: by number (without its plus), what to answer in place of success."""

    def __init__(self, codes: dict[str, Any] | None = None) -> None:
        self.codes = codes or {}
        self.taken: list[dict[str, str]] = []
        """The parameters of what was accepted."""
        self.complaints: list[str] = []
        """What a request got wrong that a document asks for."""
        self.repeat: list[str] = []
        """To be put into the next answers: what a careless gateway repeats."""
        self._lock = threading.Lock()
        self.endpoint = Endpoint(self._reply)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.endpoint.port}"

    def close(self) -> None:
        self.endpoint.close()

    def _reply(self, endpoint: Endpoint, connection: Any, request: Received) -> None:
        with self._lock:
            status, headers, body = self.reply(request)
        connection.sendall(answer(status, *headers, body=body))

    def reply(self, request: Received) -> tuple[int, list[str], bytes]:
        raise NotImplementedError

    def expect(self, right: bool, complaint: str) -> None:
        if not right:
            self.complaints.append(complaint)


def form(request: Received) -> dict[str, str]:
    found = urllib.parse.parse_qs(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    return {name: values[0] for name, values in found.items()}


class Twilio(Provider):
    """https://www.twilio.com/docs/messaging/api/message-resource"""

    SID, TOKEN, MESSAGE = "AC" + "0a" * 16, "t0ken-of-the-account", "SM" + "1b" * 16

    def reply(self, request: Received) -> tuple[int, list[str], bytes]:
        self.expect(request.line.startswith(f"POST /2010-04-01/Accounts/{self.SID}/Messages.json HTTP/"), request.line)
        self.expect(request.headers.get("content-type") == "application/x-www-form-urlencoded", "content type")
        expected = "Basic " + base64.b64encode(f"{self.SID}:{self.TOKEN}".encode()).decode()
        if request.headers.get("authorization") != expected:
            return self.error(401, 20003, "Authenticate")
        asked = form(request)
        self.expect(("From" in asked) != ("MessagingServiceSid" in asked), "exactly one of From and MessagingServiceSid")
        self.expect(all(asked.values()), f"empty parameters: {asked}")
        self.expect(0 < len(asked["Body"]) <= 1600, "length of Body")
        self.expect(1 <= int(asked.get("ValidityPeriod", 1)) <= 14400, "ValidityPeriod")
        if not E164.fullmatch(asked["To"]):
            return self.error(400, 21211, f"The 'To' number {asked['To']} is not a valid phone number.")
        wanted = self.codes.get(asked["To"][1:])
        if wanted == 20429:
            return self.error(429, 20429, "Too Many Requests", "Retry-After: 7")
        if wanted:
            return self.error(400, wanted, f"Message to {asked['To']} failed {''.join(self.repeat)}")
        self.taken.append(asked)
        made = {
            "account_sid": self.SID,
            "body": asked["Body"],
            "error_code": None,
            "error_message": None,
            "sid": self.MESSAGE,
            "status": "queued",
            "to": asked["To"],
        }
        return 201, ["Content-Type: application/json"], json.dumps(made).encode()

    def report(self, asked: dict[str, str], status: str, code: int | None = None) -> int:
        """ "Track the Message Status of Outbound Messages": a form is posted to the URL as it was given."""
        fields = {
            "ApiVersion": "2010-04-01",
            "AccountSid": self.SID,
            "From": asked.get("From", "+15005550006"),
            "To": asked["To"],
            "MessageSid": self.MESSAGE,
            "SmsSid": self.MESSAGE,
            "MessageStatus": status,
            "SmsStatus": status,
            "RawDlrDoneDate": "2603031000",
            **({} if code is None else {"ErrorCode": str(code)}),
        }
        return fetch(asked["StatusCallback"], urllib.parse.urlencode(fields).encode())

    @staticmethod
    def error(status: int, code: int, message: str, *headers: str) -> tuple[int, list[str], bytes]:
        document = {
            "code": code,
            "message": message,
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        }
        return status, ["Content-Type: application/json", *headers], json.dumps(document).encode()


class Vonage(Provider):
    """https://developer.vonage.com/en/api/sms: each part of a message has an entry, and errors come with a status of 200."""

    KEY, SECRET = "abcd1234", "s3cret-of-vonage"

    def reply(self, request: Received) -> tuple[int, list[str], bytes]:
        self.expect(request.line.startswith("POST /sms/json HTTP/"), request.line)
        self.expect(request.headers.get("content-type") == "application/x-www-form-urlencoded", "content type")
        asked = form(request)
        if (asked.get("api_key"), asked.get("api_secret")) != (self.KEY, self.SECRET):
            return self.messages({"status": "4", "error-text": "Bad Credentials"})
        self.expect({"from", "to", "text"} <= asked.keys() and all(asked.values()), f"parameters: {asked}")
        self.expect(re.fullmatch(r"[1-9]\d{6,14}", asked["to"]) is not None, "to: E.164 without a plus")
        self.expect(asked["type"] == ("text" if asked["text"].isascii() else "unicode"), "type")
        self.expect(20000 <= int(asked.get("ttl", 20000)) <= 604800000, "ttl")
        self.expect(len(asked.get("client-ref", "")) <= 100, "client-ref")
        wanted = self.codes.get(asked["to"])
        if wanted == "429":
            return 429, [], b"throttled"
        if wanted:
            good = {"to": asked["to"], "message-id": "0A01", "status": "0"}
            return self.messages(good, {"status": wanted, "error-text": f"Code {wanted} for {asked['to']}"})
        self.taken.append(asked)
        return self.messages({"to": asked["to"], "message-id": "0A0000000123ABCD1", "status": "0", "network": "24001"})

    def report(self, asked: dict[str, str], status: str, code: str = "0", how: str = "GET") -> int:
        """ "Delivery receipts": as a query, a form or JSON, which the account chooses."""
        fields = {
            "msisdn": asked["to"],
            "to": asked["from"],
            "network-code": "24001",
            "messageId": "0A0000000123ABCD1",
            "price": "0.03330000",
            "status": status,
            "scts": "2603031000",
            "err-code": code,
            "api-key": self.KEY,
            "client-ref": asked["client-ref"],
            "message-timestamp": "2026-03-03 10:00:00",
        }
        query, url = urllib.parse.urlencode(fields), asked["callback"]
        if how == "GET":
            return fetch(f"{url}{'&' if '?' in url else '?'}{query}")
        if how == "JSON":
            return fetch(url, json.dumps(fields).encode(), "application/json")
        return fetch(url, query.encode())

    @staticmethod
    def messages(*entries: dict[str, str]) -> tuple[int, list[str], bytes]:
        document = {"message-count": str(len(entries)), "messages": list(entries)}
        return 200, ["Content-Type: application/json"], json.dumps(document).encode()


class Kannel(Provider):
    """Kannel's user guide, "Using the HTTP interface to send SMS messages", and what its smsbox says."""

    USER, PASSWORD = "tester", "s3cret-of-kannel"
    ANSWERS = {
        "queued": (202, b"3: Queued for later delivery"),
        "denied": (403, b"Number(s) has/have been denied by white- and/or black-lists."),
        "malformed": (400, b"Malformed User Data, rejected"),
        "temporal": (503, b"Temporal failure, try again later."),
        "unroutable": (403, b"Not routable. Do not try again."),
        "sender": (400, b"Sender missing and no global set, rejected"),
        "else": (404, b"Unknown request."),
    }

    def reply(self, request: Received) -> tuple[int, list[str], bytes]:
        method, target, _ = request.line.split()
        url = urllib.parse.urlsplit(target)
        self.expect((method, url.path, request.body) == ("GET", "/cgi-bin/sendsms", b""), request.line)
        asked = {name: value[0] for name, value in urllib.parse.parse_qs(url.query, strict_parsing=True).items()}
        if (asked.get("username"), asked.get("password")) != (self.USER, self.PASSWORD):
            return 403, [], b"Authorization failed for sendsms"
        self.expect(E164.fullmatch(asked["to"]) is not None, "to")
        self.expect(asked["charset"] == "UTF-8", "charset")
        self.expect(asked["coding"] == ("0" if asked["text"].isascii() else "2"), "coding")
        self.expect(int(asked.get("validity", 1)) >= 1, "validity")
        wanted = self.codes.get(asked["to"][1:])
        if wanted:
            status, body = self.ANSWERS[wanted]
            return status, [], body
        self.taken.append(asked)
        return 202, [], b"0: Accepted for delivery"

    def report(self, asked: dict[str, str], state: int, said: str = "") -> int:
        """ "Delivery Reports", and "Parameters (Escape Codes)": what stands behind percent signs is filled in."""
        self.expect(int(asked["dlr-mask"]) & state != 0, "a report that was not asked for")
        known = {"d": str(state), "A": urllib.parse.quote_plus(said), "%": "%"}
        return fetch(re.sub("%(.)", lambda match: known.get(match[1], ""), asked["dlr-url"]))
