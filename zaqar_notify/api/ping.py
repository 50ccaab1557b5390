"""Is the service there?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import falcon

from zaqar_notify.api.middleware import Access
from zaqar_notify.api.service import Service
from zaqar_notify.errors import CannotStart, StorageUnavailable


class Ping:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "ping:get"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            self._storage.check()
        except CannotStart as error:
            raise StorageUnavailable(str(error)) from error
        resp.status = falcon.HTTP_204

    def on_head(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = falcon.HTTP_204
