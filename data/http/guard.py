"""Which addresses the crawler may connect to.

Links come from strangers, so a link, a redirect or a DNS answer may point into the crawler's own machine or network.
The guard makes every socket (``Guard.socket``) and checks its address there: after name resolution, on every hop, and
for literal addresses, which no resolver sees. The socket connects to the address that was checked. There is no second
look-up in between that could return another one (DNS rebinding).

IPv4 is allowed except for the special-purpose blocks, IPv6 only inside the global unicast block. The lists are written
out because ``ipaddress.is_global`` changed its meaning between patch releases of Python.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries; RFC 6890, RFC 6052 (NAT64), RFC 7526 (6to4 is
deprecated), RFC 4380 (Teredo).
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from aiohappyeyeballs import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

from data.config import PagesConfig
from data.errors import InputError

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

PORTS = frozenset({80, 443})

_FORBIDDEN_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent, on a public address
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # IETF protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class ForbiddenAddress(OSError):  # noqa: N818
    """The guard refused a connection.

    Its text is one of two constants. If every address of a host fails, ``aiohappyeyeballs.start_connection`` raises
    the first exception only if all of them have the same text; otherwise it raises a plain OSError.
    """


@dataclass(frozen=True)
class ConnectTo:
    """Connects host names that match ``glob`` (lower case, ``*`` and ``?``) to this address and port."""

    glob: str
    address: IpAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``GLOB=ADDR:PORT``, an IPv6 address in brackets. Raises InputError."""
        glob, _, target = text.partition("=")
        host, _, port = target.rpartition(":")
        try:
            address = ip_address(host.removeprefix("[").removesuffix("]"))
            number = int(port)
        except ValueError:
            number = 0
            address = IPv4Address(0)
        if not glob or not 0 < number < 65536:
            raise InputError(
                f"--connect-to {text!r}: not a valid rule; write GLOB=ADDR:PORT, such as '*.example=127.0.0.1:8080'"
            )
        return cls(glob.lower(), address, number)


@dataclass(frozen=True)
class Guard:
    """The rules of one run. ``allow_net`` opens networks on any port, ``connect_to`` single addresses and ports."""

    allow_net: tuple[IpNetwork, ...] = ()
    connect_to: tuple[ConnectTo, ...] = ()

    @classmethod
    def of(cls, config: PagesConfig) -> Self:
        """Raises InputError for a setting that cannot be parsed."""
        networks = []
        for text in config.allow_net:
            try:
                networks.append(ip_network(text))
            except ValueError as error:
                raise InputError(f"--allow-net {text!r}: {error}; write a network such as 10.1.0.0/16") from error
        return cls(tuple(networks), tuple(ConnectTo.parse(text) for text in config.connect_to))

    def refusal(self, address: str, port: int) -> str | None:
        """Why the crawler may not connect to this literal address; None if it may."""
        ip = _plain(ip_address(address))
        if any(ip in net for net in self.allow_net if net.version == ip.version):
            return None
        if any((ip, port) == (to.address, to.port) for to in self.connect_to):
            return None
        if port not in PORTS:
            return "the port is not 80 or 443"
        return None if is_public(ip) else "the address is not public"

    def target(self, host: str) -> ConnectTo | None:
        """The first ``connect_to`` that matches a host name."""
        return next((to for to in self.connect_to if fnmatchcase(host.lower(), to.glob)), None)

    def socket(self, addr_info: AddrInfoType) -> socket.socket:
        """A socket for this ``getaddrinfo`` entry; aiohappyeyeballs' ``socket_factory``. Raises ForbiddenAddress."""
        family, kind, protocol, _, sockaddr = addr_info
        refusal = self.refusal(str(sockaddr[0]), int(sockaddr[1]))
        if refusal is not None:
            raise ForbiddenAddress(refusal)
        return socket.socket(family, kind, protocol)


def is_public(ip: IpAddress) -> bool:
    """Whether an address belongs to the public Internet. For translated forms the IPv4 address inside decides."""
    ip = _plain(ip)
    if isinstance(ip, IPv4Address):
        return not any(ip in net for net in _FORBIDDEN_V4)
    if ip in _NAT64:
        return is_public(IPv4Address(int(ip) & 0xFFFF_FFFF))
    return ip in _GLOBAL_V6 and not any(ip in net for net in _FORBIDDEN_V6)


def _plain(ip: IpAddress) -> IpAddress:
    """``::ffff:a.b.c.d`` becomes a.b.c.d, which is where the kernel connects to."""
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return ip if mapped is None else mapped


class Resolver(AbstractResolver):
    """Resolves host names by ``connect_to``, or else by ``inner`` within ``timeout_s``."""

    def __init__(self, guard: Guard, inner: AbstractResolver, timeout_s: float) -> None:
        self.guard = guard
        self.inner = inner
        self.timeout_s = timeout_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError for every failure; the client turns it into ``dns_failure``."""
        to = self.guard.target(host)
        if to is not None:
            kind = socket.AF_INET if to.address.version == 4 else socket.AF_INET6
            return [ResolveResult(hostname=host, host=str(to.address), port=to.port, family=kind, proto=0, flags=0)]
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await self.inner.resolve(host, port, family)
        except TimeoutError:
            raise OSError("no answer in time") from None
        except UnicodeError as error:  # the idna codec: a label of more than 63 characters
            raise OSError("not a host name") from error
        if not found:
            raise OSError("no address")
        return found

    async def close(self) -> None:
        await self.inner.close()
