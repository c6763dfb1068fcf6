"""The material of benchmarks/data.py: pages as WARC files in a pages dataset, and documents in a text dataset."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from fastwarc.warc import WarcRecord, WarcRecordType

from data.config import PagesConfig, TextConfig, content_settings
from data.lake.names import part_name
from data.lake.store import Lake, write_parquet
from data.schema import PAGES, TEXT, PageStatus, TextStatus
from data.text import signals
from data.text.stage import document_id
from data.urls.canonical import canonical_url, domain_of
from data.warc import WarcWriter, payload_digest
from flows.localweb.build import build
from flows.localweb.prose import plain

SNAPSHOT = "bench"
_AT = datetime(2026, 11, 1, tzinfo=UTC)
_RUN = 12  # words in a row that a made document takes from one place: its bigrams are real, its 5-grams mostly its own
_EXACT, _NEAR = 0.04, 0.03  # shares of documents that copy an earlier one, about as in the demo


@dataclass(frozen=True)
class RawPage:
    """A page as the crawl received it."""

    url: str
    content_type: str
    body: bytes


class TypedWarcWriter(WarcWriter):
    """Names the media type of each page, as Common Crawl does; datatrove guesses it otherwise and drops many pages."""

    def _exchange(self, kind: WarcRecordType, url: str, date: str) -> WarcRecord:
        record = super()._exchange(kind, url, date)
        if kind is WarcRecordType.response:
            record.headers["WARC-Identified-Payload-Type"] = "text/html"
        return record


def local_pages(home: Path) -> list[RawPage]:
    """The pages of the demo's local web that have an article."""
    site = build(home).site
    urls = [url for url, route in site.routes.items() if route.article >= 0 and route.answer in ("page", "copy")]
    return [RawPage(url, site.routes[url].content_type, site.html(url)) for url in urls]


def handed_pages(folder: Path) -> list[RawPage]:
    """Real pages from a folder with ``html/*.html.gz`` and their URLs in ground-truth.json or gold.jsonl.gz."""
    if (folder / "ground-truth.json").is_file():
        urls = {name: page["url"] for name, page in json.loads((folder / "ground-truth.json").read_text()).items()}
    else:
        lines = gzip.decompress((folder / "gold.jsonl.gz").read_bytes()).splitlines()
        urls = {page["id"]: page["url"] for page in map(json.loads, lines)}
    pages = []
    for name, url in urls.items():
        body = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
        pages.append(RawPage(url or f"http://{name}.example/", "text/html", body))  # one page has no URL
    return pages


def write_pages(root: Path, pages: Iterable[RawPage], n_parts: int) -> int:
    """A lake with a pages dataset of ``n_parts`` parts and WARC files. Returns the number of pages, once per URL."""
    by_url = {canonical_url(page.url): page for page in pages}
    lake = Lake(root)
    dataset = lake.dataset("pages", SNAPSHOT)
    dataset.begin(content_settings(PagesConfig()), {})
    urls = sorted(by_url, key=lambda url: hashlib.sha256(url.encode()).digest())
    for number in range(n_parts):
        _write_part(lake, part_name(number), {url: by_url[url] for url in sorted(urls[number::n_parts])})
    dataset.finish([part_name(number) for number in range(n_parts)], {}, 0.0)
    return len(by_url)


def _write_part(lake: Lake, name: str, pages: dict[str, RawPage]) -> None:
    warc = f"{name}.warc.gz"
    rows = []
    with lake.scratch() as folder:
        with (folder / warc).open("wb") as file:
            writer = TypedWarcWriter(file, warc, {"software": "webtext benchmarks"})
            for url, page in pages.items():
                response = (b"HTTP/1.1 200 OK", [(b"Content-Type", page.content_type.encode())])
                sha1 = hashlib.sha1(page.body, usedforsecurity=False).digest()
                offset = writer.write_page(url, _AT, (b"GET / HTTP/1.1", []), response, page.body, sha1)
                row = {
                    "canonical_url": url,
                    "final_url": url,
                    "status": str(PageStatus.OK),
                    "http_status": 200,
                    "payload_digest": payload_digest(sha1),
                    "content_type": page.content_type,
                    "warc_file": warc,
                    "warc_offset": offset,
                    "fetched_at": _AT,
                    "domain": domain_of(url),
                    "karma": 5,
                }
                rows.append(dict.fromkeys(PAGES.names) | row)
        table = pa.Table.from_pylist(rows, schema=PAGES)
        write_parquet(table, folder / "rows")
        files = {f"{name}.parquet": folder / "rows", warc: folder / warc}
        counts = {str(PageStatus.OK): len(rows)}
        lake.dataset("pages", SNAPSHOT).seal(name, files, table, counts=counts, rows={f"{name}.parquet": len(rows)})


def local_articles(home: Path) -> list[str]:
    """The English articles of the demo's local web."""
    return [plain(article.blocks) for article in build(home).site.articles if article.language == "en"]


def write_documents(root: Path, texts: list[str], n: int, part_documents: int) -> int:
    """A lake with a text dataset of ``n`` English documents as long as these texts. Returns the number of words.

    Each consists of runs of words of the texts. Some copy an earlier one, with or without changed words.
    """
    lengths = [len(text.split()) for text in texts]
    words = " ".join(texts).split()
    rng = random.Random(n)
    lake = Lake(root)
    dataset = lake.dataset("text", SNAPSHOT)
    dataset.begin(content_settings(TextConfig()), {})
    names = [part_name(number) for number in range(-(-n // part_documents))]
    n_words = 0
    recent: list[list[str]] = []  # documents that may be copied
    for number, name in enumerate(names):
        rows = []
        for k in range(number * part_documents, min(n, (number + 1) * part_documents)):
            document = _document(words, lengths, recent, rng)
            n_words += len(document)
            rows.append((f"http://site{k % 9973}.example/{k}", document))
            if len(recent) < 10_000:
                recent.append(document)
            elif rng.random() < 0.05:
                recent[rng.randrange(len(recent))] = document
        _seal_documents(lake, name, rows)
    dataset.finish(names, {}, 0.0)
    return n_words


def _document(words: list[str], lengths: list[int], recent: list[list[str]], rng: random.Random) -> list[str]:
    kind = rng.random()
    if recent and kind < _EXACT + _NEAR:
        document = list(rng.choice(recent))
        for _ in range(0 if kind < _EXACT else max(1, len(document) // 200)):
            document[rng.randrange(len(document))] = "changed"
        return document
    document = []
    for _ in range(-(-rng.choice(lengths) // _RUN)):
        start = rng.randrange(len(words) - _RUN)
        document += words[start : start + _RUN]
    return document


def _seal_documents(lake: Lake, name: str, rows: list[tuple[str, list[str]]]) -> None:
    texts = [" ".join(document) for _, document in rows]
    urls = [url for url, _ in rows]
    columns: dict[str, list[object] | np.ndarray] = {field: [None] * len(rows) for field in TEXT.names}
    # One text stands for all: their signals are alike, and measuring them would take longer than the benchmark.
    columns |= {field: [value] * len(rows) for field, value in signals.measure(texts[0])._asdict().items()}
    columns |= {
        "doc_id": [document_id(url, text) for url, text in zip(urls, texts, strict=True)],
        "url": list(urls),
        "domain": list(map(domain_of, urls)),
        "karma": [5] * len(rows),
        "language": ["en"] * len(rows),
        "language_score": [0.99] * len(rows),
        "status": [str(TextStatus.OK)] * len(rows),
        "text": list(texts),
        "n_chars": list(map(len, texts)),
        "n_words": [len(document) for _, document in rows],
    }
    table = pa.table([pa.array(columns[field.name], field.type) for field in TEXT], schema=TEXT)
    with lake.scratch() as folder:
        write_parquet(table, folder / "rows")
        file = f"{name}.parquet"
        counts = {str(TextStatus.OK): len(rows)}
        lake.dataset("text", SNAPSHOT).seal(name, {file: folder / "rows"}, table, counts=counts, rows={file: len(rows)})


def pages_of(folders: list[Path], home: Path) -> Iterator[RawPage]:
    """The pages of the folders, or without one the local web's."""
    if not folders:
        yield from local_pages(home)
    for folder in folders:
        yield from handed_pages(folder)
