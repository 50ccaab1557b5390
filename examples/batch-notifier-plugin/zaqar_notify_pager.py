"""Pages over the HTTP gateways of an operator, for subscribers such as ``pager://shop/4670``: ``shop`` names a gateway."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from oslo_config import cfg

from zaqar_notify.errors import CannotStart, InvalidRequest
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Receipt, ReceiptKind, Scope, Subscription
from zaqar_notify.notifiers.answers import described, fault, retry_after
from zaqar_notify.notifiers.base import BatchNotifier, Report
from zaqar_notify.notifiers.content import content
from zaqar_notify.notifiers.exchanges import of_request
from zaqar_notify.notifiers.http import Request, Response

SUBSCRIBER = re.compile(r"pager://([a-z0-9_]+)/(\d{3,15})", re.IGNORECASE)


class PagerNotifier(BatchNotifier):
    options: ClassVar = [
        cfg.ListOpt("gateways", default=[], help="Names of gateways. That of 'shop' is described in [pager_shop]."),
    ]
    named_by: ClassVar = "gateways"
    named_options: ClassVar = [
        cfg.StrOpt("url", help="Where its pages are posted to."),
        cfg.StrOpt("token", secret=True, help="Who we are."),
        cfg.FloatOpt(
            "window", default=0.0, min=0.0, help="Seconds for which pages to one number are gathered into one; 0: none."
        ),
        cfg.BoolOpt("dry_run", default=False, help="Do everything but send."),
    ]
    digests: ClassVar = True

    def __init__(self, conf: Any, http: Any, log: Any) -> None:
        super().__init__(conf, http, log)
        for name, gateway in conf.named.items():
            if not (gateway.url and gateway.token):
                raise CannotStart(f"[pager_{name}] url and token are needed")

    # -- what is known of a subscriber ---------------------------------------------------------------------------------------

    def check(self, subscription: Subscription) -> None:
        self._addressed(subscription)

    def lane(self, subscription: Subscription) -> str:
        return f"pager://{self._addressed(subscription)[0]}"

    def window(self, subscription: Subscription) -> tuple[str, float, float] | None:
        name, gateway, _ = self._addressed(subscription)
        return (name, gateway.window, gateway.window) if gateway.window else None

    def _addressed(self, subscription: Subscription) -> tuple[str, Any, str]:
        """The gateway, its options, and the number. Raises `InvalidRequest`."""
        match = SUBSCRIBER.fullmatch(subscription.subscriber)
        if match is None:
            raise InvalidRequest("The subscriber has to be pager://gateway/number, with 3 to 15 digits.")
        name = match[1].lower()
        if name not in self.conf.named:
            raise InvalidRequest(f"There is no gateway {name}; there are: {', '.join(self.conf.named) or 'none'}.")
        return name, self.conf.named[name], match[2]

    # -- sending --------------------------------------------------------------------------------------------------------------

    def send_many(self, deliveries: Sequence[Delivery], report: Report) -> None:
        requests = []
        for delivery in deliveries:
            try:
                request = self._request(delivery, report)
            except InvalidRequest as error:
                report(delivery, Outcome(OutcomeKind.REJECTED, str(error), target=True))
            except Exception as error:  # what is wrong with one must not stop the others of its batch
                self.log.exception("delivery %s could not be made into a request", delivery.id)
                report(delivery, Outcome(OutcomeKind.OURS, f"no request could be made: {type(error).__name__}"))
            else:
                requests.append(request)
        if requests:
            self.http.engine().send_many(requests)

    def _request(self, delivery: Delivery, report: Report) -> Request:
        _, gateway, number = self._addressed(delivery.subscription)
        texts = [content(one, "pager", templated=False).text for one in (delivery, *delivery.others)]
        page = {"id": delivery.id, "to": number, "text": "\n".join(texts)[:1000], "receipt": delivery.links.get("receipt")}
        headers = ["Content-Type: application/json", f"Authorization: Bearer {gateway.token}"]
        url = f"{gateway.url}?dry_run=yes" if gateway.dry_run else gateway.url
        return Request(url, headers, json.dumps(page).encode(), delivery.deadline, self._done, tag=(delivery, report))

    def _done(self, request: Request, response: Response) -> None:
        """On the engine's thread: it has to be quick."""
        delivery, report = request.tag
        report(delivery, outcome(request, response))

    # -- what the gateway says later ------------------------------------------------------------------------------------------

    def receipt(self, subscription: Subscription, fields: Mapping[str, str]) -> Receipt | None:
        kinds = {"shown": ReceiptKind.DEVICE, "failed": ReceiptKind.FAILED}
        kind = kinds.get(fields.get("state", ""))
        return Receipt(kind, time.time(), fields.get("reason", "")) if kind else None


def outcome(request: Request, response: Response) -> Outcome:
    if response.fault is not None:
        return fault(response.fault, response.detail, response.status)
    status, detail = response.status, described(response, "the gateway")
    if 200 <= status < 300:
        return Outcome(OutcomeKind.DELIVERED, status=status, provider_id=response.header("page-id"))
    exchange = of_request(request, response, response.phases or {}, 1024)
    if status in (401, 403):
        return Outcome(OutcomeKind.AUTH, detail, status, scope=Scope.CREDENTIAL, exchange=exchange)
    if status == 404:
        return Outcome(OutcomeKind.REJECTED, detail, status, target=True, exchange=exchange)
    if status == 429:
        after = retry_after(response.header("retry-after"), time.time()) or 1.0
        return Outcome(OutcomeKind.THROTTLED, detail, status, after, exchange=exchange)
    return Outcome(OutcomeKind.RETRY, detail, status, exchange=exchange)
