"""Queues: their metadata, what of them is purged, and who else may use them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zaqar_notify import templates
from zaqar_notify.errors import Conflict, InvalidRequest
from zaqar_notify.validation.documents import check_size, compact_json, integer, json_object, kind
from zaqar_notify.validation.drafts import message_delay, message_ttl
from zaqar_notify.validation.limits import END_OF_TIME, Limits
from zaqar_notify.validation.names import dead_letter_queue
from zaqar_notify.validation.queries import instant
from zaqar_notify.validation.schedules import check_retry_policy
from zaqar_notify.validation.spelling import by_sound, check_names

_SHARED = ("messages", "subscriptions", "claims")
_SHARED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_SHARE_TIME = 86400.0
_PURGED = ("messages", "subscriptions")
_OPERATIONS = ("add", "remove", "replace")
_POINTER = re.compile(r"/metadata/((?:[^/~]|~[01])+)")


def queue_metadata(document: Any, limits: Limits) -> dict[str, Any]:
    metadata = json_object(document, "The queue's metadata")
    check_names([name for name in metadata if name.startswith("_")], _SOUNDS, "")
    for name, check in _RESERVED.items():
        if name in metadata:
            check(metadata[name], limits, name)
    return metadata


def reserved_defaults(limits: Limits) -> dict[str, Any]:
    """What the reserved names of a queue's metadata mean where it does not have them."""
    return {
        "_max_messages_post_size": limits.max_messages_post_size,
        "_default_message_ttl": limits.default_message_ttl,
        "_default_message_delay": limits.default_message_delay,
        "_dead_letter_queue": None,
        "_dead_letter_queue_messages_ttl": None,
        "_max_claim_count": None,
        "_enable_encrypt_messages": False,
    }


@dataclasses.dataclass(frozen=True, slots=True)
class MetadataChange:
    operation: str
    """``add``, ``remove`` or ``replace``."""
    name: str
    value: Any = None


def metadata_changes(document: Any) -> list[MetadataChange]:
    """Zaqar's dialect of JSON patch (RFC 6902): whole values under ``/metadata`` only."""
    if not isinstance(document, list):
        raise InvalidRequest(f"The request has to be a JSON list of operations, and is {kind(document)}.")
    return [_metadata_change(change, f"Operation {index}") for index, change in enumerate(document)]


def _metadata_change(change: Any, where: str) -> MetadataChange:
    asked = json_object(change, where)
    operation, path = asked.get("op"), asked.get("path")
    if operation not in _OPERATIONS:
        raise InvalidRequest(f'{where}: "op" has to be one of {", ".join(_OPERATIONS)}.')
    pointer = _POINTER.fullmatch(path) if isinstance(path, str) else None
    if pointer is None:
        raise InvalidRequest(f'{where}: "path" has to be /metadata/ and a name, in which ~1 stands for / and ~0 for ~.')
    if operation != "remove" and "value" not in asked:
        raise InvalidRequest(f'{where}: {operation} needs a "value".')
    return MetadataChange(operation, pointer[1].replace("~1", "/").replace("~0", "~"), asked.get("value"))


def changed_metadata(metadata: Mapping[str, Any], changes: Sequence[MetadataChange], limits: Limits) -> dict[str, Any]:
    """Raises `Conflict` where something is to be replaced or removed that is not there. Reserved names are always there."""
    changed = dict(metadata)
    reserved = reserved_defaults(limits)
    for change in changes:
        if change.operation != "add" and change.name not in changed and change.name not in reserved:
            raise Conflict(f"The queue's metadata has no {change.name[:64]!r} to {change.operation}.")
        if change.operation == "remove":
            changed.pop(change.name, None)
        else:
            changed[change.name] = change.value
    # Only what was changed: what is older may break limits that have been lowered since.
    queue_metadata({change.name: changed[change.name] for change in changes if change.name in changed}, limits)
    check_size(len(compact_json(changed)), limits.max_queue_metadata, "The queue's metadata")
    return changed


def _post_size(value: Any, limits: Limits, what: str) -> None:
    integer(value, 1, limits.max_messages_post_size, what)


def _optional_ttl(value: Any, limits: Limits, what: str) -> None:
    if value is not None:
        message_ttl(value, limits, what)


def _claim_count(value: Any, limits: Limits, what: str) -> None:
    if value is not None:
        integer(value, 1, None, what)


def _flag(value: Any, limits: Limits, what: str) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{what} has to be true or false, and is {kind(value)}.")


def resources_to_purge(document: Any) -> set[str]:
    """Of ``messages`` and ``subscriptions``."""
    asked = json_object(document, "The request").get("resource_types")
    return set(_names(asked, _PURGED, "resource_types"))


def _names(value: Any, known: Sequence[str], what: str) -> list[str]:
    """In order, each once."""
    if isinstance(value, list) and all(isinstance(name, str) and name in known for name in value):
        return [name for name in known if name in value]
    raise InvalidRequest(f"{what} has to be a list of names, each one of {', '.join(known)}.")


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What a pre-signed URL is to allow."""

    resources: Sequence[str]
    """Of ``messages``, ``subscriptions`` and ``claims``."""
    methods: Sequence[str]
    expires_at: float


def share(document: Any, now: float) -> Share:
    asked = json_object(document, "The request")
    unknown = asked.keys() - {"paths", "methods", "expires"}
    if unknown:
        raise InvalidRequest(f"The request may hold paths, methods and expires only, and not {min(unknown)[:64]!r}.")
    return Share(
        _names(asked.get("paths", []), _SHARED, "paths") or ["messages"],
        _names(asked.get("methods", []), _SHARED_METHODS, "methods") or ["GET"],
        _end_of_share(asked["expires"], now) if "expires" in asked else now + _SHARE_TIME,
    )


def _end_of_share(value: Any, now: float) -> float:
    # Digits alone would be a date without its dashes: who sends them means seconds.
    expires_at = instant(value) if isinstance(value, str) and not value.isdigit() else None
    if expires_at is None:
        raise InvalidRequest("expires has to be an instant in ISO 8601, as in 2030-01-31T12:00:00.")
    if expires_at <= now:
        raise InvalidRequest("expires lies in the past.")
    if expires_at > END_OF_TIME:
        raise InvalidRequest("expires may lie in the year 9999 at the latest.")
    return expires_at


_RESERVED: Mapping[str, Callable[[Any, Limits, str], object]] = {
    "_default_message_ttl": message_ttl,
    "_default_message_delay": message_delay,
    "_max_messages_post_size": _post_size,
    "_dead_letter_queue": dead_letter_queue,
    "_dead_letter_queue_messages_ttl": _optional_ttl,
    "_max_claim_count": _claim_count,
    "_enable_encrypt_messages": _flag,
    "_retry_policy": check_retry_policy,
    "_templates": lambda value, limits, what: templates.check(value, what),
}
_SOUNDS = by_sound(_RESERVED)
