"""What the resources work with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from zaqar_notify.api.confirmation import Confirmations
from zaqar_notify.model import Subscription
from zaqar_notify.signing import UrlSigner
from zaqar_notify.storage.base import Storage
from zaqar_notify.validation import Limits

Check = Callable[[Subscription], None]
Clock = Callable[[], float]


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
    clock: Clock = time.time
