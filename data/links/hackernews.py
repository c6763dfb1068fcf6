"""Hacker News as a live source: stories with their points.

    hn:2026-11          the stories of a month, by Algolia's search
    hn:                 the stories since the watermark
    hn-items:FROM-TO    items by number, by Firebase; without TO up to the newest one

Algolia's search shows at most 1,000 hits of a query. So each day is a slice, and a query with 1,000 hits or more is
halved by time, down to a second. The search may count a story that it never shows; such stories are counted as
``not_shown``. Hits are kept as they came, with ``retrieved_on`` and without their highlighting.

Firebase gives one item per request, and nine items of ten are comments, so it serves to fill gaps and for checks: at
one request per second, 3,600 items take an hour. Items that are missing, deleted, dead or not a story are counted.

Sources: hn.algolia.com/api, github.com/HackerNews/API.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from data.config import LinksConfig
from data.errors import InputError
from data.links.live import FIRST_WINDOW_S, Items, JsonService, LiveSource, Window, month_window
from data.links.sources import Reading
from data.links.submissions import left_out
from data.schema import LinkStatus

MAX_HITS = 1_000
ITEMS_PER_SLICE = 500
_NO_STORY = "items_no_story"
_ITEMS = re.compile(r"(\d+)-(\d*)")


@dataclass(frozen=True)
class HackerNewsSearch(LiveSource):
    """Stories of a window, by Algolia's search. A slice is a day."""

    window: Window

    @property
    def extent(self) -> str:
        return str(self.window)

    @property
    def mark(self) -> int | None:
        return self.window.mark if self.spec == "hn:" else None

    @property
    def n_slices(self) -> int:
        return len(self.window.days())

    async def read_slice(self, service: JsonService, config: LinksConfig, index: int) -> Items:
        """The hits of a day, by time and number."""
        counts: Counter[str] = Counter()
        hits: dict[str, dict[str, Any]] = {}
        todo = [self.window.days()[index]]
        while todo:
            window = todo.pop()
            found = await _hits(service, config.hn_search_url, window, counts)
            if found is not None:
                hits |= found
                continue
            middle = (window.start + window.end) // 2
            todo += [Window(middle, window.end), Window(window.start, middle)]
        return sorted(hits.values(), key=lambda hit: (hit["created_at_i"], int(hit["objectID"]))), counts


async def _hits(
    service: JsonService, base: str, window: Window, counts: Counter[str]
) -> dict[str, dict[str, Any]] | None:
    """All hits of a window by their number; None if the window has to be halved.

    Raises InputError for a second with more hits than the search shows, and for an answer that is not Algolia's.
    """
    hits: dict[str, dict[str, Any]] = {}
    page = 0
    while True:
        query = {
            "tags": "story",
            "numericFilters": f"created_at_i>={window.start},created_at_i<{window.end}",
            "hitsPerPage": MAX_HITS,
            "page": page,
        }
        url = f"{base}/search_by_date?{urlencode(query)}"
        answer, read_at = await service.get_json(url)
        counts["requests"] += 1
        try:
            n_hits = int(answer["nbHits"])
            n_pages = int(answer["nbPages"])
            for hit in answer["hits"]:
                if window.start <= int(hit["created_at_i"]) < window.end:
                    kept = {key: value for key, value in hit.items() if key not in ("_highlightResult", "children")}
                    hits[str(int(hit["objectID"]))] = kept | {"retrieved_on": read_at}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{url}: not an answer of Algolia's search ({error!r}); check hn_search_url") from error
        is_second = window.end - window.start == 1
        if n_hits >= MAX_HITS and not is_second:
            return None
        page += 1
        if page < n_pages and answer["hits"]:
            continue
        if len(hits) >= n_hits:
            return hits
        if is_second and n_hits < MAX_HITS:
            counts["not_shown"] += n_hits - len(hits)
            return hits
        if is_second:
            raise InputError(
                f"{url}: {n_hits:,} stories in the second {window.start}, of which the search shows {len(hits):,}; "
                "they cannot be read whole"
            )
        return None


@dataclass(frozen=True)
class HackerNewsItems(LiveSource):
    """Items by number, from ``first`` to ``last``, by Firebase. A slice is ITEMS_PER_SLICE of them."""

    first: int
    last: int

    @property
    def extent(self) -> str:
        return f"{self.first}..{self.last}"

    @property
    def n_slices(self) -> int:
        return (self.last - self.first) // ITEMS_PER_SLICE + 1

    async def read_slice(self, service: JsonService, config: LinksConfig, index: int) -> Items:
        first = self.first + index * ITEMS_PER_SLICE
        numbers = range(first, min(first + ITEMS_PER_SLICE, self.last + 1))
        items = []
        counts = Counter(requests=len(numbers))
        for number in numbers:
            url = f"{config.hn_items_url}/item/{number}.json"
            item, read_at = await service.get_json(url)
            if item is None:
                counts["items_missing"] += 1
            elif not isinstance(item, dict) or item.get("id") != number:
                raise InputError(f"{url}: not the item of that number; check hn_items_url")
            elif left_out := _left_out(item):
                counts[left_out] += 1
            else:
                items.append(item | {"retrieved_on": read_at})
        return items, counts


def _left_out(item: dict[str, Any]) -> str | None:
    """The count to which an item that is not a live story is added; None for a story."""
    other = left_out(item)
    if other is None:
        return None if item.get("type") == "story" else _NO_STORY
    return {LinkStatus.DELETED: "items_deleted", LinkStatus.DEAD: "items_dead"}.get(other.status, _NO_STORY)


def search_source(spec: str, recorded: str | None, mark: int | None, now: int) -> HackerNewsSearch:
    """The source of ``hn:MONTH`` or ``hn:``. ``recorded`` is the window of a run that began, ``mark`` the watermark."""
    if recorded is not None:
        return HackerNewsSearch(spec, Window.parse(recorded))
    month = spec.removeprefix("hn:")
    if month:
        return HackerNewsSearch(spec, month_window(spec, month, now))
    return HackerNewsSearch(spec, Window(now - FIRST_WINDOW_S if mark is None else mark, now))


def items_source(spec: str, recorded: str | None, reading: Reading) -> HackerNewsItems:
    """The source of ``hn-items:FROM-[TO]``. Without TO it asks for the newest number. Raises InputError."""
    match = _ITEMS.fullmatch(spec.removeprefix("hn-items:"))
    if match is None:
        raise InputError(f"link source {spec}: write it like hn-items:8863-8900, or hn-items:8863- up to the newest")
    first = int(match[1])
    if recorded is not None:
        return HackerNewsItems(spec, first, Window.parse(recorded).end)
    last = int(match[2]) if match[2] else asyncio.run(_newest(reading))
    if not 0 < first <= last:
        raise InputError(f"link source {spec}: no items from {first} to {last}; numbers begin at 1 and ascend")
    return HackerNewsItems(spec, first, last)


async def _newest(reading: Reading) -> int:
    url = f"{reading.config.hn_items_url}/maxitem.json"
    async with JsonService(reading) as service:
        value, _ = await service.get_json(url)
    if not isinstance(value, int):
        raise InputError(f"{url}: not a number; check hn_items_url")
    return value
