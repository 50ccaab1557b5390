"""Notifications as UDP datagrams, for subscribers such as ``udp://collector.example.org:9999``."""

import socket
import urllib.parse
from typing import ClassVar

from oslo_config import cfg

from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Delivery, Outcome, OutcomeKind, Subscription
from zaqar_notify.notifiers.base import SingleNotifier


class UdpNotifier(SingleNotifier):
    options: ClassVar = [
        cfg.IntOpt("max_bytes", default=1400, help="Largest message that is sent; more would be cut up on its way.")
    ]

    def check(self, subscription: Subscription) -> None:
        _destination(subscription)

    def send(self, delivery: Delivery) -> Outcome:
        body = delivery.message.body_json
        if len(body) > self.conf.max_bytes:
            return Outcome(OutcomeKind.REJECTED, f"{len(body)} bytes do not fit into a datagram of {self.conf.max_bytes}")
        try:
            family, kind, _, _, address = socket.getaddrinfo(*_destination(delivery.subscription), type=socket.SOCK_DGRAM)[0]
            refusal = self.http.guard.check_address(address[0])  # a subscriber must not reach what only we can reach
            if refusal is not None:
                return Outcome(OutcomeKind.REFUSED, refusal)
            with socket.socket(family, kind) as sender:
                sender.sendto(body, address)
        except InvalidRequest as error:  # was subscribed before `check` was what it is
            return Outcome(OutcomeKind.REJECTED, str(error), target=True)
        except OSError as error:
            return Outcome(OutcomeKind.RETRY, str(error))
        return Outcome(OutcomeKind.DELIVERED, "sent; UDP does not tell whether it arrived")


def _destination(subscription: Subscription) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(subscription.subscriber)
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise InvalidRequest("The subscriber has to be udp://host:port.")
