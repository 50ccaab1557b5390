"""The WSGI application: its routes, and what an error looks like."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import falcon

from zaqar_notify.api import feedback, pages
from zaqar_notify.api.claims import Claim, Claims
from zaqar_notify.api.confirmation import Confirmations
from zaqar_notify.api.deliveries import Cancelling, Delivery, MessageDeliveries, Redelivering, SubscriptionDeliveries
from zaqar_notify.api.health import Health
from zaqar_notify.api.home import Home, Versions
from zaqar_notify.api.identity import Anyone, Identity, SignedRequests
from zaqar_notify.api.messages import Message, Messages
from zaqar_notify.api.middleware import (
    REQUEST_ID_HEADER,
    Callers,
    Discretion,
    HeaderRules,
    LoopbackOnly,
    Measuring,
    RequestIds,
    request_id,
)
from zaqar_notify.api.openapi import OpenApi
from zaqar_notify.api.ping import Ping
from zaqar_notify.api.policy import Rules
from zaqar_notify.api.queues import Queue, QueuePurge, Queues, QueueSettings, QueueShare, QueueStats
from zaqar_notify.api.replays import Replaying
from zaqar_notify.api.service import Check, Clock, ReadReceipt, Service
from zaqar_notify.api.subscriptions import Confirming, Enabling, Pinging, Subscription, Subscriptions
from zaqar_notify.errors import NotifyError, StorageUnavailable
from zaqar_notify.feedback import Tokens
from zaqar_notify.metrics import ApiMetrics
from zaqar_notify.model import Receipt
from zaqar_notify.model import Subscription as SubscriptionRecord
from zaqar_notify.signing import UrlSigner
from zaqar_notify.storage.base import Storage
from zaqar_notify.validation import Limits

LOG = logging.getLogger(__name__)

App = falcon.App[falcon.Request, falcon.Response]


def _no_receipt(subscription: SubscriptionRecord, fields: Mapping[str, str]) -> Receipt | None:
    return None


def create_app(
    storage: Storage,
    *,
    limits: Limits,
    check: Check,
    wake: Callable[[], None],
    loopback_only: bool,
    identity: Identity | None = None,
    rules: Rules | None = None,
    signer: UrlSigner | None = None,
    confirmations: Confirmations | None = None,
    tokens: Tokens | None = None,
    read_receipt: ReadReceipt = _no_receipt,
    metrics: ApiMetrics | None = None,
    clock: Clock = time.time,
) -> App:
    """``check``, ``wake``, ``read_receipt``: see `Service`. Without an ``identity`` callers are what their headers say; without
    ``rules`` the default ones hold. Without a ``signer`` what this application signs holds nowhere else, and without ``tokens``
    no link is known; without ``confirmations`` none is required."""
    signer = signer or UrlSigner(secrets.token_hex(32))
    confirmations = confirmations or Confirmations(False, 259200, None, signer, clock)
    tokens = tokens or Tokens(secrets.token_hex(32))
    service = Service(storage, limits, check, wake, signer, confirmations, tokens, read_receipt, clock)
    identity = identity or Anyone()
    app: App = falcon.App(middleware=_middleware(service, identity, rules, loopback_only, metrics))
    # As Zaqar does: "?limit=" is the same as no limit.
    app.req_options.keep_blank_qs_values = False
    for template, resource in _routes(service, identity):
        app.add_route(template, resource)
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(NotifyError, _answer_notify_error)
    return app


def _middleware(
    service: Service, identity: Identity, rules: Rules | None, loopback_only: bool, metrics: ApiMetrics | None
) -> list[Any]:
    return [
        *([] if metrics is None else [Measuring(metrics)]),
        RequestIds(),
        Discretion(),
        *([LoopbackOnly()] if loopback_only else []),
        Callers(identity, SignedRequests(service.signer, clock=service.clock), rules or Rules.defaults()),
        HeaderRules(strict_client_id=service.limits.client_id_uuid_safe == "strict"),
    ]


_Routes = list[tuple[str, object]]
_QUEUE = "/v2/queues/{queue}"


def _routes(service: Service, identity: Identity) -> _Routes:
    settings = QueueSettings(service.storage)
    return [
        ("/", Versions()),
        ("/v2/", Home()),
        ("/v2/openapi.json", OpenApi(service.limits, identity)),
        ("/v2/ping", Ping(service)),
        ("/v2/health", Health(service)),
        ("/v2/queues", Queues(service)),
        (_QUEUE, Queue(service, settings)),
        (f"{_QUEUE}/stats", QueueStats(service)),
        (f"{_QUEUE}/purge", QueuePurge(service)),
        (f"{_QUEUE}/share", QueueShare(service)),
        (f"{_QUEUE}/messages", Messages(service, settings)),
        (f"{_QUEUE}/messages/{{message_id}}", Message(service)),
        (f"{_QUEUE}/claims", Claims(service, settings)),
        (f"{_QUEUE}/claims/{{claim_id}}", Claim(service)),
        *notification_routes(service, settings, _QUEUE),
        *feedback.routes(service),
    ]


def notification_routes(service: Service, settings: QueueSettings, queue: str) -> _Routes:
    """Subscriptions and deliveries; ``queue`` is the template of a queue's path."""
    message = f"{queue}/messages/{{message_id}}"
    delivery = f"{message}/deliveries/{{subscription_id}}"
    subscription = f"{queue}/subscriptions/{{subscription_id}}"
    return [
        (f"{message}/deliveries", MessageDeliveries(service)),
        (delivery, Delivery(service)),
        (f"{delivery}/redeliver", Redelivering(service, settings)),
        (f"{delivery}/cancel", Cancelling(service)),
        (f"{queue}/subscriptions", Subscriptions(service)),
        (subscription, Subscription(service)),
        (f"{subscription}/confirm", Confirming(service)),
        (f"{subscription}/enable", Enabling(service)),
        (f"{subscription}/ping", Pinging(service, settings)),
        (f"{subscription}/deliveries", SubscriptionDeliveries(service)),
        (f"{subscription}/replay", Replaying(service, settings)),
    ]


_DESCRIPTIONS = {
    404: "There is no such route.",
    405: "This route does not know the method; the Allow header names those that it knows.",
}


def _answer(req: falcon.Request, resp: falcon.Response, status: int, title: str, description: str) -> None:
    resp.status = status
    if req.uri_template in feedback.PAGES and pages.preferred(req):
        pages.show(resp, title, description)
        return
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json.dumps({"title": title, "description": description}).encode()


def _answer_notify_error(req: falcon.Request, resp: falcon.Response, error: NotifyError, params: dict[str, Any]) -> None:
    if error.status >= 500:
        LOG.warning("request %s: %s %r: %s", request_id(req), req.method, _loggable_path(req), error)
    if isinstance(error, StorageUnavailable):
        resp.set_header("Retry-After", "1")
    _answer(req, resp, error.status, error.title, str(error))


def _answer_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    """Falcon's own errors: no such route, no such method, a query that is no boolean."""
    if error.headers is not None:
        resp.set_headers(error.headers)
    status = error.status_code
    title = (error.title or "").removeprefix(f"{status} ")
    _answer(req, resp, status, title, error.description or _DESCRIPTIONS.get(status, title))


def _answer_unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    LOG.error("request %s: %s %r failed", request_id(req), req.method, _loggable_path(req), exc_info=error)
    _answer(
        req,
        resp,
        500,
        NotifyError.title,
        f"The service failed at this request; its log has the reason under the id in {REQUEST_ID_HEADER}.",
    )


def _loggable_path(req: falcon.Request) -> str:
    """Whoever reads a token in a log has the right that it gives."""
    return req.uri_template if req.uri_template in feedback.TEMPLATES else req.path
