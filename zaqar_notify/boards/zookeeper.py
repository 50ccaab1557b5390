"""ZooKeeper: a node for each job; a claim is a node that lasts as long as its session, which the client keeps up by itself."""

from __future__ import annotations

from typing import Any, ClassVar

from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError
from taskflow import exceptions
from taskflow.jobs.backends import impl_zookeeper

from zaqar_notify.boards import Address, Board, Settings, show_host
from zaqar_notify.errors import CannotStart


class ZooKeeperBoard(impl_zookeeper.ZookeeperJobBoard):  # type: ignore[misc]
    errors: ClassVar[tuple[type[Exception], ...]] = (KazooException, KazooTimeoutError, OSError)

    def __init__(self, name: str, conf: dict[str, Any], timeout: float) -> None:
        super().__init__(name, conf, emit_notifications=False)
        self._timeout = timeout

    def connect(self, timeout: float | None = None) -> None:
        super().connect(timeout=timeout or self._timeout)

    def listing(self) -> list[Any]:
        """TaskFlow's own is empty while there is no connection."""
        self._require_connection()
        return list(self._fetch_jobs(ensure_fresh=True))

    # Each of these would wait for a connection, for as long as there is none.

    def post(self, *arguments: Any, **keywords: Any) -> Any:
        self._require_connection()
        return super().post(*arguments, **keywords)

    def claim(self, job: Any, who: str) -> None:
        self._require_connection()
        super().claim(job, who)

    def renew(self, job: Any, who: str) -> bool:
        return self.find_owner(job) == who

    def find_owner(self, job: Any) -> str | None:
        self._require_connection()
        owner = super().find_owner(job)
        return None if owner is None else str(owner)

    def consume(self, job: Any, who: str) -> None:
        self._require_connection()
        super().consume(job, who)

    def abandon(self, job: Any, who: str) -> None:
        self._require_connection()
        super().abandon(job, who)

    def _require_connection(self) -> None:
        if not self.connected:
            raise exceptions.JobFailure("There is no connection to ZooKeeper")


def make(address: Address, settings: Settings, turn: int) -> Board:
    if address.username:
        raise CannotStart("Bad [cluster] connection: the board on ZooKeeper knows no user names")
    options: dict[str, Any] = {
        **address.options,
        "hosts": ",".join(show_host(*place) for place in address.hosts),
        "path": "/" + "/".join(filter(None, (address.path, settings.name, "jobs"))),
        # The server bounds it: 2 to 20 of its ticks, 4 s to 40 s as it comes.
        "timeout": settings.expiry,
        # It would ask with a word that ZooKeeper does not answer any more as it comes.
        "check_compatible": False,
    }
    return ZooKeeperBoard(settings.name, options, settings.timeout)
