"""Publish/subscribe notifications for a queuing REST API that speaks Zaqar v2."""

__version__ = "0.1.0"
