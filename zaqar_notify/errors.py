"""Every error that this package raises on purpose: one tree, each with its HTTP status."""

from __future__ import annotations

from typing import ClassVar


class NotifyError(Exception):
    """The root. ``status`` is the HTTP status, ``title`` the short text of the answer.

    The message of the exception is the description: it is shown to the client and says what to change.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"


class InvalidRequest(NotifyError):
    """The request is not understood or asks for something that is not allowed."""

    status = 400
    title = "Invalid request"


class InvalidQueue(InvalidRequest):
    """The queue's name or the project breaks the rules for names."""

    title = "Invalid queue identification"


class UnknownScheme(InvalidRequest):
    """No loaded notifier serves the scheme of the subscriber's URI."""

    title = "Unknown subscriber scheme"


class RefusedAddress(InvalidRequest):
    """The guard does not allow this network address, port or scheme to be dialled."""

    title = "Address not allowed"


class Unauthorized(NotifyError):
    """The caller has not said who it is, or not truly."""

    status = 401
    title = "Unauthorized"


class Forbidden(NotifyError):
    """The caller may not do this."""

    status = 403
    title = "Forbidden"


class NotFound(NotifyError):
    """There is no such thing, or it belongs to another project."""

    status = 404
    title = "Not found"


class Conflict(NotifyError):
    """The state of the thing does not allow this."""

    status = 409
    title = "Conflict"


class Gone(NotifyError):
    """It was there once, and will not be again."""

    status = 410
    title = "Gone"


class StorageUnavailable(NotifyError):
    """The database is locked, full or out of reach; nothing was stored."""

    status = 503
    title = "Service temporarily unavailable"


class CannotStart(NotifyError):
    """A process cannot start: a taken port, a directory in use, a bad option. One line, exit status 2."""

    title = "Cannot start"


class NotifierFailed(NotifyError):
    """A bug in a notifier: it raised something that is no `NotifyError`."""
