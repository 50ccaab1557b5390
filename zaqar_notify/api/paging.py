"""Pages of a listing, each with the link to the next."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import falcon

from zaqar_notify import validation

Link = dict[str, str]
T = TypeVar("T")


def read_page(
    req: falcon.Request,
    most: int,
    read: Callable[[str | None, int], Sequence[T]],
    marker: Callable[[T], str],
    others: Mapping[str, str] | None = None,
) -> tuple[Sequence[T], list[Link]]:
    """One page, and its links: empty when nothing is behind it. ``read`` gets the marker and how many to read.

    ``others`` are what else the link to the next page has to say.
    """
    limit = validation.page_size(req.get_param("limit"), most)
    found = read(req.get_param("marker"), limit + 1)
    page = found[:limit]
    return page, next_links(req, marker(page[-1]), limit, others or {}) if len(found) > limit else []


def next_links(req: falcon.Request, marker: str, limit: int, others: Mapping[str, str]) -> list[Link]:
    query = urllib.parse.urlencode({**others, "marker": marker, "limit": limit})
    # Encoded again as far as it was; with two slashes in front it would be the name of a host (RFC 3986, section 4.2).
    path = urllib.parse.quote("/" + req.path.lstrip("/"))
    return [{"rel": "next", "href": f"{path}?{query}"}]
