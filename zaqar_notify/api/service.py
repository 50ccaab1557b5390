"""What the resources work with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

from zaqar_notify.api.confirmation import Confirmations
from zaqar_notify.feedback import Tokens
from zaqar_notify.model import Receipt, Subscription
from zaqar_notify.signing import UrlSigner
from zaqar_notify.storage.base import Storage
from zaqar_notify.validation import Limits

Check = Callable[[Subscription], None]
Clock = Callable[[], float]
ReadReceipt = Callable[[Subscription, Mapping[str, str]], Receipt | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    storage: Storage
    limits: Limits
    check: Check
    """Raises `InvalidRequest` for a subscription that no notifier takes."""
    wake: Callable[[], None]
    """Called after each publishing."""
    signer: UrlSigner
    confirmations: Confirmations
    tokens: Tokens
    read_receipt: ReadReceipt
    """Understands what a provider reports of a delivery to this subscription; None for what says nothing that ends it."""
    clock: Clock = time.time
