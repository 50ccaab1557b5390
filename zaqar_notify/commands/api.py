"""`zaqar-notify api`: gunicorn with threads."""

from __future__ import annotations

import argparse
import logging
import math
import os
import resource
import socket
import sys
from typing import Any
from wsgiref.types import WSGIApplication

import gunicorn.http.wsgi
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from oslo_config import cfg

from zaqar_notify import bootstrap, errors
from zaqar_notify.commands import address, connections
from zaqar_notify.commands.buffering import BufferingWorker
from zaqar_notify.commands.configuration import configure

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only touched, never read


def run(arguments: argparse.Namespace) -> int:
    conf = configure(arguments)
    address.require_loopback(conf)
    bootstrap.require_keys(conf)
    bootstrap.set_up_logging(conf)
    limits = limits_of(conf)
    bootstrap.check_access(conf)
    check_storage(conf)
    allow_descriptors()
    # Kept open for as long as this process lives; its own children bind the port beside it.
    with port_of(conf, arguments.port_fd) as port:
        service = Service(conf, port.getsockname()[1], limits)
        arbiter = os.getpid()
        try:
            service.run()
        except SystemExit as stop:
            # gunicorn's arbiter ends in this way only, and so do the processes that it forks: their status is for the arbiter.
            if os.getpid() != arbiter:
                raise
            # A process that cannot start has said why.
            return 2 if stop.code == Arbiter.WORKER_BOOT_ERROR else int(stop.code or 0)
        except HaltServer as halt:
            # A second process that cannot start is found while the arbiter stops because of the first: nothing catches that.
            return 2 if halt.exit_status == Arbiter.WORKER_BOOT_ERROR else int(halt.exit_status)
    return 0


def port_of(conf: cfg.ConfigOpts, descriptor: int | None) -> socket.socket:
    return address.reserve(conf.api.host, conf.api.port) if descriptor is None else socket.socket(fileno=descriptor)


def limits_of(conf: cfg.ConfigOpts) -> connections.Limits:
    api, transport = conf.api, conf.transport
    try:
        proxies = connections.parse_networks(api.trusted_proxies)
    except ValueError as error:
        raise errors.CannotStart(f"[api] trusted_proxies: {error}") from error
    return connections.Limits(
        read_timeout=api.read_timeout,
        write_timeout=api.write_timeout,
        keepalive=api.keepalive,
        max_connections=api.max_connections,
        max_buffered=api.max_buffered,
        max_body=max(transport.max_messages_post_size, transport.max_queue_metadata, transport.max_subscription_size),
        connections_per_address=api.connections_per_address,
        trusted_proxies=proxies,
    )


def allow_descriptors() -> None:
    """As many open files as the hard limit allows: each connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_storage(conf: cfg.ConfigOpts) -> None:
    """Raise here, once, what would otherwise stop each API process: a database that is missing or of another version."""
    storage = bootstrap.build_storage(conf)
    try:
        storage.check()
    finally:
        storage.close()


class Log(Logger):  # type: ignore[misc]
    """gunicorn's messages go where all others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def _say_nothing(worker: Any, request: Any) -> None:
    pass


class Service(BaseApplication):  # type: ignore[misc]
    def __init__(self, conf: cfg.ConfigOpts, port: int, limits: connections.Limits) -> None:
        self._conf = conf
        self._port = port
        self.limits = limits
        super().__init__()

    def load_config(self) -> None:
        api = self._conf.api
        settings = {
            "bind": address.url(api.host, self._port).removeprefix("http://"),
            "worker_class": BufferingWorker,
            "workers": api.workers,
            "threads": api.threads,
            # Without it one process may take every connection.
            "reuse_port": True,
            # The worker class keeps the time itself; 0 means no second request on a connection.
            "keepalive": math.ceil(api.keepalive),
            # Nobody who calls may say where the application is mounted.
            "forwarder_headers": "",
            "graceful_timeout": round(api.graceful_timeout),
            "proc_name": "zaqar-notify api",
            "logger_class": Log,
            # By default it logs each path, and some are a right of their own.
            "pre_request": _say_nothing,
            "loglevel": "debug" if self._conf.debug else "warning",
            # A heartbeat on a slow disk can block a process long enough to be killed as hung.
            "worker_tmp_dir": SHARED_MEMORY if os.path.isdir(SHARED_MEMORY) else None,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            # Older versions of gunicorn have no control socket.
            if name in self.cfg.settings:
                self.cfg.set(name, value)
        gunicorn.http.wsgi.SERVER = "zaqar-notify"

    def load(self) -> WSGIApplication:
        try:
            return bootstrap.build_api(self._conf)
        except errors.NotifyError as error:
            logging.getLogger(__name__).critical("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
