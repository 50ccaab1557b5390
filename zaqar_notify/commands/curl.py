"""curl lines that are ready to paste."""

from __future__ import annotations

import json
import shlex
import uuid


def post(url: str, document: object, project: str) -> str:
    words = ["curl", "-i", url]
    headers = ("Content-Type: application/json", f"Client-ID: {uuid.uuid4()}", f"X-Project-ID: {project}")
    lines = [
        shlex.join(words),
        " ".join(f"-H {shlex.quote(header)}" for header in headers),
        f"-d {shlex.quote(json.dumps(document))}",
    ]
    return " \\\n  ".join(lines)
