"""Several notifications in one mail: those that were released from a window together."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from zaqar_notify import feedback, templates
from zaqar_notify.errors import InvalidRequest
from zaqar_notify.model import Delivery, MessageKind
from zaqar_notify.notifiers import content as contents
from zaqar_notify.notifiers import mail

MOST = 524288
"""Characters of texts and pages in a mail. What would be more is counted, and left out."""
_RULE = "-" * 64
_BODY = re.compile(r"<(/?)body\b", re.IGNORECASE)


class _Part(NamedTuple):
    title: str | None
    text: str
    page: str | None


def members(delivery: Delivery) -> list[Delivery]:
    """In the order of their messages; a single one alone."""
    found = sorted([delivery, *delivery.others], key=lambda one: one.message.id)
    if len(found) > 1 and any(one.message.kind is MessageKind.CONFIRMATION for one in found):
        raise ValueError("a request to confirm goes alone")
    return found


def name(found: Sequence[Delivery]) -> str:
    """What stands before the @ of the ``Message-ID``: the same for the same members."""
    if len(found) == 1:
        return found[0].id
    ids = "\n".join(one.id for one in found)
    return f"{found[0].id}-{hashlib.sha256(ids.encode()).hexdigest()[:16]}"


def content(found: Sequence[Delivery], subject: str | None) -> mail.Content:
    """``subject``: the subscriber's own. Each part is what would have been a mail, without what stands below it; one whose
    template fails is what the body says."""
    parts: list[_Part] = []
    size = 0
    for one in found:
        parts.append(_part(one))
        size += len(parts[-1].text) + len(parts[-1].page or "")
        if size > MOST and len(parts) > 1:
            parts.pop()
            break
    first = found[0]
    chosen = subject or templates.digest_subject(first, len(found)) or f"{len(found)} notifications of {first.message.queue}"
    page = _page(first, parts, len(found)) if any(part.page is not None for part in parts) else None
    return mail.Content(chosen, _text(first, parts, len(found)), page)


def _part(delivery: Delivery) -> _Part:
    try:
        shown = contents.content(delivery, "email", indent=2)
    except InvalidRequest:
        shown = contents.content(delivery, "email", indent=2, templated=False)
    return _Part(mail.title(shown), shown.text.strip("\n"), mail.page(shown))


def _headings(parts: Sequence[_Part], count: int) -> list[str]:
    return [f"[{number}/{count}] {part.title or ''}".rstrip() for number, part in enumerate(parts, 1)]


def _text(first: Delivery, parts: Sequence[_Part], count: int) -> str:
    shown = [f"{heading}\n{part.text}" for heading, part in zip(_headings(parts, count), parts, strict=True)]
    if len(parts) < count:
        shown.append(f"... and {count - len(parts)} more")
    lines = [f"\n\n{_RULE}\n".join(shown), "", "-- ", f"Queue {first.message.queue}"]
    link = first.links.get(feedback.UNSUBSCRIBE)
    return "\n".join([*lines, f"Unsubscribe: {link}"] if link else lines) + "\n"


def _page(first: Delivery, parts: Sequence[_Part], count: int) -> str:
    shown = []
    for heading, part in zip(_headings(parts, count), parts, strict=True):
        inner = f"<pre>{html.escape(part.text)}</pre>" if part.page is None else _inner(part.page)
        shown.append(f"<h3>{html.escape(heading)}</h3>\n<div>{inner}</div>")
    if len(parts) < count:
        shown.append(f"<p>... and {count - len(parts)} more</p>")
    link = first.links.get(feedback.UNSUBSCRIBE)
    unsubscribe = f'<br>\n<a href="{html.escape(link)}">Unsubscribe</a>' if link else ""
    shown.append(f"<p>Queue {html.escape(first.message.queue)}{unsubscribe}</p>")
    return "<html><body>\n" + "\n<hr>\n".join(shown) + "\n</body></html>\n"


def _inner(page: str) -> str:
    """What is in the body of a page that is a whole document."""
    found = list(_BODY.finditer(page))
    start = page.find(">", found[0].end()) + 1 if found and not found[0][1] else 0
    end = found[-1].start() if found and found[-1][1] and found[-1].start() >= start else len(page)
    return page[start:end]
