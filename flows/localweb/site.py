"""The local web as data: hosts, what each URL answers, and what the pipeline must make of it.

flows/localweb/build.py makes and keeps it, flows/localweb/server.py serves it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from flows.localweb import pages as localpages
from flows.localweb.docs import Article
from flows.localweb.pages import RelatedPage

_N_RELATED = 5


@dataclass(frozen=True)
class SiteHost:
    """One host name. ``robots`` is its robots.txt; ``encoding`` compresses its pages for clients that accept it."""

    name: str
    layout: str
    robots_status: int = 404
    robots: str = ""
    encoding: str = ""


@dataclass(frozen=True)
class Route:
    """What a URL answers.

    ``kind`` is its purpose (plan.KINDS) and ``answer`` the way it is served (server.ANSWERS). ``original`` is the URL
    of the page that it repeats or finally redirects to. ``charset`` is the real encoding of a page, which may differ
    from the one in ``content_type``.
    """

    kind: str
    answer: str = "page"
    article: int = -1
    published: str = ""
    original: str = ""
    status: int = 200
    location: str = ""
    content_type: str = "text/html; charset=utf-8"
    charset: str = "utf-8"


@dataclass(frozen=True)
class Expected:
    """The correct statuses: one of the pages stage, and any of these of select (empty: not predictable)."""

    page: str
    select: tuple[str, ...] = ()


@dataclass(frozen=True)
class Site:
    """The local web. ``routes`` and ``expected`` are by canonical URL; a URL without a route gets 404."""

    articles: list[Article]
    hosts: dict[str, SiteHost]
    routes: dict[str, Route]
    expected: dict[str, Expected]

    def urls(self, *kinds: str) -> list[str]:
        """The URLs of these kinds, in the order of the plan."""
        return [url for url, route in self.routes.items() if route.kind in kinds]

    def article(self, url: str) -> Article:
        """The article of the page at a URL. Raises KeyError if there is no page."""
        route = self.routes[url]
        if route.article < 0:
            raise KeyError(url)
        return self.articles[route.article]

    def html(self, url: str) -> bytes:
        """The body of the page at a URL, the same at every call. Raises KeyError if there is no page."""
        route = self.routes[url]
        if route.answer == "copy":  # byte for byte
            return self.html(route.original)
        article = self.article(url)
        host = self.hosts[host_of(url)]
        layout = "shell" if route.kind == "shell" else host.layout
        declared = route.content_type.partition("charset=")[2] or "utf-8"
        html = localpages.render(article, url, route.published, layout, host.name, self._related(url), declared)
        return html.encode(route.charset, errors="xmlcharrefreplace")

    def _related(self, url: str) -> list[RelatedPage]:
        """The pages that follow on the same host."""
        pages = self._pages_by_host[host_of(url)]
        start = pages.index(url) + 1
        chosen = [pages[i % len(pages)] for i in range(start, start + min(_N_RELATED, len(pages)))]
        return [RelatedPage(page, self.article(page).title) for page in chosen]

    @functools.cached_property
    def _pages_by_host(self) -> dict[str, list[str]]:
        pages: dict[str, list[str]] = {}
        for url, route in self.routes.items():
            if route.article >= 0:
                pages.setdefault(host_of(url), []).append(url)
        return pages


def host_of(url: str) -> str:
    """The host of a URL of the local web; such URLs are ``http://host/path``."""
    return url.removeprefix("http://").partition("/")[0]
