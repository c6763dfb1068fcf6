"""Listings of Reddit's API as a live source.

    reddit:news,science     the submissions of subreddits since the watermark; each subreddit is a source
    https://../top.json     any listing, from its beginning to its end

A listing comes in pages of up to 100; ``after`` names the next one. Reddit ends a listing after about 1,000
submissions. If they do not reach back to the beginning of the window, the rest is in the monthly dump only;
``listings_cut`` counts such listings. Submissions are kept as they came, with ``retrieved_on``.

A listing is one slice, since it can only be read from its beginning.

Source: www.reddit.com/dev/api#listings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from data.config import LinksConfig
from data.errors import InputError
from data.links.live import FIRST_WINDOW_S, Items, JsonService, LiveSource, Window

MAX_PAGES = 200  # far more than Reddit shows; a longer listing is an error
PAGE = 100
CUT = 900  # submissions; a shorter listing ends because there are no more
_SUBREDDIT = re.compile(r"[A-Za-z0-9_]{2,24}(\+[A-Za-z0-9_]{2,24})*")


@dataclass(frozen=True)
class RedditListing(LiveSource):
    """A listing. With a window, it must be sorted newest first, and only submissions made in the window are kept."""

    url: str
    window: Window | None

    n_slices = 1

    @property
    def extent(self) -> str:
        return str(self.window or "whole")

    @property
    def mark(self) -> int | None:
        return self.window.mark if self.window else None

    async def read_slice(self, service: JsonService, config: LinksConfig, index: int) -> Items:  # noqa: ARG002
        counts: Counter[str] = Counter()
        items: dict[str, dict[str, Any]] = {}
        after: str | None = None
        n_posts = 0
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


def subreddit_sources(
    spec: str, recorded: Mapping[str, str], marks: Mapping[str, int], now: int, base: str
) -> list[RedditListing]:
    """The sources of ``reddit:A,B``, one per subreddit, each since its watermark.

    ``recorded`` holds the inputs of a run that began. Raises InputError for a name that no subreddit can have.
    """
    found = []
    for name in spec.removeprefix("reddit:").split(","):
        if not _SUBREDDIT.fullmatch(name):
            raise InputError(f"link source {spec}: {name!r} is not a subreddit; write it like reddit:news,science")
        label = f"reddit:{name.lower()}"
        begun = recorded.get(f"live:{label}")
        window = Window.parse(begun) if begun else Window(marks.get(label, now - FIRST_WINDOW_S), now)
        found.append(RedditListing(label, f"{base}/r/{name.lower()}/new.json", window))
    return found


def _page_url(url: str, after: str | None) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.setdefault("limit", str(PAGE))
    if after is not None:
        query["after"] = after
    return urlunsplit(parts._replace(query=urlencode(query), fragment=""))


def _page(answer: Any, counts: Counter[str]) -> tuple[str | None, list[dict[str, Any]]]:
    """The name of the next page, and the submissions (kind ``t3``); items of other kinds are counted."""
    if answer["kind"] != "Listing":
        raise ValueError(f"kind {answer['kind']!r}")
    after = answer["data"]["after"]
    children = answer["data"]["children"]
    if after is not None and not isinstance(after, str):
        raise ValueError(f"after {after!r}")
    posts = [child["data"] for child in children if child["kind"] == "t3"]
    counts["items_no_submission"] += len(children) - len(posts)
    return after, posts
