"""A small queue service of somebody's own: messages in SQLite, an API of two routes, and notifications mounted on it."""

import contextlib
import json
import os
import sqlite3
import uuid
from collections.abc import Iterator

import falcon

from zaqar_notify import bootstrap
from zaqar_notify.api import mount


class Store:
    def __init__(self, path: str) -> None:
        self._path = path
        with self.transaction() as database:
            database.execute("CREATE TABLE IF NOT EXISTS messages (id TEXT, queue TEXT, body TEXT)")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            yield database


class Messages:
    def __init__(self, store: Store) -> None:
        self._store = store

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue_name: str) -> None:
        posted = [(uuid.uuid4().hex, queue_name, json.dumps(message["body"])) for message in req.get_media()["messages"]]
        with self._store.transaction() as database:
            if database.execute("SELECT count(*) FROM messages WHERE queue = ?", [queue_name]).fetchone()[0] >= 1000:
                raise falcon.HTTPConflict(description="The queue is full.")
            database.executemany("INSERT INTO messages VALUES (?, ?, ?)", posted)
        resp.status = falcon.HTTP_201
        resp.media = {"resources": [f"/v2/queues/{queue_name}/messages/{row[0]}" for row in posted]}

    def on_get(self, req: falcon.Request, resp: falcon.Response, queue_name: str) -> None:
        with self._store.transaction() as database:
            rows = database.execute("SELECT id, body FROM messages WHERE queue = ? ORDER BY rowid", [queue_name]).fetchall()
        resp.media = {"messages": [{"id": row[0], "body": json.loads(row[1])} for row in rows]}


class Message:
    def __init__(self, store: Store) -> None:
        self._store = store

    def on_delete(self, req: falcon.Request, resp: falcon.Response, queue_name: str, message_id: str) -> None:
        with self._store.transaction() as database:
            database.execute("DELETE FROM messages WHERE queue = ? AND id = ?", [queue_name, message_id])
        resp.status = falcon.HTTP_204


store = Store(os.environ.get("QUEUE_DATABASE", "queue.db"))
app = falcon.App()
app.add_route("/v2/queues/{queue_name}/messages", Messages(store))
app.add_route("/v2/queues/{queue_name}/messages/{message_id}", Message(store))

# All that it takes:
conf = bootstrap.configure(config_files=["zaqar-notify.conf"])
mount(app, bootstrap.build_service(conf))
