"""Whose request it is about, and which queue."""

from __future__ import annotations

import re
from typing import Any

from zaqar_notify.errors import InvalidQueue, InvalidRequest
from zaqar_notify.validation.documents import CONTROL, kind
from zaqar_notify.validation.limits import MAX_PROJECT, MAX_QUEUE_NAME, Limits

_QUEUE_NAME = re.compile(r"[a-zA-Z0-9_\-.]+")


def check_project(project: str) -> None:
    if len(project) > MAX_PROJECT:
        raise InvalidQueue(f"The X-Project-ID header may have at most {MAX_PROJECT} characters.")
    if CONTROL.search(project):
        raise InvalidQueue("The X-Project-ID header may not hold control characters.")


def check_queue_name(name: str) -> None:
    if len(name) > MAX_QUEUE_NAME:
        raise InvalidQueue(f"A queue's name may have at most {MAX_QUEUE_NAME} characters.")
    if not _QUEUE_NAME.fullmatch(name):
        raise InvalidQueue("A queue's name may hold ASCII letters, digits, underscores, hyphens and dots only.")


def dead_letter_queue(value: Any, limits: Limits, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} has to be the name of a queue or null, and is {kind(value)}.")
    try:
        check_queue_name(value)
    except InvalidQueue as error:
        raise InvalidRequest(f"{what}: {error}") from None
