"""Redis: one hash holds the jobs; a claim is a key that expires."""

from __future__ import annotations

from typing import Any, ClassVar

from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from taskflow.jobs.backends import impl_redis

from zaqar_notify.boards import Address, Board, Settings, show_host
from zaqar_notify.errors import CannotStart


class RedisBoard(impl_redis.RedisJobBoard):  # type: ignore[misc]
    errors: ClassVar[tuple[type[Exception], ...]] = (exceptions.RedisError, OSError)

    def __init__(self, name: str, conf: dict[str, Any], expiry: float) -> None:
        super().__init__(name, conf)
        self._expiry = expiry

    @classmethod
    def _make_client(cls, conf: dict[str, Any]) -> Any:
        client = super()._make_client(conf)
        # Who asks tries again later; the client's own tries would take longer than a lease can wait.
        client.set_retry(Retry(NoBackoff(), 1))
        return client

    def listing(self) -> list[Any]:
        return list(self._fetch_jobs())

    def claim(self, job: Any, who: str, expiry: float | None = None) -> None:
        """TaskFlow's own claim lasts for ever."""
        super().claim(job, who, expiry=expiry or self._expiry)

    def renew(self, job: Any, who: str) -> bool:
        return self.find_owner(job) == who and bool(job.extend_expiry(self._expiry))

    def find_owner(self, job: Any) -> str | None:
        owner = self._client.get(job.owner_key)
        return None if owner is None else str(self._decode_owner(owner))


def make(address: Address, settings: Settings, turn: int) -> Board:
    """With ``?sentinel=NAME`` the hosts are sentinels, else the ``turn``-th is asked."""
    options: dict[str, Any] = dict(address.options)
    host, port = address.hosts[turn % len(address.hosts)]
    if "sentinel" in options:
        options["sentinel_fallbacks"] = [show_host(*place) for place in address.hosts]
    if address.username:
        options["username"] = address.username
    if address.password:
        options["password"] = address.password
    if not (address.path or "0").isdigit():
        raise CannotStart("Bad [cluster] connection: the path of a Redis URL is the number of a database")
    options |= {
        "host": host,
        "port": port,
        "db": int(address.path or 0),
        "ssl": address.tls,
        "namespace": settings.name,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
    }
    return RedisBoard(settings.name, options, settings.expiry)
