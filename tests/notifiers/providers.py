"""Apple's and Google's push services as their documents describe them, on this machine: they verify signatures, speak HTTP/2,
and answer by what a device's token begins with.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import re
import threading
import time
import urllib.parse
import uuid
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.notifiers.endpoint import Received
from tests.notifiers.http2 import SILENCE, Answer, Http2Server


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def written(directory: str, name: str, text: str) -> str:
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token: str, key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT. Raises `InvalidSignature`, `ValueError`."""
    head, body, signature = token.split(".")
    text, signed = f"{head}.{body}".encode(), decoded(signature)
    header = json.loads(decoded(head))
    if isinstance(key, rsa.RSAPublicKey):
        if header["alg"] != "RS256":
            raise InvalidSignature
        key.verify(signed, text, PKCS1v15(), SHA256())
    else:
        if header["alg"] != "ES256" or len(signed) != 64:
            raise InvalidSignature
        numbers = (int.from_bytes(signed[:32], "big"), int.from_bytes(signed[32:], "big"))
        key.verify(encode_dss_signature(*numbers), text, ec.ECDSA(SHA256()))
    return header, json.loads(decoded(body))


# -- Apple --------------------------------------------------------------------------------------------------------------------

APNS_REASONS = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
_GOOD = "a000"
_PREFIXES = {f"b{number:03x}": reason for number, reason in enumerate(APNS_REASONS)}
_SILENT = "c000"
_UNREADABLE = "c001"
_COUNT = itertools.count(1)


def apns_device(reason: str = "") -> str:
    """A new device token that is answered with this reason, or well."""
    if reason in ("silent", "unreadable"):
        prefix = _SILENT if reason == "silent" else _UNREADABLE
    else:
        prefix = next((prefix for prefix, known in _PREFIXES.items() if known == reason), _GOOD)
    return prefix + f"{next(_COUNT):060x}"


class FakeApns(Http2Server):
    """One team with one topic and two keys. A connection belongs to the key that is used on it first."""

    def __init__(self, **options: Any) -> None:
        self.team, self.topic = "TEAM123456", "org.example.shop"
        self.private = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("KEY1234567", "KEY7654321")}
        self.clock_ahead = 0.0
        """Seconds by which Apple's clock is ahead of ours."""
        self.retry_after: str | None = None
        self.timestamp = 0
        """What a 410 says, in milliseconds."""
        self.tokens: set[str] = set()
        """Provider tokens that were accepted."""
        self._connection = threading.local()  # each has a thread
        super().__init__(self._respond, **options)

    def section(self, directory: str, key_id: str = "KEY1234567") -> dict[str, Any]:
        """The options of an application that sends to here."""
        return {
            "team": self.team,
            "key_id": key_id,
            "key_file": written(directory, f"{key_id}.p8", pem(self.private[key_id])),
            "topic": self.topic,
            "url": f"https://127.0.0.1:{self.port}",
        }

    def _respond(self, received: Received) -> Answer | None:
        headers = received.headers
        device = headers[":path"].removeprefix("/3/device/")
        if device.startswith(_SILENT):
            return SILENCE
        if device.startswith(_UNREADABLE):
            return Answer(502, {}, b"<html>Bad Gateway</html>")
        reason = (
            self._wrong_with_sender(headers) or self._wrong_with_request(headers, received.body) or _PREFIXES.get(device[:4])
        )
        answer = {"apns-id": headers.get("apns-id", str(uuid.uuid4()))}
        if reason is None:
            return Answer(200, answer)
        status = APNS_REASONS[reason]
        if status in (429, 503) and self.retry_after is not None:
            answer["retry-after"] = self.retry_after
        body = {"reason": reason} | ({"timestamp": self.timestamp} if status == 410 else {})
        return Answer(status, answer, json.dumps(body).encode())

    def _wrong_with_sender(self, headers: dict[str, str]) -> str | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme != "bearer":
            return "MissingProviderToken"
        try:
            header = json.loads(decoded(token.split(".")[0]))
            header, claims = claims_of(token, self.private[header["kid"]].public_key())
        except (InvalidSignature, ValueError, KeyError):
            return "InvalidProviderToken"
        if claims["iss"] != self.team or claims.keys() != {"iss", "iat"}:
            return "InvalidProviderToken"
        now = time.time() + self.clock_ahead
        if not now - 3600 <= claims["iat"] <= now + 60:
            return "ExpiredProviderToken"
        if self._connection.__dict__.setdefault("key", header["kid"]) != header["kid"]:
            return "UnrelatedKeyIdInToken"
        self.tokens.add(token)
        return None

    def _wrong_with_request(self, headers: dict[str, str], body: bytes) -> str | None:
        try:
            json.loads(body)["aps"]
            if str(uuid.UUID(headers["apns-id"])) != headers["apns-id"]:
                return "BadMessageId"
            int(headers["apns-expiration"])
        except ValueError:
            return "BadMessageId"
        checks = {
            "MethodNotAllowed": headers[":method"] == "POST",
            "BadPath": re.fullmatch("/3/device/[0-9a-f]+", headers[":path"]),
            "BadTopic": headers.get("apns-topic") == self.topic,
            "InvalidPushType": headers.get("apns-push-type") in ("alert", "background"),
            "BadPriority": headers.get("apns-priority", "10") in ("10", "5", "1")
            and not (headers["apns-push-type"] == "background" and headers.get("apns-priority", "10") == "10"),
            "BadCollapseId": len(headers.get("apns-collapse-id", "")) <= 64,
            "PayloadTooLarge": len(body) <= 4096,
        }
        return next((reason for reason, right in checks.items() if not right), None)


# -- Google -------------------------------------------------------------------------------------------------------------------

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"


def fcm_error(code: int, status: str, error_code: str | None, message: str = "", *details: dict[str, Any]) -> Answer:
    found: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": error_code}] if error_code else []
    document = {"code": code, "message": message or status, "status": status, "details": [*found, *details]}
    return Answer(code, {"content-type": "application/json"}, json.dumps({"error": document}).encode())


def _field(name: str) -> dict[str, Any]:
    return {"@type": BAD_REQUEST, "fieldViolations": [{"field": name, "description": "Invalid value"}]}


def _quota(subject: str) -> dict[str, Any]:
    return {"@type": QUOTA_FAILURE, "violations": [{"subject": subject, "description": "rate"}]}


FCM_ANSWERS = {
    "unregistered": fcm_error(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found."),
    "noproject": fcm_error(404, "NOT_FOUND", None, "Requested entity was not found."),
    "mismatch": fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"),
    "denied": fcm_error(403, "PERMISSION_DENIED", None, "Permission 'cloudmessaging.messages.create' denied"),
    "badtoken": fcm_error(
        400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"
    ),
    "badfield": fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Invalid", _field("message.token")),
    "baddata": fcm_error(400, "INVALID_ARGUMENT", None, "Invalid value at 'message.data'", _field("message.data[0].value")),
    "toobig": fcm_error(400, "INVALID_ARGUMENT", None, "Request contains an invalid argument."),
    "quota": fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded", _quota("project:1")),
    "device": fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded", _quota("device:1")),
    "unavailable": fcm_error(503, "UNAVAILABLE", "UNAVAILABLE"),
    "internal": fcm_error(500, "INTERNAL", "INTERNAL"),
    "thirdparty": fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
    "gateway": Answer(502, {"content-type": "text/html"}, b"<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>"),
}


@functools.cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class FakeFcm(Http2Server):
    """One project, and the issuer of its access tokens. A registration token is answered by what stands before its ``-``."""

    def __init__(self, **options: Any) -> None:
        self.project, self.email = "shop-1234", "sender@shop-1234.iam.gserviceaccount.com"
        self.private = _rsa_key()
        self.grants = 0
        self.lifetime = 3600
        self.valid: set[str] = set()
        """Access tokens that are accepted."""
        self.issuer: Answer | None = None
        """What the issuer answers in the place of a token."""
        self.retry_after: str | None = None
        self.messages: list[dict[str, Any]] = []
        super().__init__(self._respond, **options)

    def section(self, directory: str, **changes: Any) -> dict[str, Any]:
        """The options of an application that sends to here; ``changes`` are made to its service account."""
        account = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "k1",
            "private_key": pem(self.private),
            "client_email": self.email,
            "token_uri": f"https://127.0.0.1:{self.port}/token",
            **changes,
        }
        path = written(directory, f"account-{len(os.listdir(directory))}.json", json.dumps(account))
        return {"service_account": path, "url": f"https://127.0.0.1:{self.port}"}

    def _respond(self, received: Received) -> Answer | None:
        if received.headers[":path"] == "/token":
            return self._grant(received)
        scheme, _, token = received.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.valid:
            return fcm_error(401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials.")
        if received.headers[":path"] != f"/v1/projects/{self.project}/messages:send":
            return FCM_ANSWERS["noproject"]
        document = json.loads(received.body)
        self.messages.append(document)
        wrong = wrong_with(document)
        if wrong:
            return fcm_error(400, "INVALID_ARGUMENT", None, wrong, _field(wrong))
        kind = document["message"]["token"].partition("-")[0]
        if kind == "silent":
            return SILENCE
        answer = FCM_ANSWERS.get(kind) or Answer(200, {}, json.dumps({"name": f"projects/{self.project}/messages/1"}).encode())
        if answer.status in (429, 503) and self.retry_after is not None:
            return Answer(answer.status, {"retry-after": self.retry_after, **answer.headers}, answer.body)
        return answer

    def _grant(self, received: Received) -> Answer:
        self.grants += 1
        if self.issuer is not None:
            return self.issuer
        form = dict(urllib.parse.parse_qsl(received.body.decode()))
        try:
            _, claims = claims_of(form["assertion"], self.private.public_key())
        except (InvalidSignature, ValueError, KeyError):
            return Answer(400, {}, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}')
        now = time.time()
        right = (
            form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
            and claims["iss"] == self.email
            and claims["aud"] == f"https://127.0.0.1:{self.port}/token"
            and claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
            and now - 60 <= claims["iat"] <= now + 1
            and claims["exp"] - claims["iat"] <= 3600
        )
        if not right:
            return Answer(400, {}, b'{"error":"invalid_grant"}')
        token = f"ya29.{uuid.uuid4().hex}"
        self.valid.add(token)
        return Answer(
            200, {}, json.dumps({"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"}).encode()
        )


def wrong_with(document: dict[str, Any]) -> str | None:
    """The field of a message that FCM would not take."""
    message = document["message"]
    known = {"token", "data", "notification", "android", "apns", "webpush", "fcm_options"}
    if set(document) - {"message", "validate_only"} or set(message) - known:
        return "message"
    if not message.get("token"):
        return "message.token"
    for name, value in message.get("data", {}).items():
        if not isinstance(value, str) or name in ("from", "message_type") or name.startswith(("google.", "gcm.notification.")):
            return f"message.data[{name}]"
    android = message.get("android", {})
    ttl = re.fullmatch(r"(\d+)s", android.get("ttl", "0s"))
    if ttl is None or int(ttl[1]) > 2419200:
        return "message.android.ttl"
    return None if android.get("priority", "HIGH") in ("HIGH", "NORMAL") else "message.android.priority"
