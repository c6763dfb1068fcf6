"""Which addresses may be connected to, in every address family and spelling."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from data.config import PagesConfig
from data.errors import InputError
from data.http.guard import ConnectTo, ForbiddenAddress, Guard, Resolver, is_public
from data.urls.canonical import canonical_url

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # IPv4-compatible
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",  # IPv4-translated
    "64:ff9b::127.0.0.1",  # NAT64
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::10.0.0.1",  # NAT64 of a local network
    "100::1",  # discard
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",  # 6to4 of 127.0.0.1
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # cloud metadata
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ip_address(address))
    assert Guard().refusal(address, 443) is None
    assert Guard().refusal(address, 8080) == "the port is not 80 or 443"


@pytest.mark.parametrize("address", FORBIDDEN)
def test_special_addresses_are_forbidden(address: str) -> None:
    assert not is_public(ip_address(address))
    assert Guard().refusal(address, 80) == "the address is not public"


def test_addresses_that_python_calls_private_are_refused() -> None:
    """A second opinion: the guard refuses everything that ``ipaddress`` calls special, at random and near the blocks'
    ends.
    """
    import random

    rng = random.Random(0)
    numbers = [rng.getrandbits(32) for _ in range(20_000)]
    numbers += [int(ip_address(a)) + d for a in FORBIDDEN if ":" not in a for d in (-1, 0, 1) if int(ip_address(a)) > 0]
    for number in numbers:
        if number < 1 << 32:
            ip = ip_address(number)
            special = ip.is_private or ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local
            assert not (special and is_public(ip)), ip


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.1./",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://%31%32%37.0.0.1/",
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://0/",
        "http://0xA9FEA9FE/",  # 169.254.169.254
        "http://2852039166/",
    ],
)
def test_spellings_of_a_private_address_are_refused(url: str) -> None:
    """Some are not canonical URLs. For the others, the host is a literal that the guard refuses."""
    try:
        host = canonical_url(url).split("/")[2]
    except ValueError:
        return
    assert Guard().refusal(host.strip("[]"), 80) == "the address is not public"


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "0177.1", "127.1", "localhost"])
def test_spellings_that_the_system_resolves_are_refused(spelling: str) -> None:
    """The C library may read more literals than we do, so the guard checks the resolved address."""
    for entry in socket.getaddrinfo(spelling, 80, type=socket.SOCK_STREAM):
        with pytest.raises(ForbiddenAddress, match="the address is not public"):
            Guard().socket(entry)


def test_a_socket_is_created_only_for_an_allowed_address() -> None:
    guard = Guard.of(PagesConfig(allow_net=("127.0.0.0/8", "::1/128")))
    for family, address in ((socket.AF_INET, ("127.0.0.1", 4321)), (socket.AF_INET6, ("::1", 4321, 0, 0))):
        with guard.socket((family, socket.SOCK_STREAM, 0, "", address)) as made:  # type: ignore[arg-type]
            assert made.family == family
    assert guard.refusal("::ffff:127.0.0.1", 4321) is None  # the same address
    assert guard.refusal("128.0.0.1", 4321) == "the port is not 80 or 443"
    assert guard.refusal("10.0.0.1", 80) == "the address is not public"


def test_connect_to_allows_only_its_address_and_port() -> None:
    guard = Guard.of(PagesConfig(connect_to=("*.example=127.0.0.1:8080", "one.test=[::1]:81")))
    assert guard.refusal("127.0.0.1", 8080) is None
    assert guard.refusal("::1", 81) is None
    assert guard.refusal("127.0.0.1", 80) == "the address is not public"
    assert guard.refusal("127.0.0.1", 8081) == "the port is not 80 or 443"
    assert guard.refusal("127.0.0.2", 8080) == "the port is not 80 or 443"


async def test_the_resolver_redirects_only_matching_names() -> None:
    asked = []

    class Inner(Resolver):
        def __init__(self) -> None:
            pass

        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[Any]:
            asked.append(host)
            return [host]

    guard = Guard.of(PagesConfig(connect_to=("*.a.example=127.0.0.1:81", "*.example=[::1]:82")))
    resolver = Resolver(guard, Inner(), 5.0)
    found = [(await resolver.resolve(host, 80))[0] for host in ("x.a.example", "B.Example")]
    assert [(r["hostname"], r["host"], r["port"]) for r in found] == [
        ("x.a.example", "127.0.0.1", 81),
        ("B.Example", "::1", 82),
    ]
    assert [r["family"] for r in found] == [socket.AF_INET, socket.AF_INET6]
    assert await resolver.resolve("example.org", 80) == ["example.org"]
    assert asked == ["example.org"]


@pytest.mark.parametrize(
    "text", ["", "x", "*=1.2.3.4", "*=1.2.3.4:", "*=1.2.3.4:0", "*=1.2.3.4:65536", "*=name:80", "=1.2.3.4:80", "*=:80"]
)
def test_an_invalid_connect_to_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--connect-to .* write GLOB=ADDR:PORT"):
        ConnectTo.parse(text)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "private", "10.0.0.0/33"])
def test_an_invalid_network_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--allow-net"):
        Guard.of(PagesConfig(allow_net=(text,)))
