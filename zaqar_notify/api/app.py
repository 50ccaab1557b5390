"""The WSGI application: its routes, and what an error looks like."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import falcon

from zaqar_notify.api.deliveries import MessageDeliveries, SubscriptionDeliveries
from zaqar_notify.api.messages import Message, Messages
from zaqar_notify.api.middleware import REQUEST_ID_HEADER, HeaderRules, LoopbackOnly, RequestIds, request_id
from zaqar_notify.api.ping import Ping
from zaqar_notify.api.queues import Queue, Queues, QueueSettings
from zaqar_notify.api.subscriptions import Check, Clock, Enabling, Subscription, Subscriptions
from zaqar_notify.errors import NotifyError, StorageUnavailable
from zaqar_notify.storage.base import Storage
from zaqar_notify.validation import Limits

LOG = logging.getLogger(__name__)

App = falcon.App[falcon.Request, falcon.Response]


def create_app(
    storage: Storage,
    *,
    limits: Limits,
    check: Check,
    wake: Callable[[], None],
    loopback_only: bool,
    clock: Clock = time.time,
) -> App:
    """``check`` raises `InvalidRequest` for a subscription that no notifier takes; ``wake`` is called after each publishing."""
    middleware: list[Any] = [RequestIds(), HeaderRules(strict_client_id=limits.client_id_uuid_safe == "strict")]
    if loopback_only:
        middleware.append(LoopbackOnly())
    app: App = falcon.App(middleware=middleware)
    # As Zaqar does: "?limit=" is the same as no limit.
    app.req_options.keep_blank_qs_values = False
    for template, resource in _routes(storage, limits, check, wake, clock):
        app.add_route(template, resource)
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(NotifyError, _answer_notify_error)
    return app


def _routes(storage: Storage, limits: Limits, check: Check, wake: Callable[[], None], clock: Clock) -> list[tuple[str, object]]:
    settings = QueueSettings(storage)
    queue = "/v2/queues/{queue}"
    message = f"{queue}/messages/{{message_id}}"
    subscription = f"{queue}/subscriptions/{{subscription_id}}"
    return [
        ("/v2/ping", Ping(storage)),
        ("/v2/queues", Queues(storage, limits)),
        (queue, Queue(storage, limits, settings)),
        (f"{queue}/messages", Messages(storage, limits, settings, wake, clock)),
        (message, Message(storage, clock)),
        (f"{message}/deliveries", MessageDeliveries(storage, limits.max_deliveries_per_page)),
        (f"{queue}/subscriptions", Subscriptions(storage, limits, check, clock)),
        (subscription, Subscription(storage, limits, check, clock)),
        (f"{subscription}/enable", Enabling(storage)),
        (f"{subscription}/deliveries", SubscriptionDeliveries(storage, limits.max_deliveries_per_page)),
    ]


_DESCRIPTIONS = {
    404: "There is no such route.",
    405: "This route does not know the method; the Allow header names those that it knows.",
}


def _answer(resp: falcon.Response, status: int, title: str, description: str) -> None:
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json.dumps({"title": title, "description": description}).encode()


def _answer_notify_error(req: falcon.Request, resp: falcon.Response, error: NotifyError, params: dict[str, Any]) -> None:
    if error.status >= 500:
        LOG.warning("request %s: %s %r: %s", request_id(req), req.method, req.path, error)
    if isinstance(error, StorageUnavailable):
        resp.set_header("Retry-After", "1")
    _answer(resp, error.status, error.title, str(error))


def _answer_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    """Falcon's own errors: no such route, no such method, a query that is no boolean."""
    if error.headers is not None:
        resp.set_headers(error.headers)
    status = error.status_code
    title = (error.title or "").removeprefix(f"{status} ")
    _answer(resp, status, title, error.description or _DESCRIPTIONS.get(status, title))


def _answer_unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    LOG.error("request %s: %s %r failed", request_id(req), req.method, req.path, exc_info=error)
    _answer(
        resp,
        500,
        NotifyError.title,
        f"The service failed at this request; its log has the reason under the id in {REQUEST_ID_HEADER}.",
    )
