"""Claims."""

from __future__ import annotations

from typing import Any

from zaqar_notify.validation.documents import integer, json_object
from zaqar_notify.validation.limits import Limits


def claim_terms(document: Any, limits: Limits) -> tuple[int, int]:
    """ttl and grace. null is as good as nothing: python-zaqarclient sends it for what its user did not name."""
    asked = json_object(document, "The claim")
    ttl, grace = asked.get("ttl"), asked.get("grace")
    return (
        limits.default_claim_ttl if ttl is None else integer(ttl, limits.min_claim_ttl, limits.max_claim_ttl, "ttl"),
        limits.default_claim_grace
        if grace is None
        else integer(grace, limits.min_claim_grace, limits.max_claim_grace, "grace"),
    )
