"""`zaqar-notify key`: the keys of the API, made, listed and revoked while the service runs."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from zaqar_notify import errors, validation
from zaqar_notify.commands import database, show
from zaqar_notify.model import ApiKey

MAX_NAME = 255


def create(arguments: argparse.Namespace) -> int:
    from zaqar_notify.api import identity

    project, roles, name = arguments.project, _roles(arguments.roles, identity.ROLES), arguments.name
    _check(project, name)
    with database.opened(arguments) as (_, storage):
        text, key = identity.make_key(project, roles, name, time.time())
        storage.add_key(key)
    # Nothing else on standard output: KEY=$(zaqar-notify key create ...)
    print(json.dumps({**_row(key), "key": text}, indent=2) if arguments.json else text)
    return 0


def list_keys(arguments: argparse.Namespace) -> int:
    with database.opened(arguments) as (_, storage):
        rows = [_row(key) for key in storage.list_keys(arguments.project)]
    show.print_rows(rows, ("id", "project", "roles", "created_at", "revoked_at", "name"), arguments.json)
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    with database.opened(arguments) as (_, storage):
        revoked = storage.revoke_key(arguments.id)
    if not revoked:
        raise errors.NotFound(f"There is no key {arguments.id}, or it was revoked before; 'zaqar-notify key list' shows them")
    return 0


def _roles(text: str, known: Sequence[str]) -> list[str]:
    asked = [role.strip() for role in text.split(",")]
    unknown = [role for role in asked if role not in known]
    if unknown:
        raise errors.InvalidRequest(f"There is no role {unknown[0]!r}; the roles are {', '.join(known)}")
    return [role for role in known if role in asked]


def _check(project: str, name: str) -> None:
    if not project.strip():
        raise errors.InvalidRequest("A key needs a project")
    validation.check_project(project)
    if not project.isascii() or project != project.strip():
        raise errors.InvalidRequest("A project's name has to be ASCII, without blanks around it, to be named in a header")
    if len(name) > MAX_NAME or not name.isprintable():
        raise errors.InvalidRequest(f"A key's name may have at most {MAX_NAME} characters, and none that cannot be printed")


def _row(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "project": key.project,
        "roles": list(key.roles),
        "name": key.name,
        "created_at": show.instant(key.created_at),
        "revoked_at": None if key.revoked_at is None else show.instant(key.revoked_at),
    }
