"""The REST API: Falcon resources, one file per noun; `mount` adds it to the API of another queue service."""

from zaqar_notify.api.extension import mount

__all__ = ["mount"]
