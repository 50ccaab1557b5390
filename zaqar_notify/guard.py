"""Which network addresses, ports and schemes may be dialled: the guard against server-side request forgery.

A URL is judged when it is subscribed (`Guard.check_url`), and the address that is really dialled is judged at each new
connection (`Guard.check_address`): a name says nothing about where it leads.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Iterable
from typing import NamedTuple

from zaqar_notify.errors import CannotStart, RefusedAddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORBIDDEN = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relays",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved and broadcast",
    "::/128": "unspecified",
    "::1/128": "loopback",
    "::/8": "reserved",
    "64:ff9b:1::/48": "local NAT64",
    "100::/64": "discard",
    "2001::/32": "Teredo",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "5f00::/16": "segment routing",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
_FORBIDDEN_NETWORKS: list[tuple[_Network, str]] = [(ipaddress.ip_network(text), why) for text, why in _FORBIDDEN.items()]

# IPv6 networks whose last 32 bits are the IPv4 address that is reached in the end: compatible, mapped, NAT64.
_CARRIERS = tuple(ipaddress.IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "64:ff9b::/96"))

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.IGNORECASE)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]+")


class Target(NamedTuple):
    """Where a URL leads, as far as it says so itself."""

    scheme: str
    host: str
    """Lower case; an IPv6 address without brackets and scope id, an IPv4 address in four decimal parts."""
    port: int
    literal: bool
    """The host is an address, not a name."""


class Guard:
    """``allowed_networks`` (CIDR) are allowed although they are forbidden by default; an empty ``allowed_ports`` allows all.

    Raises `CannotStart` for a network that is none.
    """

    def __init__(
        self, allowed_networks: Iterable[str] = (), https_only: bool = False, allowed_ports: Iterable[int] = ()
    ) -> None:
        try:
            self.allowed_networks = tuple(ipaddress.ip_network(text) for text in allowed_networks)
        except ValueError as error:
            raise CannotStart(f"[guard] allowed_networks: {error}") from None
        self.https_only = https_only
        self.allowed_ports = frozenset(allowed_ports)
        self._judged = functools.lru_cache(maxsize=16384)(self._judge)

    def check_url(self, url: str) -> Target:
        """Where the URL leads; `RefusedAddress` says what is wrong with it. A name is not looked up."""
        target = _parse(url)
        if self.https_only and target.scheme != "https":
            raise RefusedAddress("Only https is allowed here.")
        refusal = self.check_port(target.port)
        if refusal is None and target.literal:
            refusal = self.check_address(target.host)
        if refusal is not None:
            raise RefusedAddress(f"{refusal}.")
        return target

    def check_address(self, ip: str) -> str | None:
        """Why this IP address may not be dialled; None: it may. Brackets and a scope id are ignored."""
        return self._judged(ip)

    def check_port(self, port: int) -> str | None:
        """Why this port may not be dialled; None: it may."""
        if self.allowed_ports and port not in self.allowed_ports:
            return f"port {port} is not one of the allowed ports ({', '.join(map(str, sorted(self.allowed_ports)))})"
        return None

    def _judge(self, ip: str) -> str | None:
        try:
            address: _Address = ipaddress.ip_address(ip.strip("[]").partition("%")[0])
        except ValueError:
            return f"{ip[:100]!r} is not an IP address"
        if self._allowed(address):
            return None
        inner = _carried(address)
        if inner is not None and self._allowed(inner):
            return None
        return _forbidden(address if inner is None else inner, ip)

    def _allowed(self, address: _Address) -> bool:
        return any(address in network for network in self.allowed_networks)


def _carried(address: _Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv6Address) and int(address) > 1 and any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _forbidden(address: _Address, ip: str) -> str | None:
    for network, why in _FORBIDDEN_NETWORKS:
        if address in network:
            return f"address {ip} is not allowed: it is in {network} ({why})"
    return None


def is_address(host: str) -> bool:
    """Whether a host is an IP address in its usual form, without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parse(url: str) -> Target:
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise RefusedAddress("A URL may hold only printable ASCII without spaces and backslashes; write other names as xn--...")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RefusedAddress(f"The URL is not valid: {error}.") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise RefusedAddress("The URL has to begin with http:// or https://.")
    if "@" in parts.netloc:
        raise RefusedAddress("A user name or password in the URL is not allowed; use a header.")
    if port == 0:
        raise RefusedAddress("Port 0 cannot be dialled.")
    host = parts.netloc.rpartition(":")[0] if parts.netloc.rpartition("]")[2].count(":") else parts.netloc
    address = _literal(host)
    if address is None and not _NAME.fullmatch(host):
        raise RefusedAddress("The URL needs a host: a name, an IPv4 address or an IPv6 address in brackets.")
    return Target(parts.scheme, (address or host).lower(), port or _DEFAULT_PORTS[parts.scheme], address is not None)


def _literal(host: str) -> str | None:
    """The address that a host is, in any form that resolvers understand (octal, hexadecimal, fewer than four parts)."""
    if host.startswith("["):
        return _literal_v6(host)
    labels = host.removesuffix(".").split(".")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise RefusedAddress(f"{host[:100]} is neither a name nor a valid IPv4 address.")
    try:
        return socket.inet_ntoa(socket.inet_aton(".".join(labels)))
    except OSError:
        raise RefusedAddress(f"{host[:100]} is neither a name nor a valid IPv4 address.") from None


def _literal_v6(host: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host[1:-1].partition("%")[0]))
    except ValueError:
        raise RefusedAddress(f"{host[:100]} is not a valid IPv6 address.") from None
