"""Does this subscription want this message?"""

from __future__ import annotations

from zaqar_notify.model import Message, MessageKind, State, Subscription


def wanted(
    message: Message,
    subscription: Subscription,
    now: float,
    *,
    confirmed_only: bool = False,
    expires_at: float | None = None,
    target: int = 0,
) -> State | None:
    """None: send it. Else the state in which the delivery ends without an attempt.

    ``expires_at``: of a delivery that has an expiry of its own. ``confirmed_only``: who has not confirmed its subscription
    gets nothing but the request to do so. ``target``: which of its addresses. That the subscriber cannot be reached, and was
    disabled for that, is why a fallback address is sent to; and what the owner is to hear of it comes through in any case.
    """
    if (message.expires_at if expires_at is None else expires_at) <= now:
        return State.EXPIRED
    ends = subscription.expires_at
    if ends is not None and ends <= now:
        return State.EXPIRED
    if (subscription.disabled is None and not confirmed_only) or message.kind is MessageKind.CALLBACK:
        return None
    if subscription.disabled is not None and not target:
        return State.SUPPRESSED
    if confirmed_only and not subscription.confirmed and message.kind is not MessageKind.CONFIRMATION:
        return State.SUPPRESSED
    return None
