"""The OpenAPI document of this API, and the route that serves it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import falcon

from zaqar_notify.api.identity import Anyone, ApiKeys, Identity, KeystoneTokens
from zaqar_notify.api.middleware import Access
from zaqar_notify.validation import Limits

_STRATEGIES: Mapping[type, str] = {Anyone: "none", ApiKeys: "apikey", KeystoneTokens: "keystone"}


class OpenApi:
    """The document with the limits of this installation, and its way to authenticate."""

    access = Access.PUBLIC

    def __init__(self, limits: Limits, identity: Identity) -> None:
        self._limits = limits
        self._strategy = _STRATEGIES.get(type(identity))

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self._document
        resp.content_type = falcon.MEDIA_JSON

    @functools.cached_property
    def _document(self) -> bytes:
        # Made when it is first asked for: most processes never are.
        from zaqar_notify.api.openapi.document import document

        return json.dumps(document(self._limits, self._strategy)).encode()
