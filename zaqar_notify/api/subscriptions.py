"""Subscriptions: who is notified of a queue's messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api.body import read_json
from zaqar_notify.api.confirmation import confirm_path
from zaqar_notify.api.deliveries import href as delivery_path
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import read_page
from zaqar_notify.api.queues import QueueSettings, default_ttl
from zaqar_notify.api.service import Service
from zaqar_notify.errors import Conflict, Forbidden, InvalidRequest, NotFound
from zaqar_notify.model import Draft
from zaqar_notify.model import Subscription as SubscriptionRecord
from zaqar_notify.storage.base import Storage, Subscribed

UNKNOWN = "There is no such subscription of the queue: it never was, has expired or was deleted."


class Subscriptions:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "subscription:get_all", "POST": "subscription:create"}

    def __init__(self, service: Service) -> None:
        self._service = service
        self._storage = service.storage
        self._limits = service.limits
        self._check = service.check
        self._confirmations = service.confirmations
        self._wake = service.wake
        self._clock = service.clock

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str) -> None:
        document = read_json(req, self._limits.max_subscription_size, "The subscription")
        asked = validation.subscription(
            document, project=req.context.project, queue=queue, limits=self._limits, now=self._clock()
        )
        self._check(asked)
        _check_further(self._service, asked)
        subscribed = self._subscribe(asked)
        subscription = subscribed.subscription
        resp.status = falcon.HTTP_201
        resp.location = href(subscription)
        answer = {"subscription_id": subscription.id}
        if subscribed.secret_is_new and subscription.secret is not None:
            answer["secret"] = subscription.secret
        resp.media = answer

    def _subscribe(self, asked: SubscriptionRecord) -> Subscribed:
        if not self._confirmations.required:
            return self._storage.subscribe(asked)
        subscribed = self._storage.subscribe(asked, self._confirmations.of)
        self._wake()
        return subscribed

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
    rules: ClassVar[Mapping[str, str]] = {
        "GET": "subscription:get",
        "PATCH": "subscription:update",
        "DELETE": "subscription:delete",
    }

    def __init__(self, service: Service) -> None:
        self._service = service
        self._storage = service.storage
        self._limits = service.limits
        self._check = service.check
        self._confirmations = service.confirmations
        self._wake = service.wake
        self._clock = service.clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        resp.media = show(find(self._storage, req.context.project, queue, subscription_id), self._clock())

    def on_patch(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        document = read_json(req, self._limits.max_subscription_size, "The request")
        changes = validation.subscription_changes(document, queue=queue, limits=self._limits, now=self._clock())
        current = find(self._storage, project, queue, subscription_id)
        wanted = dataclasses.replace(current, **changes)
        self._check(wanted)
        if changes.keys() & {"subscriber", "options"}:
            _check_further(self._service, wanted)
        ask = self._confirmations.of if self._confirmations.required else None
        changed = self._storage.update_subscription(project, queue, subscription_id, changes, ask)
        if changed is None:
            raise NotFound(UNKNOWN)
        if ask is not None and changed.subscriber != current.subscriber:
            self._wake()
        resp.status = falcon.HTTP_204
        resp.location = href(changed)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        self._storage.delete_subscription(req.context.project, queue, subscription_id)
        resp.status = falcon.HTTP_204


class Confirming:
    """The subscriber's answer, or the word of whoever may write the project's subscriptions."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"PUT": "subscription:confirm"}
    client_id_optional_when_signed = True
    """A subscriber has the signed headers and no others."""

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._confirmations = service.confirmations
        self._wake = service.wake

    def on_put(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        confirmed = validation.confirmed(read_json(req, self._limits.max_subscription_size, "The request"))
        tell = self._confirmations.of_end if self._confirmations.required and not confirmed else None
        changed = self._storage.confirm(req.context.project, queue, subscription_id, confirmed, tell)
        if changed is None:
            raise NotFound(UNKNOWN)
        if tell is not None:
            self._wake()
        resp.status = falcon.HTTP_204
        resp.location = confirm_path(changed)


class Enabling:
    """Ends the disabling of a subscription, whatever brought it about."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "subscription:enable"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        current = find(self._storage, project, queue, subscription_id)
        if current.disabled is not None:
            if current.disabled.enable_by != "owner":
                raise Forbidden("An operator has disabled this subscription, and only an operator can enable it again.")
            if self._storage.update_subscription(project, queue, subscription_id, {"disabled": None}) is None:
                raise NotFound(UNKNOWN)
        resp.status = falcon.HTTP_204


class Pinging:
    """Sends the subscriber a test notification."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "subscription:ping"}
    BODY = b'{"test":true}'

    def __init__(self, service: Service, settings: QueueSettings) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._settings = settings
        self._confirmed_only = service.confirmations.required
        self._wake = service.wake

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        if self._confirmed_only and not find(self._storage, project, queue, subscription_id).confirmed:
            raise Conflict("The subscriber has not confirmed the subscription: it is sent nothing else before it has.")
        ttl = default_ttl(self._settings.metadata(project, queue), self._limits)
        message_id = self._storage.ping(project, queue, subscription_id, Draft(self.BODY, ttl))
        if message_id is None:
            raise NotFound(UNKNOWN)
        self._wake()
        resp.status = falcon.HTTP_202
        resp.location = delivery_path(queue, message_id, subscription_id)
        resp.media = {"message_id": message_id}


def find(storage: Storage, project: str, queue: str, subscription_id: str) -> SubscriptionRecord:
    subscription = storage.get_subscription(project, queue, subscription_id)
    if subscription is None:
        raise NotFound(UNKNOWN)
    return subscription


def _check_further(service: Service, subscription: SubscriptionRecord) -> None:
    """The other addresses that it names."""
    if service.confirmations.required and "fallback" in subscription.options:
        raise InvalidRequest(
            "options.fallback: only a subscriber is asked to confirm, and this service sends to nobody else "
            "([notification] require_confirmation)."
        )
    for what, addressed in validation.further_addresses(subscription, service.limits):
        try:
            service.check(addressed)
        except InvalidRequest as error:
            raise type(error)(f"{what}: {error}") from None


def href(subscription: SubscriptionRecord) -> str:
    return f"/v2/queues/{subscription.queue}/subscriptions/{subscription.id}"


def show(subscription: SubscriptionRecord, now: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
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
    if subscription.strikes:
        shown["strikes"] = subscription.strikes
    if subscription.failing_since is not None:
        shown["failing_since"] = subscription.failing_since
    return shown
