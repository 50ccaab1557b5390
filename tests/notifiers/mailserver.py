"""A real SMTP server (aiosmtpd) on 127.0.0.1 that answers as a test wants."""

from __future__ import annotations

import asyncio
import dataclasses
import email.message
import email.parser
import email.policy
import logging
import socket
import ssl
import threading
import warnings
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

logging.getLogger("mail.log").setLevel(logging.CRITICAL + 1)  # what tests do to connections is no news

USER, PASSWORD = "notify", "s3cret-of-the-relay"


@dataclasses.dataclass
class Mail:
    sender: str
    recipients: list[str]
    mail_options: list[str]
    rcpt_options: list[str]
    raw: bytes
    peer: tuple[str, int]
    secured: bool
    user: str | None

    @property
    def parsed(self) -> email.message.EmailMessage:
        parsed = email.parser.BytesParser(policy=email.policy.default).parsebytes(self.raw)
        assert isinstance(parsed, email.message.EmailMessage)
        return parsed

    @property
    def text(self) -> str:
        return text_of(self.parsed)


def text_of(parsed: email.message.EmailMessage) -> str:
    """With the line ends of Unix."""
    return str(parsed.get_content()).replace("\r\n", "\n")


class _Protocol(SMTP):
    """aiosmtpd knows of no DSN (RFC 3461): it is offered here, and its parameters are kept."""

    async def smtp_EHLO(self, hostname: str) -> None:
        self.event_handler.ehlos.append(hostname)
        await super().smtp_EHLO(hostname)

    async def smtp_MAIL(self, arg: str) -> None:
        kept = [word for word in arg.split() if word.startswith(("RET=", "ENVID="))]
        self.event_handler.mail_parameters = kept
        await super().smtp_MAIL(" ".join(word for word in arg.split() if word not in kept))

    async def smtp_RCPT(self, arg: str) -> None:
        kept = [word for word in arg.split() if word.startswith(("NOTIFY=", "ORCPT="))]
        self.event_handler.rcpt_parameters = kept
        await super().smtp_RCPT(" ".join(word for word in arg.split() if word not in kept))


class MailServer:
    """``answers``: what to say to RCPT, by the recipient's local part. ``taken`` is the answer to a mail, ``to_sender`` that to
    MAIL. Recipients ``drop-rcpt`` and ``drop-data`` have the connection cut at that command, ``hang`` gets no answer."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        auth: bool = False,
        dsn: bool = True,
        smtputf8: bool = True,
        size: int = 33554432,
        mails_per_connection: int = 1000,
        answers: dict[str, str] | None = None,
        taken: str = "250 2.0.0 Ok: queued as 4XyZ01",
        to_sender: str | None = None,
    ) -> None:
        self.answers = answers or {}
        self.taken = taken
        self.to_sender = to_sender
        self.mails: list[Mail] = []
        self.ehlos: list[str] = []
        self.logins: list[tuple[str, str]] = []
        self.connections = 0
        self.mail_parameters: list[str] = []
        self.rcpt_parameters: list[str] = []
        self._dsn = dsn
        self._limit = mails_per_connection
        self._carried: dict[Any, int] = {}
        self._options: dict[str, Any] = {
            "hostname": "mail.test",
            "enable_SMTPUTF8": smtputf8,
            "data_size_limit": size,
            "tls_context": None if implicit_tls else tls,
            "authenticator": self._authenticate if auth else None,
            "auth_required": auth,
            "auth_require_tls": False,
        }
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(self._connected, sock=self._listener, ssl=tls if implicit_tls else None)
        )
        self._open: set[_Protocol] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop_all(self) -> None:
        """Cut every connection, as a server does that has had enough of waiting."""

        async def drop() -> None:
            for protocol in list(self._open):
                if protocol.transport is not None:
                    protocol.transport.abort()
            await asyncio.sleep(0.02)

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(20)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for protocol in list(self._open):
            if protocol.transport is not None:
                protocol.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connected(self) -> _Protocol:
        self.connections += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that passwords in plain text are a bad idea
            protocol = _Protocol(self, loop=self._loop, **self._options)
        self._open.add(protocol)
        return protocol

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        if (data.login, data.password) == (USER.encode(), PASSWORD.encode()):
            session.user = USER
            return AuthResult(success=True)
        return AuthResult(success=False, handled=False)

    # -- what aiosmtpd asks ---------------------------------------------------------------------------------------------------

    async def handle_EHLO(self, server: Any, session: Session, envelope: Envelope, hostname: str, responses: list[str]) -> Any:
        session.host_name = hostname
        return [*responses[:-1], "250-DSN", responses[-1]] if self._dsn else responses

    async def handle_MAIL(self, server: Any, session: Any, envelope: Envelope, address: str, options: list[str]) -> str:
        if self._carried.get(session.peer, 0) >= self._limit:
            return "451 4.7.1 enough for this session"
        if self.to_sender is not None:
            return self.to_sender
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: list[str]) -> str:
        local = address.partition("@")[0]
        if local == "drop-rcpt":
            server.transport.abort()
        if local == "hang":
            await asyncio.sleep(3600)
        if local in self.answers:
            return self.answers[local].replace("{address}", address)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        if envelope.rcpt_tos[0].startswith("drop-data"):
            server.transport.abort()
        if envelope.rcpt_tos[0].startswith("drip"):
            await self._drip(server)
        assert isinstance(envelope.content, bytes)
        self._carried[session.peer] = self._carried.get(session.peer, 0) + 1
        self.mails.append(
            Mail(
                envelope.mail_from or "",
                list(envelope.rcpt_tos),
                [*self.mail_parameters, *envelope.mail_options],
                list(self.rcpt_parameters),
                envelope.content,
                session.peer,
                session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None,
                getattr(session, "user", None),
            )
        )
        return self.taken

    @staticmethod
    async def _drip(server: Any) -> None:
        """An answer of one byte now and then, so that no single read takes too long."""
        for _ in range(1000):
            server.transport.write(b"2")
            await asyncio.sleep(0.03)
