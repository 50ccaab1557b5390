"""Is the service there?"""

from __future__ import annotations

import falcon

from zaqar_notify.api.middleware import Access
from zaqar_notify.errors import CannotStart, StorageUnavailable
from zaqar_notify.storage.base import Storage


class Ping:
    access = Access.ZAQAR

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            self._storage.check()
        except CannotStart as error:
            raise StorageUnavailable(str(error)) from error
        resp.status = falcon.HTTP_204

    def on_head(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = falcon.HTTP_204
