"""`zaqar-notify send`: one notification by hand, through the notifier that a worker would use, and without any storage."""

from __future__ import annotations

import argparse
import json
import os
import queue
import secrets
import sys
import time
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from zaqar_notify import bootstrap, errors, validation
from zaqar_notify.commands.configuration import configure
from zaqar_notify.masking import masked
from zaqar_notify.model import Delivery, Draft, Message, Outcome, OutcomeKind, Subscription, delivery_id
from zaqar_notify.notifiers import Notifiers
from zaqar_notify.notifiers.sending import Route, sound
from zaqar_notify.templates import merged

PROJECT = "demo"
_HANGS, _NOT_SENT = "none", "not sent"
"""What stands in the place of an outcome: there was none in time, and that of what only the service can do."""
_SHOWN = ("subscriber", "outcome", "status", "detail", "after", "credential", "provider_id", "disable", "duration")
"""Of the result, line by line. The exchange follows where it was asked for."""


def run(arguments: argparse.Namespace) -> int:
    conf = configure(arguments, ignore_broken=True)
    bootstrap.set_up_logging(conf)
    if arguments.verbose:
        conf.set_override("record", "all", "delivery_log")
    try:
        if arguments.dry_run:
            _run_dry(conf, arguments.uri)
        notifiers = bootstrap.load_notifiers(conf)
        result = _attempt(arguments, conf, notifiers)
    except errors.InvalidRequest as error:
        raise errors.CannotStart(str(error)) from error
    _show(result, arguments)
    if result["outcome"] == _HANGS:  # it would hold up a normal exit
        sys.stdout.flush()
        os._exit(1)
    notifiers.close()
    return 0 if result["outcome"] == OutcomeKind.DELIVERED.value else 1


def _run_dry(conf: cfg.ConfigOpts, uri: str) -> None:
    """Raises `CannotStart` where the notifier has no way to do that."""
    found = Notifiers.load()
    able = [section for section in found.sections(uri, conf) if section in conf and "dry_run" in conf[section]]
    if not able:
        raise errors.CannotStart(f"--dry-run: the notifier for {uri.partition(':')[0]}: has no option dry_run")
    for section in able:
        conf.set_override("dry_run", True, section)


# -- what is sent -------------------------------------------------------------------------------------------------------------


def _attempt(arguments: argparse.Namespace, conf: cfg.ConfigOpts, notifiers: Notifiers) -> dict[str, Any]:
    """Raises `InvalidRequest` as the API would, and `CannotStart`."""
    _require(notifiers, arguments.uri)
    limits = bootstrap.build_limits(conf)
    subscription = _subscription(arguments, limits)
    message = _message(arguments, limits)
    notifiers.check(subscription)
    route = bootstrap.build_senders(conf, notifiers).route(subscription)
    timeout = min(arguments.timeout or route.timeout, conf.worker.lease - bootstrap.SETTLING_TIME)
    began = time.monotonic()
    delivery = Delivery(
        delivery_id(message.id, subscription.id),
        1,
        began + timeout,
        message,
        subscription,
        templates=merged(subscription.options.get("templates"), None) if route.templated else {},
    )
    outcome = _outcome(route, delivery, timeout + conf.worker.hang_grace)
    return _result(subscription, outcome, time.monotonic() - began)


def _require(notifiers: Notifiers, uri: str) -> None:
    """Whoever calls is told all of what is wrong with a broken notifier."""
    try:
        notifiers.pick(uri)
    except errors.UnknownScheme:
        scheme = uri.partition(":")[0].lower()
        for broken in notifiers.broken:
            if broken.scheme in (scheme, scheme.partition("+")[0]):
                raise errors.CannotStart(broken.error) from None
        raise


def _subscription(arguments: argparse.Namespace, limits: validation.Limits) -> Subscription:
    document = {"subscriber": arguments.uri, "options": dict(_option(text) for text in arguments.options)}
    validation.check_queue_name(arguments.queue)
    made = validation.subscription(document, project=PROJECT, queue=arguments.queue, limits=limits, now=time.time())
    return Subscription(
        secrets.token_hex(8),
        PROJECT,
        arguments.queue,
        made.subscriber,
        None,
        made.options,
        made.created_at,
        None,
        secret=made.secret,
        secret_made=made.secret_made,
    )


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise errors.CannotStart(f"--option {text!r} has to be NAME=VALUE, such as timeout=5 or post_data='{{\"a\": 1}}'")
    return name, _value(value, f"--option {name}")


def _message(arguments: argparse.Namespace, limits: validation.Limits) -> Message:
    draft, now = _draft(arguments, limits), time.time()
    return Message(
        secrets.token_hex(8),
        PROJECT,
        arguments.queue,
        draft.body_json,
        draft.ttl,
        now,
        now + draft.ttl,
        collapse_key=draft.collapse_key,
        priority=draft.priority,
        language=draft.language,
    )


def _draft(arguments: argparse.Namespace, limits: validation.Limits) -> Draft:
    body = _value(_read(arguments.body), "--body")
    wishes = {name: getattr(arguments, name) for name in ("ttl", "priority", "language", "collapse_key")}
    message = {"body": body, **{name: value for name, value in wishes.items() if value is not None}}
    (draft,) = validation.messages({"messages": [message]}, default_ttl=limits.default_message_ttl, limits=limits)
    validation.check_size(len(draft.body_json), limits.max_messages_post_size, "The message")
    return draft


def _read(text: str) -> str:
    """What the body is: the text itself, or that of a file."""
    try:
        if text == "-":
            return sys.stdin.read()
        if text.startswith("@"):
            with open(text[1:], encoding="utf-8") as file:
                return file.read()
    except OSError as error:
        raise errors.CannotStart(f"--body: cannot read {text[1:] or 'standard input'}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.CannotStart(f"--body: {text[1:] or 'standard input'} is not UTF-8: byte {error.start} is wrong") from error
    return text


def _value(text: str, what: str) -> Any:
    """JSON, else the text as it is; what begins as an object or a list has to be one."""
    try:
        return validation.parse_json(text.encode(), len(text.encode()), what)
    except errors.InvalidRequest:
        if text.lstrip()[:1] in ("{", "["):
            raise
    return text


# -- what came of it ----------------------------------------------------------------------------------------------------------


def _outcome(route: Route, delivery: Delivery, patience: float) -> Outcome | None:
    """None: there is none in time."""
    reports: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    route.sender.send_many([delivery], lambda _, outcome: reports.put(outcome))
    try:
        return sound(reports.get(timeout=patience))
    except queue.Empty:
        return None


def _result(subscription: Subscription, outcome: Outcome | None, duration: float) -> dict[str, Any]:
    result: dict[str, Any] = dict.fromkeys((*_SHOWN, "exchange"))
    result |= {"subscriber": masked(subscription.subscriber), "duration": round(duration, 3)}
    if outcome is None:
        return {**result, "outcome": _HANGS, "detail": "The notifier did not answer in time"}
    if outcome.publish:
        names = ", ".join(sorted({name for name, _ in outcome.publish}))
        detail = f"nothing was posted to {names}: that needs the service, which stores it together with the outcome"
        return {**result, "outcome": _NOT_SENT, "detail": detail}
    result |= {name: getattr(outcome, name) for name in ("status", "after", "credential", "provider_id", "disable")}
    result |= {"outcome": outcome.kind.value, "detail": outcome.detail or None}
    if outcome.exchange is not None:
        exchange = outcome.exchange
        result["exchange"] = {"request": exchange.request, "response": exchange.response, "phases": exchange.phases}
    return result


def _show(result: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    shown = {name: result[name] for name in _SHOWN}
    if arguments.verbose:
        shown["exchange"] = result["exchange"]
    if arguments.json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    exchange = shown.pop("exchange", None)
    for name, value in shown.items():
        if value is not None:
            print(f"{name.replace('_', ' '):<12} {_one_line(value)}")
    if exchange is not None:
        print(json.dumps(exchange, indent=2, ensure_ascii=False))


def _one_line(value: Any) -> str:
    text = f"{value} s" if isinstance(value, float) else str(value)
    return "".join(one if one.isprintable() else " " for one in text)
