"""Did it arrive? The deliveries of one message, those to one subscription, and one of them: shown, made again, ended."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import falcon

from zaqar_notify import validation
from zaqar_notify.api.body import read_body
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import next_links
from zaqar_notify.api.queues import QueueSettings, default_ttl
from zaqar_notify.api.service import Service
from zaqar_notify.errors import NotFound
from zaqar_notify.model import DeliveryRecord, LogEntry, OutcomeKind, Receipt, ReceiptKind, State
from zaqar_notify.storage.base import Storage

UNKNOWN = "There is no such delivery: it never was, or it is too long ago."
_UNKNOWN_MESSAGE = "There is no such message in the queue: it never was, or it is too long ago."
_UNKNOWN_SUBSCRIPTION = "There is no such subscription of the queue: it never was, or it is too long ago."

MOST_LOOKED_AT = 1000
"""Deliveries that one request looks at, at most, to find those that are asked for."""
_STEP = 200

_Read = Callable[[str | None, int], Sequence[DeliveryRecord] | None]
"""Marker and limit to deliveries; None: of nothing that is known."""
_Marker = Callable[[DeliveryRecord], str]


class MessageDeliveries:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "deliveries:get_all"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._most = service.limits.max_deliveries_per_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str) -> None:
        project = req.context.project

        def read(marker: str | None, limit: int) -> Sequence[DeliveryRecord] | None:
            return self._storage.message_deliveries(project, queue, message_id, marker, limit)

        resp.media = _page(
            req, _Listing(self._storage, queue, read, lambda delivery: delivery.subscription_id, _UNKNOWN_MESSAGE), self._most
        )


class SubscriptionDeliveries:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "deliveries:get_all"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._most = service.limits.max_deliveries_per_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project

        def read(marker: str | None, limit: int) -> Sequence[DeliveryRecord] | None:
            return self._storage.subscription_deliveries(project, queue, subscription_id, marker, limit)

        resp.media = _page(
            req, _Listing(self._storage, queue, read, lambda delivery: delivery.message_id, _UNKNOWN_SUBSCRIPTION), self._most
        )


class Delivery:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "deliveries:get"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str, subscription_id: str) -> None:
        exchanges = req.get_param_as_bool("exchanges", default=True)
        found = self._storage.get_delivery(req.context.project, queue, message_id, subscription_id, exchanges=exchanges)
        if found is None:
            raise NotFound(UNKNOWN)
        resp.media = show(found, exchanges=exchanges)


class Redelivering:
    """Starts a delivery anew, whatever became of it."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "deliveries:redeliver"}
    signable = False
    """Who may post messages by a pre-signed URL has no say in what becomes of them."""

    def __init__(self, service: Service, settings: QueueSettings) -> None:
        self._storage = service.storage
        self._limits = service.limits
        self._settings = settings
        self._wake = service.wake

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str, subscription_id: str) -> None:
        project = req.context.project
        limit = self._limits.max_messages_post_size
        raw = read_body(req, limit, "The request")
        ttl = validation.redelivery_ttl(
            validation.parse_json(raw, limit, "The request") if raw else {},
            default_ttl=default_ttl(self._settings.metadata(project, queue), self._limits),
            limits=self._limits,
        )
        self._storage.redeliver(project, queue, message_id, subscription_id, ttl)
        self._wake()
        resp.status = falcon.HTTP_202
        resp.location = href(queue, message_id, subscription_id)


class Cancelling:
    """Ends a delivery that has not ended."""

    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"POST": "deliveries:cancel"}
    signable = False

    def __init__(self, service: Service) -> None:
        self._storage = service.storage

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str, subscription_id: str) -> None:
        self._storage.cancel(req.context.project, queue, message_id, subscription_id)
        resp.status = falcon.HTTP_204
        resp.location = href(queue, message_id, subscription_id)


def href(queue: str, message_id: str, subscription_id: str) -> str:
    return f"/v2/queues/{queue}/messages/{urllib.parse.quote(message_id, safe='')}/deliveries/{subscription_id}"


# -- listings -----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Listing:
    storage: Storage
    queue: str
    read: _Read
    marker: _Marker
    unknown: str

    def behind(self, marker: str | None, limit: int) -> Sequence[DeliveryRecord]:
        found = self.read(marker, limit)
        if found is None:
            raise NotFound(self.unknown)
        return found

    def some(
        self, marker: str | None, limit: int, wanted: validation.DeliveryFilter
    ) -> tuple[Sequence[DeliveryRecord], str | None]:
        """At most ``limit`` of those wanted behind the marker, and the marker behind which there may be more."""
        if wanted.is_empty:
            found = self.behind(marker, limit + 1)
            return found[:limit], self.marker(found[limit - 1]) if len(found) > limit else None
        page: list[DeliveryRecord] = []
        for _ in range(MOST_LOOKED_AT // _STEP):
            found = self.behind(marker, _STEP)
            for delivery in found:
                marker = self.marker(delivery)
                if wanted.has(delivery.state, delivery.log[-1].at if delivery.log else None):
                    page.append(delivery)
                    if len(page) == limit:
                        return page, marker
            if len(found) < _STEP:
                return page, None
        return page, marker

    def with_exchanges(self, project: str, delivery: DeliveryRecord) -> DeliveryRecord:
        again = self.storage.get_delivery(project, self.queue, delivery.message_id, delivery.subscription_id, exchanges=True)
        return delivery if again is None else again


def _page(req: falcon.Request, listing: _Listing, most: int) -> dict[str, Any]:
    limit = validation.page_size(req.get_param("limit"), most)
    exchanges = req.get_param_as_bool("exchanges", default=False)
    wanted = validation.delivery_filter(req.get_param_as_list("state"), req.get_param("since"), req.get_param("until"))
    page, behind = listing.some(req.get_param("marker"), limit, wanted)
    if exchanges:
        page = [listing.with_exchanges(req.context.project, delivery) for delivery in page]
    return {
        "deliveries": [show(delivery, exchanges=exchanges) for delivery in page],
        "links": [] if behind is None else next_links(req, behind, limit, _asked(req)),
    }


def _asked(req: falcon.Request) -> dict[str, str]:
    """The parameters that the next page has, too."""
    states = req.get_param_as_list("state")
    asked = {} if states is None else {"state": ",".join(states)}
    for name in ("since", "until", "exchanges"):
        if (value := req.get_param(name)) is not None:
            asked[name] = value
    return asked


ACCEPTED = "accepted"
"""The progress of a delivery of which nothing was heard since: the other side took it."""


def show(delivery: DeliveryRecord, *, exchanges: bool = False) -> dict[str, Any]:
    return {
        "message_id": delivery.message_id,
        "subscription_id": delivery.subscription_id,
        "state": delivery.state.value,
        "next_attempt_at": delivery.next_attempt_at,
        "progress": progress(delivery),
        "acknowledged_at": next((heard.at for heard in delivery.receipts if heard.kind is ReceiptKind.ACKNOWLEDGED), None),
        "receipts": [_show_receipt(heard) for heard in delivery.receipts],
        "attempts": [_show_line(line) | (_show_exchange(line) if exchanges else {}) for line in delivery.log],
    }


def progress(delivery: DeliveryRecord) -> str | None:
    """How far it has come, as far as is known: `ACCEPTED`, or what was heard since. None: nobody has taken it (yet)."""
    kinds = {heard.kind: heard.at for heard in delivery.receipts}
    if ReceiptKind.FAILED in kinds and _delivered_since(delivery, kinds[ReceiptKind.FAILED]):
        del kinds[ReceiptKind.FAILED]
    if ReceiptKind.ACKNOWLEDGED in kinds:
        return ReceiptKind.ACKNOWLEDGED.value
    if kinds:
        return max(kinds, key=lambda kind: kinds[kind]).value
    return ACCEPTED if delivery.state is State.DELIVERED else None


def _delivered_since(delivery: DeliveryRecord, at: float) -> bool:
    """To a fallback address, or once more."""
    return delivery.state is State.DELIVERED and delivery.log[-1].at > at


def _show_receipt(heard: Receipt) -> dict[str, Any]:
    return {"kind": heard.kind.value, "at": heard.at, "detail": heard.detail or None}


def _show_line(line: LogEntry) -> dict[str, Any]:
    delivered = line.outcome is OutcomeKind.DELIVERED
    return {
        **({"fallback": line.target} if line.target else {}),
        **({"detail": line.detail} if delivered and line.detail else {}),
        "number": line.number,
        "at": line.at,
        "outcome": None if line.outcome is None else line.outcome.value,
        "state": line.state.value,
        "status": line.status,
        "duration": line.duration,
        "error": None if delivered else line.detail or None,
    }


def _show_exchange(line: LogEntry) -> dict[str, Any]:
    exchange = line.exchange
    if exchange is None:
        return {"exchange": None}
    return {"exchange": dataclasses.asdict(exchange)}
