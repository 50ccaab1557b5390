"""The body of a request, read within its limit."""

from __future__ import annotations

import urllib.parse
from typing import Any

import falcon
from gunicorn.http.errors import ParseException

from zaqar_notify import validation
from zaqar_notify.errors import InvalidRequest

MOST_FIELDS = 100


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


def read_fields(req: falcon.Request, limit: int, what: str) -> dict[str, str]:
    """The fields of the query and, but for GET, of the form or JSON object that comes as the body: the latter win.

    Of a field that is there twice it is the last. In JSON, null is no field, and what is no string is its JSON text.
    """
    raw = b"" if req.method == "GET" else read_body(req, limit, what)
    fields = _form(req.query_string, what) | (_body_fields(req, raw, limit, what) if raw else {})
    if len(fields) > MOST_FIELDS:
        raise _too_many(what)
    return fields


def _body_fields(req: falcon.Request, raw: bytes, limit: int, what: str) -> dict[str, str]:
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type == falcon.MEDIA_URLENCODED:
        return _form(raw.decode(errors="replace"), what)
    if media_type == falcon.MEDIA_JSON or media_type.endswith("+json"):
        document = validation.json_object(validation.parse_json(raw, limit, what), what)
        return {
            name: value if isinstance(value, str) else validation.compact_json(value).decode()
            for name, value in document.items()
            if value is not None
        }
    raise InvalidRequest(f"{what} has to be a form (application/x-www-form-urlencoded) or a JSON object (application/json).")


def _form(text: str, what: str) -> dict[str, str]:
    try:
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise _too_many(what) from None


def _too_many(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} may have at most {MOST_FIELDS} fields.")
