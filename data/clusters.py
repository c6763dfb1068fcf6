"""Clusters of duplicates: a kept document and all that select dropped in one snapshot because of it.

People vote up few copies of one text. A large cluster is mostly a page that many sites serve in place of the article: a
cookie wall, an error, a login. So a cluster of ``LARGE`` copies or more comes with what its members have in common.

Memory: 40 bytes per duplicate of the snapshot. Cost: two columns of select and two of text, one part at a time, and
``SAMPLE`` texts per large cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.documents import SHINGLED, Place, judged_by, keeper_of, shingle_set
from data.lake.manifest import Manifest
from data.lake.names import base_snapshot
from data.lake.store import Lake

LISTED = 10  # clusters, the largest
LARGE = 100  # copies; chosen, not measured: in the demo no document has more than one
SAMPLE = 20  # members whose texts are compared, evenly spaced over the snapshot
EXAMPLES = 3  # members, domains and lines that are named


@dataclass(frozen=True)
class SharedText:
    """What every sampled member of a cluster has."""

    sampled: int
    shingle_share: float  # of the first member's shingles, the share that all have
    n_lines: int  # lines that all have, blank ones left out
    lines: list[str]  # the longest of them


@dataclass(frozen=True)
class Cluster:
    """A kept document, and its copies in one snapshot."""

    doc_id: str
    kept_by: str | None  # the snapshot; None if the lake no longer has it
    url: str | None
    copies: int  # without the kept document
    n_domains: int
    domains: list[tuple[str, int]]  # of the copies, the most frequent
    examples: list[str]  # URLs of copies
    shared: SharedText | None  # of a large cluster


@dataclass
class _Members:
    """What is collected about a cluster while the parts are read."""

    copies: int
    seen: int = 0
    domains: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    sample: list[Place] = field(default_factory=list)

    def add(self, place: Place, url: str, domain: str) -> None:
        self.domains[domain] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(url)
        if self.copies >= LARGE and self.seen * SAMPLE % self.copies < SAMPLE:
            self.sample.append(place)
        self.seen += 1


def largest_clusters(lake: Lake, snapshot: str) -> list[Cluster]:
    """The largest clusters of a published select dataset, the largest first, then in the order of doc_id."""
    manifest = lake.dataset("select", snapshot).require()
    members = {doc_id: _Members(copies) for doc_id, copies in _largest(lake, manifest)}
    wanted = pa.array(list(members), pa.binary(16))
    text = lake.dataset("text", base_snapshot(snapshot))
    for file, column in _duplicate_of(lake, manifest):
        rows = np.flatnonzero(pc.is_in(column, value_set=wanted))
        if not len(rows):
            continue
        about = text.read(file, ["url", "domain"]).take(rows)
        kept = column.take(rows).to_pylist()
        for row, doc_id, url, domain in zip(rows.tolist(), kept, *about.to_pydict().values(), strict=True):
            members[doc_id].add(Place(text, file, row), url, domain)
    return [_cluster(lake, manifest, doc_id, found) for doc_id, found in members.items()]


def warning(snapshot: str, cluster: Cluster) -> str | None:
    """What is suspicious about a large cluster, and what to do; None for another."""
    shared = cluster.shared
    if shared is None:
        return None
    domains = ", ".join(f"{name} {count:,}" for name, count in cluster.domains)
    example = f", such as {shared.lines[0]!r}" if shared.lines else ""
    return (
        f"select/{snapshot}: {cluster.copies:,} documents were dropped as copies of {cluster.url or cluster.doc_id}, "
        f"from {cluster.n_domains:,} domains ({domains}); the {shared.sampled} that were compared share "
        f"{shared.shingle_share:.0%} of their text and {shared.n_lines:,} lines{example}; "
        f"`webtext duplicates {cluster.doc_id}` shows the one that was kept"
    )


def _duplicate_of(lake: Lake, manifest: Manifest) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """File and column of each part with verdicts."""
    dataset = lake.dataset("select", manifest.snapshot)
    for part in manifest.parts:
        for file in part.files:
            if file.path == f"{part.name}.parquet" and file.rows:
                yield file.path, dataset.read(file.path, ["duplicate_of"])["duplicate_of"]


def _largest(lake: Lake, manifest: Manifest) -> list[tuple[bytes, int]]:
    """Kept documents with the most copies, and how many."""
    chunks = [
        chunk for _, column in _duplicate_of(lake, manifest) for chunk in pc.drop_null(column).chunks if len(chunk)
    ]
    if not chunks:
        return []
    counted = pc.value_counts(pa.chunked_array(chunks, pa.binary(16)))
    table = pa.table({"doc_id": counted.field("values").cast(pa.binary()), "copies": counted.field("counts")})
    order = pc.select_k_unstable(table, LISTED, sort_keys=[("copies", "descending"), ("doc_id", "ascending")])
    largest = table.take(order).to_pydict()
    return list(zip(largest["doc_id"], largest["copies"], strict=True))


def _cluster(lake: Lake, manifest: Manifest, doc_id: bytes, members: _Members) -> Cluster:
    keeper = keeper_of(lake, manifest.snapshot, doc_id)
    compared = [keeper[1], *members.sample] if keeper else members.sample
    return Cluster(
        doc_id.hex(),
        keeper[0] if keeper else None,
        keeper[1].read("url")["url"] if keeper else None,
        members.copies,
        len(members.domains),
        members.domains.most_common(EXAMPLES),
        members.examples,
        _shared(compared, judged_by(lake, manifest.snapshot)) if members.sample else None,
    )


def _shared(places: list[Place], manifest: Manifest) -> SharedText:
    first, *others = (place.read(*SHINGLED) for place in places)
    whole = shingle_set(first, manifest.settings)
    shingles = whole
    lines = _lines(first["text"])
    for other in others:
        shingles = np.intersect1d(shingles, shingle_set(other, manifest.settings), assume_unique=True)
        lines &= _lines(other["text"])
    longest = sorted(lines, key=lambda line: (-len(line), line))
    return SharedText(len(places), len(shingles) / len(whole), len(lines), [line[:200] for line in longest[:EXAMPLES]])


def _lines(text: str) -> set[str]:
    return {line for line in map(str.strip, text.splitlines()) if line}
