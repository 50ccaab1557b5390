"""The address that the API listens on."""

from __future__ import annotations

import errno
import ipaddress
import socket

from oslo_config import cfg

from zaqar_notify import errors


def require_loopback(conf: cfg.ConfigOpts) -> None:
    """Raise `CannotStart` where callers are not authenticated and others than this machine could call."""
    host = conf.api.host
    if conf.auth.strategy == "none" and not all(ipaddress.ip_address(address).is_loopback for address in _addresses(host)):
        raise errors.CannotStart(
            f"[auth] strategy is none, so the API may listen on loopback only, not on {host}; set [api] host to 127.0.0.1"
        )


def reserve(host: str, port: int) -> socket.socket:
    """Bind the port and keep it without listening, so that no other service can take it; raises `CannotStart` if one has.

    The API's processes share the port by SO_REUSEPORT, and so could those of a second service, unnoticed. Bound without that
    option the port is ours alone; setting it afterwards lets our own processes in.
    """
    family = socket.AF_INET6 if ":" in _addresses(host)[0] else socket.AF_INET
    reservation = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a former process that are not quite over must not count.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind((host, port))
        # From here on it means that a second reservation is possible while neither listens. Linux remembers it for the port
        # until a socket without it is bound.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with socket.socket(family, socket.SOCK_STREAM) as beside:
            beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            beside.bind(reservation.getsockname())
    except OSError as error:
        reservation.close()
        raise errors.CannotStart(_explain(error, host, port)) from error
    return reservation


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken by another process; stop that one, or choose another port with --port"
    return f"Cannot listen on {host} port {port}: {error.strerror}"


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise errors.CannotStart(f"[api] host {host!r} is not an address of this machine: {error}") from error
    return [str(address[4][0]).partition("%")[0] for address in found]
