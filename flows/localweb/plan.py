"""The plan of the local web: what each URL answers, and what the pipeline must make of it.

A few hundred hosts share most of the articles. The rest are hazards of the real web, each with a known number of pages
and a known correct outcome.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

from data.schema import PageStatus, SelectStatus
from flows.localweb.docs import Article
from flows.localweb.pages import LAYOUTS
from flows.localweb.prose import plain, prose_chars
from flows.localweb.site import Expected, Route, Site, SiteHost, host_of
from flows.localweb.texts import edited, foreign_articles, slug, thin_article, typographic

KINDS = {
    "article": "an ordinary article; nothing is planted",
    "original": "an article that another page repeats or leads to",
    "exact_copy": "the same bytes on a mirror",
    "syndicated": "the same article on another site, in another layout",
    "near_copy": "the same article with a few words changed and a note added",
    "thin": "a page with a sentence or two",
    "shell": "a page that only a browser would fill",
    "foreign": "another language than English",
    "wrong_charset": "an article whose bytes are not in the charset that is declared",
    "xhtml": "an article as application/xhtml+xml",
    "redirect_host": "a redirect within the host",
    "redirect_domain": "a redirect to another host of the domain",
    "redirect_away": "a redirect to another domain, as shorteners do, up to three in a row",
    "redirect_loop": "redirects in a circle",
    "redirect_limit": "a chain of redirects that is too long",
    "redirect_bad": "a redirect to nowhere",
    "redirect_private": "a redirect to an address that is not public",
    "hop": "a step of such a chain, which no submission links to",
    "status": "an error, or another status that is not 200",
    "robots_disallowed": "an article that robots.txt forbids",
    "robots_unreachable": "an article on a host whose robots.txt is an error",
    "crawl_delay": "an article on a host that asks for two minutes between requests",
    "not_html": "a PDF, an image, JSON, plain text",
    "empty_body": "200 and nothing in it",
    "too_large": "an endless body",
    "bomb": "a small body that decompresses to more than a hundred megabytes",
    "bad_encoding": "gzip data that is broken",
    "cut": "a connection that is reset, or ends before its body",
    "slow": "an answer that does not come, or only drips",
    "opt_out": "a page that is not to be used: its header, its markup, its robots.txt or its reservation says so",
}

_SEED = "the local web"
_N_DOMAINS = 150
_N_ORIGINALS = 260  # 150 are copied, 95 are targets of redirects
_N_PLANTED = 54  # behind robots.txt, in a wrong charset, as XHTML
_FIRST = (
    *("quiet", "amber", "north", "copper", "silver", "paper", "winter", "little", "bright", "hollow"),
    *("green", "marble", "river", "velvet", "lantern", "cedar", "willow", "saffron", "granite", "meadow"),
)
_SECOND = ("harbor", "workshop", "almanac", "ledger", "orchard", "compass", "kettle", "archive", "garden", "signal")
_HOSTS_OF_DOMAIN = (("blog",), ("docs", "blog"), ("news",), ("forum",), ("",), ("docs", "forum", "news"))
_ENCODINGS = ("", "", "gzip", "gzip", "br", "deflate")
_ROBOTS = (
    "User-agent: *\nDisallow: /search\nDisallow: /login\n",
    "User-agent: GreedyBot\nDisallow: /\n\nUser-agent: *\nDisallow: /admin/\nAllow: /\nSitemap: http://{host}/sitemap.xml\n",
    "# be nice\nUser-agent: *\nDisallow:\n",
)
_DUPLICATE = (SelectStatus.EXACT_DUPLICATE, SelectStatus.NEAR_DUPLICATE)
_THIN = (SelectStatus.TOO_SHORT, SelectStatus.NO_TEXT)


def plan(articles: list[Article]) -> Site:
    """The site of these articles. Raises ValueError if there are too few for the hazards."""
    good = [number for number, article in enumerate(articles) if _is_good(article)]
    if len(articles) < 1_000 or len(good) < _N_ORIGINALS + _N_PLANTED:
        raise ValueError(f"{len(articles)} articles, {len(good)} of them long and plain, are too few for a web")
    return _Plan(articles, good).site


class _Plan:
    def __init__(self, articles: list[Article], good: list[int]) -> None:
        self.rng = random.Random(_SEED)
        self.site = Site(list(articles), {}, {}, {})
        self._add_hosts()
        self.originals = good[:_N_ORIGINALS]
        planted = good[_N_ORIGINALS : _N_ORIGINALS + _N_PLANTED]
        taken = {*self.originals, *planted}
        self._ordinary([number for number in range(len(articles)) if number not in taken])
        self.original_urls = [self._page("original", number, select=(SelectStatus.OK,)) for number in self.originals]
        self._copies(iter(self.original_urls))
        self._thin()
        self._foreign()
        self._redirects(iter(self.original_urls[150:]))
        self._robots_and_charsets(iter(planted))
        self._broken()

    def _add_hosts(self) -> None:
        names = [f"{first}{second}" for first in _FIRST for second in _SECOND]
        self.weights: list[float] = []
        for number, name in enumerate(self.rng.sample(names, _N_DOMAINS)):
            for sub in _HOSTS_OF_DOMAIN[number % len(_HOSTS_OF_DOMAIN)]:
                host = f"{sub}.{name}.example" if sub else f"{name}.example"
                robots = self.rng.choice((None, *_ROBOTS))
                self.site.hosts[host] = SiteHost(
                    name.capitalize(),
                    sub or ("blog", "news")[number % 2],
                    200 if robots else 404,
                    robots.format(host=host) if robots else "",
                    self.rng.choice(_ENCODINGS),
                )
                self.weights.append(1 / (1 + len(self.weights)) ** 0.5)
        self.common_hosts = list(self.site.hosts)

    def _page(
        self,
        kind: str,
        article: int,
        host: str = "",
        path: str = "",
        *,
        page: PageStatus = PageStatus.OK,
        select: tuple[SelectStatus, ...] = (),
        **route: str,
    ) -> str:
        """Place an article on a host; returns its URL."""
        host = host or self.rng.choices(self.common_hosts, self.weights)[0]
        published = date(2019, 1, 1) + timedelta(days=self.rng.randrange(2_800))
        url = f"http://{host}{path or self._path(self.site.hosts[host].layout, self.site.articles[article], published)}"
        new = Route(kind, article=article, published=published.isoformat(), **route)  # type: ignore[arg-type]
        return self._add(url, new, page, select)

    def _path(self, layout: str, article: Article, published: date) -> str:
        number = self.rng.randrange(10_000, 99_999) * 10_000 + len(self.site.routes)  # unique
        name = slug(article.title)
        if layout == "blog":
            return f"/{published.year}/{published.month:02d}/{name}-{number}"
        if layout == "news":
            return f"/{self.rng.choice(('science', 'technology', 'culture'))}/{name}-{number}.html"
        if layout == "docs":
            return f"/guide/{slug(article.name.split('.')[0])}/{name}-{number}"
        return f"/viewtopic.php?t={number}"

    def _add(self, url: str, route: Route, page: PageStatus, select: tuple[SelectStatus, ...] = ()) -> str:
        assert url not in self.site.routes, url
        self.site.routes[url] = route
        if route.kind != "hop":
            self.site.expected[url] = Expected(str(page), tuple(map(str, select)))
        return url

    def _host(self, host: str, layout: str = "blog", robots_status: int = 404, robots: str = "") -> str:
        self.site.hosts[host] = SiteHost(host.split(".")[-2].capitalize(), layout, robots_status, robots)
        return host

    def _ordinary(self, numbers: list[int]) -> None:
        for index, number in enumerate(numbers):
            self._page("article", number, self.common_hosts[index] if index < len(self.common_hosts) else "")

    def _copies(self, originals: Iterator[str]) -> None:
        """Add 50 copies with the same bytes, 30 in another layout, and 70 edited ones, each of its own original."""
        site = self.site
        mirrors = [self._host(f"mirror.{name}.example") for name in ("samecopy", "backshelf", "webcache", "doubleview")]
        for index in range(50):
            original = next(originals)
            path = original.removeprefix(f"http://{host_of(original)}")
            route = replace(site.routes[original], kind="exact_copy", answer="copy", original=original)
            url = f"http://{mirrors[index % len(mirrors)]}{path}"
            self._add(url, route, PageStatus.OK, (SelectStatus.EXACT_DUPLICATE,))
        for _ in range(30):
            original = next(originals)
            host = self._other_host(original, is_same_layout=False)
            self._page("syndicated", site.routes[original].article, host, select=_DUPLICATE, original=original)
        for _ in range(70):
            original = next(originals)
            site.articles.append(edited(site.article(original), self.rng))
            host = self._other_host(original, is_same_layout=True)
            select = (SelectStatus.NEAR_DUPLICATE,)
            self._page("near_copy", len(site.articles) - 1, host, select=select, original=original)

    def _other_host(self, url: str, *, is_same_layout: bool) -> str:
        own = self.site.hosts[host_of(url)]
        hosts = self.site.hosts
        return self.rng.choice(
            [
                h
                for h in self.common_hosts
                if hosts[h].name != own.name and (hosts[h].layout == own.layout) == is_same_layout
            ]
        )

    def _thin(self) -> None:
        for number in range(72):
            self.site.articles.append(thin_article(number))
            # In old table layouts extractors fall back to the whole page when an article is this short.
            hosts = [h for h in self.common_hosts if self.site.hosts[h].layout != "forum"]
            self._page("thin", len(self.site.articles) - 1, self.rng.choice(hosts), select=_THIN)
        host = self._host("app.pixelpantry.example")
        for number in range(10):
            self._page("shell", len(self.site.articles) - 1, host, f"/view/{number}", select=_THIN)

    def _foreign(self) -> None:
        for article in foreign_articles():
            self.site.articles.append(article)
            number = len(self.site.articles) - 1
            for layout in self.rng.sample(LAYOUTS, 3):
                host = self.rng.choice([h for h in self.common_hosts if self.site.hosts[h].layout == layout])
                self._page("foreign", number, host, select=(SelectStatus.NOT_ENGLISH,))

    def _redirect(
        self, kind: str, url: str, location: str, page: PageStatus, original: str = "", status: int = 301
    ) -> None:
        route = Route(kind, "redirect", status=status, location=location, original=original)
        self._add(url, route, page, (SelectStatus.EXACT_DUPLICATE,) if original else ())

    def _redirects(self, originals: Iterator[str]) -> None:
        ok = PageStatus.OK
        codes = (301, 302, 303, 307, 308)
        for number in range(40):
            target = next(originals)
            host = host_of(target)
            location = target if number % 4 else target.removeprefix(f"http://{host}")  # absolute, or a path alone
            self._redirect("redirect_host", f"http://{host}/old/{number}", location, ok, target, codes[number % 5])
        for number in range(20):
            target = next(originals)
            domain = ".".join(host_of(target).split(".")[-2:])
            mobile = f"m.{domain}"
            if mobile not in self.site.hosts:
                self._host(mobile)
            self._redirect("redirect_domain", f"http://{mobile}/s/{number}", target, ok, target)
        short = self._host("lnkr.example")
        tiny = self._host("t.tinyhop.example", "blog", 200, "User-agent: *\nDisallow:\n")
        for number in range(35):
            target = next(originals)
            code = "".join(self.rng.choices("abcdefghkmnpqrstuvwxyz23456789", k=5))
            location = target
            for hop in range(number // 15):  # 15 direct ones, 15 over another shortener, 5 over it twice
                step = f"http://{tiny}/{code}{hop}"
                self._redirect("hop", step, location, ok)
                location = step
            self._redirect(
                "redirect_away", f"http://{short}/{code}{number}", location, ok, target, (301, 302)[number % 2]
            )
        self._bad_redirects(self._host("old.crookedlane.example"), self._host("www.roundabout.example"))

    def _bad_redirects(self, host: str, other: str) -> None:
        circles = (
            [f"http://{host}/self"],
            [f"http://{host}/ping", f"http://{host}/pong"],
            [f"http://{host}/there", f"http://{other}/and-back"],
            [f"http://{other}/a", f"http://{other}/b", f"http://{other}/c"],
        )
        for urls in circles:
            for url, location in zip(urls, [*urls[1:], urls[0]], strict=True):
                self._redirect("redirect_loop", url, location, PageStatus.REDIRECT_LOOP, status=302)
        steps = [f"http://{host}/step/{number}" for number in range(14)]
        self._redirect("redirect_limit", steps[0], steps[1], PageStatus.REDIRECT_LIMIT)
        for url, location in zip(steps[1:], [*steps[2:], self.original_urls[0]], strict=True):
            self._redirect("hop", url, location, PageStatus.OK)
        nowhere = ("", "ftp://files.crookedlane.example/a", "https://en.wikipedia.org/wiki/Web", "http://[broken/")
        for number, location in enumerate(nowhere):
            self._redirect("redirect_bad", f"http://{host}/bad/{number}", location, PageStatus.REDIRECT_BAD)
        private = ("http://10.0.0.1/", "http://192.168.0.1/admin", "http://169.254.169.254/latest/", "http://[::1]/")
        for number, location in enumerate(private):
            url = f"http://{other}/private/{number}"
            self._redirect("redirect_private", url, location, PageStatus.FORBIDDEN_ADDRESS)

    def _robots_and_charsets(self, numbers: Iterator[int]) -> None:
        forbidding = (
            ("members.gatedpark.example", "User-agent: *\nDisallow: /2\n"),
            ("www.closedshop.example", "User-agent: *\nDisallow:\n\nUser-agent: WebTextBot\nDisallow: /\n"),
            ("archive.fencedoff.example", "User-agent: *\nAllow: /about\nDisallow: /*-*\n"),
        )
        for host, robots in forbidding:
            self._host(host, "blog", 200, robots)
            for _ in range(8):
                self._page("robots_disallowed", next(numbers), host, page=PageStatus.ROBOTS_DISALLOWED)
        failing = self._host("docs.brokenkeep.example", "docs", 500, "out of order")
        for _ in range(6):
            self._page("robots_unreachable", next(numbers), failing, page=PageStatus.ROBOTS_UNREACHABLE)
        patient = self._host("news.slowandsteady.example", "news", 200, "User-agent: *\nCrawl-delay: 120\n")
        for _ in range(4):
            self._page("crawl_delay", next(numbers), patient, page=PageStatus.CRAWL_DELAY_TOO_LONG)
        wrong = (("text/html; charset=utf-8", "cp1252"), ("text/html; charset=iso-8859-1", "utf-8"))
        for index in range(16):
            self.site.articles.append(typographic(self.site.articles[next(numbers)]))
            content_type, charset = wrong[index % 2]
            where = len(self.site.articles) - 1
            ok = (SelectStatus.OK,)
            self._page("wrong_charset", where, select=ok, content_type=content_type, charset=charset)
        for _ in range(4):
            self._page(
                "xhtml", next(numbers), select=(SelectStatus.OK,), content_type="application/xhtml+xml; charset=utf-8"
            )

    def _broken(self) -> None:
        def add(kind: str, answer: str, host: str, n: int, page: PageStatus, **route: str | int) -> None:
            self._host(host)
            for number in range(n):
                self._add(f"http://{host}/{answer}/{number}", Route(kind, answer, **route), page)  # type: ignore[arg-type]

        codes = {404: PageStatus.NOT_FOUND, 410: PageStatus.GONE, 500: PageStatus.SERVER_ERROR}
        codes |= {503: PageStatus.SERVER_ERROR, 403: PageStatus.CLIENT_ERROR, 451: PageStatus.CLIENT_ERROR}
        codes |= {429: PageStatus.RATE_LIMITED, 204: PageStatus.HTTP_OTHER}
        for code, page in codes.items():
            add("status", "status", f"s{code}.errorhouse.example", 12 if code == 404 else 3, page, status=code)
        types = ("application/pdf", "image/png", "application/json", "text/plain; charset=utf-8")
        for index, content_type in enumerate(types):
            host = f"files{index}.downloadbarn.example"
            add("not_html", "file", host, 4, PageStatus.NOT_HTML, content_type=content_type)
        add("empty_body", "empty", "blank.nothinghere.example", 3, PageStatus.EMPTY_BODY)
        add("too_large", "endless", "stream.neverends.example", 2, PageStatus.TOO_LARGE)
        add("bomb", "bomb", "cdn.tightlypacked.example", 2, PageStatus.DECODED_TOO_LARGE)
        add("bad_encoding", "broken_gzip", "zip.crackedshell.example", 2, PageStatus.BAD_ENCODING)
        add("cut", "reset", "line.hangsup.example", 2, PageStatus.PROTOCOL_ERROR)
        add("cut", "cut", "half.hangsup.example", 2, PageStatus.PROTOCOL_ERROR)
        add("slow", "silent", "www.deepsleep.example", 1, PageStatus.TIMEOUT)
        add("slow", "drip", "tap.dripdrip.example", 1, PageStatus.TOO_SLOW)
        add("opt_out", "noai_header", "www.privategallery.example", 3, PageStatus.OPT_OUT_X_ROBOTS_TAG)
        add("opt_out", "noai_meta", "blog.pleasedont.example", 3, PageStatus.OPT_OUT_META_ROBOTS)
        add("opt_out", "reserved", "news.allreserved.example", 3, PageStatus.OPT_OUT_TDM)
        add("opt_out", "empty", "www.signalhouse.example", 3, PageStatus.OPT_OUT_CONTENT_SIGNAL)
        self._host("www.signalhouse.example", "blog", 200, "User-agent: *\nContent-Signal: ai-train=no\nAllow: /\n")


def _is_good(article: Article) -> bool:
    """Whether an article is long, so that an edit is small, and plain prose, so that the filters surely keep it."""
    n_chars = len(plain(article.blocks))
    n_words = sum(len(block[1].split()) for block in article.blocks if block[0] == "p")
    return n_chars >= 2_800 and n_words >= 120 and prose_chars(article.blocks) >= 0.8 * n_chars
