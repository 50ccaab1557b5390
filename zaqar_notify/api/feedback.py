"""What those who were notified, and those who carried it, have to say: the token in the URL is all the right that they need.

A GET changes nothing but where a provider reports: who scans mails follows their links.
"""

from __future__ import annotations

import dataclasses

import falcon

from zaqar_notify import addresses, receipts
from zaqar_notify.api import pages
from zaqar_notify.api.body import read_body, read_fields
from zaqar_notify.api.confirmation import is_for
from zaqar_notify.api.middleware import Access
from zaqar_notify.api.service import Service
from zaqar_notify.errors import Gone, NotFound
from zaqar_notify.feedback import ACKNOWLEDGE, CONFIRM, PATHS, RECEIPT, UNSUBSCRIBE, Subject, Use
from zaqar_notify.model import Message, MessageKind, Receipt, ReceiptKind, Subscription
from zaqar_notify.receipts import Stored

MOST_BYTES = 16384
MOST_DETAIL = 500
PATIENCE = 0.5
"""Seconds that the outcome of an attempt may still take to be stored when a report of its failure is here already."""

_ACKNOWLEDGEMENT, _REPORT, _UNSUBSCRIPTION, _CONFIRMATION = (
    f"{PATHS[name][1]}{{token}}" for name in (ACKNOWLEDGE, RECEIPT, UNSUBSCRIBE, CONFIRM)
)
TEMPLATES = (_ACKNOWLEDGEMENT, _REPORT, _UNSUBSCRIPTION, _CONFIRMATION)
PAGES = frozenset({_UNSUBSCRIPTION, _CONFIRMATION})
"""Those that people open in a browser."""

_UNKNOWN = "There is no such delivery: it is too long ago."
_NOBODY = "There is no such subscription any more."
_ASK_AGAIN = (
    "This request to confirm is not valid any more: it has expired, or the subscription has another address now. Ask whoever "
    "made the subscription for a new one."
)


def routes(service: Service) -> list[tuple[str, object]]:
    return [
        (_ACKNOWLEDGEMENT, Acknowledging(service)),
        (_REPORT, Reporting(service)),
        (_UNSUBSCRIPTION, Leaving(service)),
        (_CONFIRMATION, Agreeing(service)),
    ]


# -- for programs -------------------------------------------------------------------------------------------------------------


class Acknowledging:
    """The application that was notified says that it has the notification."""

    access = Access.SIGNED

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_post(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        subject = self._service.tokens.read(Use.ACKNOWLEDGE, token)
        read_body(req, MOST_BYTES, "The request")
        _store(self._service, subject, Receipt(ReceiptKind.ACKNOWLEDGED, self._service.storage.now()))
        resp.status = falcon.HTTP_204


class Reporting:
    """A provider says what became of what it has accepted."""

    access = Access.SIGNED

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        self._report(req, token)
        resp.content_type = falcon.MEDIA_TEXT

    def on_post(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        self._report(req, token)
        resp.status = falcon.HTTP_204

    def _report(self, req: falcon.Request, token: str) -> None:
        subject = self._service.tokens.read(Use.RECEIPT, token)
        fields = read_fields(req, MOST_BYTES, "The report")
        found = self._service.storage.load((), [subject.subscription_id]).subscriptions.get(subject.subscription_id)
        addressed = None if found is None else addresses.at(found, subject.target)
        if addressed is None:
            raise NotFound(_NOBODY)
        receipt = self._service.read_receipt(addressed, fields)
        if receipt is not None:
            detail = _one_line(receipt.detail)
            _store(self._service, subject, dataclasses.replace(receipt, at=self._service.storage.now(), detail=detail))


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:MOST_DETAIL]


def _store(service: Service, subject: Subject, receipt: Receipt) -> None:
    """Raises `NotFound` where nothing is known of the delivery any more. What was heard already is heard once."""
    message_id, subscription_id, target = subject
    failed = receipt.kind is ReceiptKind.FAILED
    patience = PATIENCE if failed else 0.0
    stored = receipts.store(service.storage, message_id, subscription_id, receipt, target=target, patience=patience)
    if stored is Stored.NEW and failed:
        service.wake()
    elif stored is Stored.EARLY:
        raise falcon.HTTPServiceUnavailable(
            title="Too early",
            description="The attempt is not over yet: say it again when the notification was answered.",
            retry_after=1,
        )
    elif stored is Stored.KNOWN and receipts.record_of(service.storage, message_id, subscription_id) is None:
        raise NotFound(_UNKNOWN)


# -- for people ---------------------------------------------------------------------------------------------------------------


class Leaving:
    """Unsubscribes: by the button of its page, or at once (RFC 8058)."""

    access = Access.SIGNED

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        message, subscription = self._leaving(token)
        if subscription is None:
            _say_goodbye(resp, message)
        else:
            text = f"Do you want no more notifications of the queue {subscription.queue} at this address?"
            pages.show(resp, "Unsubscribe", text, button="Unsubscribe")

    def on_post(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        message, subscription = self._leaving(token)
        read_body(req, MOST_BYTES, "The request")
        if subscription is not None:
            self._service.storage.delete_subscription(subscription.project, subscription.queue, subscription.id)
        if pages.preferred(req):
            _say_goodbye(resp, subscription or message)
        else:
            resp.status = falcon.HTTP_204

    def _leaving(self, token: str) -> tuple[Message | None, Subscription | None]:
        """None for the subscription also where it does not have the fallback address any more that the token went to."""
        subject, message, subscription = _subject_of(self._service, Use.UNSUBSCRIBE, token)
        return message, None if subscription is None or addresses.at(subscription, subject.target) is None else subscription


def _say_goodbye(resp: falcon.Response, of: Message | Subscription | None) -> None:
    queue = "this queue" if of is None else f"the queue {of.queue}"
    pages.show(resp, "Unsubscribed", f"This address gets no more notifications of {queue}.")


class Agreeing:
    """Confirms a subscription. The signed headers of a request to confirm do the same at another route."""

    access = Access.SIGNED

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        subscription = self._asked(token)
        if subscription.confirmed:
            _say_welcome(resp, subscription)
        else:
            text = f"Do you want to be notified of the messages of the queue {subscription.queue} at this address?"
            pages.show(resp, "Confirm the subscription", text, button="Confirm")

    def on_post(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        subscription = self._asked(token)
        read_body(req, MOST_BYTES, "The request")
        if self._service.storage.confirm(subscription.project, subscription.queue, subscription.id, True) is None:
            raise NotFound(_NOBODY)
        if pages.preferred(req):
            _say_welcome(resp, subscription)
        else:
            resp.status = falcon.HTTP_204

    def _asked(self, token: str) -> Subscription:
        """The subscription, whose subscriber was asked to confirm by the delivery of this token."""
        subject, message, subscription = _subject_of(self._service, Use.CONFIRM, token)
        now = self._service.storage.now()
        if subscription is None or not subscription.live(now):
            raise NotFound(_NOBODY)
        if message is None or message.expires_at <= now or subject.target or not _asks(message, subscription):
            raise Gone(_ASK_AGAIN)
        return subscription


def _asks(message: Message, subscription: Subscription) -> bool:
    return message.kind is MessageKind.CONFIRMATION and is_for(message, subscription)


def _say_welcome(resp: falcon.Response, subscription: Subscription) -> None:
    pages.show(resp, "Confirmed", f"This address is notified of the messages of the queue {subscription.queue}.")


def _subject_of(service: Service, use: Use, token: str) -> tuple[Subject, Message | None, Subscription | None]:
    """With its message and its subscription, as far as they are there."""
    subject = service.tokens.read(use, token)
    loaded = service.storage.load([subject.message_id], [subject.subscription_id])
    return subject, loaded.messages.get(subject.message_id), loaded.subscriptions.get(subject.subscription_id)
