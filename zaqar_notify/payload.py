"""What a subscriber receives: Zaqar's body format, ``options.post_data`` and ``options.post_headers``.

Bodies are made by joining bytes: a message's body is JSON text already and is never parsed here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Message, MessageKind

_DOCUMENTS = frozenset({MessageKind.CONFIRMATION, MessageKind.CALLBACK})
PLACEHOLDER = '"$zaqar_message$"'
_PLACEHOLDER = PLACEHOLDER.encode()

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")
_MAX_HEADERS = 50
_MAX_HEADERS_SIZE = 8192
# Host and what frames or steers the connection is the transport's business; the prefixes are what we state ourselves.
_RESERVED_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"}
)
_RESERVED_PREFIXES = ("webhook-", "zaqar-notify-", "proxy-")


def zaqar(message: Message) -> bytes:
    """``{"body", "ttl", "Message_Type", "queue_name"}`` as Zaqar sends it; ``ttl`` is the message's own. A request to confirm
    is the document that is to be sent, and so is what tells an owner of trouble."""
    if message.kind in _DOCUMENTS:
        return message.body_json
    return b'{"body": %b, "ttl": %d, "Message_Type": "Notification", "queue_name": %b}' % (
        message.body_json,
        message.ttl,
        _json(message.queue),
    )


def fill(post_data: str, document: bytes) -> bytes:
    """``post_data`` with the message's document in place of the placeholder (quotes included)."""
    return post_data.encode().replace(_PLACEHOLDER, document)


@functools.lru_cache(maxsize=1024)
def _json(text: str) -> bytes:
    return json.dumps(text).encode()


def check_post_data(post_data: Any) -> None:
    if not isinstance(post_data, str):
        raise InvalidRequest(f"options.post_data has to be a string, in which {PLACEHOLDER} stands for the message.")
    try:
        post_data.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("options.post_data is not valid Unicode text.") from None


def check_post_headers(headers: Any) -> None:
    if not isinstance(headers, Mapping):
        raise InvalidRequest("options.post_headers has to be an object of strings.")
    if (
        len(headers) > _MAX_HEADERS
        or sum(len(str(name)) + len(str(value)) for name, value in headers.items()) > _MAX_HEADERS_SIZE
    ):
        raise InvalidRequest(
            f"options.post_headers may hold at most {_MAX_HEADERS} headers of {_MAX_HEADERS_SIZE} characters in all."
        )
    for name, value in headers.items():
        _check_header(name, value)
    if len({name.lower() for name in headers}) < len(headers):
        raise InvalidRequest("options.post_headers names a header twice (upper and lower case are the same).")


def _check_header(name: Any, value: Any) -> None:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise InvalidRequest(f"options.post_headers: {str(name)[:100]!r} is not the name of a header.")
    if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
        raise InvalidRequest(f"options.post_headers: the header {name[:100]} is set by the service and may not be replaced.")
    if not isinstance(value, str):
        raise InvalidRequest(f"options.post_headers: the value of {name[:100]} has to be a string.")
    if not _HEADER_VALUE.fullmatch(value):
        raise InvalidRequest(f"options.post_headers: the value of {name[:100]} may hold only printable ASCII, on one line.")
