"""Transactions whose process was paused, killed or cut off in their midst.

They hold what they have written until the server ends them, which takes it a minute and more
(``transactionLifetimeLimitSeconds``, also after the connection has gone): for so long nobody else could settle, nor post to the
same queue. Between two commands of a transaction a process does next to nothing, so that one that says nothing for some seconds
can be ended by whoever finds it in the way. Should its process wake up, it begins anew, and finds what is settled by then.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

LOG = logging.getLogger(__name__)

_ASKING = 2.0
"""Seconds that looking may take, and ending each of them."""


def end_abandoned(client: pymongo.MongoClient[Any], idle: float) -> int:
    """End the transactions of clients with this one's name, and of its user, that have said nothing for ``idle`` seconds.

    Returns how many. Where the server does not answer, or does not let us, nothing is done.
    """
    with contextlib.suppress(PyMongoError), pymongo.timeout(_ASKING):
        found = client.admin.aggregate(
            [
                {"$currentOp": {"allUsers": False, "idleSessions": True}},
                {
                    "$match": {
                        "type": "idleSession",
                        "appName": client.options.pool_options.appname,
                        "transaction.timeInactiveMicros": {"$gte": round(idle * 1_000_000)},
                    }
                },
            ]
        )
        return sum(_end(client, operation) for operation in found.to_list())
    return 0


def _end(client: pymongo.MongoClient[Any], operation: dict[str, Any]) -> bool:
    try:
        with pymongo.timeout(_ASKING):
            client.admin.command("killSessions", [{"id": operation["lsid"]["id"]}])
    except PyMongoError as error:
        LOG.warning("a transaction that was left open by %s cannot be ended: %s", operation.get("client"), error)
        return False
    LOG.warning("a transaction that was left open by %s is ended", operation.get("client"))
    return True


class Looking:
    """Calls ``look`` all the time, ``pause`` seconds apart, from a thread of its own."""

    def __init__(self, look: Callable[[], object], pause: float) -> None:
        self._look = look
        self._pause = pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="abandoned", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            self._look()
