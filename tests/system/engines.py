"""On which storage a test case runs its service: SQLite in the service's directory, or a database of its own on a server."""

from __future__ import annotations

import unittest

from tests.servers import mongodb, postgresql


class OnSQLite(unittest.TestCase):
    def new_storage(self) -> str:
        """For ``Service``; what it names is gone when the test has ended."""
        return ""


class OnPostgreSQL(unittest.TestCase):
    def new_storage(self) -> str:
        server = postgresql.shared()
        url = server.new_database()
        self.addCleanup(server.drop, url)
        return url


class OnMongoDB(unittest.TestCase):
    def new_storage(self) -> str:
        server = mongodb.shared()
        url = server.new_database()
        self.addCleanup(server.drop, url)
        return url
