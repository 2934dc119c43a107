"""Where a request comes from and what it was sent to: clients behind proxies, hosts, origins."""

import ipaddress
import re
from collections.abc import Collection

from attrs import frozen

#: Home networks and phones get a whole /64 of IPv6: one of them is one caller.
_IPV6_PREFIX = 64
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: A host as RFC 3986 has it in an authority: a name or IPv4, or IPv6 in brackets; then a port.
_AUTHORITY = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


@frozen
class Place:
    """A host in lower case without brackets, and a port; None: the scheme's own."""

    host: str
    port: int | None = None


def place_of(authority: str) -> Place | None:
    """Return the host and port of a Host header; None for anything odd, as user:password@host."""
    if (found := _AUTHORITY.fullmatch(authority)) is None:
        return None
    port = found["port"]
    return Place(found["host"].strip("[]").lower(), None if port is None else int(port))


def is_loopback(host: str) -> bool:
    """True for this machine alone: 127.0.0.0/8, ::1, localhost and names below it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # IPv6 alone has it
    return bool((mapped or address).is_loopback)


def is_own_host(host_header: str, allowed: Collection[str], only_loopback: bool) -> bool:
    """True when *host_header* names this server.

    A page of another site can have its own name point here (DNS rebinding); its name betrays it.
    Where nothing is *allowed* by name and not *only_loopback* is served, every name may be ours.
    """
    if not only_loopback and not allowed:
        return True
    place = place_of(host_header)
    if place is None:
        return False
    return (only_loopback and is_loopback(place.host)) or place.host in allowed


def is_own_origin(origin: str, host_header: str, is_tls: bool) -> bool:
    """True when a page of *origin* was served by the host that it now asks.

    is_tls: we serve TLS ourselves, so a page that came without it is not ours. Behind a proxy that
    ends TLS the page's scheme differs from ours, and both are taken.
    """
    scheme, separator, authority = origin.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS or (is_tls and scheme != "https"):
        return False
    page, host = place_of(authority), place_of(host_header)
    if page is None or host is None:
        return False
    default = _DEFAULT_PORTS[scheme]
    return (page.host, page.port or default) == (host.host, host.port or default)


def client_address(remote: str, forwarded_for: str, trusted: Collection[str]) -> str:
    """Return who asks: the peer, or whom a trusted proxy asks for.

    forwarded_for: all X-Forwarded-For headers, one behind the other. The last entry was written by
    our own proxy; what stands before it may be invented by anybody, so only entries of trusted
    proxies are passed over.
    """
    address = remote
    hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
    while address in trusted and hops:
        address = hops.pop()
    return address


def caller_of(address: str) -> str:
    """Return the name by which *address* is counted."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
