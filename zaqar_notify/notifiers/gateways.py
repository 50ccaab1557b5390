"""SMS gateways that are spoken to over HTTP: what they are sent, by templates, and what their answers mean, by tables."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zaqar_notify.errors import CannotStart
from zaqar_notify.model import Outcome, OutcomeKind, Receipt, Scope
from zaqar_notify.notifiers import answers, exchanges, reporting
from zaqar_notify.notifiers.exchanges import HttpExchange
from zaqar_notify.notifiers.filling import FORM, Parameters, Template, Values, body_template, quoted

if TYPE_CHECKING:
    from zaqar_notify.notifiers.http import Request, Response

WORDS = ("delivered", "retry", "throttled", "auth", "target", "rejected", "gone", "ours")
"""What a code of a gateway can be said to mean."""

PLACEHOLDERS = frozenset(
    (
        *("to", "number", "text", "from", "id", "callback", "username", "password", "account", "service"),
        *("encoding", "coding", "type", "seconds", "minutes", "milliseconds"),
    )
)
IN_HEADERS = frozenset({"id", "from", "username", "password", "account", "service"})
_LEAST_SECRET = 6
"""Shorter ones would be found, and masked, everywhere."""
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[ -~]*")

# -- presets ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """What a section need not say. The names are those of its options."""

    url: str | None = None
    method: str = "POST"
    content_type: str = FORM
    body: str = ""
    auth: str = "none"
    required: tuple[str, ...] = ()
    """Options that have to be set."""
    code: str | None = None
    """Where in the answer the provider's own code is: see `find`."""
    success: tuple[str, ...] = ()
    """The codes that mean success; empty: a status of 2xx does."""
    id: str | None = None
    error: str | None = None
    """Where in the answer it says in words what is wrong."""
    outcomes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Codes, or ``http-`` and a status, to `WORDS`."""
    validity: tuple[int, int] = (1, 604800)
    """Seconds that can be asked for; nothing is asked for where the message lives longer."""
    callback_query: str = ""
    """What the provider is to fill in where it reports to a URL."""


def _codes(**words: str) -> dict[str, str]:
    return {code: word for word, codes in words.items() for code in codes.split()}


PRESETS: Mapping[str, Preset] = {
    "generic": Preset(required=("url",)),
    # https://www.twilio.com/docs/messaging/api/message-resource and https://www.twilio.com/docs/api/errors
    "twilio": Preset(
        url="https://api.twilio.com/2010-04-01/Accounts/{account}/Messages.json",
        body="To={to}&From={from}&MessagingServiceSid={service}&Body={text}&StatusCallback={callback}&ValidityPeriod={seconds}",
        auth="basic",
        required=("account", "username", "password"),
        code="code",
        id="sid",
        error="message",
        outcomes=_codes(
            auth="20003 20005 20008 20404 21212 21603 21606 21659 21660 21661 21701 21703 21704 21705 30002",
            throttled="14107 20429 21611 30001 63038",
            gone="21610",
            target="21211 21214 21217 21219 21265 21266 21608 21612 21614 21635",
            rejected="21408 21602 21604 21617 21619",
        ),
        validity=(1, 14400),
    ),
    # https://developer.vonage.com/en/api/sms and https://developer.vonage.com/en/api-errors/sms
    "vonage": Preset(
        url="https://rest.nexmo.com/sms/json",
        body=(
            "api_key={username}&api_secret={password}&from={from}&to={number}&text={text}&type={type}"
            "&client-ref={id}&callback={callback}&ttl={milliseconds}"
        ),
        required=("username", "password", "sender"),
        code="messages.*.status",
        success=("0",),
        id="messages.0.message-id",
        error="messages.*.error-text",
        outcomes=_codes(
            throttled="1 10",
            rejected="2 3 12 22 23",
            auth="4 8 9 11 14 15 32",
            retry="5 13",
            target="6 7 29",
            gone="33",
        ),
        validity=(20, 259200),
    ),
    # https://www.kannel.org/download/1.4.5/userguide-1.4.5/userguide.html, "Using the HTTP interface to send SMS messages"
    "kannel": Preset(
        method="GET",
        content_type="",
        body=(
            "username={username}&password={password}&from={from}&to={to}&text={text}&charset=UTF-8&coding={coding}"
            "&validity={minutes}&dlr-url={callback}&dlr-mask=31"
        ),
        required=("url", "username", "password"),
        code=r"/^\s*(\d+(?=:)|\w+)/",  # it begins with a number, or in plain words
        success=("0", "3"),
        error="/(.+)/",
        outcomes=_codes(
            auth="Authorization Sender",
            target="Number Not",
            rejected="Missing Empty Malformed Invalid",
            retry="Temporal",
        ),
        validity=(60, 604800),
        callback_query="state=%d&answer=%A",
    ),
}


# -- what an answer says ------------------------------------------------------------------------------------------------------


def find(path: str | None, text: str, document: Any) -> list[str]:
    """What an answer says at ``path``: the keys and indices on the way to it in JSON, parted by dots, in which ``*`` stands for
    each; or, between slashes, a regular expression whose first group is meant."""
    if not path:
        return []
    if len(path) > 1 and path[0] == path[-1] == "/":
        match = re.search(path[1:-1], text)
        return [match[1] if match.re.groups else match[0]] if match else []
    found = [document]
    for step in path.split("."):
        found = [below for value in found for below in _below(value, step)]
    return [str(value) for value in found if isinstance(value, str | int | float) and not isinstance(value, bool)]


def _checked(path: str | None, what: str) -> str | None:
    try:
        re.compile(path or "")
    except re.error as error:
        if path and path[0] == path[-1] == "/":
            raise CannotStart(f"{what} is not a regular expression: {error}") from None
    return path


def _below(value: Any, step: str) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values()) if step == "*" else [value[step]] if step in value else []
    if isinstance(value, list):
        if step == "*":
            return value
        return [value[int(step)]] if step.isdigit() and int(step) < len(value) else []
    return []


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# -- a gateway ----------------------------------------------------------------------------------------------------------------


class Sms(NamedTuple):
    """What is to be sent."""

    id: str
    to: str
    """E.164 with its plus."""
    text: str
    unicode: bool
    seconds: int
    """That it is worth sending for."""
    callback: str
    urgent: bool = False


class Call(NamedTuple):
    """The HTTP request for it."""

    url: str
    headers: list[str]
    body: bytes


class HttpGateway:
    """``section`` names the configuration's section in errors. Raises `CannotStart` for what cannot work."""

    def __init__(self, name: str, section: str, conf: Any) -> None:
        self.name = name
        preset = PRESETS[conf.preset]
        for option in preset.required:
            if not conf[option]:
                raise CannotStart(f"[{section}] {option} is not set")
        self.method: str = conf.method or preset.method
        self.internal = bool(conf.internal)
        self._throttle_delay = float(conf.throttle_delay)
        self._validity = preset.validity
        self._callback_query = preset.callback_query
        self._code, self._id, self._error = (
            _checked(conf[one] or getattr(preset, one), f"[{section}] {one}") for one in ("code", "id", "error")
        )
        self._success = frozenset(preset.success if conf.success is None else conf.success)
        self._reporting = reporting.of(conf.preset, conf)
        self._outcomes = {**preset.outcomes, **_words(conf.outcomes or {}, section)}
        self._constant = {
            "from": conf.sender or "",
            "username": conf.username or "",
            "password": conf.password or "",
            "account": conf.account or conf.username or "",
            "service": conf.service or "",
        }
        self._set_templates(preset, section, conf)
        self._secrets = _secrets(self._constant)
        if not all(map(_HEADER.fullmatch, self._headers({**self._constant, "id": ""}))):
            raise CannotStart(f"[{section}] what stands for a name in headers has to be ASCII")
        masked = dict.fromkeys(PLACEHOLDERS, exchanges.MASK)
        self._shown = {
            "method": self.method,
            "url": exchanges.redacted_url(urllib.parse.unquote(self._url(masked))),
            "headers": exchanges.redacted_headers(exchanges.parted(line) for line in self._headers(masked)),
        }

    def _set_templates(self, preset: Preset, section: str, conf: Any) -> None:
        url = conf.url or preset.url or ""
        base, _, query = url.partition("?")
        if self.method == "GET":
            query = conf.body or query or preset.body
            if conf.content_type or (conf.body and "?" in url):
                raise CannotStart(f"[{section}] a GET has its parameters in the URL or in body, and no content_type")
        scheme, _, rest = base.partition("://")
        host = rest.partition("/")[0]
        if scheme not in ("http", "https") or not host or "@" in host or "{" in host:
            raise CannotStart(f"[{section}] url has to begin with http:// or https:// and the name or address of a host")
        self._base = Template(base, quoted, f"[{section}] url", PLACEHOLDERS)
        self._query = Parameters(query, f"[{section}] url", PLACEHOLDERS)
        self._type = "" if self.method == "GET" else conf.content_type or preset.content_type
        self._body = self._body_template(conf.body or preset.body, section)
        lines = [*(conf.headers or ()), *([f"Content-Type: {self._type}"] if self._type else ())]
        if any(not _HEADER.fullmatch(line) for line in lines):
            raise CannotStart(f"[{section}] headers has to be a list of lines such as X-Key: value")
        self._header_templates = [Template(line, str, f"[{section}] headers", IN_HEADERS) for line in lines]
        self._basic = (conf.auth or preset.auth) == "basic"
        used = self._base.names | self._query.names | (self._body.names if self._body else frozenset())
        if "text" not in used or used.isdisjoint(("to", "number")):
            raise CannotStart(f"[{section}] url and body have to say where {{to}} (or {{number}}) and {{text}} go")

    def _body_template(self, text: str, section: str) -> Template | Parameters | None:
        return body_template(text, self._type, f"[{section}] body", PLACEHOLDERS) if self._type else None

    def _url(self, values: Values) -> str:
        query = self._query.fill(values)
        return f"{self._base.fill(values)}?{query}" if query else self._base.fill(values)

    def _headers(self, values: Values) -> list[str]:
        filled = [template.fill(values) for template in self._header_templates]
        if self._basic:
            pair = base64.b64encode(f"{values['username']}:{values['password']}".encode()).decode()
            filled.append(f"Authorization: Basic {pair}")
        return filled

    def call(self, sms: Sms) -> Call:
        values = self._values(sms)
        body = self._body.fill(values).encode() if self._body is not None else b""
        return Call(self._url(values), self._headers(values), body)

    def _values(self, sms: Sms) -> Values:
        least, most = self._validity
        seconds = max(sms.seconds, least) if sms.seconds < most else 0
        callback = sms.callback
        if callback and self._callback_query:
            # What stands behind a percent sign would be filled in, too.
            callback = callback.replace("%", "%%") + ("&" if "?" in callback else "?") + self._callback_query
        return {
            **self._constant,
            "to": sms.to,
            "number": sms.to.removeprefix("+"),
            "text": sms.text,
            "id": sms.id,
            "callback": callback,
            "encoding": "ucs2" if sms.unicode else "gsm",
            "coding": "2" if sms.unicode else "0",
            "type": "unicode" if sms.unicode else "text",
            "seconds": str(seconds or ""),
            "minutes": str(-(-seconds // 60) or ""),
            "milliseconds": str(seconds * 1000 or ""),
        }

    # -- its answers ----------------------------------------------------------------------------------------------------------

    def outcome(self, request: Request, response: Response, to: str, body_bytes: int, successes: bool) -> Outcome:
        """What an answer means (`classify`), with what the log keeps of it: ``body_bytes`` of its body, and of ``successes``
        too. The number, the text and what is secret are masked, also where the answer repeats them."""
        found = self.classify(response, time.time())
        hidden = self._hidden(to)
        detail = exchanges.without(hidden, found.detail.encode("utf-8", "replace")).decode()
        if found.kind is OutcomeKind.DELIVERED and not successes:
            return dataclasses.replace(found, detail=detail)
        response.body = exchanges.without(hidden, response.body)
        response.head = exchanges.without(hidden, response.head)
        phases = response.phases or {"end": time.monotonic() - request.started_at}
        recorded = exchanges.of_request(request, response, phases, body_bytes)
        sent = {**self._shown, "body_size": recorded.request["body_size"]}
        return dataclasses.replace(found, detail=detail, exchange=HttpExchange(sent, recorded.response, recorded.phases))

    def receipt(self, fields: Mapping[str, str], to: str, now: float) -> Receipt | None:
        """What it reports later; None where that ends nothing (the tables are in docs/channels/sms.md)."""
        hidden = self._hidden(to)
        return self._reporting.receipt(
            fields,
            f"the gateway {self.name}",
            now,
            lambda text: exchanges.without(hidden, text.encode("utf-8", "replace")).decode("utf-8", "replace"),
        )

    def _hidden(self, to: str) -> list[bytes]:
        number = to.removeprefix("+").encode()
        return [*self._secrets, b"+" + number, b"%2B" + number, number]

    def classify(self, response: Response, now: float) -> Outcome:
        """What an answer means (the tables are in docs/channels/sms.md). ``now``: epoch seconds."""
        who = f"the gateway {self.name}"
        if response.fault is not None:
            return answers.fault(response.fault, response.detail, response.status)
        text = response.body.decode("utf-8", "replace")
        document = _parsed(response.body)
        codes = find(self._code, text, document)
        code = next((one for one in codes if one not in self._success), codes[0] if codes else None)
        detail = self._described(response, who, code, find(self._error, text, document))
        word = self._word(response.status, code)
        found = find(self._id, text, document)
        return self._outcome(word, detail, response, now, found[0][:255] if found else None)

    def _word(self, status: int, code: str | None) -> str:
        taken = 200 <= status < 300
        if taken and code in self._success:
            return "delivered"
        for key in (code, f"http-{status}"):
            if key is not None and key in self._outcomes:
                return self._outcomes[key]
        if taken:
            return "retry" if self._success else "delivered"
        return _usual(status)

    def _described(self, response: Response, who: str, code: str | None, words: list[str]) -> str:
        if code is None or (code in self._success and 200 <= response.status < 300):
            return answers.described(response, who)
        said = answers.printable(next((one for one in words if one), ""))
        return f"{who} answered {response.status}, code {answers.printable(code)}" + (f": {said}" if said else "")

    def _outcome(self, word: str, detail: str, response: Response, now: float, provider_id: str | None) -> Outcome:
        status = response.status
        if word == "delivered":
            accepted = f"accepted by the gateway {self.name}{f' as {answers.printable(provider_id)}' if provider_id else ''}"
            return Outcome(OutcomeKind.DELIVERED, accepted, status, provider_id=provider_id)
        if word == "throttled":
            asked = answers.retry_after(response.header("retry-after"), now)
            after = self._throttle_delay if asked is None else asked
            return Outcome(OutcomeKind.THROTTLED, detail, status, after, Scope.CREDENTIAL, credential=f"sms {self.name}")
        return meaning(word, detail, status, f"sms {self.name}")


def meaning(word: str, detail: str, status: int, credential: str) -> Outcome:
    """What one of `WORDS` stands for, but for ``delivered`` and ``throttled``."""
    if word == "auth":
        return Outcome(OutcomeKind.AUTH, detail, status, scope=Scope.CREDENTIAL, credential=credential)
    if word == "gone":
        return Outcome(OutcomeKind.GONE, detail, status, disable="gone")
    if word in ("target", "rejected"):
        return Outcome(OutcomeKind.REJECTED, detail, status, target=word == "target")
    if word == "ours":
        return Outcome(OutcomeKind.OURS, detail, status)
    scope = Scope.SUBSCRIPTION if 200 <= status < 500 else Scope.LANE
    return Outcome(OutcomeKind.RETRY, detail, status, scope=scope)


def _usual(status: int) -> str:
    """What a status other than 2xx means where no table says anything else. A gateway is no webhook: who does not like our
    request will not like it later either."""
    if status in (401, 403, 407):
        return "auth"
    if status == 429:
        return "throttled"
    if 400 <= status < 500 and status not in (404, 405, 408, 421, 425):
        return "rejected"
    return "retry"


def _words(outcomes: Mapping[str, str], section: str) -> Mapping[str, str]:
    for code, word in outcomes.items():
        if word not in WORDS:
            raise CannotStart(f"[{section}] outcomes: {code}:{word[:40]} has to end in one of {', '.join(WORDS)}")
    return outcomes


def _secrets(constant: Values) -> list[bytes]:
    """The password as it may be repeated."""
    password = constant["password"]
    if not password:
        return []
    pair = f"{constant['username']}:{password}".encode()
    found = {base64.b64encode(pair), password.encode(), urllib.parse.quote(password, safe="").encode()}
    return sorted((secret for secret in found if len(secret) >= _LEAST_SECRET), key=len, reverse=True)
