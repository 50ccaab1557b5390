"""Did it arrive? The deliveries of one message, and those to one subscription."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import falcon

from zaqar_notify.api.middleware import Access
from zaqar_notify.api.paging import read_page
from zaqar_notify.api.service import Service
from zaqar_notify.errors import NotFound
from zaqar_notify.model import DeliveryRecord, LogEntry, OutcomeKind


class MessageDeliveries:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "deliveries:get_all"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._most = service.limits.max_deliveries_per_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, message_id: str) -> None:
        project = req.context.project
        resp.media = _page(
            req,
            self._most,
            lambda marker, limit: self._storage.message_deliveries(project, queue, message_id, marker, limit),
            lambda delivery: delivery.subscription_id,
            "There is no such message in the queue: it never was, or it is too long ago.",
        )


class SubscriptionDeliveries:
    access = Access.ZAQAR
    rules: ClassVar[Mapping[str, str]] = {"GET": "deliveries:get_all"}

    def __init__(self, service: Service) -> None:
        self._storage = service.storage
        self._most = service.limits.max_deliveries_per_page

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue: str, subscription_id: str) -> None:
        project = req.context.project
        resp.media = _page(
            req,
            self._most,
            lambda marker, limit: self._storage.subscription_deliveries(project, queue, subscription_id, marker, limit),
            lambda delivery: delivery.message_id,
            "There is no such subscription of the queue: it never was, or it is too long ago.",
        )


def _page(
    req: falcon.Request,
    most: int,
    read: Callable[[str | None, int], Sequence[DeliveryRecord] | None],
    marker: Callable[[DeliveryRecord], str],
    unknown: str,
) -> dict[str, Any]:
    def read_known(behind: str | None, limit: int) -> Sequence[DeliveryRecord]:
        found = read(behind, limit)
        if found is None:
            raise NotFound(unknown)
        return found

    page, links = read_page(req, most, read_known, marker)
    return {"deliveries": [show(delivery) for delivery in page], "links": links}


def show(delivery: DeliveryRecord) -> dict[str, Any]:
    return {
        "message_id": delivery.message_id,
        "subscription_id": delivery.subscription_id,
        "state": delivery.state.value,
        "next_attempt_at": delivery.next_attempt_at,
        "attempts": [_show_line(line) for line in delivery.log],
    }


def _show_line(line: LogEntry) -> dict[str, Any]:
    return {
        "number": line.number,
        "at": line.at,
        "outcome": None if line.outcome is None else line.outcome.value,
        "state": line.state.value,
        "status": line.status,
        "duration": line.duration,
        "error": None if line.outcome is OutcomeKind.DELIVERED else line.detail or None,
    }
