"""The storage on MongoDB, by pymongo: a replica set, of one member at least.

What a method does stands in `catalogue`, `publishing`, `reading`, `consuming`, `holding`, `subscriptions`, `taking`, `ledger`,
`arrivals`, `resuming`, `depth`, `pruning`, `jobs` and `keys`; here are its transactions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from zaqar_notify.encryption import Keyring
from zaqar_notify.model import (
    ApiKey,
    Claim,
    DeliveryRecord,
    Draft,
    Job,
    LaneKey,
    Member,
    Message,
    Queue,
    Stats,
    Subscription,
)
from zaqar_notify.storage.base import (
    Breaker,
    Closing,
    Confirmation,
    Depths,
    Loaded,
    Settlement,
    Storage,
    Subscribed,
    Taken,
)
from zaqar_notify.storage.bodies import Bodies
from zaqar_notify.storage.clock import ServerClock
from zaqar_notify.storage.mongodb.session import Database
from zaqar_notify.storage.retention import Retention

T = TypeVar("T")


class MongoStorage(Storage):
    def __init__(
        self,
        url: str,
        *,
        keyring: Keyring,
        retention: float,
        body_retention: float | None = None,
        retention_delivered: float | None = None,
        busy_timeout: float = 5.0,
        group_commit: int = 256,
        member_timeout: float = 30.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``retention``, ``body_retention``, ``retention_delivered`` (of the log of what was delivered), ``busy_timeout`` (how
        long a method waits for a primary) and ``member_timeout`` (how long a worker that says nothing counts as alive) are
        seconds. Without ``clock`` it is that of the primary. Raises `CannotStart` for a bad URL."""
        self._database = Database(url, busy_timeout, group_commit)
        self._bodies = Bodies(keyring)
        self._retention = Retention(retention, body_retention, retention_delivered)
        self._member_timeout = member_timeout
        self._clock = clock or ServerClock(self._database.time)
        self._takes = itertools.count(1)

    # -- life ---------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._database.close()

    def now(self) -> float:
        return self._clock()

    # -- did it arrive? -----------------------------------------------------------------------------------------------------

    def message_deliveries(
        self, project: str, queue: str, message_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        raise NotImplementedError

    def subscription_deliveries(
        self, project: str, queue: str, subscription_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        raise NotImplementedError

    # -- again, or not at all -----------------------------------------------------------------------------------------------

    def redeliver(self, project: str, queue: str, message_id: str, subscription_id: str, ttl: float) -> None:
        raise NotImplementedError

    def cancel(self, project: str, queue: str, message_id: str, subscription_id: str) -> None:
        raise NotImplementedError

    def ping(self, project: str, queue: str, subscription_id: str, draft: Draft) -> str | None:
        raise NotImplementedError

    # -- keys of the API ----------------------------------------------------------------------------------------------------

    # -- the worker ---------------------------------------------------------------------------------------------------------

    def join(self, host: str = "", pid: int = 0, version: str = "") -> int:
        raise NotImplementedError

    def beat(self, worker_id: int) -> bool:
        raise NotImplementedError

    def members(self) -> list[Member]:
        raise NotImplementedError

    def leave(self, worker_id: int) -> None:
        raise NotImplementedError

    def recover(self) -> int:
        raise NotImplementedError

    def take(
        self,
        worker_id: int,
        lease: float,
        *,
        entries: int,
        rows: int,
        lanes: int = 0,
        parked: Mapping[LaneKey, int] | None = None,
        without: Collection[str] = (),
        ranges: Collection[str] = (),
    ) -> Taken:
        raise NotImplementedError

    def load(self, message_ids: Collection[str], subscription_ids: Collection[str]) -> Loaded:
        raise NotImplementedError

    def known(self, message_id: str, after: str | None, last: str | None = None) -> set[str]:
        raise NotImplementedError

    def settle(
        self, settlements: Sequence[Settlement], closings: Sequence[Closing] = (), breakers: Sequence[Breaker] = ()
    ) -> int:
        raise NotImplementedError

    def breakers(self) -> list[Breaker]:
        raise NotImplementedError

    def depths(self) -> Depths:
        raise NotImplementedError

    def give_back(
        self,
        token: int,
        message_ids: Collection[str],
        rows: Collection[tuple[str, str]] = (),
        ranges: Collection[str] = (),
    ) -> None:
        raise NotImplementedError

    def prune(self, limit: int) -> int:
        raise NotImplementedError

    # -- long work ----------------------------------------------------------------------------------------------------------

    def add_job(self, project: str, kind: str, details: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def list_jobs(self, marker: str | None, limit: int, *, failed: bool | None = None) -> list[Job]:
        raise NotImplementedError

    def get_job(self, job_id: str) -> Job | None:
        raise NotImplementedError

    def hold_job(self, worker_id: int, lease: float, job_id: str | None = None) -> Job | None:
        raise NotImplementedError

    def let_job_go(self, worker_id: int, job_id: str) -> None:
        raise NotImplementedError

    def finish_job(self, worker_id: int, job_id: str) -> bool:
        raise NotImplementedError

    def fail_job(self, worker_id: int, job_id: str, error: str) -> bool:
        raise NotImplementedError

    def retry_job(self, job_id: str) -> bool:
        raise NotImplementedError

    def cut(self, worker_id: int, job_id: str, size: int) -> bool:
        raise NotImplementedError

    # -- moving house -------------------------------------------------------------------------------------------------------

    def copy_counts(self) -> Mapping[str, int]:
        raise NotImplementedError

    def copy_from(self, kind: str, after: Any, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
        raise NotImplementedError

    def copy_into(self, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
        raise NotImplementedError
