"""Subscriptions, and what asks them to confirm."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zaqar_notify.encryption import CannotDecrypt, Keyring
from zaqar_notify.errors import Conflict
from zaqar_notify.model import Disabled, MessageKind, Subscription
from zaqar_notify.storage import ids
from zaqar_notify.storage.base import Confirmation, Subscribed
from zaqar_notify.storage.mongodb import publishing
from zaqar_notify.storage.mongodb.collections import (
    DELIVERIES,
    DELIVERY_LOG,
    LIVE,
    SUBSCRIPTIONS,
    Document,
    changes,
    values,
    without_nulls,
)
from zaqar_notify.storage.mongodb.publishing import Means
from zaqar_notify.storage.mongodb.scope import Scope

LOG = logging.getLogger(__name__)

_MOST_KEPT = 2048
_MOST_LINES_READ = 1000
_IN_ORDER: dict[str, Any] = {"sort": [("_id", 1)], "hint": "ix_subscriptions_queue"}

FIELDS = (
    "_id", "project", "queue", "subscriber", "ttl", "options", "created_at", "expires_at", "confirmed", "secret", "secret_made",
    "disabled_at", "disabled_reason", "disabled_enable_by", "strikes", "failing_since",
)  # fmt: skip
"""What `Subscriptions.subscription` is made of."""


class Subscriptions:
    """Functions with a scope work within the caller's transaction or snapshot."""

    def __init__(self, keyring: Keyring, means: Means) -> None:
        self._keyring = keyring
        self._means = means
        self._sealed: set[str] = set()
        """Those of which the log says that they are sealed."""
        # Matching reads the same subscriptions again and again; opening their secrets is half of the cost.
        self._make = functools.lru_cache(_MOST_KEPT)(self._made)

    # -- reading ------------------------------------------------------------------------------------------------------------

    def subscription(self, document: Document) -> Subscription:
        return self._make(values(document, FIELDS))

    def live(self, scope: Scope, project: str, queue: str, number: int, now: float) -> Subscription | None:
        """None for one that is expired or deleted."""
        wanted = {"_id": number, "project": project, "queue": queue, "deleted_at": LIVE}
        found = scope[SUBSCRIPTIONS].find_one(wanted, FIELDS)
        subscription = None if found is None else self.subscription(found)
        return subscription if subscription is not None and subscription.live(now) else None

    def page(self, scope: Scope, project: str, queue: str, behind: int, *, limit: int, now: float) -> list[Subscription]:
        wanted = {**_live_in(project, queue, now), "_id": {"$gt": behind}}
        return [self.subscription(found) for found in scope[SUBSCRIPTIONS].find(wanted, FIELDS, limit=limit, **_IN_ORDER)]

    def load(self, scope: Scope, numbers: Collection[int]) -> list[Subscription]:
        """Of these those that were not deleted. One that was only found expired was not: its deliveries end as expired."""
        kept = [{"deleted_at": LIVE}, {"$expr": {"$eq": ["$deleted_at", "$expires_at"]}}]
        found = scope[SUBSCRIPTIONS].find({"_id": {"$in": list(numbers)}, "$or": kept}, FIELDS) if numbers else []
        return [self.subscription(document) for document in found]

    def _find_subscriber(self, scope: Scope, project: str, queue: str, subscriber: str) -> Subscription | None:
        """Also one that is expired."""
        wanted = {"project": project, "queue": queue, "subscriber": subscriber, "deleted_at": LIVE}
        found = scope[SUBSCRIPTIONS].find_one(wanted, FIELDS)
        return None if found is None else self.subscription(found)

    # -- changing -----------------------------------------------------------------------------------------------------------

    def subscribe(self, scope: Scope, asked: Subscription, confirmation: Confirmation | None, now: float) -> Subscribed:
        subscribed = self._subscribe(scope, asked, now)
        self._ask(scope, subscribed.subscription, confirmation, now)
        return subscribed

    def _subscribe(self, scope: Scope, asked: Subscription, now: float) -> Subscribed:
        queue = publishing.ensure_queue(scope, asked.project, asked.queue, now)
        existing = self._find_subscriber(scope, asked.project, asked.queue, asked.subscriber)
        if existing is not None and not existing.live(now):
            self._change(scope, existing, {"deleted_at": existing.expires_at})
            existing = None
        if existing is None:
            return self._add(scope, queue, asked, now)
        if existing.confirmed:
            raise Conflict("This subscriber is subscribed to the queue already.")
        replaced: dict[str, Any] = {"ttl": asked.ttl, "options": asked.options}
        renewed = asked.secret is not None and _may_replace_secret(scope, existing, asked)
        if renewed:
            replaced |= {"secret": asked.secret, "secret_made": asked.secret_made}
        changed = self._change(scope, existing, self._values(existing.id, replaced, now))
        return Subscribed(changed, created=False, secret_is_new=renewed and changed.secret_made)

    def _add(self, scope: Scope, queue: Document, asked: Subscription, now: float) -> Subscribed:
        number = publishing.give_ids(scope, [queue], now, self._means, 1)[0]
        given = {
            "ttl": asked.ttl,
            "options": asked.options,
            "secret": asked.secret,
            "secret_made": asked.secret_made,
            "disabled": asked.disabled,
        }
        document = without_nulls(
            {
                "_id": number,
                "project": asked.project,
                "queue": asked.queue,
                "confirmed": asked.confirmed,
                "subscriber": asked.subscriber,
                "deleted_at": LIVE,
                "strikes": 0,
                **self._values(ids.show(number), given, now),
            }
        )
        scope[SUBSCRIPTIONS].insert_one(document)
        return Subscribed(
            self.subscription(document), created=True, secret_is_new=asked.secret is not None and asked.secret_made
        )

    def update(
        self,
        scope: Scope,
        existing: Subscription,
        asked: Mapping[str, Any],
        confirmation: Confirmation | None,
        now: float,
    ) -> Subscription:
        subscriber = asked.get("subscriber", existing.subscriber)
        if subscriber != existing.subscriber:
            self._free_subscriber(scope, existing, subscriber, now)
        replaced = self._values(existing.id, asked, now)
        if _begins_anew(existing, asked):
            replaced |= {"strikes": 0, "failing_since": None}
        if confirmation is None or subscriber == existing.subscriber:
            return self._change(scope, existing, replaced)
        changed = self._change(scope, existing, {**replaced, "confirmed": False})
        self._ask(scope, changed, confirmation, now)
        return changed

    def confirm(
        self, scope: Scope, existing: Subscription, confirmed: bool, confirmation: Confirmation | None, now: float
    ) -> Subscription:
        changed = self._change(scope, existing, {"confirmed": confirmed})
        self._ask(scope, changed, confirmation, now)
        return changed

    def delete(self, scope: Scope, numbers: Sequence[int], now: float) -> None:
        ended = {"deleted_at": now, "prune_at": now + self._means.retention.log}
        if numbers:
            scope[SUBSCRIPTIONS].update_many({"_id": {"$in": list(numbers)}, "deleted_at": LIVE}, {"$set": ended})

    def purge(self, scope: Scope, project: str, queue: str, limit: int, now: float) -> int:
        found = scope[SUBSCRIPTIONS].find(_live_in(project, queue, now), ["_id"], limit=limit, **_IN_ORDER)
        self.delete(scope, [document["_id"] for document in found], now)
        return len(found)

    def _free_subscriber(self, scope: Scope, existing: Subscription, subscriber: str, now: float) -> None:
        other = self._find_subscriber(scope, existing.project, existing.queue, subscriber)
        if other is None:
            return
        if other.live(now):
            raise Conflict("Another subscription of the queue has this subscriber.")
        self._change(scope, other, {"deleted_at": other.expires_at})

    def _ask(self, scope: Scope, subscription: Subscription, confirmation: Confirmation | None, now: float) -> None:
        if confirmation is not None:
            post = publishing.Post(subscription.project, subscription.queue, (confirmation(subscription),))
            number, kind = int(subscription.id, 16), MessageKind.CONFIRMATION
            publishing.insert_for_one(scope, post, number, kind, now=now, means=self._means)

    def _change(self, scope: Scope, existing: Subscription, fields: Mapping[str, Any]) -> Subscription:
        number = {"_id": int(existing.id, 16)}
        # Without a change it is written too, so that it is not deleted meanwhile.
        update = changes(fields) or {"$set": {"strikes": existing.strikes}}
        changed = scope[SUBSCRIPTIONS].find_one_and_update(number, update, FIELDS) or {}
        return self.subscription(changed)

    def _values(self, subscription_id: str, fields: Mapping[str, Any], now: float) -> dict[str, Any]:
        """What a document has for fields of a subscription."""
        stored = {name: fields[name] for name in ("subscriber", "secret_made") if name in fields}
        if "ttl" in fields:
            ttl = fields["ttl"]
            expires_at = None if ttl is None else now + ttl
            stored |= {"ttl": ttl, "created_at": now, "expires_at": expires_at, "prune_at": expires_at}
        if "options" in fields:
            stored["options"] = json.dumps(dict(fields["options"]))
        if "secret" in fields:
            secret = fields["secret"]
            stored["secret"] = None if secret is None else self._keyring.seal(secret.encode(), _context(subscription_id))
        if "disabled" in fields:
            why: Disabled | None = fields["disabled"]
            stored["disabled_at"] = why and why.at
            stored["disabled_reason"] = why and why.reason
            stored["disabled_enable_by"] = why and why.enable_by
        return stored

    # -- what a document stands for -----------------------------------------------------------------------------------------

    def _made(self, row: Sequence[Any]) -> Subscription:
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
            confirmed=confirmed,
            secret=plain,
            secret_made=secret_made,
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


def _live_in(project: str, queue: str, now: float) -> dict[str, Any]:
    unexpired = [{"expires_at": {"$exists": False}}, {"expires_at": {"$gt": now}}]
    return {"project": project, "queue": queue, "deleted_at": LIVE, "$or": unexpired}


def _context(subscription_id: str) -> bytes:
    return b"subscription:" + subscription_id.encode()


def _begins_anew(existing: Subscription, asked: Mapping[str, Any]) -> bool:
    """What it has failed at is forgotten: it was enabled, or has another subscriber."""
    enabled = "disabled" in asked and asked["disabled"] is None
    return enabled or asked.get("subscriber", existing.subscriber) != existing.subscriber


def _may_replace_secret(scope: Scope, existing: Subscription, asked: Subscription) -> bool:
    if not asked.secret_made or (existing.secret is None and not existing.sealed):
        return True
    return existing.secret_made and not _has_signed(scope, int(existing.id, 16))


def _has_signed(scope: Scope, subscription: int) -> bool:
    """Whether a delivery was ever attempted for it. With very many ends without an attempt: yes, to be safe."""
    its = {"subscription_id": subscription}
    if scope[DELIVERIES].find_one(its, ["_id"]) is not None:
        return True
    lines = scope[DELIVERY_LOG].find(its, ["outcome"], limit=_MOST_LINES_READ)
    return len(lines) == _MOST_LINES_READ or any("outcome" in line for line in lines)
