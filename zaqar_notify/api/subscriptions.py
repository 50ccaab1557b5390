"""Subscriptions: who is notified of a queue's messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import falcon

from zaqar_notify import validation
from zaqar_notify.api.body import read_json
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import read_page
from zaqar_notify.errors import Forbidden, NotFound
from zaqar_notify.model import Subscription as SubscriptionRecord
from zaqar_notify.storage.base import Storage

Check = Callable[[SubscriptionRecord], None]
Clock = Callable[[], float]

UNKNOWN = "There is no such subscription of the queue: it never was, has expired or was deleted."


class Subscriptions:
    access = Access.ZAQAR

    def __init__(self, storage: Storage, limits: validation.Limits, check: Check, clock: Clock) -> None:
        self._storage = storage
        self._limits = limits
        self._check = check
        self._clock = clock

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        document = read_json(req, self._limits.max_subscription_size, "The subscription")
        asked = validation.subscription(
            document, project=req.context.project, queue=queue, limits=self._limits, now=self._clock()
        )
        self._check(asked)
        subscribed = self._storage.subscribe(asked)
        subscription = subscribed.subscription
        resp.status = falcon.HTTP_201
        resp.location = href(subscription)
        answer = {"subscription_id": subscription.id}
        if subscribed.secret_is_new and subscription.secret is not None:
            answer["secret"] = subscription.secret
        resp.media = answer

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        project = req.context.project
        page, links = read_page(
            req,
            self._limits.max_subscriptions_per_page,
            lambda marker, limit: self._storage.list_subscriptions(project, queue, marker, limit),
            lambda subscription: subscription.id,
        )
        now = self._clock()
        resp.media = {"subscriptions": [show(subscription, now) for subscription in page], "links": links}


class Subscription:
    access = Access.ZAQAR

    def __init__(self, storage: Storage, limits: validation.Limits, check: Check, clock: Clock) -> None:
        self._storage = storage
        self._limits = limits
        self._check = check
        self._clock = clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        resp.media = show(find(self._storage, req.context.project, queue, subscription_id), self._clock())

    def on_patch(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        document = read_json(req, self._limits.max_subscription_size, "The request")
        changes = validation.subscription_changes(document, limits=self._limits, now=self._clock())
        current = find(self._storage, project, queue, subscription_id)
        self._check(dataclasses.replace(current, **changes))
        changed = self._storage.update_subscription(project, queue, subscription_id, changes)
        if changed is None:
            raise NotFound(UNKNOWN)
        resp.status = falcon.HTTP_204
        resp.location = href(changed)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        self._storage.delete_subscription(req.context.project, queue, subscription_id)
        resp.status = falcon.HTTP_204


class Enabling:
    """Ends the disabling of a subscription, whatever brought it about."""

    access = Access.ZAQAR

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        current = find(self._storage, project, queue, subscription_id)
        if current.disabled is not None:
            if current.disabled.enable_by != "owner":
                raise Forbidden("An operator has disabled this subscription, and only an operator can enable it again.")
            if self._storage.update_subscription(project, queue, subscription_id, {"disabled": None}) is None:
                raise NotFound(UNKNOWN)
        resp.status = falcon.HTTP_204


def find(storage: Storage, project: str, queue: str, subscription_id: str) -> SubscriptionRecord:
    subscription = storage.get_subscription(project, queue, subscription_id)
    if subscription is None:
        raise NotFound(UNKNOWN)
    return subscription


def href(subscription: SubscriptionRecord) -> str:
    return f"/v2/queues/{subscription.queue}/subscriptions/{subscription.id}"


def show(subscription: SubscriptionRecord, now: float) -> dict[str, Any]:
    shown = {
        "id": subscription.id,
        "source": subscription.queue,
        "subscriber": subscription.subscriber,
        "ttl": subscription.ttl,
        "age": max(0, int(now - subscription.created_at)),
        "options": validation.shown_options(subscription),
        "confirmed": subscription.confirmed,
    }
    if subscription.disabled is not None:
        shown["disabled"] = dataclasses.asdict(subscription.disabled)
    return shown
