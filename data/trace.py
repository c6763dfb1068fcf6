"""``webtext why URL``: what became of one URL, stage by stage."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from data.documents import find, keeper_of
from data.lake.manifest import SPLITS
from data.lake.names import base_snapshot
from data.lake.store import Lake
from data.links.stage import find_link
from data.schema import LinkStatus
from data.urls import canonical as urls

_STAGE_FIELDS = {
    "links": ("status", "reason", "karma", "karma_sum", "submission_ids", "subreddits"),
    "pages": ("status", "reason", "http_status", "final_url", "warc_file", "warc_offset"),
    "text": ("status", "reason", "doc_id", "language", "language_score", "n_words", "title"),
}


def why(lake: Lake, url: str) -> list[dict[str, Any]]:
    """One entry per snapshot that knows the URL: ``{"snapshot", "canonical_url", "stages": {stage: {field: value}}}``.

    A link that was redirected to the URL has an entry too, with the URL under ``"redirected_to"``.

    Raises ValueError for a URL that cannot be a link.
    """
    canonical = urls.canonical_url(url)
    found = []
    for snapshot in lake.snapshots("links"):
        found += _entries(lake, snapshot, canonical, {})
        for link in _redirected_to(lake, snapshot, canonical):
            found += _entries(lake, snapshot, link, {"redirected_to": canonical})
    return found


def uncounted(lake: Lake, *statuses: LinkStatus) -> dict[str, int]:
    """Per snapshot, how many lines of its sources have one of these statuses of lines that leave no row."""
    manifests = [lake.dataset("links", snapshot).require() for snapshot in lake.snapshots("links")]
    counts = {m.snapshot: sum(m.counts.get(str(status), 0) for status in statuses) for m in manifests}
    return {snapshot: n for snapshot, n in counts.items() if n}


def _entries(lake: Lake, snapshot: str, canonical: str, extra: dict[str, str]) -> list[dict[str, Any]]:
    """The entries of a link: one per variant of the snapshot; none if the snapshot has no such link."""
    stages = _base_stages(lake, snapshot, canonical)
    if not stages:
        return []
    variants = [name for name in lake.snapshots("select") if base_snapshot(name) == snapshot]
    doc_id = stages.get("text", {}).get("doc_id")
    found = []
    for variant in variants or [snapshot]:
        later = _later_stages(lake, variant, doc_id) if variant in variants and doc_id is not None else {}
        found.append({"snapshot": variant, "canonical_url": canonical, **extra, "stages": {**stages, **later}})
    return found


def _redirected_to(lake: Lake, snapshot: str, canonical: str) -> list[str]:
    """The links of a snapshot that ended at another URL, which is this one in its canonical spelling."""
    pages = lake.dataset("pages", snapshot)
    manifest = pages.manifest()
    if manifest is None:
        return []
    domain = urls.domain_of(canonical)
    links = []
    for part in manifest.parts:
        for file in part.files:
            if not (file.path.startswith("part-") and file.path.endswith(".parquet") and file.rows):
                continue
            table = pages.read(file.path, columns=["canonical_url", "final_url"])
            moved = pc.not_equal(table["canonical_url"], table["final_url"])
            table = table.filter(pc.and_(moved, pc.match_substring(table["final_url"], domain)))
            links += [
                row["canonical_url"]
                for row in table.to_pylist()
                if row["canonical_url"] != canonical and _is_spelling_of(row["final_url"], canonical)
            ]
    return sorted(links)


def _is_spelling_of(url: str, canonical: str) -> bool:
    try:
        return urls.canonical_url(url) == canonical
    except ValueError:  # it has credentials, or is longer than a link may be
        return False


def _base_stages(lake: Lake, snapshot: str, canonical: str) -> dict[str, dict[str, Any]]:
    stages = {}
    for stage, fields in _STAGE_FIELDS.items():
        dataset = lake.dataset(stage, snapshot)
        if stage == "links":
            row = find_link(lake, snapshot, canonical)
        else:
            place = find(dataset, "url" if stage == "text" else "canonical_url", canonical)
            row = None if place is None else place.read(*fields)
        if row is None:
            break
        stages[stage] = {name: _plain(row[name]) for name in fields}
    return stages


def _later_stages(lake: Lake, snapshot: str, doc_id: str) -> dict[str, dict[str, Any]]:
    identity = bytes.fromhex(doc_id)
    place = find(lake.dataset("select", snapshot), "doc_id", identity)
    if place is None:
        return {}
    verdict = place.read("status", "reason", "duplicate_of")
    stages: dict[str, dict[str, Any]] = {"select": {"status": verdict["status"], "reason": verdict["reason"]}}
    if verdict["duplicate_of"] is not None:
        stages["select"]["duplicate_of"] = _plain(verdict["duplicate_of"])
        keeper = keeper_of(lake, snapshot, verdict["duplicate_of"])
        stages["select"]["duplicate_of_url"] = keeper and keeper[1].read("url")["url"]
        stages["select"]["duplicate_of_snapshot"] = keeper and keeper[0]
    for split in SPLITS:
        place = find(lake.dataset("tokens", snapshot), "doc_id", identity, within=split)
        if place is not None:
            stages["tokens"] = {"status": "ok", "split": split, **place.read("n_tokens")}
    return stages


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
