"""What the adapters of live sources share: windows of time, and polite requests for JSON.

A window is seconds since 1970, its end excluded. It is chosen when the dataset is begun and recorded among its inputs.
Scores settle: what is younger than ``SETTLE_S`` when the window ends is read again by the next refresh, so the
watermark is the end less that.

robots.txt does not apply: these are documented interfaces for programs, asked one request at a time, ``host_delay_s``
after the end of the one before, the first one of a slice included. 429, 5xx and lost connections are asked again up to
``MAX_ATTEMPTS`` times, after Retry-After or an exponential back-off with jitter, whichever is longer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import orjson
import pyarrow as pa
import zstandard

from data.config import PagesConfig
from data.errors import InputError
from data.http.client import Client, Network
from data.http.exchange import Answer, FetchError, Limits
from data.http.retry import backoff_s, retry_after_s
from data.lake.manifest import Part
from data.lake.store import Dataset, Lake
from data.schema import PageStatus

SETTLE_S = 36 * 3600
"""Points of Hacker News and Reddit hardly move after this."""

FIRST_WINDOW_S = 30 * 86_400
"""How far back a source is read that has no watermark yet."""

MAX_ATTEMPTS = 6
MAX_ANSWER_BYTES = 64_000_000  # a page of 1,000 hits with their texts has about 2 MB
TRANSIENT = frozenset({PageStatus.CONNECT_FAILURE, PageStatus.TIMEOUT, PageStatus.TOO_SLOW, PageStatus.PROTOCOL_ERROR})
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Window:
    """Seconds since 1970 from ``start`` up to, but without, ``end``."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``str`` gave."""
        start, _, end = text.partition("..")
        return cls(int(start), int(end))

    @property
    def mark(self) -> int:
        """Up to where scores have settled when the window ends."""
        return max(self.start, self.end - SETTLE_S)

    def days(self) -> list[Window]:
        """The window cut at midnights, UTC."""
        cuts = [self.start, *range(self.start - self.start % 86_400 + 86_400, self.end, 86_400), self.end]
        return [Window(start, end) for start, end in pairwise(cuts) if start < end]


class JsonService:
    """Polite requests for JSON to one host. Used inside an event loop, as an asynchronous context."""

    def __init__(self, network: PagesConfig, scratch: Path, clock: Callable[[], float]) -> None:
        self.config, self.scratch, self.clock = network, scratch, clock
        self.random = random.Random()

    async def __aenter__(self) -> Self:
        self.client = Client(Network.of(self.config, self.scratch))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def get_json(self, url: str) -> tuple[Any, int]:
        """The value and when it was read, in seconds since 1970. Raises InputError where there is no such answer."""
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
            raise InputError(f"{url}: the answer is not JSON ({error}); check the address") from error


def month_window(name: str, month: str, now: int) -> Window:
    """The window of ``2026-11``, up to now if the month is not over. Raises InputError for what is no past month."""
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    except ValueError as error:
        raise InputError(f"link source {name}: {month!r} is no month; write it like 2026-11") from error
    window = Window(int(first.timestamp()), min(int(after.timestamp()), now))
    if window.start >= window.end:
        raise InputError(f"link source {name}: {month} has not begun yet")
    return window


def seal_items(lake: Lake, dataset: Dataset, part: str, items: list[dict[str, Any]], extra: dict[str, int]) -> Part:
    """Seal what a slice gave: a line of JSON an item, compressed. Its bytes are in the digest."""
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
