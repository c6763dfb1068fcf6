"""Pages that earlier refreshes fetched. The crawl requests them again with their ETag and Last-Modified.

A part reads only those parts of an earlier snapshot that share its registrable domains: every snapshot divides links by
a hash of the domain, so part k of n covers a range of hashes. The latest snapshot that has a page counts.

Memory: about 0.5 kB per known page of the part's domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.lake.manifest import Manifest
from data.lake.names import base_snapshot, parse_part_name
from data.lake.store import Dataset, Lake
from data.pages.answers import Known
from data.schema import PageStatus

COLUMNS = [
    *("final_url", "domain", "status", "archive", "etag", "last_modified"),
    *("payload_digest", "content_type", "warc_file", "warc_offset", "fetched_at"),
]


def earlier_pages(lake: Lake, snapshot: str, history: Sequence[str] | None) -> list[Manifest]:
    """The pages datasets of earlier snapshots whose pages are requested with conditions, sorted by name.

    ``history`` names snapshots or their variants; those without pages in the lake are ignored. None means all published
    ones. Once the dataset is begun, the snapshots recorded then count instead.
    """
    begun = lake.dataset("pages", snapshot).begun()
    if begun is not None:
        names = [key.removeprefix("known:") for key in begun["inputs"] if key.startswith("known:")]
    else:
        names = lake.snapshots("pages") if history is None else [base_snapshot(name) for name in history]
    manifests = (lake.dataset("pages", name).manifest() for name in sorted(set(names)) if name != snapshot)
    return [manifest for manifest in manifests if manifest is not None]


def known_pages(lake: Lake, snapshots: Sequence[str], domains: set[str], index: int, n_parts: int) -> dict[str, Known]:
    """Known pages of the domains of part ``index`` of ``n_parts``, by their final URL."""
    found: dict[str, Known] = {}
    wanted = pa.array(sorted(domains), pa.string())
    for snapshot in snapshots:
        dataset = lake.dataset("pages", snapshot)
        for name in _overlapping(dataset.require(), index, n_parts):
            table = dataset.read(f"{name}.parquet", COLUMNS)
            is_known = pc.and_(pc.equal(table["status"], str(PageStatus.OK)), pc.is_null(table["archive"]))
            has_tag = pc.or_(pc.is_valid(table["etag"]), pc.is_valid(table["last_modified"]))
            is_ours = pc.is_in(table["domain"], value_set=wanted)
            for row in table.filter(pc.and_(pc.and_(is_known, has_tag), is_ours)).to_pylist():
                found[row["final_url"]] = _known(row, dataset)
    return found


def _known(row: dict[str, Any], dataset: Dataset) -> Known:
    file = row["warc_file"]
    return Known(
        row["etag"],
        row["last_modified"],
        row["payload_digest"],
        row["content_type"],
        file if "/" in file else f"{dataset.snapshot}/{file}",
        row["warc_offset"],
        round(row["fetched_at"].timestamp() * 1000),
    )


def _overlapping(manifest: Manifest, index: int, n_parts: int) -> list[str]:
    """Names of the parts, of any round, that share hashes with part ``index`` of ``n_parts``."""
    rounds: dict[int, list[str]] = {}
    for part in manifest.parts:
        rounds.setdefault(parse_part_name(part.name)[0], []).append(part.name)
    return [
        name
        for names in rounds.values()
        for k, name in enumerate(sorted(names))
        if k * n_parts < (index + 1) * len(names) and index * len(names) < (k + 1) * n_parts
    ]
