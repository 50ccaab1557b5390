"""The storage on SQL databases, by SQLAlchemy Core.

What a method does stands in `catalogue`, `publishing`, `reading`, `consuming`, `holding`, `taking`, `ledger`, `windows`,
`arrivals`, `receiving`, `resuming`, `depth`, `pruning`, `jobs`, `copying` and `keys`; here are its transactions, and
subscriptions.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Select, delete, insert, inspect, select, update

from zaqar_notify.encryption import CannotDecrypt, Keyring
from zaqar_notify.errors import CannotStart, Conflict, NotFound
from zaqar_notify.model import (
    ApiKey,
    Claim,
    DeliveryRecord,
    Disabled,
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
from zaqar_notify.storage.retention import Retention
from zaqar_notify.storage.sql import (
    arrivals,
    catalogue,
    consuming,
    copying,
    depth,
    holding,
    jobs,
    keys,
    ledger,
    numbering,
    pruning,
    publishing,
    reading,
    receiving,
    resuming,
    sqlite,
    statements,
    tables,
    taking,
)
from zaqar_notify.storage.sql.publishing import Post
from zaqar_notify.storage.sql.reading import Place
from zaqar_notify.storage.sql.statements import json_list
from zaqar_notify.storage.sql.tables import deliveries, delivery_log, subscriptions, workers

if TYPE_CHECKING:
    from zaqar_notify.storage.sql import postgresql

T = TypeVar("T")

LOG = logging.getLogger(__name__)

_UPGRADE = "run: zaqar-notify db upgrade"
_MOST_SUBSCRIPTIONS_KEPT = 2048
_MOST_LINES_READ = 1000
_NO_LIMIT = 2**63 - 1


class SqlStorage(Storage):
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
        pool_size: int = 16,
        member_timeout: float = 30.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``retention``, ``body_retention``, ``retention_delivered`` (of the log of what was delivered), ``busy_timeout`` and
        ``member_timeout`` are seconds. For a server: ``pool_size`` is the most connections of this process, and a worker that
        has said nothing for ``member_timeout`` is dead. ``clock`` takes the place of the database's. Raises `CannotStart` for a
        bad URL."""
        self._database = _database(url, busy_timeout, group_commit, pool_size, member_timeout)
        self._keyring = keyring
        self._bodies = Bodies(keyring)
        self._retention = Retention(retention, body_retention, retention_delivered)
        self._clock = clock or self._database.clock
        self._takes = itertools.count(1)
        self._turns: taking.Turns = {}
        self._sealed: set[str] = set()
        """Subscriptions of which the log says that they are sealed."""
        # Matching reads the same subscriptions again and again; opening their secrets is half of the cost.
        self._subscription = functools.lru_cache(_MOST_SUBSCRIPTIONS_KEPT)(self._make_subscription)

    # -- life ---------------------------------------------------------------------------------------------------------------

    def upgrade(self) -> bool:
        from zaqar_notify.storage.sql.migrations import upgrade

        self._database.create()
        return self._database.migrate(upgrade)

    def check(self) -> None:
        if not self._database.exists():
            raise CannotStart(f"There is no database {self._database.path} yet; {_UPGRADE}")
        revision = self._database.write(_revision)
        if revision == tables.REVISION or (revision is not None and revision > tables.REVISION and self._is_usable()):
            return
        hint = _UPGRADE if revision is None or revision < tables.REVISION else "use the version that made it"
        raise CannotStart(f"The database has schema {revision or 'none'}, this version needs {tables.REVISION}; {hint}")

    def _is_usable(self) -> bool:
        """Although it is newer than this version: old and new ones run side by side."""
        from zaqar_notify.storage.sql.migrations import is_usable

        with self._database.read() as connection:
            return is_usable(connection)

    def close(self) -> None:
        self._database.close()

    def now(self) -> float:
        return self._clock()

    def announce(self) -> None:
        self._database.announce()

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        return self._database.watch(wake)

    # -- queues -------------------------------------------------------------------------------------------------------------

    def put_queue(self, project: str, name: str, metadata: Mapping[str, Any]) -> bool:
        text = json.dumps(dict(metadata))
        return self._database.write(lambda connection: catalogue.put(connection, project, name, text, self._clock()))

    def get_queue(self, project: str, name: str) -> Queue | None:
        with self._database.read(snapshot=False) as connection:
            return catalogue.get(connection, project, name)

    def update_queue(
        self, project: str, name: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        return self._database.write(lambda connection: catalogue.change(connection, project, name, change))

    def list_queues(
        self, project: str, marker: str | None, limit: int, *, name: str = "", metadata: Mapping[str, str] | None = None
    ) -> list[Queue]:
        with self._database.read() as connection:
            return catalogue.page(connection, project, marker, limit, name=name, metadata=metadata or {})

    def count_queues(self, project: str, *, name: str = "", metadata: Mapping[str, str] | None = None) -> int:
        with self._database.read() as connection:
            return catalogue.count(connection, project, name, metadata or {})

    def delete_queue(self, project: str, name: str) -> None:
        self._database.write(lambda connection: catalogue.delete(connection, project, name, self._clock()))

    def purge_messages(self, project: str, queue: str) -> None:
        self._database.write(lambda connection: catalogue.renew(connection, project, queue, self._clock()))

    def purge_subscriptions(self, project: str, queue: str, limit: int) -> int:
        return self._database.write(lambda connection: self._delete_subscriptions(connection, project, queue, limit))

    def _place(self, connection: Connection, project: str, queue: str) -> Place:
        return Place.of(connection, project, queue, now=self._clock(), bodies=self._bodies, retention=self._retention)

    def _at(self, project: str, queue: str, work: Callable[[Place], T]) -> T:
        return self._database.write(lambda connection: work(self._place(connection, project, queue)))

    # -- messages -----------------------------------------------------------------------------------------------------------

    def publish(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None = None) -> list[str]:
        given = self._database.write_together(self._insert, Post(project, queue, drafts, client_id))
        return [ids.show(number) for number in given]

    def _insert(self, connection: Connection, posts: list[Post]) -> list[list[int]]:
        return publishing.insert(connection, posts, self._clock(), self._bodies, self._retention)

    def _insert_for_one(self, connection: Connection, subscription: Subscription, draft: Draft, kind: MessageKind) -> int:
        now = self._clock()
        return publishing.insert_for_one(
            connection, subscription, draft, kind, now=now, bodies=self._bodies, retention=self._retention
        )

    def get_message(self, project: str, queue: str, message_id: str) -> Message | None:
        number = ids.parse(message_id)
        if number is None:
            return None
        with self._database.read() as connection:
            return reading.get(self._place(connection, project, queue), number)

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
        with self._database.read() as connection:
            return reading.page(self._place(connection, project, queue), behind=behind, limit=limit, **wanted)

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
        return self._at(project, queue, lambda place: consuming.pop(place, limit))

    def stats(self, project: str, queue: str) -> Stats:
        with self._database.read() as connection:
            return reading.stats(self._place(connection, project, queue))

    def volume(self) -> Stats:
        with self._database.read() as connection:
            return reading.volume(connection, self._clock())

    # -- claims -------------------------------------------------------------------------------------------------------------

    def claim(self, project: str, queue: str, limit: int, ttl: int, grace: int) -> tuple[Claim, list[Message]] | None:
        return self._at(project, queue, lambda place: consuming.claim(place, limit, ttl, grace))

    def get_claim(self, project: str, queue: str, claim_id: str) -> tuple[Claim, list[Message]] | None:
        with self._database.read() as connection:
            place = self._place(connection, project, queue)
            claim = consuming.read_claim(place, claim_id)
            return None if claim is None else (claim, consuming.claimed_messages(place, claim_id))

    def update_claim(self, project: str, queue: str, claim_id: str, ttl: int, grace: int) -> bool:
        return self._at(project, queue, lambda place: consuming.renew(place, claim_id, ttl, grace))

    def release_claim(self, project: str, queue: str, claim_id: str) -> None:
        self._at(project, queue, lambda place: consuming.release(place, claim_id))

    # -- messages of a queue service that this one extends ------------------------------------------------------------------

    def hold(self, project: str, queue: str, drafts: Sequence[Draft], client_id: str | None, seconds: float) -> list[str]:
        given = self._database.write_together(self._insert, Post(project, queue, drafts, client_id, seconds))
        return [ids.show(number) for number in given]

    def release(self, project: str, queue: str, message_ids: Sequence[str], foreign_ids: Sequence[str] | None = None) -> None:
        self._database.write(lambda connection: holding.release(connection, project, queue, message_ids, foreign_ids))

    def drop(self, project: str, queue: str, message_ids: Sequence[str]) -> None:
        self._database.write(lambda connection: holding.drop(connection, project, queue, message_ids))

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, confirmation: Confirmation | None = None) -> Subscribed:
        def work(connection: Connection) -> Subscribed:
            subscribed = self._subscribe(connection, subscription)
            self._ask(connection, subscribed.subscription, confirmation)
            return subscribed

        return self._database.write(work)

    def _ask(self, connection: Connection, subscription: Subscription, confirmation: Confirmation | None) -> None:
        if confirmation is not None:
            draft = confirmation(subscription)
            self._insert_for_one(connection, subscription, draft, MessageKind.CONFIRMATION)

    def _subscribe(self, connection: Connection, asked: Subscription) -> Subscribed:
        now = self._clock()
        existing = self._find_subscriber(connection, asked.project, asked.queue, asked.subscriber)
        if existing is not None and not existing.live(now):
            self._change(connection, existing, {"deleted_at": existing.expires_at})
            existing = None
        publishing.ensure_queue(connection, asked.project, asked.queue, now)
        if existing is None:
            return self._add_subscription(connection, asked, now)
        if existing.confirmed:
            raise Conflict("This subscriber is subscribed to the queue already.")
        changes: dict[str, Any] = {"ttl": asked.ttl, "options": asked.options}
        renewed = asked.secret is not None and self._may_replace_secret(connection, existing, asked)
        if renewed:
            changes |= {"secret": asked.secret, "secret_made": asked.secret_made}
        changed = self._change(connection, existing, self._values(existing.id, changes, now))
        return Subscribed(changed, created=False, secret_is_new=renewed and changed.secret_made)

    def _add_subscription(self, connection: Connection, asked: Subscription, now: float) -> Subscribed:
        number = numbering.give(connection, statements.LAST_SUBSCRIPTION_ID, now)[0]
        values = {
            "id": number,
            "project": asked.project,
            "queue": asked.queue,
            "confirmed": asked.confirmed,
            "subscriber": asked.subscriber,
            **self._values(
                ids.show(number),
                {
                    "ttl": asked.ttl,
                    "options": asked.options,
                    "secret": asked.secret,
                    "secret_made": asked.secret_made,
                    "disabled": asked.disabled,
                },
                now,
            ),
        }
        connection.execute(insert(subscriptions).values(values))
        made = self._read_subscription(connection, number)
        return Subscribed(made, created=True, secret_is_new=asked.secret is not None and asked.secret_made)

    def _may_replace_secret(self, connection: Connection, existing: Subscription, asked: Subscription) -> bool:
        if not asked.secret_made or (existing.secret is None and not existing.sealed):
            return True
        return existing.secret_made and not _has_signed(connection, ids.parse(existing.id))

    def get_subscription(self, project: str, queue: str, subscription_id: str) -> Subscription | None:
        number = ids.parse(subscription_id)
        if number is None:
            return None
        with self._database.read() as connection:
            return self._live_subscription(connection, project, queue, number, to_change=False)

    def list_subscriptions(self, project: str, queue: str, marker: str | None, limit: int) -> list[Subscription]:
        behind = ids.parse_marker(marker) or 0
        parameters = (project, queue, behind, self._clock(), limit)
        with self._database.read(snapshot=False) as connection:
            found = connection.exec_driver_sql(statements.LIST_SUBSCRIPTIONS, parameters).all()
        return [self._subscription(row) for row in found]

    def update_subscription(
        self,
        project: str,
        queue: str,
        subscription_id: str,
        changes: Mapping[str, Any],
        confirmation: Confirmation | None = None,
    ) -> Subscription | None:
        number = ids.parse(subscription_id)
        if number is None:
            return None

        def work(connection: Connection) -> Subscription | None:
            now = self._clock()
            existing = self._live_subscription(connection, project, queue, number)
            if existing is None:
                return None
            subscriber = changes.get("subscriber", existing.subscriber)
            self._free_subscriber(connection, existing, subscriber, now)
            values = self._values(existing.id, changes, now)
            if _begins_anew(existing, changes):
                values |= {"strikes": 0, "failing_since": None}
            if confirmation is None or subscriber == existing.subscriber:
                return self._change(connection, existing, values)
            changed = self._change(connection, existing, {**values, "confirmed": False})
            self._ask(connection, changed, confirmation)
            return changed

        return self._database.write(work)

    def confirm(
        self, project: str, queue: str, subscription_id: str, confirmed: bool, confirmation: Confirmation | None = None
    ) -> Subscription | None:
        number = ids.parse(subscription_id)
        if number is None:
            return None

        def work(connection: Connection) -> Subscription | None:
            existing = self._live_subscription(connection, project, queue, number)
            if existing is None:
                return None
            changed = self._change(connection, existing, {"confirmed": confirmed})
            self._ask(connection, changed, confirmation)
            return changed

        return self._database.write(work)

    def _free_subscriber(self, connection: Connection, existing: Subscription, subscriber: str, now: float) -> None:
        other = self._find_subscriber(connection, existing.project, existing.queue, subscriber)
        if other is None or other.id == existing.id:
            return
        if other.live(now):
            raise Conflict("Another subscription of the queue has this subscriber.")
        self._change(connection, other, {"deleted_at": other.expires_at})

    def delete_subscription(self, project: str, queue: str, subscription_id: str) -> None:
        number = ids.parse(subscription_id)
        if number is None:
            return

        def work(connection: Connection) -> None:
            now = self._clock()
            existing = self._live_subscription(connection, project, queue, number)
            if existing is not None:
                self._change(connection, existing, {"deleted_at": now, "prune_at": now + self._retention.log})

        self._database.write(work)

    def _delete_subscriptions(self, connection: Connection, project: str, queue: str, limit: int) -> int:
        now = self._clock()
        found = connection.exec_driver_sql(statements.LIST_SUBSCRIPTION_IDS, (project, queue, now, limit)).scalars().all()
        ended = {"deleted_at": now, "prune_at": now + self._retention.log}
        if found:
            connection.execute(update(subscriptions).where(subscriptions.c.id.in_(found)).values(ended))
        return len(found)

    def _live_subscription(
        self, connection: Connection, project: str, queue: str, number: int, *, to_change: bool = True
    ) -> Subscription | None:
        """``to_change``: nobody else changes it before this transaction has ended."""
        column = subscriptions.c
        query = _select_subscription().where(
            column.id == number, column.project == project, column.queue == queue, column.deleted_at.is_(None)
        )
        found = connection.execute(query.with_for_update(key_share=True) if to_change else query).first()
        subscription = None if found is None else self._subscription(found)
        return subscription if subscription is not None and subscription.live(self._clock()) else None

    def _find_subscriber(self, connection: Connection, project: str, queue: str, subscriber: str) -> Subscription | None:
        column = subscriptions.c
        query = _select_subscription().where(
            column.project == project, column.queue == queue, column.subscriber == subscriber, column.deleted_at.is_(None)
        )
        found = connection.execute(query.with_for_update(key_share=True)).first()
        return None if found is None else self._subscription(found)

    def _read_subscription(self, connection: Connection, number: int) -> Subscription:
        return self._subscription(connection.execute(_select_subscription().where(subscriptions.c.id == number)).one())

    def _change(self, connection: Connection, existing: Subscription, values: Mapping[str, Any]) -> Subscription:
        number = int(existing.id, 16)
        if values:
            connection.execute(update(subscriptions).where(subscriptions.c.id == number).values(dict(values)))
        return self._read_subscription(connection, number)

    def _values(self, subscription_id: str, changes: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Columns from the fields of a subscription."""
        values = {name: changes[name] for name in ("subscriber", "secret_made") if name in changes}
        if "ttl" in changes:
            ttl = changes["ttl"]
            expires_at = None if ttl is None else now + ttl
            values |= {"ttl": ttl, "created_at": now, "expires_at": expires_at, "prune_at": expires_at}
        if "options" in changes:
            values["options"] = json.dumps(dict(changes["options"]))
        if "secret" in changes:
            secret = changes["secret"]
            values["secret"] = None if secret is None else self._keyring.seal(secret.encode(), _context(subscription_id))
        if "disabled" in changes:
            why: Disabled | None = changes["disabled"]
            values["disabled_at"] = why and why.at
            values["disabled_reason"] = why and why.reason
            values["disabled_enable_by"] = why and why.enable_by
        return values

    def _make_subscription(self, row: Sequence[Any]) -> Subscription:
        number, project, queue, subscriber, ttl, options, created_at, expires_at, *others = row
        confirmed, secret, secret_made, disabled_at, disabled_reason, disabled_enable_by, strikes, failing_since = others
        shown = ids.show(number)
        plain = None if secret is None else self._open_secret(secret, shown)
        return Subscription(
            id=shown,
            project=project,
            queue=queue,
            subscriber=subscriber,
            ttl=ttl,
            options=json.loads(options),
            created_at=created_at,
            expires_at=expires_at,
            confirmed=bool(confirmed),
            secret=plain,
            secret_made=bool(secret_made),
            sealed=secret is not None and plain is None,
            disabled=None if disabled_at is None else Disabled(disabled_reason, disabled_at, disabled_enable_by),
            strikes=strikes,
            failing_since=failing_since,
        )

    def _open_secret(self, secret: bytes, subscription_id: str) -> str | None:
        """None when it cannot be opened: one lost key must not stop what needs other keys, or none."""
        try:
            return self._keyring.open(secret, _context(subscription_id)).decode()
        except CannotDecrypt as error:
            if subscription_id not in self._sealed:
                self._sealed.add(subscription_id)
                LOG.warning("subscription %s: %s Its deliveries wait until it has a new secret.", subscription_id, error)
            return None

    # -- did it arrive? -----------------------------------------------------------------------------------------------------

    def message_deliveries(
        self, project: str, queue: str, message_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        behind = ids.parse_marker(marker) or 0
        with self._database.read() as connection:
            number = arrivals.find_message(connection, project, queue, message_id)
            if number is None:
                return None
            wanted = self._wanted(limit, exchanges)
            return arrivals.of_message(connection, project, queue, number, behind=behind, wanted=wanted)

    def subscription_deliveries(
        self, project: str, queue: str, subscription_id: str, marker: str | None, limit: int, *, exchanges: bool = False
    ) -> list[DeliveryRecord] | None:
        number = ids.parse(subscription_id)
        with self._database.read() as connection:
            before = arrivals.find_marker(connection, project, queue, marker)
            if number is None:
                return None
            wanted = self._wanted(limit, exchanges)
            return arrivals.of_subscription(connection, project, queue, number, before=before, wanted=wanted)

    def _wanted(self, limit: int, exchanges: bool) -> arrivals.Wanted:
        return arrivals.Wanted(limit, self._clock(), self._bodies if exchanges else None)

    def receive(self, message_id: str, subscription_id: str, receipt: Receipt) -> bool:
        message, subscription = ids.parse(message_id), ids.parse(subscription_id)
        if message is None or subscription is None:
            return False

        def work(connection: Connection) -> bool:
            means: dict[str, Any] = {"now": self._clock(), "retention": self._retention}
            return receiving.receive(connection, message, subscription, receipt, **means)

        return self._database.write(work)

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
        asked = place.connection, place.project, place.queue
        if number is None or self._live_subscription(*asked, number, to_change=False) is None:
            raise NotFound("There is no such subscription (any more).")
        return number

    def ping(self, project: str, queue: str, subscription_id: str, draft: Draft) -> str | None:
        number = ids.parse(subscription_id)
        if number is None:
            return None

        def work(connection: Connection) -> str | None:
            existing = self._live_subscription(connection, project, queue, number)
            if existing is None:
                return None
            return ids.show(self._insert_for_one(connection, existing, draft, MessageKind.TEST))

        return self._database.write(work)

    # -- keys of the API ----------------------------------------------------------------------------------------------------

    def add_key(self, key: ApiKey) -> None:
        self._database.write(lambda connection: keys.add(connection, key))

    def get_key(self, key_id: str) -> ApiKey | None:
        with self._database.read(snapshot=False) as connection:
            return keys.get(connection, key_id)

    def list_keys(self, project: str | None = None) -> list[ApiKey]:
        with self._database.read() as connection:
            return keys.of(connection, project)

    def revoke_key(self, key_id: str) -> bool:
        return self._database.write(lambda connection: keys.revoke(connection, key_id, self._clock()))

    # -- the worker ---------------------------------------------------------------------------------------------------------

    def join(self, host: str = "", pid: int = 0, version: str = "") -> int:
        held: list[int] = []

        def work(connection: Connection) -> int:
            now = self._clock()
            joined = insert(workers).values(joined_at=now, seen_at=now, host=host, pid=pid, version=version)
            worker_id = connection.execute(joined.returning(workers.c.id)).scalar_one()
            # Before anyone can see that it is registered.
            self._database.workers.hold(worker_id)
            held.append(worker_id)
            return int(worker_id)

        try:
            return self._database.write(work)
        except BaseException:
            for worker_id in held:
                self._database.workers.let_go(worker_id)
            raise

    def beat(self, worker_id: int) -> bool:
        def work(connection: Connection) -> bool:
            return connection.exec_driver_sql(statements.BEAT, (self._clock(), worker_id)).rowcount > 0

        return self._database.write(work, durable=False)

    def members(self) -> list[Member]:
        with self._database.read() as connection:
            asked = {"tokens": taking.TOKENS, "now": self._clock()}
            return [Member(*row) for row in connection.exec_driver_sql(statements.MEMBERS, asked)]

    def leave(self, worker_id: int) -> None:
        self._database.write(lambda connection: self._release(connection, worker_id))
        self._database.workers.forget(worker_id)

    def recover(self) -> int:
        with self._database.read() as connection:
            registered = connection.execute(select(workers.c.id, workers.c.seen_at)).all()
        now = self._clock()
        dead = [(worker_id, seen_at) for worker_id, seen_at in registered if self._database.is_dead(worker_id, seen_at, now)]
        found = 0
        for worker_id, seen_at in dead:
            found += self._database.write(functools.partial(self._release, worker_id=worker_id, seen_at=seen_at))
            self._database.workers.forget(worker_id)
        return found

    def _release(self, connection: Connection, worker_id: int, seen_at: float | None = None) -> int:
        """End the leases of a worker and forget it; 0 when another process has done so, or it was seen since ``seen_at``."""
        worker = workers.c.id == worker_id if seen_at is None else (workers.c.id == worker_id) & (workers.c.seen_at == seen_at)
        forgotten = connection.execute(delete(workers).where(worker)).rowcount
        if forgotten or seen_at is None:
            ledger.release(connection, worker_id)
        return forgotten

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
        token = taking.token_of(worker_id, next(self._takes))
        with self._database.read(snapshot=False) as connection:
            limits: dict[str, int] = {"entries": entries, "rows": rows, "lanes": lanes}
            bounds = taking.due(connection, self._clock(), **limits, without=without, pool=pool)
        if not parked and not ranges and not any(bounds.values()):
            return Taken(token, (), ())

        def work(connection: Connection) -> Taken:
            now = self._clock()
            leased = taking.Lease(token, now, now + lease)
            asked: dict[str, Any] = {"parked": parked or {}, "without": without, "ranges": ranges, "pool": pool}
            return taking.take(connection, leased, self._turns, **bounds, **asked)

        # A lease that a stopped machine forgets is a lease that has ended.
        return self._database.write(work, durable=False)

    def merge_pools(self, kept: Collection[str]) -> None:
        with self._database.read(snapshot=False) as connection:
            pools = taking.pools(connection)
        for pool in pools:
            while pool not in kept and self._database.write(functools.partial(taking.merge_pool, pool=pool)):
                pass

    def load(self, message_ids: Collection[str], subscription_ids: Collection[str]) -> Loaded:
        asked_messages, asked_subscriptions = _parsed(message_ids), _parsed(subscription_ids)
        with self._database.read(snapshot=False) as connection:
            run = connection.exec_driver_sql
            found = run(statements.LOAD_MESSAGES, json_list(asked_messages)).all() if asked_messages else []
            also = run(statements.LOAD_SUBSCRIPTIONS, json_list(asked_subscriptions)).all() if asked_subscriptions else []
        now = self._clock()
        loaded = (self._bodies.message(project, queue, row, now) for project, queue, *row in found)
        return Loaded(
            {message.id: message for message in loaded},
            {subscription.id: subscription for subscription in map(self._subscription, also)},
        )

    def known(self, message_id: str, after: str | None, last: str | None = None) -> set[str]:
        asked = {
            "message": ids.parse(message_id),
            "after": ids.parse_marker(after) or 0,
            "last": _NO_LIMIT if last is None else ids.parse_marker(last),
        }
        with self._database.read(snapshot=False) as connection:
            found = connection.exec_driver_sql(statements.KNOWN, asked).scalars().all()
        return {ids.show(subscription) for subscription in found}

    def settle(
        self, settlements: Sequence[Settlement], closings: Sequence[Closing] = (), breakers: Sequence[Breaker] = ()
    ) -> int:
        if not settlements and not closings and not breakers:
            return 0

        def work(connection: Connection, *, repeats: bool = False) -> int:
            means: dict[str, Any] = {"now": self._clock(), "bodies": self._bodies, "retention": self._retention}
            return ledger.settle(connection, settlements, closings, breakers, **means, repeats=repeats)

        try:
            return self._database.write(work)
        except ledger.Repeated:
            return self._database.write(functools.partial(work, repeats=True))

    def breakers(self) -> list[Breaker]:
        with self._database.read(snapshot=False) as connection:
            found = connection.exec_driver_sql(statements.BREAKERS).all()
        return [Breaker(LaneKey(project, name, pool), trips, probe_at) for project, name, pool, trips, probe_at in found]

    def depths(self) -> Depths:
        with self._database.read() as connection:
            return depth.measure(connection, self._clock())

    def give_back(
        self,
        token: int,
        message_ids: Collection[str],
        rows: Collection[tuple[str, str]] = (),
        ranges: Collection[str] = (),
    ) -> None:
        if message_ids or rows or ranges:
            self._database.write(lambda connection: ledger.give_back(connection, token, message_ids, rows, ranges))

    def prune(self, limit: int) -> int:
        now = self._clock()
        with self._database.read() as connection:
            if not pruning.due(connection, now, self._retention):
                return 0
            looks = pruning.look_at_messages(connection, now, self._retention, limit)

        def work(connection: Connection) -> int:
            changed = pruning.store_looks(connection, looks, now)
            changed += pruning.prune_queues(connection, now, self._retention, max(1, limit - changed))
            changed += pruning.prune_subscriptions(connection, now, self._retention, max(1, limit - changed))
            changed += pruning.end_expired(connection, now, self._retention, max(1, limit - changed))
            changed += pruning.end_claims(connection, now, max(1, limit - changed))
            changed += pruning.forget_alerts(connection, now, max(1, limit - changed))
            changed += pruning.remove_idle_lanes(connection, now, max(1, limit - changed))
            changed += pruning.remove_windows(connection, now, max(1, limit - changed))
            changed += pruning.remove_failed_jobs(connection, now, self._retention, max(1, limit - changed))
            return changed + pruning.remove_messages(connection, max(1, limit - changed))

        return self._database.write(work)

    # -- long work ----------------------------------------------------------------------------------------------------------

    def add_job(self, project: str, kind: str, details: Mapping[str, Any]) -> str:
        return self._database.write(lambda connection: jobs.add(connection, project, kind, details, self._clock()))

    def list_jobs(self, marker: str | None, limit: int, *, failed: bool | None = None) -> list[Job]:
        behind = ids.parse_marker(marker) or 0
        with self._database.read() as connection:
            return jobs.page(connection, behind, limit, failed)

    def get_job(self, job_id: str) -> Job | None:
        number = ids.parse(job_id)
        if number is None:
            return None
        with self._database.read() as connection:
            return jobs.get(connection, number)

    def hold_job(self, worker_id: int, lease: float, job_id: str | None = None) -> Job | None:
        number = None if job_id is None else ids.parse(job_id)
        if job_id is not None and number is None:
            return None
        if number is None:
            with self._database.read(snapshot=False) as connection:
                if jobs.find_free(connection, self._clock()) is None:
                    return None

        def work(connection: Connection) -> Job | None:
            now = self._clock()
            return jobs.hold(connection, worker_id, number, now, now + lease)

        return self._database.write(work, durable=False)

    def let_job_go(self, worker_id: int, job_id: str) -> None:
        self._change_job(statements.LET_JOB_GO, worker_id, job_id)

    def finish_job(self, worker_id: int, job_id: str) -> bool:
        return self._change_job(statements.FINISH_JOB, worker_id, job_id)

    def advance_job(self, worker_id: int, job_id: str, details: Mapping[str, Any]) -> bool:
        return self._change_job(statements.ADVANCE_JOB, worker_id, job_id, details=json.dumps(dict(details)))

    def fail_job(self, worker_id: int, job_id: str, error: str) -> bool:
        return self._change_job(statements.FAIL_JOB, worker_id, job_id, error=error)

    def _change_job(self, statement: str, worker_id: int, job_id: str, **values: Any) -> bool:
        number = ids.parse(job_id)
        if number is None:
            return False

        def work(connection: Connection) -> bool:
            return jobs.change(connection, statement, worker_id, number, self._clock(), **values)

        return self._database.write(work)

    def retry_job(self, job_id: str) -> bool:
        number = ids.parse(job_id)
        return self._database.write(lambda connection: connection.exec_driver_sql(statements.RETRY_JOB, (number,)).rowcount > 0)

    def cut(self, worker_id: int, job_id: str, size: int) -> bool:
        number = ids.parse(job_id)
        if number is None:
            return False
        return self._database.write(lambda connection: jobs.cut(connection, worker_id, number, size, self._clock()))

    # -- moving house -------------------------------------------------------------------------------------------------------

    def copy_counts(self) -> Mapping[str, int]:
        with self._database.read() as connection:
            return copying.count(connection)

    def copy_from(self, kind: str, after: Any, limit: int) -> tuple[list[Mapping[str, Any]], Any]:
        with self._database.read() as connection:
            return copying.read(connection, kind, after, limit)

    def copy_into(self, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
        def work(connection: Connection) -> None:
            copying.store(connection, kind, records)
            self._database.rise_above(connection, kind)

        self._database.write(work)


def _database(
    url: str, busy_timeout: float, group_commit: int, pool_size: int, member_timeout: float
) -> sqlite.Database | postgresql.Database:
    if url.partition(":")[0].partition("+")[0] not in ("postgresql", "postgres"):
        return sqlite.Database(sqlite.path_of(url), busy_timeout, group_commit)
    try:
        from zaqar_notify.storage.sql import postgresql
    except ImportError as error:
        raise CannotStart("[storage] connection: PostgreSQL needs psycopg: pip install 'zaqar-notify[postgresql]'") from error
    return postgresql.Database(url, busy_timeout, group_commit, pool_size=pool_size, member_timeout=member_timeout)


def _revision(connection: Connection) -> str | None:
    """The schema's, None without one. Under the write lock, so that it says whether writing works."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _context(subscription_id: str) -> bytes:
    return b"subscription:" + subscription_id.encode()


def _begins_anew(existing: Subscription, changes: Mapping[str, Any]) -> bool:
    """What it has failed at is forgotten: it was enabled, or has another subscriber."""
    enabled = "disabled" in changes and changes["disabled"] is None
    return enabled or changes.get("subscriber", existing.subscriber) != existing.subscriber


def _parsed(shown: Collection[str]) -> list[int]:
    return [number for number in map(ids.parse, shown) if number is not None]


def _select_subscription() -> Select[Any]:
    """What `SqlStorage._make_subscription` is made of."""
    column = subscriptions.c
    return select(
        column.id,
        column.project,
        column.queue,
        column.subscriber,
        column.ttl,
        column.options,
        column.created_at,
        column.expires_at,
        column.confirmed,
        column.secret,
        column.secret_made,
        column.disabled_at,
        column.disabled_reason,
        column.disabled_enable_by,
        column.strikes,
        column.failing_since,
    )


def _has_signed(connection: Connection, subscription_id: int | None) -> bool:
    """Whether a delivery was ever attempted for the subscription. With very many ends without an attempt: yes, to be safe."""
    row, line = deliveries.c, delivery_log.c
    if connection.execute(select(row.lines).where(row.subscription_id == subscription_id).limit(1)).first() is not None:
        return True
    query = select(line.outcome).where(line.subscription_id == subscription_id).limit(_MOST_LINES_READ)
    outcomes = connection.execute(query).scalars().all()
    return len(outcomes) == _MOST_LINES_READ or any(outcome is not None for outcome in outcomes)
