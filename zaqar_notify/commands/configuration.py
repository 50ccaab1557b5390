"""The configuration as the command line asks for it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from zaqar_notify import bootstrap

FLAGS: dict[str, tuple[str | None, str]] = {
    "data": (None, "data_dir"),
    "debug": (None, "debug"),
    "host": ("api", "host"),
    "port": ("api", "port"),
}
"""Which option (group, name) each flag sets."""


def configure(arguments: argparse.Namespace, *, ignore_broken: bool = False) -> cfg.ConfigOpts:
    """The keys that `serve` made are read before the files of the command line, which therefore win. Raises `CannotStart`;
    with ``ignore_broken`` not for a notifier that cannot be used."""
    conf = _read(arguments, arguments.config_files, ignore_broken)
    made = secrets_path(conf.data_dir)
    return _read(arguments, [made, *arguments.config_files], ignore_broken) if os.path.exists(made) else conf


def secrets_path(directory: str) -> str:
    """The configuration file with the keys that `serve` makes in the data directory; the other commands find them there."""
    return os.path.join(directory, "secrets.conf")


def _read(arguments: argparse.Namespace, files: Sequence[str], ignore_broken: bool) -> cfg.ConfigOpts:
    given = {option: getattr(arguments, flag, None) for flag, option in FLAGS.items()}
    overrides: dict[tuple[str | None, str], Any] = {option: value for option, value in given.items() if value is not None}
    return bootstrap.configure(config_files=files, overrides=overrides, ignore_broken=ignore_broken)
