"""Connections to PostgreSQL, and their settings."""

from __future__ import annotations

import math
import re
import select
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from psycopg.types.string import StrDumperUnknown

from zaqar_notify.errors import CannotStart

_PREPARED = 500
"""Most statements that a connection keeps prepared."""
_SETTINGS = """
SET lock_timeout = {patience}; SET idle_in_transaction_session_timeout = {half};
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET enable_sort = off; SET enable_incremental_sort = off; SET join_collapse_limit = 1; SET plan_cache_mode = force_custom_plan;
SET jit = off; SET max_parallel_workers_per_gather = 0
"""
"""Milliseconds. A process that has stopped in the middle of a transaction loses it before others lose patience."""
_DEFAULTS = {
    "application_name": "zaqar-notify",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Unless the URL says something else. That a server has gone without a word is found out."""


class Connector:
    def __init__(self, url: str, busy_timeout: float) -> None:
        """Raises `CannotStart` for a bad URL."""
        try:
            given = conninfo_to_dict(re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", url))
        except psycopg.ProgrammingError:
            raise CannotStart(
                "[storage] connection is no database URL: postgresql://user:password@host:5432/database"
            ) from None
        self._parameters: dict[str, Any] = {**_DEFAULTS, "connect_timeout": max(2, math.ceil(busy_timeout)), **given}
        self._patience = round(busy_timeout * 1000)
        self.database = str(given.get("dbname", ""))

    def connect(self) -> psycopg.Connection[Any]:
        """Raises `psycopg.OperationalError`."""
        connection = psycopg.connect(**self._parameters, autocommit=True, prepare_threshold=2)
        try:
            connection.prepared_max = _PREPARED
            # One type, and so one statement, for all numbers.
            connection.adapters.register_dumper(int, Int8Dumper)
            connection.adapters.register_dumper(int, Int8BinaryDumper)
            connection.adapters.register_dumper(str, _TextDumper)
            connection.execute(_SETTINGS.format(patience=self._patience, half=max(1, self._patience // 2)), prepare=False)
        except BaseException:
            connection.close()
            raise
        return connection


class _TextDumper(StrDumperUnknown):
    """No text of PostgreSQL has the character NUL in it: what somebody else says may, and is looked for in vain."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


def is_lost(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has ended it, as far as one can see from here: nothing is to be read from one that does nothing."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
