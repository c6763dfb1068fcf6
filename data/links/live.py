"""What the adapters of live sources share: windows of time, polite requests for JSON, sealed slices.

A window is seconds since 1970, its end excluded. It is chosen when the dataset is begun and recorded among its inputs.
Scores take ``SETTLE_S`` to settle. The next refresh reads later submissions again, so the watermark is the end of the
window less ``SETTLE_S``.

robots.txt does not apply, since these interfaces are documented for programs. We make one request at a time and wait
``host_delay_s`` before each. After 429, 5xx or a lost connection we try again, ``MAX_ATTEMPTS`` times in all, after
Retry-After or an exponential back-off with jitter, whichever is longer.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Self

import orjson
import pyarrow as pa
import zstandard

from data.config import LinksConfig
from data.errors import InputError
from data.http.client import Client, Network
from data.http.download import MAX_ATTEMPTS, TRANSIENT
from data.http.exchange import Answer, FetchError, Limits
from data.http.retry import backoff_s, retry_after_s
from data.lake.manifest import Part
from data.lake.store import Dataset, Lake
from data.links.records import LinkRecords
from data.links.sources import Reading, sealed_records
from data.links.submissions import loads_leniently

SETTLE_S = 36 * 3600
"""Points of Hacker News and Reddit hardly move after this."""

FIRST_WINDOW_S = 30 * 86_400
"""How far back a source without a watermark is read."""

MAX_ANSWER_BYTES = 64_000_000  # a page of 1,000 hits with their texts has about 2 MB
_TIMEOUT_S = 120.0

Items = tuple[list[dict[str, Any]], Counter[str]]
"""The items of a slice, as the service sent them, and counts of requests and of items that were left out."""


@dataclass(frozen=True)
class Window:
    """Seconds since 1970 from ``start`` up to, but without, ``end``."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``."""
        start, _, end = text.partition("..")
        return cls(int(start), int(end))

    @property
    def mark(self) -> int:
        """The watermark: scores of earlier submissions have settled when the window ends."""
        return max(self.start, self.end - SETTLE_S)

    def days(self) -> list[Window]:
        """The window cut at midnights, UTC."""
        cuts = [self.start, *range(self.start - self.start % 86_400 + 86_400, self.end, 86_400), self.end]
        return [Window(start, end) for start, end in pairwise(cuts) if start < end]


@dataclass(frozen=True)
class LiveSource(ABC):
    """A source that a service answers with JSON, slice by slice. A subclass says what it covers and reads a slice."""

    spec: str

    @property
    def label(self) -> str:
        return self.spec

    @property
    def inputs(self) -> tuple[str, str]:
        return f"live:{self.spec}", self.extent

    @property
    @abstractmethod
    def extent(self) -> str:
        """What is read, as the dataset records it."""

    @property
    def mark(self) -> int | None:
        return None

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:
        items, counts = asyncio.run(self._read(reading, index))
        return seal_items(reading.dataset.lake, reading.dataset, part, items, dict(counts))

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:
        return sealed_records(reading, self.label, [items_file(part) for part in slices])

    @abstractmethod
    async def read_slice(self, service: JsonService, config: LinksConfig, index: int) -> Items: ...

    async def _read(self, reading: Reading, index: int) -> Items:
        async with JsonService(reading) as service:
            return await self.read_slice(service, reading.config, index)


class JsonService:
    """Polite requests for JSON to one host. Used inside an event loop, as an asynchronous context."""

    def __init__(self, reading: Reading) -> None:
        self.config = reading.network
        self.scratch = reading.scratch
        self.clock = reading.clock
        self.random = random.Random()

    async def __aenter__(self) -> Self:
        self.client = Client(Network.of(self.config, self.scratch))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def get_json(self, url: str) -> tuple[Any, int]:
        """The value and when it was read, in seconds since 1970. Raises InputError if the service sends no JSON."""
        for attempt in range(MAX_ATTEMPTS):
            await asyncio.sleep(self.config.host_delay_s)
            wait_s = backoff_s(attempt + 1, self.config, self.random)
            try:
                answer = await self.client.get(
                    url,
                    timeout_s=_TIMEOUT_S,
                    wants=lambda status, _: status == 200,
                    limits=Limits(MAX_ANSWER_BYTES, MAX_ANSWER_BYTES),
                    extra={"Accept": "application/json"},
                )
            except FetchError as error:
                if error.status not in TRANSIENT:
                    raise InputError(f"{url}: {error.status} ({error.reason})") from error
                problem = f"{error.status} ({error.reason})"
            else:
                with answer:
                    if answer.http_status == 200:
                        return self._value(url, answer), int(self.clock())
                    problem = f"answered {answer.http_status}"
                    if answer.http_status != 429 and answer.http_status < 500:
                        raise InputError(f"{url}: {problem}; check the source's name, or try again later")
                    now = datetime.fromtimestamp(self.clock(), UTC)
                    pause_s = retry_after_s(answer.headers.get("Retry-After"), now) or 0.0
                if pause_s > self.config.max_retry_after_s:
                    raise InputError(
                        f"{url}: {problem} and asks to wait {pause_s:.0f} s, more than max_retry_after_s; "
                        "run the same command again after that: what was read is kept"
                    )
                wait_s = max(wait_s, pause_s)
            if attempt + 1 < MAX_ATTEMPTS:
                await asyncio.sleep(wait_s)
        raise InputError(
            f"{url}: {problem}, {MAX_ATTEMPTS} times; run the same command again later: what was read is kept"
        )

    def _value(self, url: str, answer: Answer) -> Any:
        body = answer.body.read() if answer.body is not None else b""
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            try:
                return _as_text(loads_leniently(body))
            except (ValueError, RecursionError):
                raise InputError(f"{url}: the answer is not JSON ({error}); check the address") from error


def _as_text(value: Any) -> Any:
    """A JSON value with U+FFFD for each surrogate, so that one odd title does not cost its page of hits."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return {_as_text(name): _as_text(one) for name, one in value.items()} if isinstance(value, dict) else value


def month_window(name: str, month: str, now: int) -> Window:
    """The window of ``2026-11``, up to now if the month is not over. Raises InputError for a later month."""
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    except ValueError as error:
        raise InputError(f"link source {name}: {month!r} is not a month; write it like 2026-11") from error
    window = Window(int(first.timestamp()), min(int(after.timestamp()), now))
    if window.start >= window.end:
        raise InputError(f"link source {name}: {month} has not begun yet")
    return window


def seal_items(lake: Lake, dataset: Dataset, part: str, items: list[dict[str, Any]], extra: dict[str, int]) -> Part:
    """Seal the items of a slice as compressed JSON, one per line. The lines are part of the digest."""
    lines = b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items)
    file = items_file(part)
    with lake.scratch() as folder:
        (folder / file).write_bytes(zstandard.ZstdCompressor(level=9).compress(lines))
        return dataset.seal(
            part,
            {file: folder / file},
            pa.table({"line": pa.array(lines.splitlines(), pa.binary())}),
            counts={},
            rows={file: len(items)},
            extra=extra,
        )


def items_file(part: str) -> str:
    return f"{part}.ndjson.zst"
