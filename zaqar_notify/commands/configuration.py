"""The configuration as the command line asks for it."""

from __future__ import annotations

import argparse
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


def configure(arguments: argparse.Namespace, first_files: Sequence[str] = ()) -> cfg.ConfigOpts:
    """``first_files`` are read before the files of the command line, which therefore win. Raises `CannotStart`."""
    given = {option: getattr(arguments, flag, None) for flag, option in FLAGS.items()}
    overrides: dict[tuple[str | None, str], Any] = {option: value for option, value in given.items() if value is not None}
    return bootstrap.configure(config_files=[*first_files, *arguments.config_files], overrides=overrides)
