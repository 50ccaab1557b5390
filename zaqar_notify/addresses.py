"""Where deliveries of a subscription go: to its subscriber; to a fallback address when that has failed; to its owner's
callback URL when they tell the owner that something is wrong with it.

What comes of a delivery to another address than the subscriber says nothing about the subscription.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from zaqar_notify.model import Subscription

CALLBACK = ".callback"
"""Behind the id of a subscription: its owner's callback URL."""
MOST_FALLBACKS = 100
"""A token names the address in three digits at most."""


def suffix(target: int) -> str:
    """What stands behind the id of a subscription where its addresses have to be told apart: nothing for the subscriber."""
    return f".{target}" if target else ""


def further(subscription: Subscription, target: int) -> int:
    """How many addresses there are behind this one."""
    return max(0, len(_fallback(subscription)) - target)


def scheme(subscription: Subscription, target: int) -> str:
    """All that may be shown of it: the rest can be a secret."""
    uri = _fallback(subscription)[target - 1] if target else subscription.subscriber
    return uri.partition(":")[0] if isinstance(uri, str) else ""


def at(subscription: Subscription, target: int) -> Subscription | None:
    """With this address in place of its subscriber; None where it has no such address (any more)."""
    if not target:
        return subscription
    found = _fallback(subscription)[target - 1 : target]
    if not found or not isinstance(found[0], str):
        return None
    return dataclasses.replace(subscription, subscriber=found[0])


def callback(subscription: Subscription) -> Subscription | None:
    """The subscription as one of its owner's callback URL, without any of its options; None where it has none."""
    url = callback_url(subscription)
    return None if url is None else dataclasses.replace(subscription, subscriber=url, options={})


def callback_url(subscription: Subscription) -> str | None:
    url = subscription.options.get("callback")
    return url if isinstance(url, str) and url.lower().startswith(("http://", "https://")) else None


def _fallback(subscription: Subscription) -> Sequence[Any]:
    """``options.fallback``. An older version took it without looking."""
    found = subscription.options.get("fallback")
    return found[:MOST_FALLBACKS] if isinstance(found, list | tuple) else ()
