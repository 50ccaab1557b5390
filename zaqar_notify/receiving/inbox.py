"""What becomes of a mail that came in: a receipt of a delivery, the end of a subscription, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from zaqar_notify import addresses, errors, receipts
from zaqar_notify.feedback import Subject, Tokens, Use
from zaqar_notify.metrics import ReceiveMetrics
from zaqar_notify.model import Receipt, ReceiptKind
from zaqar_notify.receiving import reports
from zaqar_notify.receiving.reports import Report
from zaqar_notify.storage.base import Storage

LOG = logging.getLogger(__name__)

DONE, LATER = "250 2.0.0 ok", "451 4.3.0 try again later"
PATIENCE = 3.0
"""Seconds that the outcome of a delivery may still take to be stored when a report of it is here already: the mail server comes
again with those of slower ones."""


class Inbox:
    """``wake`` tells the workers that there is work. Safe to use from several threads."""

    def __init__(self, storage: Storage, tokens: Tokens, wake: Callable[[], None], metrics: ReceiveMetrics) -> None:
        self._storage = storage
        self._tokens = tokens
        self._wake = wake
        self._metrics = metrics

    def take(self, sender: str, recipients: Sequence[str], mail: bytes) -> list[str]:
        """An answer of LMTP for each recipient: 250 for what is stored, and for what nobody needs; 451 while the storage is
        away. Nothing is ever refused for good, for that would make a bounce of a bounce."""
        report = _read(mail)
        answers: list[str] = []
        for recipient in recipients:
            result = "later" if LATER in answers else self._take(sender, recipient, report)
            self._metrics.received(result)
            answers.append(LATER if result == "later" else DONE)
        return answers

    def _take(self, sender: str, recipient: str, report: Report | None) -> str:
        """What came of it, in a word for the metrics."""
        token = recipient.rpartition("@")[0].rpartition("+")[2]
        leaving = self._subject(Use.UNSUBSCRIBE, token)
        try:
            if leaving is not None and sender:
                return self._unsubscribe(leaving)
            if report is None:
                return _drop("it is no report")
            about = self._subject(Use.ENVELOPE, report.envelope_id) or self._subject(Use.ENVELOPE, token)
            if about is None:
                return _drop("it reports of nothing that was sent from here")
            return self._receive(about, reports.receipt(report, self._storage.now()))
        except errors.StorageUnavailable as error:
            LOG.warning("a mail has to come again later: %s", error)
            return "later"

    def _subject(self, use: Use, token: str) -> Subject | None:
        try:
            return self._tokens.read_short(use, token)
        except errors.Forbidden:
            return None

    def _unsubscribe(self, leaving: Subject) -> str:
        found = self._storage.load((), (leaving.subscription_id,)).subscriptions.get(leaving.subscription_id)
        # Who was a fallback address, and is none any more, gets nothing already.
        if found is not None and addresses.at(found, leaving.target) is not None:
            self._storage.delete_subscription(found.project, found.queue, found.id)
        LOG.info("subscription=%s unsubscribed by mail", leaving.subscription_id)
        return "unsubscribed"

    def _receive(self, about: Subject, receipt: Receipt | None) -> str:
        if receipt is None:
            return "nothing"
        message_id, subscription_id, target = about
        stored = receipts.store(self._storage, message_id, subscription_id, receipt, target=target, patience=PATIENCE)
        if stored is receipts.Stored.EARLY:
            LOG.info("delivery=%s-%s is not settled yet: its report has to come again later", *about[:2])
            return "later"
        if stored is receipts.Stored.KNOWN:
            LOG.info("delivery=%s-%s: that is known already, or over", *about[:2])
            return "known"
        if receipt.kind is ReceiptKind.FAILED:
            self._wake()
        LOG.info("delivery=%s-%s %s: %s", *about[:2], receipt.kind.value, receipt.detail)
        return receipt.kind.value


def _read(mail: bytes) -> Report | None:
    try:
        return reports.read(mail)
    except Exception:  # whoever wrote it would have it come again and again
        LOG.exception("a mail of %d bytes could not be read", len(mail))
        return None


def _drop(why: str) -> str:
    LOG.info("a mail was dropped: %s", why)
    return "dropped"
