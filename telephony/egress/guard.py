"""Where we may send: only `http` and `https`, and no address of our own networks unless it is allowed.

Addresses are judged by the IANA special-purpose registries
(https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry), written out
here because what `ipaddress` calls private differs between Python versions.
What it never does: resolve a name or open a socket; `http.py` asks it about each address it resolved.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

from yarl import URL

from telephony.errors import AddressRefused

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL: Final = 2_048
ALLOW_MEND: Final = "add its network or host to webhooks.allow_private if it is meant"

_FORBIDDEN_V4: Final = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared (carrier-grade NAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
# All that is routed is in 2000::/3; what is there for special use stands in the list.
_ROUTED_V6: Final = IPv6Network("2000::/3")
_FORBIDDEN_V6: Final = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved (Teredo and others)"),
        ("2001:db8::/32", "reserved"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "reserved"),
    )
)
_AUTHORITY_END: Final = re.compile(r"[/?#]")
_NAT64: Final = IPv6Network("64:ff9b::/96")


def forbidden_kind(address: Address) -> str | None:
    """Return what is wrong with an address (`private`, `loopback`, …), or None for one of the Internet."""
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return forbidden_kind(embedded)
        named = next((what for network, what in _FORBIDDEN_V6 if address in network), None)
        return named or (None if address in _ROUTED_V6 else "reserved")
    return next((what for network, what in _FORBIDDEN_V4 if address in network), None)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to `address` reaches: IPv4-mapped, or through a NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None


def url_problem(text: str) -> str | None:
    """Return `problem; mend` of a URL that we can't send to whatever its addresses, or None."""
    if len(text) > MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
        return f"is not a URL; write printable ASCII, at most {MAX_URL} characters"
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError:
        return "is not a URL; write it like https://example.com/hook"
    if url.scheme not in ("http", "https"):
        return "is neither http nor https; write it like https://example.com/hook"
    if not host or not port:
        return "names no host or no port; write it like https://example.com/hook"
    if "@" in _AUTHORITY_END.split(text.partition("//")[2], 1)[0]:
        return "holds a user or a password; leave them out, our requests are signed"
    return None


class Guard:
    """Says which URLs and addresses may be sent to.

    `allow_private` lists networks (`10.1.0.0/16`, `127.0.0.1`) and host names whose addresses are allowed
    whatever they are. Raises `ValueError` for an entry that looks like a network and is none.
    """

    def __init__(self, allow_private: Iterable[str] = ()) -> None:
        self._hosts: set[str] = set()
        networks: list[Network] = []
        for entry in allow_private:
            if any(letter in entry for letter in "/:") or entry.replace(".", "").isdigit():
                networks.append(ipaddress.ip_network(entry))
            else:
                self._hosts.add(_plain(entry))
        self._networks = tuple(networks)

    def admit(self, text: str) -> URL:
        """Return the URL; raises `AddressRefused`. A host that is an address is judged here already."""
        problem = url_problem(text)
        if problem is not None:
            raise AddressRefused(f"the URL {problem}")
        url = URL(text)
        host = url.raw_host or ""
        address = _literal(host)
        if address is not None:
            self.admit_address(host, address)
        elif ":" in host or host.replace(".", "").isdigit():
            # `2130706433` and `127.1` are addresses to the system, and to aiohttp, which would not resolve.
            raise AddressRefused(
                f"the URL's host {host[:64]} is an address in an unusual form; write a.b.c.d"
            )
        return url

    def allows(self, host: str) -> bool:
        """Whether a host, by its name or as an address, was allowed though it be one of ours."""
        address = _literal(host)
        listed = address is not None and any(address in network for network in self._networks)
        return listed or _plain(host) in self._hosts

    def admit_address(self, host: str, address: Address) -> None:
        """Raise `AddressRefused` unless `host`, which resolved to `address`, may be connected to there."""
        kind = forbidden_kind(address)
        if kind is None or _plain(host) in self._hosts:
            return
        reached = _embedded(address) if isinstance(address, IPv6Address) else None
        candidates = (address,) if reached is None else (address, reached)
        if any(one in network for one in candidates for network in self._networks):
            return
        raise AddressRefused(f"{host} is at a {kind} address; {ALLOW_MEND}")


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
