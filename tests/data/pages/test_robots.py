"""robots.txt by RFC 9309, and everything a server may answer."""

from __future__ import annotations

import io
import itertools
import tracemalloc
from collections.abc import Mapping

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from data.config import PagesConfig
from data.errors import InputError
from data.http.exchange import Answer, FetchError
from data.pages.robots import ENTRY_BYTES, MAX_REDIRECTS, Robots, RobotsCache, fetch_robots, parse_robots
from data.schema import PageStatus

CONFIG = PagesConfig()
ORIGIN = "http://a.example"
DENY = b"User-agent: *\nDisallow: /"


def _answer(url: str, code: int, body: bytes | None = None, location: str | None = None, **other: str) -> Answer:
    headers = CIMultiDictProxy(CIMultiDict(({"Location": location} if location is not None else {}) | other))
    spool = None if body is None else io.BytesIO(body)
    return Answer(url, code, b"", headers, [], (b"", []), spool, len(body or b""))


class Web:
    """Answers by URL, or 404 for any other; records its requests."""

    def __init__(self, answers: Mapping[str, Answer | FetchError]) -> None:
        self.answers, self.asked = answers, list[str]()

    async def get(self, url: str) -> Answer:
        self.asked.append(url)
        found = self.answers.get(url, _answer(url, 404))
        if isinstance(found, FetchError):
            raise found
        return found


async def _robots(answers: Mapping[str, Answer | FetchError]) -> Robots:
    return await fetch_robots(ORIGIN, Web(answers).get, CONFIG)


def _verdict(robots: Robots, path: str = "/page") -> str:
    refusal = robots.refusal(ORIGIN + path)
    return "ok" if refusal is None else str(refusal[0])


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (200, "robots_disallowed"),
        (206, "robots_disallowed"),
        (300, "ok"),
        (304, "ok"),
        (400, "ok"),
        (401, "ok"),
        (403, "ok"),
        (404, "ok"),
        (410, "ok"),
        (429, "robots_unreachable"),
        (500, "robots_unreachable"),
        (503, "robots_unreachable"),
        (599, "robots_unreachable"),
    ],
)
async def test_the_status_decides_whether_fetching_is_allowed(code: int, verdict: str) -> None:
    body = DENY if 200 <= code < 300 else None
    robots = await _robots({f"{ORIGIN}/robots.txt": _answer(ORIGIN, code, body)})
    assert _verdict(robots) == verdict
    assert robots.is_failure == (code == 429 or code >= 500)


@pytest.mark.parametrize(("code", "kept"), [(429, "120"), (503, "120"), (500, None), (404, None), (200, None)])
async def test_retry_after_is_passed_on(code: int, kept: str | None) -> None:
    answer = _answer(ORIGIN, code, b"" if code == 200 else None, **{"retry-after": "120"})
    assert (await _robots({f"{ORIGIN}/robots.txt": answer})).retry_after == kept


async def test_retry_after_of_a_redirect_target_is_not_passed_on() -> None:
    first, other = f"{ORIGIN}/robots.txt", "http://b.example/r"
    answers = {first: _answer(first, 301, location=other), other: _answer(other, 503, **{"Retry-After": "120"})}
    robots = await _robots(answers)
    assert robots.is_failure
    assert robots.retry_after is None


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (PageStatus.DNS_FAILURE, "dns_failure"),
        (PageStatus.CONNECT_FAILURE, "connect_failure"),
        (PageStatus.TLS_FAILURE, "tls_failure"),
        (PageStatus.FORBIDDEN_ADDRESS, "forbidden_address"),
        (PageStatus.TIMEOUT, "robots_unreachable"),
        (PageStatus.PROTOCOL_ERROR, "robots_unreachable"),
        (PageStatus.BAD_ENCODING, "robots_unreachable"),
    ],
)
async def test_a_missing_answer_is_a_failure(status: PageStatus, verdict: str) -> None:
    """The host's own failure is reported as it is. A failure behind a redirect makes robots.txt unreachable."""
    first, other = f"{ORIGIN}/robots.txt", "http://b.example/r"
    assert _verdict(await _robots({first: FetchError(status, "why")})) == verdict
    answers = {first: _answer(first, 301, location=other), other: FetchError(status, "why")}
    robots = await _robots(answers)
    assert robots.failure == (PageStatus.ROBOTS_UNREACHABLE, f"robots.txt: {status}")
    assert robots.is_failure


@pytest.mark.parametrize(("hops", "verdict"), [(1, "robots_disallowed"), (5, "robots_disallowed"), (6, "ok")])
async def test_redirects_are_followed(hops: int, verdict: str) -> None:
    urls = [f"{ORIGIN}/robots.txt", *(f"http://h{n}.example/r{n}" for n in range(hops))]
    answers = {a: _answer(a, 302, location=b) for a, b in itertools.pairwise(urls)}
    web = Web(answers | {urls[-1]: _answer(urls[-1], 200, DENY)})
    assert _verdict(await fetch_robots(ORIGIN, web.get, CONFIG)) == verdict
    assert web.asked == urls[: MAX_REDIRECTS + 1]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [None, "", " ", "ftp://a.example/robots.txt", "http://u:p@a.example/", "http://", "http://[::1/", "javascript:x"],
)
async def test_a_redirect_to_nowhere_forbids_all(location: str | None, code: int) -> None:
    first = f"{ORIGIN}/robots.txt"
    for answers in (
        {first: _answer(first, code, location=location)},
        {first: _answer(first, code, location="/b"), f"{ORIGIN}/b": _answer(f"{ORIGIN}/b", code, location=location)},
    ):
        robots = await _robots(answers)
        assert robots.failure == (PageStatus.ROBOTS_UNREACHABLE, "robots.txt: redirect_bad")
        assert robots.is_failure


async def test_a_redirect_to_itself_ends_after_five_hops_and_allows_all() -> None:
    """RFC 9309, section 2.3.1.2."""
    first = f"{ORIGIN}/robots.txt"
    assert _verdict(await _robots({first: _answer(first, 302, location="/robots.txt")})) == "ok"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/r\udce9gles.txt", "/r%E9gles.txt"),
        ("/r\u00e9gles.txt", "/r%C3%A9gles.txt"),
        ("\udcfc/\u00fc?\udcff=\udc80", "/%FC/%C3%BC?%FF=%80"),
        ("http://a.example/\udced\udca0\udc80", "/%ED%A0%80"),
    ],
)
async def test_a_redirect_in_latin_1_bytes_is_followed(location: str, target: str) -> None:
    first = f"{ORIGIN}/robots.txt"
    answers = {first: _answer(first, 302, location=location), ORIGIN + target: _answer(ORIGIN + target, 200, DENY)}
    assert _verdict(await _robots(answers)) == "robots_disallowed"


@pytest.mark.parametrize(
    ("text", "path", "verdict"),
    [
        ("", "/page", "ok"),
        ("User-agent: *\nDisallow:", "/page", "ok"),
        ("User-agent: *\nDisallow: /page", "/page", "robots_disallowed"),
        ("User-agent: *\nDisallow: /page", "/Page", "ok"),
        ("User-agent: *\nDisallow: /page", "/pager?x=1", "robots_disallowed"),
        ("user-AGENT:*\r\ndisallow:/page # no\r\n", "/page", "robots_disallowed"),
        ("User-agent: *\nDisallow: /p\nAllow: /pa", "/page", "ok"),
        ("User-agent: *\nAllow: /p\nDisallow: /pa", "/page", "robots_disallowed"),
        ("User-agent: *\nDisallow: /a*c$", "/abc", "robots_disallowed"),
        ("User-agent: *\nDisallow: /a*c$", "/abcd", "ok"),
        ("User-agent: *\nDisallow: /a%20b", "/a%20b", "robots_disallowed"),
        ("User-agent: *\nDisallow: /*?", "/page?x", "robots_disallowed"),
        ("User-agent: a\nUser-agent: WebTextBot\nDisallow: /", "/page", "robots_disallowed"),
        ("User-agent: WebTextBot\nAllow: /\n\nUser-agent: *\nDisallow: /", "/page", "ok"),
        ("User-agent: WebTextBot\nDisallow: /a\n\nUser-agent: webtextbot\nDisallow: /page", "/page",
         "robots_disallowed"),
        ("User-agent: TextBot\nDisallow: /", "/page", "ok"),
        ("Disallow: /", "/page", "ok"),
        ("\ufeffUser-agent: *\nDisallow: /", "/page", "robots_disallowed"),
        ("<html><body>Not here</body></html>", "/page", "ok"),
        ("User-agent: *\nDisallow: /" + "*a" * 5000 + "b", "/" + "a" * 5000, "ok"),
    ],
)  # fmt: skip
def test_rules_are_matched(text: str, path: str, verdict: str) -> None:
    assert _verdict(parse_robots(text.encode(), CONFIG), path) == verdict


@pytest.mark.parametrize(
    ("delay", "seconds", "verdict"),
    [
        ("0", 0.0, "ok"),
        ("2.5", 2.5, "ok"),
        ("30", 30.0, "ok"),
        ("30.1", 0.0, "crawl_delay_too_long"),
        ("86400", 0.0, "crawl_delay_too_long"),
        ("-1", 0.0, "ok"),
        ("inf", 0.0, "ok"),
        ("-1 s", 0.0, "ok"),
        ("nan", 0.0, "ok"),
        ("soon", 0.0, "ok"),
        ("", 0.0, "ok"),
        ("10s", 10.0, "ok"),
        ("10 seconds", 10.0, "ok"),
        ("10 Sec.", 10.0, "ok"),
        ("10 # seconds", 10.0, "ok"),
        ("2,5", 2.5, "ok"),
        ("2,5s", 2.5, "ok"),
        (",5", 0.5, "ok"),
        ("5;", 5.0, "ok"),
        ("5-10", 10.0, "ok"),
        ("10 / 5", 10.0, "ok"),
        ("about 3", 3.0, "ok"),
        ('"4"', 4.0, "ok"),
        ("500ms", 0.5, "ok"),
        ("10 (as of 2024)", 10.0, "ok"),
        ("1e1", 10.0, "ok"),
        ("1 minute", 0.0, "crawl_delay_too_long"),
        ("1m", 0.0, "crawl_delay_too_long"),
        ("2 hours", 0.0, "crawl_delay_too_long"),
        ("9" * 500, 0.0, "crawl_delay_too_long"),
    ],
)
def test_crawl_delay_is_parsed(delay: str, seconds: float, verdict: str) -> None:
    robots = parse_robots(f"User-agent: *\nCrawl-delay: {delay}\nDisallow: /private".encode(), CONFIG)
    assert robots.crawl_delay_s == seconds
    assert _verdict(robots) == verdict
    assert _verdict(robots, "/private") == "robots_disallowed"
    assert not robots.is_failure


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("User-agent: *\nCrawl-delay: 2\nCrawl-delay: 20", 20.0),
        ("User-agent: *\nCrawl-delay: 20\nCrawl-delay: 2", 20.0),
        ("User-agent: *\nCrawl-delay: 20\nDisallow: /x\nCrawl-delay: 0", 20.0),
        ("User-agent: *\nCrawl-delay: 3\n\nUser-agent: x\nCrawl-delay: 9\n\nUser-agent: *\nCrawl-delay: 7", 7.0),
        ("User-agent: *\nCrawl-delay: 20\n\nUser-agent: WebTextBot\nCrawl-delay: 4", 4.0),  # the group is ours
        ("User-agent: *\nCrawl-delay: 20\n\nUser-agent: WebTextBot\nDisallow: /x", 0.0),
        ("Crawl-delay: 20\nUser-agent: *\nDisallow: /x", 0.0),  # outside any group
        ("User-agent: *\ncrawl delay 5\nCrawlDelay: 6\ncrawl_delay=8", 8.0),
    ],
)
def test_the_largest_crawl_delay_of_our_group_counts(text: str, seconds: float) -> None:
    assert parse_robots(text.encode(), CONFIG).crawl_delay_s == seconds


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "body",
    [
        *(mark + DENY for mark in (BOM, BOM[:1], BOM[:2], BOM[1:], BOM[2:], BOM[::2], BOM * 2, BOM + b"\n")),
        "\u00ef\u00bb\u00bfUser-agent: *\nDisallow: /".encode(),  # read as Latin-1, written as UTF-8
        "\ufffdUser-agent: *\nDisallow: /".encode(),  # read as broken UTF-8
        b"User-agent: x\nDisallow:\n\n" + BOM + DENY,  # two files in one
        b"User-agent: *\n" + BOM[:2] + b"Disallow: /",
        DENY.decode().encode("utf-16"),
        b"\xfe\xff" + DENY.decode().encode("utf-16-be"),
        DENY.decode().encode("utf-16-le"),
        DENY.decode().encode("utf-16-be"),
        DENY.decode().encode("utf-16") + b"\n",
        "# r\u00e8gles\nUser-agent: *\nDisallow: /".encode("latin-1"),
        "\u00a0User-agent: *\n\u00a0Disallow: /".encode("latin-1"),
    ],
)  # fmt: skip
def test_a_file_in_another_encoding_or_with_a_broken_mark_is_not_ignored(body: bytes) -> None:
    assert _verdict(parse_robots(body, CONFIG)) == "robots_disallowed"


@pytest.mark.parametrize("body", ["Disallow: /caf\u00e9", "Content-Signal: /caf\u00e9 ai-train=no"])
def test_a_path_in_latin_1_matches_the_same_bytes(body: str) -> None:
    robots = parse_robots(f"User-agent: *\n{body}".encode("latin-1"), CONFIG)
    assert _verdict(robots, "/caf%E9/x") != "ok"
    assert _verdict(robots, "/caf") == "ok"
    robots = parse_robots(f"User-agent: *\n{body}".encode(), CONFIG)
    assert _verdict(robots, "/caf%C3%A9/x") != "ok"


@pytest.mark.parametrize(
    ("agent", "verdict"),
    [
        ("WebTextBot", "robots_disallowed"),
        ("webtextbot", "robots_disallowed"),
        ("WebTextBot/1.0", "robots_disallowed"),
        ("WebTextBot (+https://e.example)", "robots_disallowed"),
        ("WebTextBot*", "robots_disallowed"),
        ("*", "robots_disallowed"),
        ("WebText", "ok"),  # a prefix is another robot (RFC 9309, section 2.2.1)
        ("WebTextBotX", "ok"),
        ("WebTextBot2", "ok"),
        ("WebTextBot-News", "ok"),
        ("WebText*", "ok"),
        ("Bot", "ok"),
        ("MyWebTextBot", "ok"),
        ("*Bot", "ok"),
        ("Mozilla/5.0 (compatible; WebTextBot/1.0)", "ok"),
        ("", "ok"),
    ],
)
def test_a_group_applies_only_by_its_exact_product_token(agent: str, verdict: str) -> None:
    assert _verdict(parse_robots(f"User-agent: {agent}\nDisallow: /page".encode(), CONFIG)) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        # our group replaces the one for all robots, in either order
        ("User-agent: *\nDisallow: /\nUser-agent: WebTextBot\nDisallow: /x", "ok"),
        ("User-agent: WebTextBot\nDisallow: /x\n\nUser-agent: *\nDisallow: /", "ok"),
        ("User-agent: WebTextBot\nDisallow:\n\nUser-agent: *\nDisallow: /", "ok"),
        ("User-agent: WebTextBot\n\nUser-agent: x\nAllow: /page\n\nUser-agent: *\nDisallow: /page", "ok"),
        ("User-agent: WebText\nAllow: /\n\nUser-agent: *\nDisallow: /", "robots_disallowed"),
        ("User-agent: *\nDisallow: /a\n\nUser-agent: x\nDisallow: /\n\nUser-agent: *\nDisallow: /p",
         "robots_disallowed"),
        # groups with several names, and lines in between that are not rules (section 2.2.4)
        ("User-agent: a\n\n\nUser-agent: *\n\nDisallow: /page", "robots_disallowed"),
        ("User-agent: WebTextBot\nSitemap: http://a.example/s\nHost: a\nUser-agent: b\nDisallow: /page",
         "robots_disallowed"),
        ("User-agent: *\nCrawl-delay: 1\nUser-agent: EvilBot\nDisallow: /", "ok"),
        ("User-agent: *\nDisallow: /x\nUser-agent: b\nDisallow: /", "ok"),
        ("User-agent: a\nAllow: /page\nDisallow: /\nUser-agent: b", "ok"),
        # spellings
        ("Useragent: *\nDissallow: /page", "robots_disallowed"),
        ("user agent *\ndisallow /page", "robots_disallowed"),
        ("  User-Agent :  * \r  DISALLOW :/page  ", "robots_disallowed"),
        ("User-agent: *\nDisallow: /page\n" + "x" * 100_000, "robots_disallowed"),
        ("User-agent: *\x00\nDisallow: /\x00page", "ok"),
        ("User-agents: *\nDisallow: /page", "ok"),
    ],
)  # fmt: skip
def test_the_group_for_our_robot_is_chosen(text: str, verdict: str) -> None:
    assert _verdict(parse_robots(text.encode(), CONFIG)) == verdict


def test_a_line_that_was_cut_off_is_not_a_rule() -> None:
    config = PagesConfig(max_robots_bytes=40)
    whole = b"User-agent: *\nDisallow: /a\nDisallow: /page/private"
    assert len(whole) > 40
    robots = parse_robots(whole[:40], config)  # ends in "Disallow: /p"
    assert _verdict(robots) == "ok"
    assert _verdict(robots, "/a") == "robots_disallowed"
    assert _verdict(parse_robots(whole[:39], config)) == "robots_disallowed"  # complete, as far as we can tell


@pytest.mark.parametrize(
    ("text", "path", "verdict"),
    [
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /", "/x", "opt_out_content_signal"),
        ("User-agent: *\nContent-signal:ai-train=NO", "/x", "opt_out_content_signal"),
        ("User-agent: *\nContent-Signal: search=no, ai-input=no", "/x", "ok"),
        ("User-agent: *\nContent-Signal: ai-train=yes, ai-input=no", "/x", "ok"),
        ("User-agent: *\nContent-Signal: ai-train=maybe", "/x", "ok"),
        ("# Content-Signal: ai-train=no\nUser-agent: *\nDisallow:", "/x", "ok"),
        ("Content-Signal: ai-train=no\n\nUser-agent: *\nAllow: /", "/x", "opt_out_content_signal"),  # outside any group
        ("User-agent: GPTBot\nContent-Signal: ai-train=no\n\nUser-agent: *\nAllow: /", "/x", "ok"),
        ("User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: GPTBot\nDisallow: /", "/x",
         "opt_out_content_signal"),
        # ours first; if ours says nothing about training, the statement for all applies
        ("User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: WebTextBot\nContent-Signal: ai-train=yes", "/x",
         "ok"),
        ("User-agent: *\nContent-Signal: ai-train=yes\n\nUser-agent: webtextbot\nContent-Signal: ai-train=no", "/x",
         "opt_out_content_signal"),
        ("User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: WebTextBot\nDisallow: /y", "/x",
         "opt_out_content_signal"),
        # by path, the longest wins; of two for the same path, the refusal wins
        ("User-agent: *\nContent-Signal: /blog/ ai-train=no, search=yes", "/blog/1", "opt_out_content_signal"),
        ("User-agent: *\nContent-Signal: /blog/ ai-train=no, search=yes", "/x", "ok"),
        ("User-agent: *\nContent-Signal: ai-train=no\nContent-Signal: /open/ ai-train=yes", "/open/1", "ok"),
        ("User-agent: *\nContent-Signal: ai-train=yes\nContent-Signal: ai-train=no", "/x", "opt_out_content_signal"),
        ("User-agent: *\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y", "/x",
         "opt_out_content_signal"),
        ("User-agent: *\nContent-Usage: / train-ai=n\nContent-Usage: /ai-ok/ train-ai=y", "/ai-ok/x", "ok"),
        ("User-agent: *\nContent-Usage: /*.html$ train-ai=n", "/a.html", "opt_out_content_signal"),
        ("User-agent: *\nContent-Usage: search=n", "/x", "ok"),
        # a path that may not be fetched is reported first
        ("User-agent: *\nContent-Signal: ai-train=no\nDisallow: /x", "/x", "robots_disallowed"),
        ("User-agent: *\nContent-Signal: ai-train=no\nCrawl-delay: 99", "/x", "crawl_delay_too_long"),
    ],
)  # fmt: skip
def test_content_signals_are_read(text: str, path: str, verdict: str) -> None:
    assert _verdict(parse_robots(text.encode(), CONFIG), path) == verdict


def test_a_megabyte_of_rules_is_read_and_its_size_estimates_its_memory() -> None:
    rules = "".join(f"Disallow: /some/path/{n}/\n" for n in range(40_000))
    for text in (rules, rules[:2_000], "Disallow: /*.php$\nDisallow: /*?s=*\nDisallow: /cgi-bin/\n"):
        body = f"User-agent: *\n{text}".encode()
        parse_robots(body, CONFIG).refusal(ORIGIN + "/page")
        tracemalloc.start()
        try:
            robots = parse_robots(body, CONFIG)
            robots.refusal(ORIGIN + "/page")
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert taken / 3 < robots.size_bytes + ENTRY_BYTES < taken * 3
    assert (
        parse_robots(b"User-agent: x\n" + rules.encode(), CONFIG).size_bytes == 0
    )  # rules for other robots are dropped


@pytest.mark.timeout(20)
@pytest.mark.parametrize("agent", ["a", "*", "WebTextBot"])
def test_a_group_with_many_names_and_many_rules_costs_their_sum(agent: str) -> None:
    text = f"User-agent: {agent}\n" * 18_000 + "Disallow: /p\nContent-Signal: ai-train=no\n" * 8_000
    robots = parse_robots(text.encode(), PagesConfig(max_robots_bytes=10_000_000))
    assert _verdict(robots) == ("ok" if agent == "a" else "robots_disallowed")
    assert robots.size_bytes < 3_000_000


@pytest.mark.parametrize("name", ["", "WebTextBot/1.0", "Web Text", "WebTextBot2", "*", "bot\nHost: x"])
def test_a_user_agent_that_is_not_a_product_token_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="user_agent must be letters"):
        PagesConfig(user_agent=name)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_the_cache_forgets_after_a_day_and_failures_sooner() -> None:
    clock = Clock()
    cache = RobotsCache(PagesConfig(robots_lifetime_s=3_600, robots_failure_lifetime_s=60), clock)
    good, failed = Robots(), Robots((PageStatus.ROBOTS_UNREACHABLE, "robots.txt: 503"), is_failure=True)
    slow = parse_robots(b"User-agent: *\nCrawl-delay: 99", PagesConfig())  # refuses everything, but was read
    for origin, robots in (("good", good), ("failed", failed), ("slow", slow)):
        cache.put(origin, robots)
    clock.now += 59.9
    assert (cache.get("good"), cache.get("failed"), cache.get("slow")) == (good, failed, slow)
    clock.now += 0.1
    assert (cache.get("good"), cache.get("failed"), cache.get("slow")) == (good, None, slow)
    clock.now += 3_539.9
    assert cache.get("good") is good  # a look-up does not extend its life
    clock.now += 0.1
    assert cache.get("good") is None
    assert cache.get("slow") is None
    assert (len(cache), cache.size_bytes) == (0, 0)
    assert cache.get("never") is None


def test_the_cache_is_bounded_and_evicts_the_least_recently_used() -> None:
    config = PagesConfig(robots_cache_bytes=3 * (ENTRY_BYTES + 500))
    cache = RobotsCache(config, Clock())
    for origin in "abc":
        cache.put(origin, Robots(size_bytes=500))
    assert cache.get("a") is not None
    cache.put("d", Robots(size_bytes=500))
    assert [origin for origin in "abcd" if cache.get(origin)] == ["a", "c", "d"]
    for n in range(1_000):
        cache.put(f"o{n}", Robots(size_bytes=n))
        assert cache.size_bytes <= config.robots_cache_bytes
    cache.put("large", Robots(size_bytes=10**9))
    assert cache.get("large") is not None  # the last entry is still there
    assert len(cache) == 1
    cache.put("large", Robots(size_bytes=7))
    assert cache.size_bytes == ENTRY_BYTES + 7
    cache.drop("large")
    cache.drop("large")
    assert (len(cache), cache.size_bytes) == (0, 0)
