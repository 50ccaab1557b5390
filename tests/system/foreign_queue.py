"""Somebody's queue service as a program: ``python -m tests.system.foreign_queue FILE PORT CONFIG``.

Accepted messages become lines of the file. What a message's body is tells it what to do: see `Messages`.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socketserver
import sys
import wsgiref.simple_server

import falcon

from zaqar_notify import bootstrap
from zaqar_notify.api import mount

HELD_FOR = 1.0


class Messages:
    def __init__(self, file: pathlib.Path) -> None:
        self._file = file

    def on_post(self, req: falcon.Request, resp: falcon.Response, queue_name: str) -> None:
        (message,) = req.get_media()["messages"]
        if message["body"] == "refused":
            raise falcon.HTTPConflict
        if message["body"] == "broken":
            resp.status = falcon.HTTP_500
            return
        if message["body"] == "killed before it is stored":
            os.kill(os.getpid(), signal.SIGKILL)
        with self._file.open("a") as file:
            file.write(json.dumps(message["body"]) + "\n")
            number = file.tell()
        if message["body"] == "killed when it is stored":
            os.kill(os.getpid(), signal.SIGKILL)
        resp.status = falcon.HTTP_201
        resp.media = {"resources": [f"/v2/queues/{queue_name}/messages/foreign-{number}"]}
        req.context.body = message["body"]


class LastMoment:
    """Its process_response is the last to run: what was held is released by then."""

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool) -> None:
        if getattr(req.context, "body", None) == "killed when it is released":
            os.kill(os.getpid(), signal.SIGKILL)


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


def main(file: str, port: str, config: str) -> None:
    app = falcon.App(middleware=[LastMoment()])
    app.add_route("/v2/queues/{queue_name}/messages", Messages(pathlib.Path(file)))
    conf = bootstrap.configure(config_files=[config])
    mount(app, bootstrap.build_service(conf), held_for=HELD_FOR)
    with wsgiref.simple_server.make_server("127.0.0.1", int(port), app, Server) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
