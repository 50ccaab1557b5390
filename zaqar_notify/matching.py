"""Does this subscription want this message?"""

from __future__ import annotations

from zaqar_notify.model import Message, State, Subscription


def wanted(message: Message, subscription: Subscription, now: float) -> State | None:
    """None: send it. Else the state in which the delivery ends without an attempt."""
    if message.expires_at <= now:
        return State.EXPIRED
    ends = subscription.expires_at
    if ends is not None and ends <= now:
        return State.EXPIRED
    return None if subscription.disabled is None else State.SUPPRESSED
