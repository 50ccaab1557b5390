from __future__ import annotations

from tests.storage import case, conformance_contention


class ContentionTest(case.SqlCase, conformance_contention.ContentionConformance):
    pass
