"""The storage on MongoDB, by pymongo: a replica set, of one member at least.

What a method does stands in `catalogue`, `publishing`, `reading`, `consuming`, `holding`, `subscriptions`, `taking`, `ledger`,
`arrivals`, `receipts`, `resuming`, `depth`, `pruning`, `jobs` and `keys`; here are its transactions.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from zaqar_notify.encryption import Keyring
from zaqar_notify.errors import NotFound
from zaqar_notify.model import (
    ApiKey,
    Claim,
    DeliveryRecord,
    Draft,
    Job,
    LaneKey,
    Member,
    Message,
    MessageKind,
    Queue,
    Receipt,
    Stats,
    Subscription,
)
from zaqar_notify.storage import ids
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
from zaqar_notify.storage.mongodb import (
    arrivals,
    catalogue,
    collections,
    consuming,
    copying,
    depth,
    holding,
    jobs,
    keys,
    ledger,
    loading,
    members,
    pruning,
    publishing,
    reading,
    receipts,
    resuming,
    schema,
    taking,
)
from zaqar_notify.storage.mongodb.abandoned import Looking
from zaqar_notify.storage.mongodb.publishing import Means, Post
from zaqar_notify.storage.mongodb.reading import Place
from zaqar_notify.storage.mongodb.scope import Scope
from zaqar_notify.storage.mongodb.session import Database
from zaqar_notify.storage.mongodb.subscriptions import Subscriptions
from zaqar_notify.storage.mongodb.watching import Announcer, Watcher
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
        turns: str | None = None,
    ) -> None:
        """``retention``, ``body_retention``, ``retention_delivered`` (of the log of what was delivered), ``busy_timeout`` (how
        long a method waits for a primary) and ``member_timeout`` (how long a worker that says nothing counts as alive) are
        seconds. Without ``clock`` it is that of the primary. ``turns`` is a file by which the processes of this machine take
        turns with what they commit together. Raises `CannotStart` for a bad URL."""
        self._database = Database(url, busy_timeout, group_commit, turns)
        self._bodies = Bodies(keyring)
        self._retention = Retention(retention, body_retention, retention_delivered)
        self._means = Means(self._bodies, self._retention)
        self._subscriptions = Subscriptions(keyring, self._means)
        self._member_timeout = member_timeout
        self._clock = clock or ServerClock(self._database.time)
        self._takes = itertools.count(1)
        self._turns: taking.Turns = {}
        self._announcer = Announcer(self._database)
        self._watchers: list[Watcher | Looking] = []

    # -- life ---------------------------------------------------------------------------------------------------------------

    def upgrade(self) -> bool:
        schema.require_replica_set(self._database.hello())
        before = self._database.alone(schema.revision)
        # Building an index takes as long as it takes.
        with self._database.connect(socketTimeoutMS=0) as client:
            schema.upgrade(self._database.of(client))
        return before != collections.REVISION

    def check(self) -> None:
        schema.require_replica_set(self._database.hello())
        self._database.alone(schema.check)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.end()
        self._announcer.close()
        self._database.close()

    def now(self) -> float:
        return self._clock()

    def announce(self) -> None:
        self._announcer.announce()

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        watcher = Watcher(self._database, wake)
        # Who writes outside of a transaction does not hear that another one is in the way: the server makes it wait.
        looking = Looking(self._database.end_abandoned, self._database.longest_idle / 2)
        self._watchers += watcher, looking

        def end() -> None:
            looking.end()
            watcher.end()

        return end

    # -- queues -------------------------------------------------------------------------------------------------------------

    def put_queue(self, project: str, name: str, metadata: Mapping[str, Any]) -> bool:
        text = json.dumps(dict(metadata))
        return self._database.write(lambda scope: catalogue.put(scope, project, name, text, self._clock()))

    def get_queue(self, project: str, name: str) -> Queue | None:
        return self._database.read(lambda scope: catalogue.get(scope, project, name))

    def update_queue(
        self, project: str, name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        return self._database.write(lambda scope: catalogue.change(scope, project, name, change))

    def list_queues(
        self, project: str, marker: str | None, limit: int, *, name: str = "", metadata: Mapping[str, str] | None = None
    ) -> list[Queue]:
        wanted = metadata or {}
        return self._database.read(lambda scope: catalogue.page(scope, project, marker, limit, name=name, metadata=wanted))

    def count_queues(self, project: str, *, name: str = "", metadata: Mapping[str, str] | None = None) -> int:
        return self._database.read(lambda scope: catalogue.count(scope, project, name, metadata or {}))

    def delete_queue(self, project: str, name: str) -> None:
        self._database.write(lambda scope: catalogue.delete(scope, project, name, self._clock()))

    def purge_messages(self, project: str, queue: str) -> None:
        self._database.write(lambda scope: catalogue.renew(scope, project, queue, self._clock()))

    def purge_subscriptions(self, project: str, queue: str, limit: int) -> int:
        return self._database.write(lambda scope: self._subscriptions.purge(scope, project, queue, limit, self._clock()))

    def _place(self, scope: Scope, project: str, queue: str) -> Place:
        return Place.of(scope, project, queue, now=self._clock(), means=self._means)

    def _look_at(self, project: str, queue: str, work: Callable[[Place], T]) -> T:
        return self._database.read(lambda scope: work(self._place(scope, project, queue)))

    def _at(self, project: str, queue: str, work: Callable[[Place], T]) -> T:
        return self._database.write(lambda scope: work(self._place(scope, project, queue)))

    # -- messages -----------------------------------------------------------------------------------------------------------

    def publish(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None = None) -> list[str]:
        return list(map(ids.show, self._database.write_together(self._insert, Post(project, queue, drafts, client_id))))

    def _insert(self, scope: Scope, posts: list[Post]) -> list[list[int]]:
        return publishing.insert(scope, posts, self._clock(), self._means)

    def get_message(self, project: str, queue: str, message_id: str) -> Message | None:
        number = ids.parse(message_id)
        return None if number is None else self._look_at(project, queue, lambda place: reading.get(place, number))

    def list_messages(
        self,
        project: str,
        queue: str,
        marker: str | None,
        limit: int,
        not_from: str | None = None,
        *,
        claimed: bool = False,
        delayed: bool = False,
    ) -> list[Message]:
        wanted: dict[str, Any] = {"not_from": not_from, "claimed": claimed, "delayed": delayed}
        behind = ids.parse_marker(marker) or 0
        return self._look_at(project, queue, lambda place: reading.page(place, behind=behind, limit=limit, **wanted))

    def delete_message(self, project: str, queue: str, message_id: str, claim_id: str | None = None) -> None:
        number = ids.parse(message_id)
        if number is not None:
            self._at(project, queue, lambda place: consuming.delete(place, number, claim_id))

    def delete_messages(
        self, project: str, queue: str, message_ids: Collection[str], claim_ids: Collection[str] | None = None
    ) -> None:
        asked = _parsed(message_ids)
        self._at(project, queue, lambda place: consuming.delete_several(place, asked, claim_ids))

    def pop_messages(self, project: str, queue: str, limit: int) -> list[Message]:
        popping = consuming.Popping(limit)
        with self._database.turn(project, queue):
            return self._database.alone(lambda scope: popping.run(self._place(scope, project, queue)))

    def stats(self, project: str, queue: str) -> Stats:
        return self._look_at(project, queue, reading.stats)

    def volume(self) -> Stats:
        return self._database.read(lambda scope: reading.volume(scope, self._clock()))

    # -- claims -------------------------------------------------------------------------------------------------------------

    def claim(self, project: str, queue: str, limit: int, ttl: int, grace: int) -> tuple[Claim, list[Message]] | None:
        claiming = consuming.Claiming(limit, ttl, grace)

        def work(scope: Scope) -> tuple[bool, tuple[Claim, list[Message]] | None]:
            place = self._place(scope, project, queue)
            buries = claiming.buries(place)
            return buries, None if buries else claiming.run(place)

        with self._database.turn(project, queue):
            buries, claimed = self._database.alone(work)
            return self._at(project, queue, claiming.run) if buries else claimed

    def get_claim(self, project: str, queue: str, claim_id: str) -> tuple[Claim, list[Message]] | None:
        def work(place: Place) -> tuple[Claim, list[Message]] | None:
            claim = consuming.read_claim(place, claim_id)
            return None if claim is None else (claim, consuming.claimed_messages(place, claim_id))

        return self._look_at(project, queue, work)

    def update_claim(self, project: str, queue: str, claim_id: str, ttl: int, grace: int) -> bool:
        return self._at(project, queue, lambda place: consuming.renew(place, claim_id, ttl, grace))

    def release_claim(self, project: str, queue: str, claim_id: str) -> None:
        self._at(project, queue, lambda place: consuming.release(place, claim_id))

    # -- messages of a queue service that this one extends ------------------------------------------------------------------

    def hold(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None, seconds: float) -> list[str]:
        post = Post(project, queue, drafts, client_id, seconds)
        return list(map(ids.show, self._database.write_together(self._insert, post)))

    def release(self, project: str, queue: str, message_ids: Sequence[str], foreign_ids: Sequence[str] | None = None) -> None:
        if message_ids:
            self._database.write(lambda scope: holding.release(scope, project, queue, message_ids, foreign_ids))

    def drop(self, project: str, queue: str, message_ids: Sequence[str]) -> None:
        self._database.write(lambda scope: holding.drop(scope, project, queue, message_ids))

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, confirmation: Confirmation | None = None) -> Subscribed:
        return self._database.write_together(self._subscribe, (subscription, confirmation))

    def _subscribe(self, scope: Scope, asked: list[tuple[Subscription, Confirmation | None]]) -> list[Subscribed]:
        now = self._clock()
        return [self._subscriptions.subscribe(scope, *one, now) for one in asked]

    def get_subscription(self, project: str, queue: str, subscription_id: str) -> Subscription | None:
        number = ids.parse(subscription_id)
        if number is None:
            return None
        return self._database.read(lambda scope: self._subscriptions.live(scope, project, queue, number, self._clock()))

    def list_subscriptions(self, project: str, queue: str, marker: str | None, limit: int) -> list[Subscription]:
        behind = ids.parse_marker(marker) or 0
        return self._database.alone(
            lambda scope: self._subscriptions.page(scope, project, queue, behind, limit=limit, now=self._clock())
        )

    def update_subscription(
        self,
        project: str,
        queue: str,
        subscription_id: str,
        changes: Mapping[str, Any],
        confirmation: Confirmation | None = None,
    ) -> Subscription | None:
        def work(scope: Scope, existing: Subscription, now: float) -> Subscription:
            return self._subscriptions.update(scope, existing, changes, confirmation, now)

        return self._of_subscription(project, queue, subscription_id, work)

    def confirm(
        self, project: str, queue: str, subscription_id: str, confirmed: bool, confirmation: Confirmation | None = None
    ) -> Subscription | None:
        def work(scope: Scope, existing: Subscription, now: float) -> Subscription:
            return self._subscriptions.confirm(scope, existing, confirmed, confirmation, now)

        return self._of_subscription(project, queue, subscription_id, work)

    def delete_subscription(self, project: str, queue: str, subscription_id: str) -> None:
        def work(scope: Scope, existing: Subscription, now: float) -> None:
            self._subscriptions.delete(scope, [int(existing.id, 16)], now)

        self._of_subscription(project, queue, subscription_id, work)

    def _of_subscription(
        self, project: str, queue: str, subscription_id: str, work: Callable[[Scope, Subscription, float], T]
    ) -> T | None:
        """In a transaction; None when there is no such subscription (any more)."""
        number = ids.parse(subscription_id)
        if number is None:
            return None

        def found(scope: Scope) -> T | None:
            now = self._clock()
            existing = self._subscriptions.live(scope, project, queue, number, now)
            return None if existing is None else work(scope, existing, now)

        return self._database.write(found)

    # -- did it arrive? -----------------------------------------------------------------------------------------------------

    def message_deliveries(
        self, project: str, queue: str, message_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        behind = ids.parse_marker(marker) or 0

        def work(scope: Scope) -> list[DeliveryRecord] | None:
            number = arrivals.find_message(scope, project, queue, message_id)
            if number is None:
                return None
            wanted = self._wanted(limit, exchanges)
            return arrivals.of_message(scope, project, queue, number, behind=behind, wanted=wanted)

        return self._database.read(work)

    def subscription_deliveries(
        self, project: str, queue: str, subscription_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        number = ids.parse(subscription_id)

        def work(scope: Scope) -> list[DeliveryRecord] | None:
            before = arrivals.find_marker(scope, project, queue, marker)
            if number is None:
                return None
            wanted = self._wanted(limit, exchanges)
            return arrivals.of_subscription(scope, project, queue, number, before=before, wanted=wanted)

        return self._database.read(work)

    def _wanted(self, limit: int, exchanges: bool) -> arrivals.Wanted:
        return arrivals.Wanted(limit, self._clock(), self._means.bodies if exchanges else None)

    def receive(self, message_id: str, subscription_id: str, receipt: Receipt) -> bool:
        return self._database.write_together(self._receive, (message_id, subscription_id, receipt))

    def _receive(self, scope: Scope, heard: list[tuple[str, str, Receipt]]) -> list[bool]:
        now = self._clock()
        return [
            receipts.receive(scope, (ids.parse(message) or 0, ids.parse(subscription) or 0), receipt, now, self._retention)
            for message, subscription, receipt in heard
        ]

    # -- again, or not at all -----------------------------------------------------------------------------------------------

    def redeliver(self, project: str, queue: str, message_id: str, subscription_id: str, ttl: float) -> None:
        def work(place: Place) -> None:
            resuming.redeliver(place, message_id, self._asked_subscription(place, subscription_id), ttl)

        self._at(project, queue, work)

    def cancel(self, project: str, queue: str, message_id: str, subscription_id: str) -> None:
        def work(place: Place) -> None:
            resuming.cancel(place, message_id, self._asked_subscription(place, subscription_id))

        self._at(project, queue, work)

    def _asked_subscription(self, place: Place, subscription_id: str) -> int:
        number = ids.parse(subscription_id)
        if number is None or self._subscriptions.live(place.scope, place.project, place.queue, number, place.now) is None:
            raise NotFound("There is no such subscription (any more).")
        return number

    def ping(self, project: str, queue: str, subscription_id: str, draft: Draft) -> str | None:
        def work(scope: Scope, existing: Subscription, now: float) -> str:
            post, number = Post(project, queue, (draft,)), int(existing.id, 16)
            return ids.show(publishing.insert_for_one(scope, post, number, MessageKind.TEST, now=now, means=self._means))

        return self._of_subscription(project, queue, subscription_id, work)

    # -- keys of the API ----------------------------------------------------------------------------------------------------

    def add_key(self, key: ApiKey) -> None:
        self._database.write(lambda scope: keys.add(scope, key))

    def get_key(self, key_id: str) -> ApiKey | None:
        return self._database.read(lambda scope: keys.get(scope, key_id))

    def list_keys(self, project: str | None = None) -> list[ApiKey]:
        return self._database.read(lambda scope: keys.of(scope, project))

    def revoke_key(self, key_id: str) -> bool:
        return self._database.write(lambda scope: keys.revoke(scope, key_id, self._clock()))

    # -- the worker ---------------------------------------------------------------------------------------------------------

    def join(self, host: str = "", pid: int = 0, version: str = "") -> int:
        return self._database.alone(lambda scope: members.join(scope, host, pid, version, self._clock()))

    def beat(self, worker_id: int) -> bool:
        return self._database.alone(lambda scope: members.beat(scope, worker_id, self._clock()))

    def members(self) -> list[Member]:
        return self._database.read(lambda scope: members.members(scope, self._clock()))

    def leave(self, worker_id: int) -> None:
        self._database.alone(lambda scope: members.leave(scope, worker_id))

    def recover(self) -> int:
        return self._database.alone(lambda scope: members.recover(scope, self._clock() - self._member_timeout))

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
        pool: str = "",
    ) -> Taken:
        now = self._clock()
        leased = taking.Lease(worker_id, taking.token_of(worker_id, next(self._takes)), now, now + lease)
        wanted: dict[str, Any] = {"parked": parked or {}, "without": without, "ranges": ranges, "pool": pool}

        def work(scope: Scope) -> Taken:
            return taking.take(scope, leased, self._turns, entries=entries, rows=rows, lanes=lanes, **wanted)

        return self._database.alone(work)

    def merge_pools(self, kept: Collection[str]) -> None:
        self._database.alone(lambda scope: taking.merge_pools(scope, kept))

    def load(self, message_ids: Collection[str], subscription_ids: Collection[str]) -> Loaded:
        # What a worker does not see is over for it. A primary that was just elected has all that a majority has, and a snapshot
        # of it not yet: it does not know what of that the majority has.
        return self._database.alone(
            lambda scope: loading.load(
                scope,
                _parsed(message_ids),
                _parsed(subscription_ids),
                now=self._clock(),
                bodies=self._means.bodies,
                make_subscription=self._subscriptions.subscription,
            )
        )

    def known(self, message_id: str, after: str | None, last: str | None = None) -> set[str]:
        number, behind, up_to = ids.parse(message_id), ids.parse_marker(after) or 0, ids.parse_marker(last)
        if number is None:
            return set()
        return self._database.read(lambda scope: loading.known(scope, number, behind, up_to))

    def settle(
        self, settlements: Sequence[Settlement], closings: Sequence[Closing] = (), breakers: Sequence[Breaker] = ()
    ) -> int:
        if not settlements and not closings and not breakers:
            return 0
        settling = ledger.Settling(settlements, closings, breakers, now=self._clock(), means=self._means)
        return self._database.write(settling.run)

    def breakers(self) -> list[Breaker]:
        return self._database.read(ledger.breakers)

    def depths(self) -> Depths:
        return self._database.alone(lambda scope: depth.measure(scope, self._clock()))

    def give_back(
        self,
        token: int,
        message_ids: Collection[str],
        rows: Collection[tuple[str, str]] = (),
        ranges: Collection[str] = (),
    ) -> None:
        if message_ids or rows or ranges:
            self._database.alone(lambda scope: ledger.give_back(scope, token, message_ids, rows, ranges))

    def prune(self, limit: int) -> int:
        return pruning.prune(self._database, self._clock(), self._means.retention, limit)

    # -- long work ----------------------------------------------------------------------------------------------------------

    def add_job(self, project: str, kind: str, details: Mapping[str, Any]) -> str:
        return self._database.write(lambda scope: jobs.add(scope, project, kind, details, self._clock()))

    def list_jobs(self, marker: str | None, limit: int, *, failed: bool | None = None) -> list[Job]:
        behind = ids.parse_marker(marker) or 0
        return self._database.read(lambda scope: jobs.page(scope, behind, limit, failed))

    def get_job(self, job_id: str) -> Job | None:
        number = ids.parse(job_id)
        return None if number is None else self._database.read(lambda scope: jobs.get(scope, number))

    def hold_job(self, worker_id: int, lease: float, job_id: str | None = None) -> Job | None:
        number = None if job_id is None else ids.parse(job_id)
        if job_id is not None and number is None:
            return None
        now = self._clock()
        return self._database.alone(lambda scope: jobs.hold(scope, worker_id, number, now, now + lease))

    def let_job_go(self, worker_id: int, job_id: str) -> None:
        self._database.alone(lambda scope: jobs.let_go(scope, worker_id, ids.parse(job_id) or 0))

    def finish_job(self, worker_id: int, job_id: str) -> bool:
        return self._with_job(job_id, lambda scope, number: jobs.finish(scope, worker_id, number, self._clock()))

    def advance_job(self, worker_id: int, job_id: str, details: Mapping[str, Any]) -> bool:
        return self._with_job(job_id, lambda scope, number: jobs.advance(scope, worker_id, number, self._clock(), details))

    def fail_job(self, worker_id: int, job_id: str, error: str) -> bool:
        return self._with_job(job_id, lambda scope, number: jobs.fail(scope, worker_id, number, self._clock(), error))

    def retry_job(self, job_id: str) -> bool:
        return self._with_job(job_id, jobs.retry)

    def _with_job(self, job_id: str, work: Callable[[Scope, int], bool]) -> bool:
        """What touches one job only. False when there is none."""
        return self._database.alone(lambda scope: work(scope, ids.parse(job_id) or 0))

    def cut(self, worker_id: int, job_id: str, size: int) -> bool:
        number = ids.parse(job_id)
        if number is None:
            return False
        return self._database.write(lambda scope: jobs.cut(scope, worker_id, number, size, self._clock()))

    # -- moving house -------------------------------------------------------------------------------------------------------

    def copy_counts(self) -> Mapping[str, int]:
        return self._database.alone(copying.count)

    def copy_from(self, kind: str, after: Any, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
        return self._database.alone(lambda scope: copying.read(scope, kind, after, limit))

    def copy_into(self, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
        self._database.alone(lambda scope: copying.store(scope, kind, records))


def _parsed(shown: Collection[str]) -> list[int]:
    return [number for number in map(ids.parse, shown) if number is not None]
