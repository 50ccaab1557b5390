"""`zaqar-notify notifiers` and `zaqar-notify config`."""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from oslo_config import cfg

from zaqar_notify import bootstrap
from zaqar_notify.commands.configuration import configure

MASK = "********"
URLS = ("connection", "proxy", "public_url")
"""Options whose value is a URL: worth seeing without what is secret in it."""
_NOTIFIER = ("scheme", "class", "package", "version", "error")
_WIDEST = 60
"""Characters of a column: what is longer moves the rest of its own line alone."""
_CREDENTIALS = re.compile(r"(?<=://).*@|(?<=\?).*", re.DOTALL)
"""What may hold a password in a URL: all up to the last @ (a password may hold any character), and the query."""


def notifiers(arguments: argparse.Namespace) -> int:
    conf = configure(arguments, ignore_broken=True)
    loaded = bootstrap.load_notifiers(conf)
    try:
        rows = [dict(zip(_NOTIFIER, (*row, None), strict=True)) for row in loaded.describe()]
        rows += [
            dict(zip(_NOTIFIER, (one.scheme, one.path, one.package, one.version, one.error), strict=True))
            for one in loaded.broken
        ]
    finally:
        loaded.close()
    print_rows(rows, _NOTIFIER if loaded.broken else _NOTIFIER[:-1], arguments.json)
    return 1 if loaded.broken else 0


def config(arguments: argparse.Namespace) -> int:
    print_rows(list(effective(configure(arguments))), ("group", "name", "value", "source"), arguments.json)
    return 0


def effective(conf: cfg.ConfigOpts) -> Iterator[dict[str, object]]:
    """A row for each option, with its value (secrets masked) and where the value came from."""
    for group, options in bootstrap.effective_opts(conf):
        values = conf if group == "DEFAULT" else conf[group]
        for option in options:
            yield {
                "group": group,
                "name": option.dest,
                "value": _masked(option, values[option.dest]),
                "source": _source(conf.get_location(option.dest, None if group == "DEFAULT" else group)),
            }


def _masked(option: cfg.Opt, value: object) -> object:
    if option.dest in URLS and isinstance(value, str):
        return mask_url(value)
    return MASK if option.secret and value else value


def _source(location: cfg.LocationInfo | None) -> str:
    if location is None:
        return "default"
    match location.location:
        case cfg.Locations.environment:
            return f"environment variable {location.detail}"
        case cfg.Locations.user:
            return f"file {location.detail}"
        case cfg.Locations.set_override:
            return "command line"
        case _:
            return "default"


def mask_url(text: str) -> str:
    return _CREDENTIALS.sub(lambda found: MASK + ("@" if found[0].endswith("@") else ""), text)


def print_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = [[column.upper() for column in columns], *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(min(len(line[index]), _WIDEST) for line in table) for index in range(len(columns) - 1)]
    for line in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]))


def instant(at: float) -> str:
    """Epoch seconds as ISO 8601, UTC, to the second."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_cell, value)) or "-"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
