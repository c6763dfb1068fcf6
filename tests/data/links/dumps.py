"""Dumps of submissions, their compressions, and the links read from them."""

import bz2
import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import zstandard

from data.config import LinksConfig
from data.lake.manifest import Manifest
from data.lake.store import Lake
from data.links import stage as links

CONFIG = LinksConfig()


def post(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A submission as in Reddit's dumps. None makes a field null, ``...`` removes it."""
    row = {
        "id": f"id{number}",
        "created_utc": 1_500_000_000 + number,
        "retrieved_on": 1_510_000_000,
        "subreddit": "news",
        "domain": f"site{number}.example",
        "url": f"https://www.site{number}.example/story",
        "score": 10,
        "is_self": False,
        "over_18": False,
    } | fields
    return {name: value for name, value in row.items() if value is not ...}


def item(**fields: Any) -> dict[str, Any]:
    """A story as in dumps of Hacker News. None makes a field null, ``...`` removes it."""
    row = {
        "id": 8863,
        "type": "story",
        "by": "someone",
        "time": 1_175_714_200,
        "title": "A story",
        "score": 111,
        "url": "http://a.example/",
    } | fields
    return {name: value for name, value in row.items() if value is not ...}


def ndjson(rows: Sequence[dict[str, Any] | bytes]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows)


def dump(path: Path, rows: Sequence[dict[str, Any] | bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ndjson(rows))
    return str(path)


def build(lake: Path, specs: Sequence[str | Path], config: LinksConfig = CONFIG, **options: Any) -> Manifest:
    return links.run(Lake(lake), "demo", [str(spec) for spec in specs], config, **options).manifest


def rows_of(lake: Path) -> list[dict[str, Any]]:
    dataset = Lake(lake).dataset("links", "demo")
    names = [part.name for part in dataset.require().parts if part.name.startswith("part-")]
    return [row for name in names for row in dataset.read(f"{name}.parquet").to_pylist()]


def one_link(tmp_path: Path, rows: Sequence[dict[str, Any]], config: LinksConfig = CONFIG) -> dict[str, Any]:
    build(tmp_path / "lake", [dump(tmp_path / "dump.ndjson", rows)], config)
    (row,) = rows_of(tmp_path / "lake")
    return row


def zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(body)


COMPRESSORS = {".zst": zstd, ".xz": lzma.compress, ".bz2": bz2.compress, ".gz": gzip.compress, ".ndjson": bytes}
