"""The most that requests may ask for: what the configuration says, and what never changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

DEFAULT_PAGE = 10
MAX_ATTRIBUTES = 20
MAX_FALLBACKS = 5
MAX_CLIENT_ID = 256
MAX_COLLAPSE_KEY = 256
MAX_LANGUAGE = 35
"""Characters that any tag fits into which is in use (RFC 5646, 4.4.1)."""
MAX_NESTING = 200
"""Deepest nesting of a document, far below where Python's own parser gives up: what is stored can be parsed anywhere."""
MAX_PROJECT = 256
MAX_QUEUE_NAME = 64
MAX_SUBSCRIBER = 2048
MAX_WAIT = 604800
"""Seconds; the longest wait of a schedule."""
MAX_IN_FLIGHT = 1000
MIN_RATE = 0.001
MAX_RATE = 10000
"""Sends per second."""
END_OF_TIME = 253402300799
"""The last second of the year 9999."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The options of ``[transport]``, under their own names, and one of ``[notification]``."""

    default_message_ttl: int = 3600
    min_message_ttl: int = 60
    max_message_ttl: int = 1209600
    min_subscription_ttl: int = 60
    default_subscription_ttl: int | None = None
    default_message_delay: int = 0
    max_message_delay: int = 900
    default_claim_ttl: int = 300
    default_claim_grace: int = 60
    min_claim_ttl: int = 60
    min_claim_grace: int = 60
    max_claim_ttl: int = 43200
    max_claim_grace: int = 43200
    max_messages_per_claim_or_pop: int = 20
    message_delete_with_claim_id: bool = False
    max_messages_post_size: int = 262144
    max_queue_metadata: int = 65536
    max_subscription_size: int = 65536
    max_window: int = 86400
    max_queues_per_page: int = 20
    max_messages_per_page: int = 20
    max_subscriptions_per_page: int = 20
    max_deliveries_per_page: int = 20
    client_id_uuid_safe: str = "strict"
    subscriber_types: Sequence[str] = ()
    max_attempts: int = 100
    """Of ``[notification]``."""
