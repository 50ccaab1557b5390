"""What schemathesis has to know beside the OpenAPI document: rules that JSON Schema has no words for, and what there is.

Both are brought into what it makes as valid, so that the service has to accept it. What it makes as invalid stays as it is.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import urllib.parse
import uuid
from typing import Any

import requests
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import IgnoredAuth

from zaqar_notify.feedback import PATHS, Tokens, Use
from zaqar_notify.model import delivery_id

INT64 = 2**63
Caller = dict[str, str]
"""The headers that say who calls."""
CLIENT = str(uuid.UUID(int=1))

schemathesis.serializer.alias("application/openstack-messaging-v2.0-json-patch", "application/json")

_session = requests.Session()
_turns = itertools.count()


@schemathesis.deserializer("application/json-home")
def read_home(context: Any, response: Any) -> Any:
    return json.loads(response.content)


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    if isinstance(failure, AcceptedNegativeData):
        # An empty parameter is the same as none, as the document says in words.
        return "" not in [value for _, value in urllib.parse.parse_qsl(response.request.url.partition("?")[2], True)]
    # A signature without a project is refused, too: with 400, which says what is missing.
    return not (isinstance(failure, IgnoredAuth) and "got `400 " in failure.message)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if "Authorization" in case.headers:
        # A key is for one project, and this is hardly it.
        case.headers.pop("X-Project-ID", None)
    if "token" in case.path_parameters:
        _make_token(case)
    # The stateful tests know what they have made.
    if "queue" in case.path_parameters and case.meta.phase.name is not TestPhase.STATEFUL and next(_turns) % 3:
        _make_what_is_asked_for(case)
    # Where there is no body it has to stay untouched: what is assigned is taken for one.
    if isinstance(case.body, dict | list):
        case.body = _with_small_integers(case.body)
    correct = _CORRECTIONS.get(case.operation.definition.raw["operationId"])
    if correct is not None:
        correct(case)


# -- what there is ----------------------------------------------------------------------------------------------------------


def _make_what_is_asked_for(case: Any) -> None:
    """What is invented is known to nobody, and a queue that is invented is empty."""
    queue = f"{case.operation.base_url.rstrip('/')}/v2/queues/{case.path_parameters['queue']}"
    # By another client than the one that reads, which leaves out its own messages.
    caller = {name: value for name, value in case.headers.items() if name in ("Authorization", "X-Project-ID")}
    caller["Client-ID"] = CLIENT
    if {"message_id", "subscription_id"} <= case.path_parameters.keys():
        _make_delivery(queue, caller, case)
        return
    names = [name for name in _MAKERS if name in case.path_parameters]
    made_id = _MAKERS[names[0] if names else "message_id"](queue, caller)
    # None: the queue takes nothing, by a limit in its metadata.
    if names and made_id is not None:
        case.path_parameters[names[0]] = made_id


def _make(url: str, caller: Caller, document: Any) -> str | None:
    answer = _session.post(url, json=document, headers=caller, timeout=30)
    return re.split("[/=]", answer.headers["Location"])[-1] if answer.status_code == 201 else None


def _make_message(queue: str, caller: Caller) -> str | None:
    return _make(f"{queue}/messages", caller, {"messages": [{"body": 1, "delay": 0}]})


def _make_claim(queue: str, caller: Caller) -> str | None:
    _make_message(queue, caller)
    return _make(f"{queue}/claims", caller, {})


def _make_subscription(queue: str, caller: Caller) -> str | None:
    return _make(f"{queue}/subscriptions", caller, {"subscriber": SUBSCRIBER.format(f"made/{next(_turns)}")})


def _make_delivery(queue: str, caller: Caller, case: Any) -> None:
    """What can be started anew has ended."""
    subscription_id, message_id = _make_subscription(queue, caller), _make_message(queue, caller)
    if subscription_id is None or message_id is None:
        return
    case.path_parameters.update(message_id=message_id, subscription_id=subscription_id)
    if case.operation.definition.raw["operationId"] == "redeliver":
        _session.post(f"{queue}/messages/{message_id}/deliveries/{subscription_id}/cancel", headers=caller, timeout=30)


def _make_token(case: Any) -> None:
    """For a delivery that has ended, so that there is a log of it. Without the service's key there is none, and none to confirm
    where nobody is asked to."""
    path = case.operation.path.removesuffix("{token}")
    [use] = [use for use, its_path in PATHS.values() if its_path == path]
    if KEY is None or use is Use.CONFIRM:
        return
    base = case.operation.base_url.rstrip("/")
    caller = {"Client-ID": CLIENT, "X-Project-ID": "links"}
    if "Authorization" in case.headers:
        caller = {"Client-ID": CLIENT, "Authorization": case.headers["Authorization"]}
    queue = f"{base}/v2/queues/links"
    subscription_id, message_id = _make_subscription(queue, caller), _make_message(queue, caller)
    if subscription_id is None or message_id is None:
        return
    _session.post(f"{queue}/messages/{message_id}/deliveries/{subscription_id}/cancel", headers=caller, timeout=30)
    case.path_parameters["token"] = Tokens(KEY).make(use, delivery_id(message_id, subscription_id))
    case.headers["Accept"] = ("text/html", "application/json")[next(_turns) % 2]


KEY = os.environ.get("SIGNED_URL_SECRET_KEY")
SUBSCRIBER = "http://endpoint.example/{}"
_MAKERS = {"message_id": _make_message, "claim_id": _make_claim, "subscription_id": _make_subscription}


# -- what is right ------------------------------------------------------------------------------------------------------------


def _with_small_integers(value: Any) -> Any:
    """The integers in any JSON have to fit into 64 bits, and an integer is written as one: 60, not 60.0."""
    if isinstance(value, dict):
        return {name: _with_small_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_small_integers(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < INT64:
        return int(value)
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return value % INT64
    return value


def _correct_delays(policy: Any) -> None:
    """Two values that are right alone have to be right together."""
    if isinstance(policy, dict) and {"minimum_delay", "maximum_delay"} <= policy.keys():
        policy["minimum_delay"] = min(policy["minimum_delay"], INT64 - 11)
        policy["maximum_delay"] = max(policy["maximum_delay"], policy["minimum_delay"] + 10)


def _correct_templates(templates: Any) -> None:
    """Any text is a template but where it has something in braces."""
    for parts in (templates or {}).values():
        for part in parts:
            parts[part] = "{{ body }}"


def _correct_metadata(case: Any) -> None:
    """A limit that leaves room for the messages that are posted to the queue later."""
    if isinstance(case.body, dict):
        _correct_templates(case.body.get("_templates"))
        if "_max_messages_post_size" in case.body:
            case.body["_max_messages_post_size"] = max(case.body["_max_messages_post_size"], 200_000)
        _correct_delays(case.body.get("_retry_policy"))


def _correct_share(case: Any) -> None:
    """An instant of the future, and a project whose name can be signed."""
    if "X-Project-ID" in case.headers:
        case.headers["X-Project-ID"] = case.headers["X-Project-ID"].replace("\\", "/")
    if "expires" in case.body:
        case.body["expires"] = "2999-12-31T23:59:59+05:30" if len(case.body["expires"]) % 2 else "2999-12-31"


def _correct_deletions(case: Any) -> None:
    """Either ids or how many to pop. A claim that does not have the messages is refused."""
    case.query.pop("claim_ids", None)
    if "ids" in case.query:
        case.query.pop("pop", None)
    else:
        case.query.setdefault("pop", 1)


def _correct_deletion(case: Any) -> None:
    case.query.pop("claim_id", None)


def _correct_subscription(case: Any) -> None:
    """A scheme that is served; an end before the year 10000; options that the notifier takes."""
    body = case.body
    if "subscriber" in body:
        body["subscriber"] = SUBSCRIBER.format(len(body["subscriber"]))
    if body.get("ttl") is not None:
        body["ttl"] = min(body["ttl"], 10**11)
    options = body.get("options", {})
    for name in ("timeout", "post_headers", "post_data"):
        options.pop(name, None)
    if "dead_letter_queue" in options:
        options["dead_letter_queue"] = f"{options['dead_letter_queue'][:60]}.dlq"
    _correct_delays(options.get("_retry_policy"))
    _correct_templates(options.get("templates"))
    if "min" in options.get("window", {}):
        options["window"]["min"] = min(options["window"].values())
    if "fallback" in options:
        options["fallback"] = [SUBSCRIBER.format(f"fallback/{number}") for number in range(len(options["fallback"]))]
    if "callback" in options:
        options["callback"] = SUBSCRIBER.format("callback")


def _correct_replay(case: Any) -> None:
    """A time that is one, and not empty."""
    case.body["since"] = "2020-01-01T00:00:00Z" if isinstance(case.body["since"], str) else 1.5
    if case.body.get("until") is not None:
        case.body["until"] = "2999-12-31" if isinstance(case.body["until"], str) else 2000000000


def _correct_confirmation(case: Any) -> None:
    """Only a pre-signed request may leave the Client-ID out."""
    case.headers.setdefault("Client-ID", CLIENT)


_CORRECTIONS = {
    "put_queue": _correct_metadata,
    "share_queue": _correct_share,
    "delete_messages": _correct_deletions,
    "delete_message": _correct_deletion,
    "subscribe": _correct_subscription,
    "update_subscription": _correct_subscription,
    "confirm_subscription": _correct_confirmation,
    "replay": _correct_replay,
}
