"""``webtext why URL``: what became of one URL, stage by stage."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from data.errors import InputError
from data.lake.manifest import SPLITS
from data.lake.store import Dataset, Lake, base_snapshot
from data.links.stage import find_link
from data.urls import canonical as urls

_STAGE_FIELDS = {
    "links": ("status", "reason", "karma", "karma_sum", "submission_ids", "subreddits"),
    "pages": ("status", "reason", "http_status", "final_url", "warc_file", "warc_offset"),
    "text": ("status", "reason", "doc_id", "language", "language_score", "n_words", "title"),
}


def why(lake: Lake, url: str) -> list[dict[str, Any]]:
    """One entry per snapshot that knows the URL: ``{"snapshot", "stages": {stage: {field: value}}}``.

    Raises InputError for a URL that cannot be a link.
    """
    try:
        canonical = urls.canonical_url(url)
    except ValueError as error:
        raise InputError(f"{url}: {error}") from error
    found = []
    for snapshot in lake.snapshots("links"):
        stages = _base_stages(lake, snapshot, canonical)
        if not stages:
            continue
        variants = [name for name in lake.snapshots("select") if base_snapshot(name) == snapshot]
        doc_id = stages.get("text", {}).get("doc_id")
        for variant in variants or [snapshot]:
            later = _later_stages(lake, variant, doc_id) if variant in variants and doc_id is not None else {}
            found.append({"snapshot": variant, "canonical_url": canonical, "stages": {**stages, **later}})
    return found


def _base_stages(lake: Lake, snapshot: str, canonical: str) -> dict[str, dict[str, Any]]:
    stages = {}
    for stage, fields in _STAGE_FIELDS.items():
        dataset = lake.dataset(stage, snapshot)
        if stage == "links":
            row = find_link(lake, snapshot, canonical)
        else:
            row = _find(dataset, "url" if stage == "text" else "canonical_url", canonical)
        if row is None:
            break
        stages[stage] = {name: _plain(row[name]) for name in fields}
    return stages


def _later_stages(lake: Lake, snapshot: str, doc_id: str) -> dict[str, dict[str, Any]]:
    identity = bytes.fromhex(doc_id)
    verdict = _find(lake.dataset("select", snapshot), "doc_id", identity)
    if verdict is None:
        return {}
    stages: dict[str, dict[str, Any]] = {"select": {"status": verdict["status"], "reason": verdict["reason"]}}
    if verdict["duplicate_of"] is not None:
        stages["select"]["duplicate_of"] = _plain(verdict["duplicate_of"])
        stages["select"]["duplicate_of_url"] = _url_of(lake, verdict["duplicate_of"])
    tokens = lake.dataset("tokens", snapshot)
    for split in SPLITS:
        row = _find(tokens, "doc_id", identity, within=split)
        if row is not None:
            stages["tokens"] = {"status": "ok", "split": split, "n_tokens": row["n_tokens"]}
    return stages


def _find(dataset: Dataset, column: str, value: str | bytes, within: str = "part-") -> dict[str, Any] | None:
    """The first row whose column has the value, among the Parquet files whose path starts with ``within``."""
    manifest = dataset.manifest()
    if manifest is None:
        return None
    for part in manifest.parts:
        for file in part.files:
            if file.path.startswith(within) and file.path.endswith(".parquet") and file.rows:
                keys = dataset.read(file.path, columns=[column])
                index = pc.index(keys[column], value).as_py()
                if index >= 0:
                    row: dict[str, Any] = dataset.read(file.path).slice(index, 1).to_pylist()[0]
                    return row
    return None


def _url_of(lake: Lake, doc_id: bytes) -> str | None:
    for snapshot in lake.snapshots("text"):
        row = _find(lake.dataset("text", snapshot), "doc_id", doc_id)
        if row is not None:
            return str(row["url"])
    return None


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
