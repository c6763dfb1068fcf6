"""Our own network or theirs: who is to blame for hosts that are not reached."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from data.config import PagesConfig
from data.http.client import Client, Network
from data.pages.outage import MAX_HELD, MIN_GOOD, Outage, pauses
from tests.data.http.hostile import ADDRESSES, NET, Names, Web


def _outage(*reachable: str) -> Outage[str]:
    async def connects(origin: str) -> bool:
        return origin in reachable

    return Outage(connects)


def test_nothing_is_held_before_the_network_has_worked() -> None:
    """For two domains: one host that has died cannot be told from a network that has."""
    outage = _outage()
    assert not outage.may_hold
    outage.answered("a.example", "http://www.a.example")
    outage.answered("a.example", "http://x.a.example")
    assert not outage.may_hold
    outage.answered("b.example", "http://b.example")
    assert outage.may_hold
    assert MIN_GOOD == 2


def test_an_answer_releases_what_is_held() -> None:
    outage = _outage()
    outage.held += ["one", "two"]
    assert outage.answered("a.example", "http://a.example") == ["one", "two"]
    assert outage.held == []
    assert outage.answered("a.example", "http://a.example") == []


def test_many_failures_in_a_row_are_suspicious() -> None:
    outage = _outage()
    outage.held += ["x"] * (MAX_HELD - 1)
    assert not outage.is_suspicious
    outage.held.append("x")
    assert outage.is_suspicious


async def test_the_network_is_down_if_none_of_the_good_hosts_is_reached() -> None:
    outage = _outage("http://b.example")
    for name in "abc":
        outage.answered(f"{name}.example", f"http://{name}.example")
    assert not await outage.is_network_down()
    assert len(outage.good) == 3
    outage = _outage()
    outage.answered("a.example", "http://a.example")
    assert await outage.is_network_down()


async def test_those_that_answered_last_are_asked() -> None:
    outage = _outage("http://h0.example")
    for n in range(40):
        outage.answered(f"h{n}.example", f"http://h{n}.example")
        outage.answered("h7.example", "http://h7.example")
    assert len(outage.good) == 5
    assert "h7.example" in outage.good
    assert await outage.is_network_down()  # h0 is forgotten


@pytest.mark.parametrize("limit_s", [0.0, 0.5, 1.0, 10.0, 900.0])
def test_pauses_grow_up_to_the_limit(limit_s: float) -> None:
    found = pauses(limit_s)
    assert sum(found) == pytest.approx(limit_s)
    assert found[:-1] == sorted(found[:-1])
    assert max(found, default=0.0) <= 30.0
    assert len(found) < 50


@pytest.mark.parametrize(
    ("addresses", "connects"),
    [
        (ADDRESSES[:1], True),
        (("127.1.9.9", ADDRESSES[0]), True),  # the first of two is dead
        (("2001:db8::1", ADDRESSES[0]), True),  # a machine without IPv6
        (("127.1.9.9",), False),
        (("127.0.0.1",), False),  # not allowed
        ((), False),
    ],
    ids=["alive", "second_alive", "no_ipv6", "dead", "forbidden", "no_address"],
)
async def test_connects(web: Web, tmp_path: Path, addresses: tuple[str, ...], connects: bool) -> None:
    """What the look for good hosts does: a connection, and no request."""
    config = PagesConfig(allow_net=(NET,), connect_timeout_s=2.0)
    names = Names(web, {"www.good.example": [addresses]}, at_server=True)
    client = Client(Network.of(config, tmp_path, names))
    try:
        assert await client.connects("http://www.good.example") is connects
    finally:
        await client.close()
    assert web.log == []


async def test_connects_within_its_time(web: Web, tmp_path: Path) -> None:
    names = Names(web, {"www.silent.example": [None], "www.full.example": [["127.1.0.200"]]})
    with socket.socket() as full:  # its queue of connections is full: silence
        full.bind(("127.1.0.200", 0))
        full.listen(0)
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        client = Client(Network.of(PagesConfig(allow_net=(NET,), connect_timeout_s=0.3), tmp_path, names))
        begun = time.monotonic()
        assert not await client.connects("http://www.silent.example")
        assert not await client.connects(f"http://www.full.example:{full.getsockname()[1]}")
        assert time.monotonic() - begun < 3.0
        await client.close()
        for other in others:
            other.close()


async def test_tls_is_not_needed_to_look(web: Web, tmp_path: Path) -> None:
    client = Client(Network.of(PagesConfig(allow_net=(NET,)), tmp_path, Names(web)))
    web.tls_port = web.port
    assert await client.connects("https://www.site.example")
    await client.close()
    assert web.log == []
