"""How the service fares, for its operator."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify.api.middleware import Access, request_id
from zaqar_notify.api.service import Service
from zaqar_notify.errors import NotifyError
from zaqar_notify.model import Stats

LOG = logging.getLogger(__name__)


class Health:
    """Tries what it tells about without posting anything: Zaqar posts to a queue of a project of its own."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "health:get"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        reference = request_id(req)
        volumes: list[Stats] = []
        tried = {
            "check_storage": _try(self._storage.check, reference),
            "count_messages": _try(lambda: volumes.append(self._storage.volume()), reference),
        }
        reachable = tried["check_storage"]["succeeded"]
        resp.media = {
            "storage_reachable": reachable,
            # Queues and messages are in one database.
            "catalog_reachable": reachable,
            "operation_status": tried,
            "message_volume": _show(volumes[0]) if volumes else None,
        }


def _try(operation: Callable[[], None], reference: str) -> dict[str, Any]:
    """``ref``, where it failed, is the request's id, under which the log has the reason."""
    start = time.monotonic()
    try:
        operation()
    except NotifyError as error:
        LOG.warning("request %s: %s", reference, error)
        return {"succeeded": False, "seconds": time.monotonic() - start, "ref": reference}
    return {"succeeded": True, "seconds": time.monotonic() - start, "ref": None}


def _show(volume: Stats) -> dict[str, int]:
    return {"free": volume.free, "claimed": volume.claimed, "total": volume.total}
