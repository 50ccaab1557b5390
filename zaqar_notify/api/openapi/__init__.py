"""The OpenAPI document of this API, and the route that serves it."""

from __future__ import annotations

import functools
import json

import falcon

from zaqar_notify.api.middleware import Access
from zaqar_notify.validation import Limits


class OpenApi:
    """The document with the limits of this installation."""

    access = Access.PUBLIC

    def __init__(self, limits: Limits, strategy: str | None = None) -> None:
        """``strategy``: that of ``[auth]``; None describes all of them."""
        self._limits = limits
        self._strategy = strategy

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self._document
        resp.cache_control = ["public", "max-age=3600"]

    @functools.cached_property
    def _document(self) -> bytes:
        # Made when it is first asked for: most processes never are.
        from zaqar_notify.api.openapi.document import document

        return json.dumps(document(self._limits, self._strategy)).encode()
