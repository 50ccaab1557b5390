"""The body of a request, read within its limit."""

from __future__ import annotations

from typing import Any

import falcon
from gunicorn.http.errors import ParseException

from zaqar_notify import validation
from zaqar_notify.errors import InvalidRequest


def read_body(req: falcon.Request, limit: int, what: str) -> bytes:
    """At most ``limit`` bytes; `InvalidRequest` for more, without reading them, and for a body that ends too early."""
    length = req.content_length
    if length is None and "wsgi.input_terminated" not in req.env:
        return b""
    if length is not None:
        validation.check_size(length, limit, what)
    wanted = limit + 1 if length is None else length
    try:
        raw: bytes = req.stream.read(wanted)
    except (OSError, ParseException):  # a lost connection; a broken chunk, for which gunicorn has its own tree of errors
        raise InvalidRequest("The request's body could not be read to its end.") from None
    if length is not None and len(raw) < length:
        raise InvalidRequest(f"The request's body ended after {len(raw)} of {length} bytes.")
    return raw


def read_json(req: falcon.Request, limit: int, what: str) -> Any:
    return validation.parse_json(read_body(req, limit, what), limit, what)
