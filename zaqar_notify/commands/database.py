"""`zaqar-notify db`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from oslo_config import cfg

from zaqar_notify import bootstrap
from zaqar_notify.commands import show
from zaqar_notify.commands.configuration import configure
from zaqar_notify.storage.base import Storage


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[cfg.ConfigOpts, Storage]]:
    """The configuration and its storage, for commands that work on it while the service runs."""
    conf = configure(arguments)
    bootstrap.set_up_logging(conf)
    storage = bootstrap.build_storage(conf)
    try:
        storage.check()
        yield conf, storage
    finally:
        storage.close()


def upgrade(arguments: argparse.Namespace) -> int:
    conf = configure(arguments)
    bootstrap.set_up_logging(conf)
    changed = upgrade_schema(conf)
    where = show.mask_url(bootstrap.storage_url(conf))
    print(f"{where}: {'upgraded to' if changed else 'already has'} the schema of this version")
    return 0


def upgrade_schema(conf: cfg.ConfigOpts) -> bool:
    storage = bootstrap.build_storage(conf)
    try:
        return storage.upgrade()
    finally:
        storage.close()
