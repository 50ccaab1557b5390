"""The configuration sections of a notifier: its own, and one for each of its named credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from zaqar_notify.errors import CannotStart
from zaqar_notify.notifiers.base import Notifier

_NAME = re.compile("[a-z0-9_]+")  # a shell can export it: OS_APNS_SHOP__KEY_FILE


class Section:
    """What a notifier gets as ``conf``: the options of its section as attributes.

    ``conf`` has those registered; the sections in ``named`` are registered here, once it is known which there are. Raises
    `CannotStart` for a bad name and for a value that cannot be used.
    """

    named: Mapping[str, Any]

    def __init__(self, conf: cfg.ConfigOpts, name: str, cls: type[Notifier]) -> None:
        if name not in conf:
            conf.register_group(cfg.OptGroup(name))
        self._group: Any = conf[name]
        self.named = {one: _registered(conf, name, one, cls) for one in self._group[cls.named_by]} if cls.named_by else {}

    def __getattr__(self, option: str) -> Any:
        return getattr(self._group, option)

    def __getitem__(self, option: str) -> Any:
        return self._group[option]

    def __contains__(self, option: str) -> bool:
        return option in self._group


def _registered(conf: cfg.ConfigOpts, section: str, name: str, cls: type[Notifier]) -> Any:
    if not _NAME.fullmatch(name):
        raise CannotStart(f"[{section}] {cls.named_by}: {name!r} has to consist of a-z, 0-9 and _")
    named = f"{section}_{name}"
    conf.register_opts(cls.named_options, named)
    group = conf[named]
    try:
        for option in cls.named_options:
            group[option.dest]
    except (cfg.Error, ValueError) as error:
        raise CannotStart(f"Bad configuration of [{named}]: {' '.join(str(error).split())}") from error
    return group
