"""Names that are nearly ours. Others are the client's own, and kept or ignored as Zaqar does; a slip must not be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from zaqar_notify.errors import InvalidRequest


def by_sound(names: Iterable[str]) -> Mapping[str, str]:
    """For `check_names`: each name by what it shares with those that are too near to it."""
    return {_sound(name): name for name in names}


def check_names(given: Collection[str], known: Mapping[str, str], where: str) -> None:
    """Refuse what differs from a known name in capitals, ``_``, ``-`` or an s at the end alone. ``where`` stands before it."""
    for name in given:
        meant = known.get(_sound(name))
        if meant is not None and name != meant and meant not in given:
            raise InvalidRequest(
                f"{where}{name[:64]} is not known; {where}{meant} is. What is your own needs a name less alike."
            )


def _sound(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").removesuffix("s")
