"""A file by its URL: downloaded in pieces and resumed.

A file comes in pieces of ``PIECE_BYTES``. If the process is killed, the next run continues after the last piece,
provided that the length and the ETag or Last-Modified are the same; else it starts over. Without range requests the
file comes in one piece of at most ``WHOLE_BYTES``, which cannot be resumed.

The download uses the guarded client: no proxy, public addresses only, and every redirect is checked. It does not read
robots.txt, since a person or this program named this one file.

Sources: RFC 9110, sections 13.1 and 14 (validators, ranges).
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from data.config import PagesConfig
from data.errors import InputError
from data.http.client import REDIRECTS, Client, Network, resolve_redirect
from data.http.exchange import Answer, FetchError, Limits, Wants
from data.http.retry import backoff_s
from data.schema import PageStatus

PIECE_BYTES = 2**25
WHOLE_BYTES = 2**28  # held in memory
MAX_ATTEMPTS = 6
TRANSIENT = frozenset({PageStatus.CONNECT_FAILURE, PageStatus.TIMEOUT, PageStatus.TOO_SLOW, PageStatus.PROTOCOL_ERROR})
"""Failures of a request that may pass."""

_MAX_REDIRECTS = 10
_PIECE_TIMEOUT_S = 1_800.0  # 32 MiB at 18 kB/s
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

OnBytes = Callable[[int, int], None]
"""Gets the bytes that are there and those of the whole file."""


def download(
    url: str, path: Path, config: PagesConfig, max_bytes: int, on_bytes: OnBytes = lambda _have, _all: None
) -> None:
    """Download the file, or the rest of it, into ``path``; a note of the remote file's version lies beside it.

    Raises InputError if it fails or is larger than ``max_bytes``; what has come stays there for the next call.
    """
    asyncio.run(_Download(url, path, config, max_bytes, on_bytes).run())


@dataclass(frozen=True)
class _Remote:
    """What the server says about the file. ``n_bytes`` is None if it does not serve ranges."""

    url: str  # after redirects
    n_bytes: int | None
    version: str  # ETag or Last-Modified


class _Download:
    """One download into ``path``, with a note of the remote file's version beside it."""

    def __init__(self, url: str, path: Path, config: PagesConfig, max_bytes: int, on_bytes: OnBytes) -> None:
        self.url = url
        self.path = path
        self.config = config
        self.note = path.with_suffix(".json")
        self.max_bytes = max_bytes
        self.on_bytes = on_bytes
        self.random = random.Random()

    async def run(self) -> None:
        network = Network.of(self.config, self.path.parent)
        self.client = Client(network)
        try:
            remote = await self._look()
            if remote.n_bytes is None:
                await self._whole(remote)
            else:
                await self._pieces(remote, remote.n_bytes)
        finally:
            await self.client.close()

    async def _look(self) -> _Remote:
        """Ask for one byte, to learn whether ranges are served, the length of the file, and its version."""
        url = self.url
        for _ in range(_MAX_REDIRECTS + 1):
            with await self._get(url, "bytes=0-0", lambda status, _: status == 206, _limits(1), 60.0) as answer:
                if answer.http_status in REDIRECTS:
                    target = resolve_redirect(url, answer.headers.get("Location", ""))
                    if target is None:
                        raise InputError(f"{self.url}: redirects to nowhere; check the address")
                    url = target
                    continue
                version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                if answer.http_status == 200:
                    return _Remote(url, None, version)
                match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if answer.http_status != 206 or match is None:
                    raise InputError(f"{self.url}: answered {answer.http_status}; check the address")
                return _Remote(url, int(match[3]), version)
        raise InputError(f"{self.url}: more than {_MAX_REDIRECTS} redirects; check the address")

    async def _pieces(self, remote: _Remote, n_bytes: int) -> None:
        self._make_room(n_bytes)
        note = orjson.dumps({"url": self.url, "bytes": n_bytes, "version": remote.version})
        if not remote.version or not self.note.exists() or self.note.read_bytes() != note:
            self.path.unlink(missing_ok=True)
            self.note.write_bytes(note)
        with self.path.open("ab") as file:
            while (have := file.tell()) < n_bytes:
                last = min(have + PIECE_BYTES, n_bytes) - 1
                limits = _limits(last + 1 - have)
                wanted = f"bytes={have}-{last}"
                answer = await self._get(remote.url, wanted, lambda status, _: status == 206, limits, _PIECE_TIMEOUT_S)
                with answer:
                    body = answer.body.read() if answer.body is not None else b""
                    said = answer.headers.get("Content-Range", "")
                    if said != f"bytes {have}-{last}/{n_bytes}" or len(body) != last + 1 - have:
                        raise InputError(
                            f"{self.url}: answered {answer.http_status} {said!r} to a request for bytes {have}-{last} "
                            f"of {n_bytes}; run again, or download it yourself"
                        )
                    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                    if version != remote.version:
                        raise InputError(f"{self.url}: changed while it was downloaded; run again")
                    file.write(body)
                    file.flush()
                    self.on_bytes(last + 1, n_bytes)

    async def _whole(self, remote: _Remote) -> None:
        limits = _limits(min(WHOLE_BYTES, self.max_bytes))
        with await self._get(remote.url, None, lambda status, _: status == 200, limits, _PIECE_TIMEOUT_S) as answer:
            if answer.body is None:
                raise InputError(f"{self.url}: answered {answer.http_status}; check the address")
            body = answer.body.read()
            self.path.write_bytes(body)
            self.on_bytes(len(body), len(body))

    def _make_room(self, n_bytes: int) -> None:
        if n_bytes > self.max_bytes:
            raise InputError(f"{self.url}: {n_bytes:,} bytes, more than max_download_bytes {self.max_bytes:,}")
        have = self.path.stat().st_size if self.path.exists() else 0
        free = shutil.disk_usage(self.path.parent).free
        if n_bytes - have > free:
            raise InputError(
                f"{self.url}: {n_bytes - have:,} bytes are needed, {free:,} are free in {self.path.parent}; "
                "make room and run again"
            )

    async def _get(self, url: str, range_: str | None, wants: Wants, limits: Limits, timeout_s: float) -> Answer:
        """One exchange, repeated after failures that may pass. Raises InputError."""
        extra = {"Accept": "*/*", "Accept-Encoding": "identity"} | ({"Range": range_} if range_ else {})
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                answer = await self.client.get(url, timeout_s=timeout_s, wants=wants, limits=limits, extra=extra)
            except FetchError as error:
                if error.status not in TRANSIENT:
                    raise InputError(f"{self.url}: {error.status} ({error.reason})") from error
                problem = f"{error.status} ({error.reason})"
            else:
                if answer.http_status != 429 and answer.http_status < 500:
                    return answer
                with answer:
                    problem = f"answered {answer.http_status}"
            if attempt < MAX_ATTEMPTS:
                await asyncio.sleep(backoff_s(attempt, self.config, self.random))
        raise InputError(f"{self.url}: {problem}, {MAX_ATTEMPTS} times; run the same command again later to go on")


def _limits(n_bytes: int) -> Limits:
    """For a body of this many bytes; the wire may carry a little more, for the framing of chunks."""
    return Limits(n_bytes + n_bytes // 8 + 4_096, n_bytes)
