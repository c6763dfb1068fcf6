"""Listings of Reddit's API as a live source.

    reddit:news,science     the submissions of subreddits since the watermark, newest first; each its own source
    https://../top.json     any listing, from its beginning to its end

A listing comes in pages of up to 100; ``after`` names the next one. Reddit ends a listing after about 1,000
submissions. Where those do not reach back to the beginning of the window, the rest cannot be had this way:
``listings_cut`` counts such a listing, and the monthly dump has what is missing. Submissions are kept as they came,
with ``retrieved_on``.

A listing is one slice: it can only be read from its beginning.

Source: www.reddit.com/dev/api#listings.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from data.errors import InputError
from data.lake.manifest import Part
from data.links.live import JsonService, Window, items_file, seal_items
from data.links.records import LinkRecords
from data.links.sources import Reading, sealed_records

MAX_PAGES = 200  # far beyond what Reddit shows; a listing without end is an error
PAGE = 100
CUT = 900  # submissions; a listing of fewer ends because there are no more
_SUBREDDIT = re.compile(r"[A-Za-z0-9_]{2,24}(\+[A-Za-z0-9_]{2,24})*")


@dataclass(frozen=True)
class RedditListing:
    """A listing. With a window, the submissions made in it, of a listing that is newest first; else all of it."""

    spec: str
    url: str
    window: Window | None

    @property
    def label(self) -> str:
        return self.spec

    @property
    def inputs(self) -> tuple[str, str]:
        return f"live:{self.spec}", str(self.window or "whole")

    n_slices = 1

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:  # noqa: ARG002
        items, counts = asyncio.run(self._read(reading))
        return seal_items(reading.dataset.lake, reading.dataset, part, items, dict(counts))

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:
        return sealed_records(reading, self.label, [items_file(part) for part in slices])

    async def _read(self, reading: Reading) -> tuple[list[dict[str, Any]], Counter[str]]:
        counts: Counter[str] = Counter()
        items: dict[str, dict[str, Any]] = {}
        after, n_posts = None, 0
        async with JsonService(reading.network, reading.scratch, reading.clock) as service:
            while True:
                url = _page_url(self.url, after)
                answer, read_at = await service.get_json(url)
                counts["requests"] += 1
                try:
                    following, posts = _page(answer, counts)
                    made = [float(post["created_utc"]) for post in posts]
                    for post, at in zip(posts, made, strict=True):
                        if self.window is None or self.window.start <= at < self.window.end:
                            items.setdefault(str(post["id"]), post | {"retrieved_on": read_at})
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(f"{url}: not a listing of Reddit's API ({error!r}); check the address") from error
                n_posts += len(posts)
                if self.window is not None and made and made[-1] < self.window.start:
                    break
                if following is None:
                    counts["listings_cut"] += int(self.window is not None and n_posts >= CUT)
                    break
                if following == after or counts["requests"] >= MAX_PAGES:
                    raise InputError(f"{url}: the listing has no end (after={following}); it cannot be read")
                after = following
        return list(items.values()), counts


def listing_sources(spec: str, base: str) -> list[tuple[str, str]]:
    """Sources and the addresses of their listings, of ``reddit:A,B`` or the URL of a listing. Raises InputError."""
    if not spec.startswith("reddit:"):
        return [(spec, spec)]
    names = spec.removeprefix("reddit:").split(",")
    for name in names:
        if not _SUBREDDIT.fullmatch(name):
            raise InputError(f"link source {spec}: {name!r} is no subreddit; write it like reddit:news,science")
    return [(f"reddit:{name.lower()}", f"{base}/r/{name.lower()}/new.json") for name in names]


def _page_url(url: str, after: str | None) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.setdefault("limit", str(PAGE))
    if after is not None:
        query["after"] = after
    return urlunsplit(parts._replace(query=urlencode(query), fragment=""))


def _page(answer: Any, counts: Counter[str]) -> tuple[str | None, list[dict[str, Any]]]:
    """The name of the next page, and the submissions (``t3``); comments and the like are counted."""
    if answer["kind"] != "Listing":
        raise ValueError(f"kind {answer['kind']!r}")
    after, children = answer["data"]["after"], answer["data"]["children"]
    if after is not None and not isinstance(after, str):
        raise ValueError(f"after {after!r}")
    posts = [child["data"] for child in children if child["kind"] == "t3"]
    counts["items_no_submission"] += len(children) - len(posts)
    return after, posts
