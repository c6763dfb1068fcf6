"""Tells an outage of our own network from hosts that are unreachable."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from data.config import PagesConfig
from data.http.client import Client, Network
from data.pages.frontier import Domain, Host, Link
from data.pages.outage import MAX_HELD, MIN_GOOD, Outage, pauses
from data.pages.results import Failure
from data.pages.robots import Robots
from data.schema import PageStatus
from tests.data.http.hostile import ADDRESSES, NET, Names, Web


def _outage(*reachable: str) -> Outage:
    async def connects(origin: str) -> bool:
        return origin in reachable

    return Outage(connects)


def _failure(status: PageStatus = PageStatus.CONNECT_FAILURE, **fields: Any) -> Failure:
    return Failure(LINK, status, "", **fields)


LINK = Link("http://dead.example/", "http://dead.example/", karma=3)
DEAD = Host("dead.example", Domain("dead.example"), 1.0)


def _working(*reachable: str) -> Outage:
    """An outage whose network has worked before."""
    outage = _outage(*reachable)
    for name in "ab":
        assert outage.answered(f"{name}.example", f"http://{name}.example", 1.0) == []
    return outage


def test_no_failure_is_held_before_two_domains_have_answered() -> None:
    """Until then, a dead host looks like a dead network."""
    outage = _outage()
    assert not outage.hold(DEAD, _failure(), 2.0)
    outage.answered("a.example", "http://www.a.example", 1.0)
    outage.answered("a.example", "http://x.a.example", 1.0)
    assert not outage.hold(DEAD, _failure(), 2.0)
    outage.answered("b.example", "http://b.example", 1.0)
    assert outage.hold(DEAD, _failure(), 2.0)
    assert MIN_GOOD == 2


def test_only_failures_that_our_network_can_cause_are_held() -> None:
    outage = _working()
    assert not outage.hold(DEAD, _failure(PageStatus.NOT_FOUND), 2.0)
    assert not outage.hold(DEAD, _failure(PageStatus.TLS_FAILURE), 2.0)
    assert outage.held == []
    robots = _failure(PageStatus.ROBOTS_UNREACHABLE, robots=Robots())._replace(reason="robots.txt: timeout")
    for failure in (
        _failure(PageStatus.DNS_FAILURE),
        _failure(PageStatus.TIMEOUT),
        _failure(PageStatus.PROTOCOL_ERROR, lost=True),
        robots,
    ):
        assert outage.hold(DEAD, failure, 2.0)


def test_an_answer_releases_failures_older_than_its_request() -> None:
    outage = _working()
    outage.hold(DEAD, _failure(), 2.0)
    outage.hold(DEAD, _failure(PageStatus.TIMEOUT), 4.0)
    assert outage.answered("a.example", "http://a.example", 1.9) == []
    assert outage.held_for_s(5.0) == 3.0
    assert outage.answered("a.example", "http://a.example", 3.0) == [(DEAD, _failure(held_at=2.0))]
    assert outage.held_for_s(5.0) == 1.0
    assert outage.answered("a.example", "http://a.example", 4.0) == [(DEAD, _failure(PageStatus.TIMEOUT, held_at=4.0))]
    assert outage.held == []
    assert outage.answered("a.example", "http://a.example", 5.0) == []
    assert outage.held_for_s(5.0) == 0.0


def test_a_failure_is_held_only_once() -> None:
    outage = _working()
    assert outage.hold(DEAD, _failure(), 2.0)
    ((host, failure),) = outage.release()
    assert outage.held == []
    assert not outage.hold(host, failure, 3.0)


def test_many_failures_in_a_row_are_suspicious() -> None:
    outage = _working()
    for _ in range(MAX_HELD - 1):
        outage.hold(DEAD, _failure(), 2.0)
    assert not outage.is_suspicious
    outage.hold(DEAD, _failure(), 2.0)
    assert outage.is_suspicious


async def test_the_network_is_down_if_no_good_host_is_reachable() -> None:
    outage = _outage("http://b.example")
    for name in "abc":
        outage.answered(f"{name}.example", f"http://{name}.example", 1.0)
    assert not await outage.is_network_down()
    assert len(outage.good) == 3
    outage = _outage()
    outage.answered("a.example", "http://a.example", 1.0)
    assert await outage.is_network_down()


async def test_the_hosts_that_answered_last_are_probed() -> None:
    outage = _outage("http://h0.example")
    for n in range(40):
        outage.answered(f"h{n}.example", f"http://h{n}.example", 1.0)
        outage.answered("h7.example", "http://h7.example", 1.0)
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
        (("127.1.9.9", ADDRESSES[0]), True),  # the first of two addresses is dead
        (("2001:db8::1", ADDRESSES[0]), True),  # a machine without IPv6
        (("127.1.9.9",), False),
        (("127.0.0.1",), False),  # not allowed
        ((), False),
    ],
    ids=["alive", "second_alive", "no_ipv6", "dead", "forbidden", "no_address"],
)
async def test_connects_tells_whether_a_host_accepts_connections(
    web: Web, tmp_path: Path, addresses: tuple[str, ...], connects: bool
) -> None:
    """A probe of a good host opens a connection and sends no request."""
    config = PagesConfig(allow_net=(NET,), connect_timeout_s=2.0)
    names = Names(web, {"www.good.example": [addresses]}, at_server=True)
    client = Client(Network.of(config, tmp_path, names))
    try:
        assert await client.connects("http://www.good.example") is connects
    finally:
        await client.close()
    assert web.log == []


async def test_connects_keeps_its_time_limit(web: Web, tmp_path: Path) -> None:
    names = Names(web, {"www.silent.example": [None], "www.full.example": [["127.1.0.200"]]})
    with socket.socket() as full:  # its accept queue is full, so it stays silent
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


async def test_probing_a_host_needs_no_tls(web: Web, tmp_path: Path) -> None:
    client = Client(Network.of(PagesConfig(allow_net=(NET,)), tmp_path, Names(web)))
    web.tls_port = web.port
    assert await client.connects("https://www.site.example")
    await client.close()
    assert web.log == []
