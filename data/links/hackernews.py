"""Hacker News as a live source: stories with their points.

    hn:2026-11          the stories of a month, by Algolia's search
    hn:                 those since the watermark
    hn-items:FROM-TO    items by number, by Firebase; without TO up to the newest one

Algolia's search shows at most 1,000 hits of a query. So time is sliced: a slice is a day, and a query that has as many
hits or more is halved, down to a second. Hits are kept as they came, without their highlighting, with ``retrieved_on``.

Firebase gives one item a request, comments among them (nine of ten), so it is for gaps and for checks: an hour for
3,600 items at one request a second. Items that are no story, missing, deleted or dead are counted.

Sources: hn.algolia.com/api, github.com/HackerNews/API.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from data.errors import InputError
from data.lake.manifest import Part
from data.links.live import JsonService, Window, items_file, month_window, seal_items
from data.links.records import LinkRecords
from data.links.sources import Reading, sealed_records

MAX_HITS = 1_000
ITEMS_A_SLICE = 500
_ITEMS = re.compile(r"(\d+)-(\d*)")


@dataclass(frozen=True)
class HackerNewsSearch:
    """Stories of a window, by Algolia's search; a slice is a day."""

    spec: str
    window: Window

    @property
    def label(self) -> str:
        return self.spec

    @property
    def inputs(self) -> tuple[str, str]:
        return f"live:{self.spec}", str(self.window)

    @property
    def n_slices(self) -> int:
        return len(self.window.days())

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:
        hits, counts = asyncio.run(self._read(reading, self.window.days()[index]))
        return seal_items(reading.dataset.lake, reading.dataset, part, hits, dict(counts))

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:
        return sealed_records(reading, self.label, [items_file(part) for part in slices])

    async def _read(self, reading: Reading, day: Window) -> tuple[list[dict[str, Any]], Counter[str]]:
        """The hits of a day, by time and number."""
        counts: Counter[str] = Counter()
        hits: dict[str, dict[str, Any]] = {}
        todo = [day]
        async with JsonService(reading.network, reading.scratch, reading.clock) as service:
            while todo:
                window = todo.pop()
                found = await _hits(service, reading.config.hn_search_url, window, counts)
                if found is not None:
                    hits |= found
                    continue
                middle = (window.start + window.end) // 2
                todo += [Window(middle, window.end), Window(window.start, middle)]
        return sorted(hits.values(), key=lambda hit: (hit["created_at_i"], int(hit["objectID"]))), counts


async def _hits(
    service: JsonService, base: str, window: Window, counts: Counter[str]
) -> dict[str, dict[str, Any]] | None:
    """All hits of a window by their number; None where it has to be halved.

    Raises InputError for a second of more hits than are shown, and for an answer that is none of Algolia's.
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
            n_hits, n_pages = int(answer["nbHits"]), int(answer["nbPages"])
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
        if is_second:
            raise InputError(
                f"{url}: {n_hits:,} stories in the second {window.start}, of which the search shows {len(hits):,}; "
                "they cannot be read whole"
            )
        return None


@dataclass(frozen=True)
class HackerNewsItems:
    """Items by number, from ``first`` to ``last``, by Firebase; a slice is ITEMS_A_SLICE of them."""

    first: int
    last: int
    spec: str

    @property
    def label(self) -> str:
        return self.spec

    @property
    def inputs(self) -> tuple[str, str]:
        return f"live:{self.spec}", f"{self.first}..{self.last}"

    @property
    def n_slices(self) -> int:
        return (self.last - self.first) // ITEMS_A_SLICE + 1

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:
        first = self.first + index * ITEMS_A_SLICE
        numbers = range(first, min(first + ITEMS_A_SLICE, self.last + 1))
        items, counts = asyncio.run(self._read(reading, numbers))
        return seal_items(reading.dataset.lake, reading.dataset, part, items, dict(counts))

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:
        return sealed_records(reading, self.label, [items_file(part) for part in slices])

    async def _read(self, reading: Reading, numbers: range) -> tuple[list[dict[str, Any]], Counter[str]]:
        items, counts = [], Counter(requests=len(numbers))
        async with JsonService(reading.network, reading.scratch, reading.clock) as service:
            for number in numbers:
                url = f"{reading.config.hn_items_url}/item/{number}.json"
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
    """What an item is counted as that is no story; None for a story."""
    if item.get("deleted") is True:
        return "items_deleted"
    if item.get("dead") is True:  # killed by moderators or by flags
        return "items_dead"
    return None if item.get("type") == "story" else "items_no_story"


def search_source(spec: str, recorded: str | None, mark: int | None, now: int, first_window_s: int) -> HackerNewsSearch:
    """The source of ``hn:MONTH`` or ``hn:``; ``recorded`` is the window of a run that began, ``mark`` the watermark."""
    if recorded is not None:
        return HackerNewsSearch(spec, Window.parse(recorded))
    month = spec.removeprefix("hn:")
    if month:
        return HackerNewsSearch(spec, month_window(spec, month, now))
    return HackerNewsSearch(spec, Window(now - first_window_s if mark is None else mark, now))


def items_source(spec: str, recorded: str | None, reading: Reading) -> HackerNewsItems:
    """The source of ``hn-items:FROM-[TO]``. Asks for the newest number where TO is not given. Raises InputError."""
    match = _ITEMS.fullmatch(spec.removeprefix("hn-items:"))
    if match is None:
        raise InputError(f"link source {spec}: write it like hn-items:8863-8900, or hn-items:8863- up to the newest")
    first, last = int(match[1]), match[2]
    if recorded is not None:
        return HackerNewsItems(first, Window.parse(recorded).end, spec)
    newest = int(last) if last else asyncio.run(_newest(reading))
    if not 0 < first <= newest:
        raise InputError(f"link source {spec}: no items from {first} to {newest}; numbers begin at 1 and ascend")
    return HackerNewsItems(first, newest, spec)


async def _newest(reading: Reading) -> int:
    url = f"{reading.config.hn_items_url}/maxitem.json"
    async with JsonService(reading.network, reading.scratch, reading.clock) as service:
        value, _ = await service.get_json(url)
    if not isinstance(value, int):
        raise InputError(f"{url}: not a number; check hn_items_url")
    return value
