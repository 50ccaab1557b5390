"""How those who got a notification, and those who carried it, answer: by signed tokens.

A token names one delivery and what may be done with it, and nothing else: whoever has it needs no other right. It does not
end by itself; what it is about does. In URLs it stands behind the public URL of the API. In a mail it has a shorter form: it is
the envelope's id (RFC 3461, 4.4: at most 100 characters), and a part of the address that bounces go to. What is before
the @ there may have 64 octets (RFC 5321, 4.5.3.1.1), and may have been written in capitals when it comes back.
"""

from __future__ import annotations

import base64
import enum
import hmac
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zaqar_notify.errors import Forbidden

CONFIRM, UNSUBSCRIBE, RECEIPT, ACKNOWLEDGE = "confirm", "unsubscribe", "receipt", "acknowledge"
ENVELOPE, UNSUBSCRIBE_BY_MAIL = "envelope", "unsubscribe_by_mail"
"""Names in ``delivery.links``. The latter two are no links but tokens for mails, and are there without a public URL, too."""

SHORT = 45
"""Characters of a token in its form for mails."""

_PURPOSE = b"zaqar-notify feedback\0"
"""What is signed with the same key elsewhere is never taken for a token."""
_MAC = 32
_SHORT_MAC = 10
"""Bytes. Whoever guesses has to send us a mail for each guess."""
_DELIVERY = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})")
_SHORT_TOKEN = re.compile(r"([a-z])([a-z2-7]{44})")
_TOKEN = re.compile(r"([a-z])([0-9a-f]{1,16})-([0-9a-f]{1,16})-([0-9]{1,3})-([0-9a-f]{32})")


class Use(enum.Enum):
    """What a token is good for."""

    CONFIRM = "c"
    UNSUBSCRIBE = "u"
    RECEIPT = "r"
    ACKNOWLEDGE = "a"
    ENVELOPE = "e"


PATHS: Mapping[str, tuple[Use, str]] = {
    CONFIRM: (Use.CONFIRM, "/v2/confirmations/"),
    UNSUBSCRIBE: (Use.UNSUBSCRIBE, "/v2/unsubscriptions/"),
    RECEIPT: (Use.RECEIPT, "/v2/receipts/"),
    ACKNOWLEDGE: (Use.ACKNOWLEDGE, "/v2/acknowledgements/"),
}
"""By the name of the link: the token's use, and what stands before the token in the path."""

IN_MAILS: Mapping[str, Use] = {ENVELOPE: Use.ENVELOPE, UNSUBSCRIBE_BY_MAIL: Use.UNSUBSCRIBE}


class Subject(NamedTuple):
    """The delivery that a token is about."""

    message_id: str
    subscription_id: str
    target: int
    """See `zaqar_notify.model.Delivery`."""


class Tokens:
    """Makes tokens, and reads them."""

    def __init__(self, key: str) -> None:
        self._key = hmac.new(key.encode(), _PURPOSE, "sha256").digest()

    def make(self, use: Use, delivery_id: str, target: int = 0) -> str:
        signed = f"{use.value}{delivery_id}-{target}"
        return f"{signed}-{self._mac(signed)}"

    def read(self, use: Use, token: str) -> Subject:
        """Raises `Forbidden` for what was not made here for this use."""
        match = _TOKEN.fullmatch(token)
        if match is None or match[1] != use.value or not hmac.compare_digest(self._mac(token[: -_MAC - 1]), match[5]):
            raise Forbidden("This link is not valid: it was changed, or cut off, or its key was replaced.")
        return Subject(match[2], match[3], int(match[4]))

    def make_short(self, use: Use, delivery_id: str, target: int = 0) -> str:
        """Of letters and digits, in lower case."""
        match = _DELIVERY.fullmatch(delivery_id)
        if match is None:
            raise ValueError("no id of a delivery")
        return self._short(use, bytes.fromhex(match[1] + match[2]) + bytes([target]))

    def read_short(self, use: Use, token: str) -> Subject:
        """In letters of either case. Raises `Forbidden` like `read`."""
        match = _SHORT_TOKEN.fullmatch(token.lower()) if token.isascii() else None
        packed = base64.b32decode(f"{match[2].upper()}====")[:-_SHORT_MAC] if match else b""
        if match is None or match[1] != use.value or not hmac.compare_digest(self._short(use, packed), match[0]):
            raise Forbidden("This token is not valid: it was changed, or cut off, or its key was replaced.")
        return Subject(packed[:8].hex(), packed[8:16].hex(), packed[16])

    def _mac(self, signed: str) -> str:
        return hmac.new(self._key, signed.encode(), "sha256").hexdigest()[:_MAC]

    def _short(self, use: Use, packed: bytes) -> str:
        mac = hmac.new(self._key, b"short\0" + use.value.encode() + packed, "sha256").digest()[:_SHORT_MAC]
        return use.value + base64.b32encode(packed + mac).decode().rstrip("=").lower()


class Links(Mapping[str, str]):
    """The links of one delivery. Each is signed when it is asked for: most notifications carry none."""

    __slots__ = ("_delivery_id", "_public_url", "_target", "_tokens")

    def __init__(self, tokens: Tokens, public_url: str, delivery_id: str, target: int = 0) -> None:
        """``public_url`` without a slash at its end; empty: there is nothing but the tokens for mails."""
        self._tokens = tokens
        self._public_url = public_url
        self._delivery_id = delivery_id
        self._target = target

    def __getitem__(self, name: str) -> str:
        if name in IN_MAILS:
            return self._tokens.make_short(IN_MAILS[name], self._delivery_id, self._target)
        if not self._public_url:
            raise KeyError(name)
        use, path = PATHS[name]
        return f"{self._public_url}{path}{self._tokens.make(use, self._delivery_id, self._target)}"

    def __contains__(self, name: object) -> bool:
        """Without signing anything."""
        return name in IN_MAILS or (bool(self._public_url) and name in PATHS)

    def __iter__(self) -> Iterator[str]:
        yield from PATHS if self._public_url else ()
        yield from IN_MAILS

    def __len__(self) -> int:
        return len(IN_MAILS) + (len(PATHS) if self._public_url else 0)
