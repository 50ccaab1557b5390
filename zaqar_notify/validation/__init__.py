"""Request documents to records: what a request may say, and what to change when it may not.

Every function raises `InvalidRequest` (or a kind of it) whose text is shown to the client. Nothing here does I/O.
"""

from zaqar_notify.validation.claims import claim_terms
from zaqar_notify.validation.deliveries import DeliveryFilter, delivery_filter, redelivery_ttl
from zaqar_notify.validation.documents import check_size, compact_json, json_object, parse_json
from zaqar_notify.validation.drafts import LANGUAGE_TAG, PRIORITIES, messages
from zaqar_notify.validation.limits import (
    DEFAULT_PAGE,
    END_OF_TIME,
    MAX_ATTRIBUTES,
    MAX_CLIENT_ID,
    MAX_COLLAPSE_KEY,
    MAX_FALLBACKS,
    MAX_IN_FLIGHT,
    MAX_LANGUAGE,
    MAX_NESTING,
    MAX_PROJECT,
    MAX_QUEUE_NAME,
    MAX_RATE,
    MAX_SUBSCRIBER,
    MAX_WAIT,
    MIN_RATE,
    Limits,
)
from zaqar_notify.validation.names import check_project, check_queue_name
from zaqar_notify.validation.queries import how_many, ids, moment, page_size
from zaqar_notify.validation.queues import (
    MetadataChange,
    Share,
    changed_metadata,
    metadata_changes,
    queue_metadata,
    reserved_defaults,
    resources_to_purge,
    share,
)
from zaqar_notify.validation.subscriptions import (
    MASK,
    confirmed,
    further_addresses,
    shown_options,
    subscription,
    subscription_changes,
)

__all__ = [
    "DEFAULT_PAGE",
    "END_OF_TIME",
    "LANGUAGE_TAG",
    "MASK",
    "MAX_ATTRIBUTES",
    "MAX_CLIENT_ID",
    "MAX_COLLAPSE_KEY",
    "MAX_FALLBACKS",
    "MAX_IN_FLIGHT",
    "MAX_LANGUAGE",
    "MAX_NESTING",
    "MAX_PROJECT",
    "MAX_QUEUE_NAME",
    "MAX_RATE",
    "MAX_SUBSCRIBER",
    "MAX_WAIT",
    "MIN_RATE",
    "PRIORITIES",
    "DeliveryFilter",
    "Limits",
    "MetadataChange",
    "Share",
    "changed_metadata",
    "check_project",
    "check_queue_name",
    "check_size",
    "claim_terms",
    "compact_json",
    "confirmed",
    "delivery_filter",
    "further_addresses",
    "how_many",
    "ids",
    "json_object",
    "messages",
    "metadata_changes",
    "moment",
    "page_size",
    "parse_json",
    "queue_metadata",
    "redelivery_ttl",
    "reserved_defaults",
    "resources_to_purge",
    "share",
    "shown_options",
    "subscription",
    "subscription_changes",
]
