"""Which host comes next, and when."""

from __future__ import annotations

import random

import pytest

from data.pages.frontier import Frontier, Host, Link

DELAY_S = 1.0


def _frontier(max_hosts: int = 100, max_hosts_per_domain: int = 4) -> Frontier:
    return Frontier(max_hosts, max_hosts_per_domain, DELAY_S)


def _links(host: str, n: int) -> list[Link]:
    return [Link(f"http://{host}/{k}", f"http://{host}/{k}", n - k) for k in range(n)]


def _fill(frontier: Frontier, name: str, n: int, free_at: float = 0.0) -> Host:
    host = frontier.host(name.partition(".")[2], name, free_at)
    frontier.fill(host, _links(name, n))
    return host


def _ask(frontier: Frontier, host: Host, now: float) -> str:
    """Settle the next link of a busy host and give the host back."""
    link = host.queue.pop()
    frontier.settled(host)
    host.free_at = now + host.delay_s
    frontier.give_back(host)
    return link.url


def test_no_host_is_ready_before_its_time() -> None:
    frontier = _frontier()
    host = _fill(frontier, "a.one", 1, free_at=5.0)
    assert frontier.take(4.99) is None
    assert frontier.next_at() == 5.0
    assert frontier.take(5.0) is host
    assert frontier.take(99.0) is None  # it is busy


def test_links_of_a_host_keep_their_order() -> None:
    frontier = _frontier()
    host = _fill(frontier, "a.one", 3)
    asked = []
    for now in (0.0, 1.0, 2.0):
        assert frontier.take(now) is host
        asked.append(_ask(frontier, host, now))
        assert frontier.take(now + 0.99) is None
    assert asked == [f"http://a.one/{k}" for k in range(3)]
    assert (frontier.n_links, frontier.hosts, frontier.domains) == (0, {}, {})


def test_hosts_with_more_links_left_come_first() -> None:
    """The order uses powers of two: exact numbers would make large hosts alternate for no reason."""
    frontier = _frontier()
    for name, n in (("a.one", 1), ("a.two", 40), ("a.three", 5), ("a.four", 7)):
        _fill(frontier, name, n)
    taken = [frontier.take(0.0) for _ in range(4)]
    assert [host.name for host in taken if host] == ["a.two", "a.three", "a.four", "a.one"]


def test_hosts_of_a_domain_at_once_are_limited() -> None:
    frontier = _frontier(max_hosts_per_domain=2)
    first, second, third = (_fill(frontier, f"{name}.one", 2) for name in "abc")
    other = _fill(frontier, "a.two", 1)
    taken = [frontier.take(0.0) for _ in range(4)]
    assert taken == [first, second, other, None]
    _ask(frontier, first, 0.0)  # it has another link and keeps its place
    assert frontier.take(0.0) is None
    assert frontier.take(1.0) is first
    _ask(frontier, first, 1.0)  # it has no link left: the third is next
    assert frontier.take(1.0) is third


def test_hosts_at_once_are_limited() -> None:
    frontier = _frontier(max_hosts=2)
    small, large, middle = _fill(frontier, "a.one", 1), _fill(frontier, "a.two", 64), _fill(frontier, "a.three", 8)
    assert {frontier.take(0.0), frontier.take(0.0), frontier.take(0.0)} == {small, large, None}
    _ask(frontier, small, 0.0)
    assert frontier.take(0.0) is middle


def test_a_parked_host_frees_its_place() -> None:
    frontier = _frontier(max_hosts=1, max_hosts_per_domain=1)
    waits, next_one = _fill(frontier, "a.one", 2), _fill(frontier, "b.one", 1)
    assert frontier.take(0.0) is waits
    assert frontier.take(0.0) is None
    waits.free_at = 100.0
    frontier.give_back(waits, park=True)
    assert frontier.take(0.0) is next_one
    assert frontier.take(100.0) is None  # its place is taken now
    _ask(frontier, next_one, 100.0)
    assert frontier.take(100.0) is waits


def test_a_link_put_back_comes_first() -> None:
    frontier = _frontier()
    host = _fill(frontier, "a.one", 3)
    assert frontier.take(0.0) is host
    link = host.queue.pop()
    frontier.requeue(link, host)
    frontier.give_back(host)
    assert frontier.take(0.0) is host
    assert host.queue.pop() is link
    assert frontier.n_links == 3


def test_a_redirect_target_in_the_domain_keeps_its_delay() -> None:
    """The host stays known while the domain has links, so that its delay is kept."""
    frontier = _frontier()
    host = _fill(frontier, "a.one", 2)
    assert frontier.take(0.0) is host
    link = host.queue.pop()
    other = frontier.host("one", "b.one", 7.0)
    frontier.requeue(link, other)
    host.free_at = 1.0
    frontier.give_back(host)
    assert frontier.take(1.0) is host
    _ask(frontier, host, 1.0)
    assert frontier.take(6.9) is None
    assert frontier.take(7.0) is other
    assert frontier.host("one", "b.one", 0.0) is other
    _ask(frontier, other, 7.0)
    assert frontier.hosts == {}


def test_draining_returns_all_queued_links() -> None:
    """Links of ready, waiting, pending and busy hosts are returned. Links in flight come back later."""
    frontier = _frontier(max_hosts_per_domain=1)
    busy = _fill(frontier, "a.one", 2)
    _fill(frontier, "b.one", 2)
    _fill(frontier, "a.two", 2, free_at=9.0)
    _fill(frontier, "a.three", 2)
    assert frontier.take(0.0) is busy
    on_its_way = busy.queue.pop()
    drained = []
    for host, link in frontier.drain():
        frontier.settled(host)
        drained.append(link.url)
    assert len(set(drained)) == 7
    assert (frontier.n_links, on_its_way.url in drained) == (1, False)
    frontier.settled(busy)
    frontier.give_back(busy)
    assert frontier.n_links == 0
    while (host := frontier.take(99.0)) is not None:
        assert host.queue == []
        frontier.give_back(host)
    assert (frontier.hosts, frontier.n_active) == ({}, 0)


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_of_events_serves_each_link_once_and_in_time(seed: int) -> None:
    """Hosts come back early or late, parked or not, and links are put back or move to other hosts. No link is lost, no
    host is used before its time, and the limits on hosts at once hold.
    """
    rng = random.Random(seed)
    max_hosts, max_per_domain = rng.randint(1, 6), rng.randint(1, 3)
    frontier = _frontier(max_hosts, max_per_domain)
    names = [f"h{h}.d{d}" for d in range(rng.randint(1, 6)) for h in range(rng.randint(1, 5))]
    expected = set()
    for name in names:
        n = rng.randint(1, 9)
        host = frontier.host(name.split(".")[1], name, rng.random())
        frontier.fill(host, _links(name, n))
        expected |= {link.url for link in host.queue}
    now, busy, asked = 0.0, list[Host](), list[str]()
    for _ in range(100_000):
        host = frontier.take(now)
        if host is not None:
            assert host.free_at <= now
            assert host not in busy
            busy.append(host)
            assert len(busy) <= max_hosts
            assert sum(other.domain is host.domain for other in busy) <= max_per_domain
        if busy and (host is None or rng.random() < 0.5):
            done = busy.pop(rng.randrange(len(busy)))
            link = done.queue.pop()
            done.free_at = now + rng.choice([0.0, 1.0, 50.0])
            what = rng.random()
            if what < 0.2:
                frontier.requeue(link, done)
            elif what < 0.4:
                target = f"h{rng.randrange(7)}.{done.domain.name}"
                frontier.requeue(link, frontier.host(done.domain.name, target, now + rng.random()))
            else:
                frontier.settled(done)
                asked.append(link.url)
            frontier.give_back(done, park=rng.random() < 0.3)
        elif host is None:
            at = frontier.next_at()
            if at is None:
                break
            now = max(now, at)
    assert sorted(asked) == sorted(expected)
    assert (frontier.n_links, frontier.hosts, frontier.domains, frontier.n_ready) == (0, {}, {}, 0)
    assert frontier.n_active == 0
