"""When and how often the crawler contacts hosts, proved by what the server saw. For kills see
test_politeness_killed.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from data.pages.job import Budget
from tests.data.http.hostile import (
    BUSY,
    PAGE,
    TDMREP,
    Handler,
    Names,
    Request,
    Web,
    drip,
    gaps_s,
    in_turn,
    prove_polite,
    raw,
    redirect,
    reply,
    rules,
)
from tests.data.pages.crawling import SHORT, URL, Crawler, fill, host_urls

LONG_PAUSE = "the host asked for a longer pause than max_retry_after_s"


def _events(path: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] in kinds]


# Delays


def test_a_host_gets_one_request_at_a_time_with_its_delay(web: Web, crawl: Crawler) -> None:
    """Six hosts of one domain that all redirect to a seventh, and a host of another domain."""
    hosts = [f"h{n}.site.example" for n in range(6)]
    for host in hosts:
        for n in range(3):
            web[f"{host}/{n}"] = redirect(f"http://www.site.example/{host}/{n}")
            web[f"www.site.example/{host}/{n}"] = reply()
            web[f"a.other.example/{n}"] = reply()
    started = time.monotonic()
    fetched = crawl(*host_urls(*hosts, "a.other.example", n=3), host_delay_s=0.05)
    assert fetched.statuses() == ["ok"] * 21
    assert web.log[0].started - started >= 0.05  # a part begins with a delay
    prove_polite(web, 0.05)
    assert len(web.asked("www.site.example")) == 20  # robots.txt and tdmrep.json, once


def test_each_host_gets_its_own_crawl_delay(web: Web, crawl: Crawler) -> None:
    """Each host's own delay, or ours if the host wants less."""
    delays_s = {"two.example": 2.5, "zero.example": 0.0, "small.example": 0.01, "none.example": 0.0}
    web["none.example/robots.txt"] = rules("User-agent: *\nAllow: /")
    for host, delay_s in delays_s.items():
        if delay_s or host == "zero.example":
            web[f"{host}/robots.txt"] = rules(f"User-agent: *\nCrawl-delay: {delay_s:g}")
    fill(web, host_urls(*delays_s, n=2), reply())
    fetched = crawl(*host_urls("zero.example", "small.example", "none.example", n=2), *host_urls("two.example"),
                    host_delay_s=0.1)  # fmt: skip
    assert set(fetched.statuses()) == {"ok"}
    prove_polite(web, {host: max(0.1, delay_s) for host, delay_s in delays_s.items()})
    assert max(gaps_s(web.requests("zero.example"))) < 2.0


def test_crawl_delay_of_a_day_costs_one_request(web: Web, crawl: Crawler) -> None:
    web["www.site.example/robots.txt"] = rules("User-agent: *\nCrawl-delay: 86400")
    fetched = crawl(*host_urls("www.site.example", n=9))
    assert set(fetched.statuses()) == {"crawl_delay_too_long"}
    assert web.asked("www.site.example") == ["/robots.txt"]


def test_hosts_at_once_are_bounded_per_domain_and_overall(web: Web, crawl: Crawler) -> None:
    """At most two hosts of one domain at once, and three overall."""
    active = most = 0
    active_sites, most_sites = Counter[str](), 0

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal active, most, most_sites
        site = request.host.split(".", 1)[1]
        active += 1
        active_sites[site] += 1
        most, most_sites = max(most, active), max(most_sites, active_sites[site])
        await asyncio.sleep(0.1)
        active -= 1
        active_sites[site] -= 1
        await reply()(request, writer)

    urls = fill(web, host_urls(*(f"h{n}.site{site}.example" for site in range(3) for n in range(4))), slow)
    fetched = crawl(*urls, max_connections=3, max_hosts_per_domain=2)
    assert set(fetched.statuses()) == {"ok"}
    assert (most, most_sites) == (3, 2)


def test_busy_and_idle_connections_are_bounded(web: Web, crawl: Crawler) -> None:
    seen: list[int] = []
    busy: list[int] = [0]

    async def counting(request: Request, writer: asyncio.StreamWriter) -> None:
        busy.append(busy[-1] + 1)
        await asyncio.sleep(0.05)
        for _ in range(200):  # the server notices a closed connection only when it gets to it
            if web.n_open <= 4:
                break
            await asyncio.sleep(0.02)
        seen.append(web.n_open)
        busy.append(busy[-1] - 1)
        await reply()(request, writer)

    urls = fill(web, host_urls(*(f"www.site{n}.example" for n in range(12)), n=2), counting)
    fetched = crawl(*urls, max_connections=4, host_delay_s=0.02)
    assert set(fetched.statuses()) == {"ok"}
    assert max(seen) == 4
    assert max(busy) == 4


def test_slow_hosts_do_not_hold_up_others(web: Web, crawl: Crawler) -> None:
    """Three hosts send a byte at a time, in a task with four connections. The fourth serves all others meanwhile."""
    slow = fill(
        web, host_urls(*(f"www.slow{n}.example" for n in range(3))), drip(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05)
    )
    fast = fill(web, host_urls(*(f"www.fast{n}.example" for n in range(20)), n=2), reply())
    begun = time.monotonic()
    fetched = crawl(*slow, *fast, max_connections=4, slow_after_s=2.0, max_attempts=1)
    took_s = time.monotonic() - begun
    assert Counter(fetched.statuses()) == {"ok": 40, "too_slow": 3}
    last = max(request.started for request in web.log if "fast" in request.host)
    assert last - begun < 2.0 <= took_s


# Requests other than pages


def test_many_robots_txt_redirecting_to_one_host_respect_its_delay(web: Web, crawl: Crawler) -> None:
    """The host gets no more requests than any other, and never two at a time."""

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        await rules("User-agent: *\nDisallow: /x")(request, writer)

    web["cdn.other.example/robots.txt"] = slow
    hosts = [f"www.site{n}.example" for n in range(5)]
    for host in hosts:
        web[f"{host}/robots.txt"] = redirect("http://cdn.other.example/robots.txt")
    fetched = crawl(*fill(web, host_urls(*hosts), reply()), host_delay_s=0.1)
    assert fetched.statuses() == ["ok"] * 5
    assert len(web.requests("cdn.other.example")) == 5
    assert min(gaps_s(web.requests("cdn.other.example"))) >= 0.1


def test_robots_txt_may_redirect_to_a_host_of_the_same_task(web: Web, crawl: Crawler) -> None:
    """site.example/robots.txt redirects to www.site.example/robots.txt, and both have links."""
    web["www.site.example/robots.txt"] = rules("")
    hosts = ["site.example", "a.site.example", "b.site.example"]
    for host in hosts:
        web[f"{host}/robots.txt"] = redirect("http://www.site.example/robots.txt")
    urls = fill(web, [*host_urls("www.site.example", n=8), *host_urls(*hosts)], reply())
    fetched = crawl(*urls, host_delay_s=0.1)
    assert fetched.statuses() == ["ok"] * 11
    assert min(gaps_s(web.requests("www.site.example"))) >= 0.1
    assert web.most_by_host["www.site.example"] == 1


def test_side_requests_respect_the_delay(web: Web, crawl: Crawler) -> None:
    """robots.txt with redirects within the host, tdmrep.json, a page with redirects: one delay between any two
    requests.
    """
    web["www.site.example/robots.txt"] = redirect("/r1")
    web["www.site.example/r1"] = redirect("/r2")
    web["www.site.example/r2"] = rules("")
    web[URL] = redirect("/p1")
    web["www.site.example/p1"] = reply()
    assert crawl.one(host_delay_s=0.1)["status"] == "ok"
    assert web.asked("www.site.example") == ["/robots.txt", "/r1", "/r2", TDMREP, "/page", "/p1"]
    assert min(gaps_s(web.log)) >= 0.1


def test_robots_txt_comes_before_the_pages_of_every_origin(web: Web, crawl: Crawler) -> None:
    """This includes the host's other scheme and hosts reached only by redirects."""
    web[URL] = redirect("http://old.site.example/x")
    web["old.site.example/robots.txt"] = rules("User-agent: *\nDisallow: /x")
    web["old.site.example/x"] = reply()
    assert crawl.one()["status"] == "robots_disallowed"
    assert web.asked("old.site.example") == ["/robots.txt"]


def test_expired_robots_txt_is_fetched_again(web: Web, crawl: Crawler) -> None:
    """It is fetched between pages of the host. The new rules apply to the rest."""
    urls = fill(web, host_urls("www.site.example", n=8), reply())
    web["www.site.example/robots.txt"] = in_turn(rules(""), rules("User-agent: *\nDisallow: /"))
    fetched = crawl(*urls, host_delay_s=0.1, robots_lifetime_s=0.45)
    found = Counter(fetched.statuses())
    assert found.keys() == {"ok", "robots_disallowed"}
    assert web.asked("www.site.example").count("/robots.txt") == 2
    assert len(web.log) == 3 + found["ok"]


# Retry-After


def _date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("where", ["/page", "/robots.txt", TDMREP])
@pytest.mark.parametrize("status", [BUSY, "429 Too Many Requests"])
def test_retry_after_in_seconds_is_honoured(web: Web, crawl: Crawler, where: str, status: str) -> None:
    """No request of any kind reaches the host meanwhile."""
    web[URL] = reply()
    later = reply(b"", status, retry_after="1")
    web["www.site.example" + where] = in_turn(
        later, reply() if where == "/page" else raw(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    )
    assert crawl.one()["status"] == "ok"
    asked = web.asked("www.site.example")
    gap_s = gaps_s(web.log)[asked.index(where)]
    assert 1.0 <= gap_s < 5.0


@pytest.mark.parametrize(
    ("header", "least_s", "most_s"),
    [
        ("0", 0.0, 0.5),
        (_date(-3600), 0.0, 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.5),
        ("-5", 0.6, 5.0),  # without a usable value, our own back-off applies
        ("1.5", 0.6, 5.0),
        ("soon", 0.6, 5.0),
        ("", 0.6, 5.0),
        ("\u00b2", 0.6, 5.0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0.6, 5.0),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999", 0.6, 5.0),
        ("1, 2", 0.6, 5.0),
    ],
    ids="zero past long_past negative fraction word empty superscript year_99999 huge_zone list".split(),
)
def test_unusable_retry_after_falls_back_to_our_back_off(
    web: Web, crawl: Crawler, header: str, least_s: float, most_s: float
) -> None:
    web[URL] = in_turn(reply(b"", BUSY, retry_after=header), reply())
    assert crawl.one(backoff_s=0.6)["status"] == "ok"
    assert least_s <= gaps_s(web.log)[-1] < most_s


def test_retry_after_as_a_date_is_honoured(web: Web, crawl: Crawler) -> None:
    async def later(request: Request, writer: asyncio.StreamWriter) -> None:
        await reply(b"", BUSY, retry_after=_date(2.0))(request, writer)

    web[URL] = in_turn(later, reply())
    assert crawl.one()["status"] == "ok"
    assert gaps_s(web.log)[-1] >= 0.95  # dates are whole seconds


@pytest.mark.parametrize(
    "header", ["601", "999999999999999999999999", "Fri, 31 Dec 2999 23:59:59 GMT"], ids=["above", "huge", "date"]
)
def test_retry_after_beyond_the_limit_defers_the_links_of_the_host(web: Web, crawl: Crawler, header: str) -> None:
    """All links of the host wait for the next refresh. Later tasks of this refresh leave the host alone too."""
    urls = fill(web, host_urls("www.site.example", n=4), reply())
    web["www.site.example/1"] = reply(b"", BUSY, retry_after=header)
    fetched = crawl(*urls)
    assert fetched.by_status() == {"ok": ["/0"], "deferred": ["/1", "/2", "/3"]}
    assert [row["http_status"] for row in fetched.rows] == [200, 503, None, None]
    assert {row["reason"] for row in fetched.rows[1:]} == {LONG_PAUSE}
    assert len(web.log) == 4
    web["www.site.example/1"] = reply()
    web["old.site.example/x"] = redirect("http://www.site.example/1")
    again = crawl(*urls, "http://old.site.example/x")
    assert again.statuses() == ["deferred"] * 5
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/0", "/1"]


def test_retry_after_does_not_hold_up_other_hosts(web: Web, crawl: Crawler) -> None:
    urls = fill(web, host_urls("www.site.example", "www.other.example", "www.third.example", n=3), reply())
    web["www.site.example/0"] = in_turn(reply(b"", BUSY, retry_after="2"), reply())
    fetched = crawl(*urls, max_connections=1)
    assert fetched.statuses() == ["ok"] * 9
    resumed = web.requests("www.site.example")[3].started
    assert all(request.started < resumed for request in web.log if request.host != "www.site.example")


def test_retry_after_from_an_earlier_task_applies_to_redirects(web: Web, crawl: Crawler) -> None:
    """A host reached only by a redirect gets the pause it wants too."""
    web["old.site.example/x"] = redirect("http://www.site.example/x")
    web["www.site.example/x"] = in_turn(reply(b"", BUSY, retry_after="1"), reply())
    crawl("http://old.site.example/x", budget=Budget(deadline_s=0.5))
    assert web.asked("www.site.example")[-1] == "/x"
    assert crawl.one("http://old.site.example/x")["status"] == "ok"
    assert gaps_s(web.requests("www.site.example"))[2] >= 1.0


def test_retry_after_from_an_earlier_task_counts_from_when_it_is_read(web: Web, crawl: Crawler) -> None:
    """A task that is slow to queue its links does not contact the host sooner."""

    def slow_clock() -> float:
        time.sleep(0.3)
        return time.time()

    web[URL] = in_turn(reply(b"", BUSY, retry_after="3"), reply())
    crawl(URL, budget=Budget(deadline_s=0.5))
    assert crawl.one(clock=slow_clock)["status"] == "ok"
    assert gaps_s(web.log)[2] >= 3.0


# Failures


def test_back_off_grows(web: Web, crawl: Crawler) -> None:
    web[URL] = reply(b"", "500 Oops")
    row = crawl.one(backoff_s=0.15, max_attempts=4, breaker_failures=99)
    assert (row["status"], row["http_status"]) == ("server_error", 500)
    gaps = gaps_s(web.log)[2:]
    assert len(gaps) == 3
    for gap_s, least_s in zip(gaps, (0.15, 0.3, 0.6), strict=True):
        assert least_s <= gap_s < 2 * least_s + 0.5


def test_lost_connection_is_retried_once_after_the_delay(web: Web, crawl: Crawler) -> None:
    web[URL] = in_turn(raw(b"", then="close"), reply())
    assert (
        crawl.one(host_delay_s=0.1, backoff_s=5.0)["status"] == "ok"
    )  # no back-off: usually the connection was only idle
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/page", "/page"]
    assert web.log[3].started - web.log[2].started >= 0.1
    web.log.clear()
    web[URL] = raw(b"", then="close")
    assert crawl.one(max_attempts=2)["status"] == "protocol_error"
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/page", "/page"]  # no third attempt


def _pages_asked(web: Web) -> list[str]:
    return [path for path in web.asked("www.site.example") if not path.startswith(("/robots", "/."))]


def test_breaker_opens_and_gives_up(web: Web, crawl: Crawler, tmp_path: Path) -> None:
    """After five failures in a row, a pause and one more failure, the crawler gives the host up and its other links say
    so.
    """
    urls = fill(web, host_urls("www.site.example", n=9), reply(b"", "500 Oops"))
    fetched = crawl(*urls, breaker_pause_s=0.8, log=tmp_path / "log")
    assert _pages_asked(web) == ["/0"] * 3 + ["/1"] * 3
    assert fetched.by_status() == {"server_error": ["/0", "/1"], "host_failing": [f"/{n}" for n in range(2, 9)]}
    assert {row["reason"] for row in fetched.rows[2:]} == {"the last failure: server_error"}
    assert {row["fetched_at"] for row in fetched.rows[2:]} == {None}
    gaps = gaps_s(web.log)[2:]
    assert gaps[4] >= 0.8 > max(gaps[:4])
    assert len(_events(tmp_path / "log", "breaker_open")) == 1
    assert _events(tmp_path / "log", "breaker_closed") == []


def test_breaker_opens_and_recovers(web: Web, crawl: Crawler, tmp_path: Path) -> None:
    """One good answer closes the breaker and resets the count."""
    urls = fill(web, host_urls("www.site.example", n=9), reply())
    bad = reply(b"", "500 Oops")
    web["www.site.example/0"] = bad
    web["www.site.example/1"] = in_turn(bad, bad, reply())
    web["www.site.example/5"] = web["www.site.example/6"] = in_turn(bad, bad, reply())
    fetched = crawl(*urls, breaker_pause_s=0.3, log=tmp_path / "log")
    assert fetched.by_status() == {"server_error": ["/0"], "ok": [f"/{n}" for n in range(1, 9)]}
    assert [event["event"] for event in _events(tmp_path / "log", "breaker_open", "breaker_closed")] == [
        "breaker_open",
        "breaker_closed",
    ]


@pytest.mark.parametrize(
    "status", ["404 No", "410 Gone", "403 Forbidden", "418 Teapot", "204 None", "304 Not Modified"]
)
def test_failures_of_single_pages_do_not_count_against_the_host(web: Web, crawl: Crawler, status: str) -> None:
    urls = fill(web, host_urls("www.site.example", n=15), reply(b"", status))
    assert "host_failing" not in crawl(*urls).statuses()
    assert len(_pages_asked(web)) == 15


def test_a_silent_connection_counts_twice(web: Web, crawl: Crawler) -> None:
    """A host that holds connections in silence is given up after four of them, not six."""
    urls = fill(web, host_urls("www.site.example", n=9), raw(b"", then="hang"))
    fetched = crawl(*urls, **SHORT | {"read_timeout_s": 0.2})
    assert Counter(fetched.statuses()) == {"timeout": 4, "host_failing": 5}
    assert _pages_asked(web) == ["/0", "/1", "/2", "/3"]


def test_each_host_has_its_own_breaker(web: Web, crawl: Crawler) -> None:
    fill(web, host_urls("bad.site.example", n=9), reply(b"", "500 Oops"))
    fill(web, host_urls("www.site.example", n=9), reply())
    fetched = crawl(*host_urls("bad.site.example", "www.site.example", n=9))
    assert Counter(fetched.statuses()) == {"ok": 9, "host_failing": 7, "server_error": 2}


def test_failing_robots_txt_is_tried_three_times_for_all_links(web: Web, crawl: Crawler) -> None:
    web["www.site.example/robots.txt"] = reply(b"", "500 Oops")
    fetched = crawl(*host_urls("www.site.example", n=50), backoff_s=0.1)
    assert set(fetched.statuses()) == {"robots_unreachable"}
    assert web.asked("www.site.example") == ["/robots.txt"] * 3
    assert [gap_s >= least_s for gap_s, least_s in zip(gaps_s(web.log), (0.1, 0.2), strict=True)] == [True, True]


# Budgets


def test_links_beyond_the_limit_per_host_are_deferred(web: Web, crawl: Crawler) -> None:
    """The last links, which have the least karma, wait for the next refresh."""
    urls = fill(web, host_urls("www.site.example", "a.site.example", n=5), reply())
    fetched = crawl(*urls, max_links_per_host=3)
    assert fetched.by_status() == {"ok": ["/0", "/1", "/2"] * 2, "deferred": ["/3", "/4"] * 2}
    assert {row["reason"] for row in fetched.rows if row["status"] == "deferred"} == {"more than max_links_per_host"}


def test_deadline_and_byte_budget_defer_the_rest(web: Web, crawl: Crawler) -> None:
    urls = fill(web, host_urls("www.site.example", n=5), reply())
    fetched = crawl(*urls, budget=Budget(deadline_s=0.0))
    assert fetched.statuses() == ["deferred"] * 5
    assert {row["reason"] for row in fetched.rows} == {"the deadline"}
    assert web.log == []
    whole = crawl(*urls).stats.wire_bytes
    assert whole >= 5 * len(PAGE)
    fetched = crawl(*urls, budget=Budget(wire_bytes=whole // 2))
    n_ok = fetched.statuses().count("ok")
    assert 1 <= n_ok <= 3
    assert fetched.statuses() == ["ok"] * n_ok + ["deferred"] * (5 - n_ok)
    assert {row["reason"] for row in fetched.rows[n_ok:]} == {"max_bytes"}
    assert whole // 2 <= fetched.stats.wire_bytes < whole


def test_deadline_during_a_task_lets_requests_in_flight_finish(web: Web, crawl: Crawler) -> None:
    """Requests in flight finish. Links that wait, back off or sit behind a breaker are deferred at once."""
    urls = list(fill(web, host_urls(*(f"www.site{n}.example" for n in range(5)), n=40), reply()))
    urls += fill(web, host_urls("www.busy.example", n=3), reply(b"", BUSY, retry_after="300"))
    urls += fill(web, host_urls("www.bad.example", n=3), reply(b"", "500 Oops"))
    begun = time.monotonic()
    fetched = crawl(*urls, host_delay_s=0.05, backoff_s=60.0, budget=Budget(deadline_s=1.0))
    assert time.monotonic() - begun < 4.0
    found = Counter(fetched.statuses())
    assert found.keys() == {"ok", "deferred"}
    assert found.total() == len(urls)
    assert {row["reason"] for row in fetched.rows if row["status"] == "deferred"} == {"the deadline"}


# An outage of our network


@pytest.fixture
def hosts(web: Web) -> list[str]:
    """Ten hosts of five domains, ten pages each."""
    names = [f"h{n}.site{n % 5}.example" for n in range(10)]
    fill(web, host_urls(*names, n=10), reply())
    return names


def _dies(web: Web, after_s: float | None) -> Handler:
    """The whole network goes down in place of an answer, and comes back later."""

    async def handler(_request: Request, _writer: asyncio.StreamWriter) -> None:
        await web.go_down()
        if after_s is not None:
            await asyncio.sleep(after_s)
            await web.go_up()

    return handler


def test_crawl_resumes_when_the_network_comes_back(web: Web, crawl: Crawler, hosts: list[str], tmp_path: Path) -> None:
    """The task pauses and loses nothing: each page is ok, and only those in flight are fetched twice."""
    web["h0.site0.example/5"] = in_turn(_dies(web, 1.5), reply())
    fetched = crawl(
        *host_urls(*hosts, n=10), host_delay_s=0.05, breaker_pause_s=30.0, backoff_s=30.0, log=tmp_path / "log"
    )
    assert Counter(fetched.statuses()) == {"ok": 100}
    assert [event["event"] for event in _events(tmp_path / "log", "pause", "resume")] == ["pause", "resume"]
    asked = Counter(request.host + request.path for request in web.log)
    assert sum(n - 1 for n in asked.values()) <= len(hosts)
    assert min(min(gaps_s([r for r in web.requests(host) if r.ended])) for host in hosts) >= 0.05


def test_links_are_deferred_when_the_network_stays_down(web: Web, crawl: Crawler, hosts: list[str]) -> None:
    """After the longest pause the rest is deferred. No host is blamed."""
    web["h0.site0.example/5"] = _dies(web, None)
    begun = time.monotonic()
    fetched = crawl(*host_urls(*hosts, n=10), host_delay_s=0.05, network_pause_s=1.5)
    found = Counter(fetched.statuses())
    assert found.keys() == {"ok", "deferred"}
    assert found.total() == 100
    assert 20 < found["ok"] < 80
    assert {row["reason"] for row in fetched.rows if row["status"] == "deferred"} == {
        "the network was down for network_pause_s"
    }
    assert 1.5 <= time.monotonic() - begun < 15.0


def test_crawl_resumes_when_the_name_servers_come_back(web: Web, crawl: Crawler, hosts: list[str]) -> None:
    names = Names(web)

    async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
        names.is_down = True
        asyncio.get_running_loop().call_later(1.5, setattr, names, "is_down", False)
        for other in list(web._writers):
            if other is not writer:
                other.transport.abort()
        await reply(connection="close")(request, writer)

    fill(web, host_urls(*hosts, n=10), reply(connection="close"))
    web["h0.site0.example/5"] = dies
    fetched = crawl(*host_urls(*hosts, n=10), host_delay_s=0.05, resolver=names)
    assert Counter(fetched.statuses()) == {"ok": 100}


def test_failures_are_typed_when_the_network_never_worked(web: Web, crawl: Crawler, hosts: list[str]) -> None:
    """This is not an outage: each failure gets its status at once, with one attempt per host."""
    names = Names(web)
    names.is_down = True
    begun = time.monotonic()
    fetched = crawl(*host_urls(*hosts, n=10), resolver=names)
    assert Counter(fetched.statuses()) == {"dns_failure": 100}
    assert len(names.asked) == len(hosts)
    assert time.monotonic() - begun < 5.0


def test_dead_hosts_are_not_an_outage(web: Web, crawl: Crawler, hosts: list[str]) -> None:
    """Their links get the actual failure, and nobody waits for them."""
    dead = {f"www.dead{n}.example": [["127.1.9.9"]] for n in range(12)}
    begun = time.monotonic()
    fetched = crawl(*host_urls(*hosts, n=10), *host_urls(*dead, n=3), resolver=Names(web, dead), host_delay_s=0.02)
    assert Counter(fetched.statuses()) == {"ok": 100, "connect_failure": 36}
    assert time.monotonic() - begun < 10.0


# A clock that jumps


@pytest.mark.parametrize("jump_s", [-400 * 86_400.0, 400 * 86_400.0], ids=["back", "forward"])
def test_a_clock_that_jumps_does_not_change_delays(web: Web, crawl: Crawler, jump_s: float) -> None:
    """It jumps in the middle of a task. Delays and Retry-After in seconds stay the same, and every link has its row."""
    shift_s = 0.0

    async def jumps(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal shift_s
        shift_s = jump_s
        await reply(b"", BUSY, retry_after="1")(request, writer)

    urls = fill(web, host_urls("www.site.example", "www.other.example", n=6), reply())
    web["www.site.example/2"] = in_turn(jumps, reply())
    fetched = crawl(
        *urls,
        host_delay_s=0.1,
        now=lambda: datetime.now(UTC) + timedelta(seconds=shift_s),
        clock=lambda: time.time() + shift_s,
    )
    assert Counter(fetched.statuses()) == {"ok": 12}
    prove_polite(web, 0.1)
    gap_s = gaps_s(web.requests("www.site.example"))[4]
    assert 1.0 <= gap_s < 5.0
    assert {row["fetched_at"].year for row in fetched.rows} == {
        datetime.now(UTC).year,
        (datetime.now(UTC) + timedelta(seconds=jump_s)).year,
    }
