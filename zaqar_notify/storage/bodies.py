"""Bodies of messages at rest, and the message that a row of the table stands for."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from zaqar_notify.encryption import CannotDecrypt, Keyring
from zaqar_notify.model import Exchange, Message, Priority
from zaqar_notify.storage import ids
from zaqar_notify.storage.codes import KINDS

LOG = logging.getLogger(__name__)


class Bodies:
    """Encrypts and decrypts. A body is bound to the id of its message: moved to another one, it does not open."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._sealed: set[tuple[str, str]] = set()
        """Projects and queues of which the log says that they have sealed messages."""

    def seal(self, number: int, body: bytes) -> bytes:
        return self._keyring.seal(body, _context(ids.show(number)))

    def seal_exchange(self, message: int, subscription: int, line: int, exchange: bytes) -> bytes:
        """What went over the wire for an encrypted message has parts of it."""
        return self._keyring.seal(exchange, _context_of_exchange(message, subscription, line))

    def exchange(self, message: int, subscription: int, line: int, stored: bytes) -> Exchange | None:
        """None when it cannot be opened."""
        text = stored
        if not stored.startswith(b"{"):
            try:
                text = self._keyring.open(stored, _context_of_exchange(message, subscription, line))
            except CannotDecrypt:
                return None
        return Exchange(**json.loads(text))

    def message(self, project: str, queue: str, row: Sequence[Any], now: float) -> Message:
        (
            number, body, ttl, created_at, expires_at, attributes, parent_id, client_id, version,
            kind, foreign_id, encrypted, free_at, claim_id, collapse_key, priority, language,
        ) = row  # fmt: skip
        shown = ids.show(number)
        # An encrypted one that retention has emptied is empty, not sealed.
        plain = self._open(project, queue, shown, body) if encrypted and body else body
        return Message(
            id=shown,
            project=project,
            queue=queue,
            body_json=b"" if plain is None else plain,
            ttl=ttl,
            created_at=created_at,
            expires_at=expires_at,
            attributes=json.loads(attributes) if attributes else {},
            parent_id=None if parent_id is None else ids.show(parent_id),
            client_id=client_id,
            version=version,
            kind=KINDS[kind],
            foreign_id=foreign_id,
            claim_id=None if claim_id is None or free_at <= now else ids.show(claim_id),
            sealed=plain is None,
            collapse_key=collapse_key,
            priority=None if priority is None else Priority(priority),
            language=language,
        )

    def _open(self, project: str, queue: str, message_id: str, token: bytes) -> bytes | None:
        """None when it cannot be opened: one lost key must not stop what needs other keys, or none."""
        try:
            return self._keyring.open(token, _context(message_id))
        except CannotDecrypt as error:
            if (project, queue) not in self._sealed:
                self._sealed.add((project, queue))
                LOG.warning(
                    "message %s of project %r, queue %s: %s It, and others like it there, are handed out without their body.",
                    message_id,
                    project,
                    queue,
                    error,
                )
            return None


def exchange_text(exchange: Exchange) -> bytes:
    fields = {"request": exchange.request, "response": exchange.response, "phases": exchange.phases}
    return json.dumps(fields, separators=(",", ":"), default=dict).encode()


def _context_of_exchange(message: int, subscription: int, line: int) -> bytes:
    return f"exchange:{ids.show(message)}:{ids.show(subscription)}:{line}".encode()


def _context(message_id: str) -> bytes:
    return b"message:" + message_id.encode()
