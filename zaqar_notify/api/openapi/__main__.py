"""``python -m zaqar_notify.api.openapi`` prints the document with the default limits and every way to authenticate."""

from __future__ import annotations

import json

from zaqar_notify.api.openapi.document import document
from zaqar_notify.validation import Limits

if __name__ == "__main__":
    print(json.dumps(document(Limits()), indent=2))
