"""SMS over SMPP 3.4: one connection to the message centre, bound as a transceiver, with a window of messages on their way.

smpplib makes and reads the PDUs; the connection is served here, by one thread, so that nothing waits without a deadline.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import re
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from smpplib import consts, exceptions, smpp

from zaqar_notify.errors import CannotStart
from zaqar_notify.model import Exchange, Outcome, OutcomeKind, Receipt, Scope
from zaqar_notify.notifiers import gsm
from zaqar_notify.notifiers.awaiting import Awaiting, Report
from zaqar_notify.notifiers.gateways import WORDS, Sms, meaning

_HEADER = 16
_MOST_PDU = 65536
_LINK_TIMEOUT = 10.0  # seconds that an enquire_link may stay without an answer
_GOODBYE = 1.0
_TON_INTERNATIONAL, _TON_ALPHANUMERIC, _NPI_ISDN = 1, 5, 1
_UDH = 0x40  # in esm_class: the text begins with a header
_UCS2 = 8
_URGENT = 2  # of 0 to 3; in GSM each but 0 means priority (SMPP 3.4, 5.2.14)
_DAY = 86400
_BIND_AGAIN = 30.0
"""Seconds after which a connection that has ended is made anew for the reports that are awaited."""
_MESSAGE_TYPE, _IS_RECEIPT = 0x3C, 0x04  # in esm_class
_STATES = dict(enumerate(("ENROUTE", "DELIVRD", "EXPIRED", "DELETED", "UNDELIV", "ACCEPTD", "UNKNOWN", "REJECTD"), 1))
"""Values of message_state (SMPP 3.4, 5.2.28)."""
_RECEIPT = re.compile(rb"id:(\S+)(?:.*?stat:(\w+))?(?:.*?err:(\w+))?", re.IGNORECASE | re.DOTALL)

_UNREADABLE = (
    exceptions.PDUError,
    exceptions.UnknownCommandError,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)


def _codes(**words: str) -> dict[int, str]:
    return {int(code, 16): word for word, codes in words.items() for code in codes.split()}


OUTCOMES: Mapping[int, str] = _codes(
    throttled="14 58",  # ESME_RMSGQFUL, ESME_RTHROTTLED
    auth="0a 0d 0e 0f 48 49 53",  # the sender, the bind
    target="0b",  # ESME_RINVDSTADR
    rejected="01 02 03 06 07 33 40 43 50 51 54 55 61 62 63 65 66 c0 c1 c2 c3 c4",
    retry="04 05 08 11 13 15 45 64 fe ff",
)
"""What a command_status means (SMPP 3.4, 5.1.3); what is not here is tried again."""
_SYSTEM_ERROR = 0x08


Done = Callable[[Outcome], None]


@dataclasses.dataclass(slots=True, eq=False)
class _Message:
    sms: Sms
    deadline: float
    done: Done | None
    """None: it has been reported."""
    parts: list[bytes]
    unanswered: int = 0
    message_ids: list[str] = dataclasses.field(default_factory=list)
    refusal: int = 0
    """The first command_status that was not 0."""


class _Broken(Exception):
    """The connection is of no use any more."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.status = status


class SmppGateway:
    """``section`` names the configuration's section in errors. Raises `CannotStart` for what cannot work. ``heard`` is
    called on this gateway's thread, with the delivery's id, for each receipt that the message centre has reported."""

    def __init__(
        self,
        name: str,
        section: str,
        conf: Any,
        log: logging.Logger,
        heard: Callable[[str, Receipt], None],
    ) -> None:
        self.name = name
        self._log = log
        self._tell = heard
        self._awaiting = Awaiting()
        self._host, self._port, tls = _address(conf.url or "", section)
        self._bind = {"system_id": conf.username or "", "password": conf.password or ""}
        if not 0 < len(self._bind["system_id"]) < 16 or len(self._bind["password"]) > 8:
            raise CannotStart(f"[{section}] SMPP has a username of at most 15 characters, and a password of at most 8")
        if not "".join((*self._bind.values(), conf.sender or "")).isascii():
            raise CannotStart(f"[{section}] username, password and sender have to be ASCII")
        self._tls_context = _tls_context(conf.ca_file, section) if tls else None
        self._sender = _sender(conf.sender or "")
        self._window = int(conf.max_unanswered)
        self._enquire_after = float(conf.enquire_link)
        self._connect_timeout = float(conf.connect_timeout)
        self._throttle_delay = float(conf.throttle_delay)
        self._outcomes = {**OUTCOMES, **_configured(conf.outcomes or {}, section)}
        self._references = itertools.cycle(range(256))
        self._lock = threading.Lock()
        self._inbox: collections.deque[_Message] = collections.deque()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._wake_fd = -1

    def send(self, sms: Sms, deadline: float, done: Done) -> None:
        """``deadline`` in ``time.monotonic()`` seconds; ``done`` is called once, from any thread."""
        message = _Message(sms, deadline, done, _parts(sms, next(self._references)))
        with self._lock:
            closing = self._closing
            if not closing:
                self._inbox.append(message)
                if self._thread is None:
                    self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                    self._thread = threading.Thread(target=self._run, name=f"smpp-{self.name}", daemon=True)
                    self._thread.start()
                os.eventfd_write(self._wake_fd, 1)
        if closing:
            _end(message, Outcome(OutcomeKind.OURS, "stopped"))

    def close(self) -> None:
        with self._lock:
            self._closing = True
            thread = self._thread
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
        if thread is not None:
            thread.join(self._connect_timeout + _GOODBYE)

    # -- the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            if not self._inbox and self._is_woken(_BIND_AGAIN if self._awaiting else None):
                continue
            self._connect_and_serve()
        while self._inbox:
            _end(self._inbox.popleft(), Outcome(OutcomeKind.OURS, "stopped"))
        with self._lock:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _is_woken(self, seconds: float | None) -> bool:
        """Waits for it."""
        readable, _, _ = select.select([self._wake_fd], [], [], seconds)
        if readable:
            self._heard()
        return bool(readable)

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _connect_and_serve(self) -> None:
        try:
            link = _Link(self._host, self._port, self._tls_context, self._connect_timeout)
        except OSError as error:
            kind = OutcomeKind.OURS if isinstance(error, socket.gaierror) else OutcomeKind.RETRY
            why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            self._fail_all(Outcome(kind, f"connection to the message centre: {why}"))
            return
        try:
            link.bind(self._bind, self._connect_timeout)
        except _Broken as broken:
            link.close()
            self._fail_all(self._refused(broken.status, broken.why) if broken.status else self._broken(broken))
            return
        self._serve(link)

    def _serve(self, link: _Link) -> None:
        on_way: dict[int, _Message] = {}
        try:
            while not self._closing:
                self._submit(link, on_way)
                self._hear(link, on_way)
                self._end_late(on_way)
            link.say("unbind")
            outcome = Outcome(OutcomeKind.OURS, "stopped")
        except _Broken as broken:
            self._log.info("The connection to the message centre of gateway %s has ended: %s", self.name, broken.why)
            outcome = self._broken(broken)
        except Exception as error:  # noqa: BLE001 - a bug costs what is on its way, not the thread
            self._log.exception("The connection to the message centre of gateway %s has ended", self.name)
            outcome = Outcome(OutcomeKind.OURS, f"The notifier failed: {type(error).__name__}")
        link.close()
        for message in on_way.values():
            _end(message, outcome)

    def _submit(self, link: _Link, on_way: dict[int, _Message]) -> None:
        now = time.monotonic()
        while self._inbox:
            message = self._inbox[0]
            if message.deadline <= now:
                _end(self._inbox.popleft(), Outcome(OutcomeKind.OURS, "no room in the window of the message centre in time"))
                continue
            if on_way and len(on_way) + len(message.parts) > self._window:
                return
            self._inbox.popleft()
            message.unanswered = len(message.parts)
            for part in message.parts:
                on_way[link.submit(self._submission(message.sms, part, len(message.parts) > 1))] = message

    def _submission(self, sms: Sms, part: bytes, is_part: bool) -> dict[str, Any]:
        return {
            **self._sender,
            "dest_addr_ton": _TON_INTERNATIONAL,
            "dest_addr_npi": _NPI_ISDN,
            "destination_addr": sms.to.removeprefix("+"),
            "short_message": part,
            "data_coding": _UCS2 if sms.unicode else 0,
            "esm_class": _UDH if is_part else 0,
            "validity_period": _validity(sms.seconds),
            "priority_flag": _URGENT if sms.urgent else 0,
            "registered_delivery": 1,
        }

    def _hear(self, link: _Link, on_way: dict[int, _Message]) -> None:
        """Waits for what the message centre has to say, and for more to send."""
        until = min([link.quiet_until(self._enquire_after), *(message.deadline for message in on_way.values())])
        if self._inbox:
            until = min(until, self._inbox[0].deadline)
        if link.wait(self._wake_fd, max(until - time.monotonic(), 0.0)):
            self._heard()
        for pdu in link.read():
            if pdu.command in ("submit_sm_resp", "generic_nack"):
                message = on_way.pop(pdu.sequence, None)
                if message is not None:
                    self._answered(message, pdu)
            elif pdu.command == "deliver_sm":
                self._delivered(link, pdu)
            elif pdu.command in ("unbind", "unbind_resp"):
                raise _Broken("the message centre has ended it")
        link.keep_alive(self._enquire_after)

    def _answered(self, message: _Message, pdu: Any) -> None:
        message.unanswered -= 1
        message.refusal = message.refusal or pdu.status
        message_id = None if pdu.status else _text(getattr(pdu, "message_id", None))
        if message_id:
            message.message_ids.append(message_id)
        if message.unanswered:
            return
        if message.refusal:
            why = consts.DESCRIPTIONS.get(message.refusal, "unknown")
            recorded = Exchange(
                {"server": f"{self._host}:{self._port}", "parts": len(message.parts)}, {"status": message.refusal, "text": why}
            )
            _end(message, dataclasses.replace(self._refused(message.refusal, why), exchange=recorded))
        else:
            first = message.message_ids[0] if message.message_ids else None
            early = self._awaiting.accepted(message.sms.id, message.message_ids)
            accepted = f"accepted by the gateway {self.name} as {first}"
            _end(message, Outcome(OutcomeKind.DELIVERED, accepted, 0, provider_id=first))
            for report in early:
                self._reported(report)

    def _delivered(self, link: _Link, pdu: Any) -> None:
        link.say("deliver_sm_resp", pdu.sequence)
        report = _report(pdu)
        if report is not None:
            self._reported(report)

    def _reported(self, report: Report) -> None:
        found = self._awaiting.reported(report)
        if found is not None:
            delivery_id, kind = found
            error = f", error {report.error}" if report.error.strip("0") else ""
            self._tell(delivery_id, Receipt(kind, time.time(), f"the gateway {self.name} reported {report.state}{error}"))

    def _end_late(self, on_way: dict[int, _Message]) -> None:
        now = time.monotonic()
        for sequence in [sequence for sequence, message in on_way.items() if message.deadline <= now]:
            # An answer that comes later means nothing any more.
            _end(on_way.pop(sequence), Outcome(OutcomeKind.RETRY, "no answer of the message centre in time"))

    def _fail_all(self, outcome: Outcome) -> None:
        while self._inbox:
            _end(self._inbox.popleft(), outcome)

    def _broken(self, broken: _Broken) -> Outcome:
        return Outcome(OutcomeKind.RETRY, f"connection to the message centre: {broken.why}")

    def _refused(self, status: int, why: str) -> Outcome:
        detail = f"the gateway {self.name} answered 0x{status:02x}: {why}"
        word = self._outcomes.get(status, "retry")
        if word == "throttled":
            return Outcome(
                OutcomeKind.THROTTLED, detail, status, self._throttle_delay, Scope.CREDENTIAL, credential=f"sms {self.name}"
            )
        if word == "retry":
            scope = Scope.LANE if status == _SYSTEM_ERROR else Scope.SUBSCRIPTION
            return Outcome(OutcomeKind.RETRY, detail, status, scope=scope)
        return meaning(word, detail, status, f"sms {self.name}")


def _end(message: _Message, outcome: Outcome) -> None:
    done, message.done = message.done, None
    if done is not None:
        done(outcome)


# -- a connection -------------------------------------------------------------------------------------------------------------


class _Sequence:
    """What smpplib numbers PDUs by."""

    sequence = 0

    def next_sequence(self) -> int:
        self.sequence = self.sequence % 0x7FFFFFFF + 1
        return self.sequence


class _Link:
    """Raises `OSError` where there is no connection, and later `_Broken`."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, timeout: float) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._numbers = _Sequence()
        self._received = b""
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None

    def close(self) -> None:
        self._socket.close()

    def bind(self, credentials: Mapping[str, str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._write(smpp.make_pdu("bind_transceiver", client=self._numbers, **credentials))
        while (left := deadline - time.monotonic()) > 0:
            self.wait(None, left)
            for pdu in self.read():
                if pdu.command in ("bind_transceiver_resp", "generic_nack"):
                    if pdu.status:
                        raise _Broken(consts.DESCRIPTIONS.get(pdu.status, "unknown"), pdu.status)
                    return
        raise _Broken("no answer to the bind in time")

    def submit(self, fields: Mapping[str, Any]) -> int:
        """The number that the answer will have."""
        pdu = smpp.make_pdu("submit_sm", client=self._numbers, **fields)
        self._write(pdu)
        return int(pdu.sequence)

    def say(self, command: str, sequence: int | None = None) -> None:
        """``sequence``: of what is answered by this."""
        pdu = smpp.make_pdu(command, client=self._numbers)
        if sequence is not None:
            pdu.sequence = sequence
        self._write(pdu)

    def _write(self, pdu: Any) -> None:
        try:
            self._socket.sendall(pdu.generate())
        except OSError as error:
            raise _Broken(str(error)) from error

    def wait(self, wake_fd: int | None, seconds: float) -> bool:
        """Until there is something to read. True: ``wake_fd`` is."""
        if self._is_complete() or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return False
        watched = [self._socket.fileno()] if wake_fd is None else [self._socket.fileno(), wake_fd]
        readable, _, _ = select.select(watched, [], [], seconds)
        if self._socket.fileno() in readable:
            self._receive()
        return wake_fd in readable

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except (ssl.SSLWantReadError, TimeoutError):
            return
        except OSError as error:
            raise _Broken(error.strerror or str(error)) from error
        if not data:
            raise _Broken("the message centre has hung up")
        self._received += data
        self._heard_at, self._asked_at = time.monotonic(), None

    def _is_complete(self) -> bool:
        """There is a PDU already: one that came together with the answer to the bind."""
        return len(self._received) >= max(_HEADER, int.from_bytes(self._received[:4], "big"))

    def read(self) -> Iterator[Any]:
        """What has come in completely. Questions after a sign of life are answered here."""
        while len(self._received) >= _HEADER:
            size = int.from_bytes(self._received[:4], "big")
            if not _HEADER <= size <= _MOST_PDU:
                raise _Broken("what came is not SMPP")
            if len(self._received) < size:
                return
            raw, self._received = self._received[:size], self._received[size:]
            try:
                pdu = smpp.parse_pdu(raw, client=self._numbers, allow_unknown_opt_params=True)
            except _UNREADABLE as error:
                raise _Broken(f"a PDU could not be read: {type(error).__name__}") from error
            if pdu.command == "enquire_link":
                self.say("enquire_link_resp", pdu.sequence)
            else:
                yield pdu

    def quiet_until(self, after: float) -> float:
        """When something has to be done if nothing is heard until then."""
        return self._heard_at + after if self._asked_at is None else self._asked_at + _LINK_TIMEOUT

    def keep_alive(self, after: float) -> None:
        now = time.monotonic()
        if now < self.quiet_until(after):
            return
        if self._asked_at is not None:
            raise _Broken("no sign of life")
        self._asked_at = now
        self.say("enquire_link")


# -- what is sent -------------------------------------------------------------------------------------------------------------


def _parts(sms: Sms, reference: int) -> list[bytes]:
    """The octets of each short message; those of more than one begin with a header that tells which it is (3GPP 23.040)."""
    texts = gsm.parts(sms.text)
    coded = [text.encode("utf-16-be") if sms.unicode else gsm.encode(text) for text in texts]
    if len(coded) == 1:
        return coded
    return [bytes((5, 0, 3, reference, len(coded), number)) + part for number, part in enumerate(coded, 1)]


def _validity(seconds: int) -> str:
    """Relative, in SMPP's form; at most 30 days."""
    seconds = min(seconds, 30 * _DAY)
    days, rest = divmod(seconds, _DAY)
    return f"0000{days:02d}{rest // 3600:02d}{rest % 3600 // 60:02d}{rest % 60:02d}000R"


def _sender(sender: str) -> dict[str, Any]:
    number = sender.removeprefix("+")
    if number.isdigit():
        ton = _TON_INTERNATIONAL if sender.startswith("+") else 0
        return {"source_addr_ton": ton, "source_addr_npi": _NPI_ISDN if ton else 0, "source_addr": number}
    return {"source_addr_ton": _TON_ALPHANUMERIC if sender else 0, "source_addr_npi": 0, "source_addr": sender}


def _report(pdu: Any) -> Report | None:
    """Of a receipt what it says: in optional parameters, or in the usual words of its text. None: it is no receipt, but what
    somebody wrote to us."""
    named = _text(getattr(pdu, "receipted_message_id", None))
    if not named and (getattr(pdu, "esm_class", None) or 0) & _MESSAGE_TYPE != _IS_RECEIPT:
        return None
    match = _RECEIPT.search(getattr(pdu, "short_message", None) or b"")
    said = [_text(one) or "" for one in match.groups()] if match else ["", "", ""]
    message_id = named or said[0]
    state = said[1].upper() or _STATES.get(getattr(pdu, "message_state", None) or 0, "")
    return Report(message_id, state, said[2]) if message_id else None


def _text(value: Any) -> str | None:
    if not value:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return "".join(one for one in text if one.isprintable())[:64] or None


# -- the configuration --------------------------------------------------------------------------------------------------------


def _address(url: str, section: str) -> tuple[str, int, bool]:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("smpp", "smpps") or parts.path.strip("/"):
        raise CannotStart(f"[{section}] url has to be smpp://host:port, or smpps://host:port with TLS")
    return host, port or (3550 if parts.scheme == "smpps" else 2775), parts.scheme == "smpps"


def _tls_context(ca_file: str | None, section: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise CannotStart(f"[{section}] ca_file {ca_file} cannot be used: {error}") from error


def _configured(outcomes: Mapping[str, str], section: str) -> dict[int, str]:
    found = {}
    for code, word in outcomes.items():
        try:
            found[int(code, 0)] = word
        except ValueError:
            raise CannotStart(f"[{section}] outcomes: {code[:40]} is no number, such as 0x45") from None
        if word not in WORDS or word == "delivered":
            raise CannotStart(f"[{section}] outcomes: {code}:{word[:40]} has to end in one of {', '.join(WORDS[1:])}")
    return found
