"""``webtext duplicates DOC_OR_URL``: why a document was dropped, with the kept one beside it, or what it displaced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.documents import SHINGLED, Place, compared_with, judged_by, keeper_of, places, shingle_set
from data.errors import InputError
from data.lake.names import base_snapshot
from data.lake.store import Lake
from data.schema import SelectStatus
from data.select.shingles import U64, jaccard
from data.urls.canonical import canonical_url

LISTED = 20  # displaced documents that are named; the others are counted

_HEX = re.compile("[0-9a-fA-F]+")
_DOC_ID = re.compile("[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class KeptDocument:
    """The document that was kept instead of another, and how similar the two are."""

    snapshot: str  # of select; it may be an earlier one
    doc_id: str
    url: str
    karma: int | None
    text: str
    jaccard: float  # of the two sets of shingles, exact


@dataclass(frozen=True)
class DisplacedDocument:
    """A document that was dropped because of another."""

    snapshot: str
    doc_id: str
    url: str
    status: str
    reason: str | None


@dataclass(frozen=True)
class JudgedDocument:
    """A document and what select made of it in one snapshot or variant."""

    snapshot: str
    doc_id: str
    url: str
    karma: int | None
    status: str
    reason: str | None
    ngram: int  # of its shingles
    text: str | None
    kept: KeptDocument | None  # for a duplicate; None also if the lake no longer has the snapshot that kept it
    displaced: list[DisplacedDocument]  # the first LISTED, in this snapshot and later ones
    n_displaced: int


@dataclass(frozen=True)
class DuplicatesFound:
    """Every judgement on the documents that were asked for."""

    asked: str
    documents: list[JudgedDocument]
    not_judged: list[str]  # snapshots with the document whose select is not published


def duplicates_of(lake: Lake, asked: str) -> DuplicatesFound:
    """What select made of a document, by its ``doc_id`` in hexadecimal, or of all documents of a URL in any spelling.

    Reads single columns of text and select, and the text of two documents for each judgement: about half a second in a
    lake of a million documents.

    Raises InputError if ``asked`` is neither, if no snapshot has the document, or if none that has it was judged.
    """
    column, value = _key(asked)
    bases = lake.snapshots("text")
    found = [(base, place) for base in bases for place in places(lake.dataset("text", base), column, value)]
    if not found:
        hint = "" if column == "doc_id" else "; `webtext why URL` shows what became of a link"
        raise InputError(f"{asked}: no such document in the text of {', '.join(bases) or lake.root}{hint}")
    variants: dict[str, list[str]] = {}
    for name in lake.snapshots("select"):
        variants.setdefault(base_snapshot(name), []).append(name)
    not_judged = sorted({base for base, _ in found if base not in variants})
    documents = [_judged(lake, name, place) for base, place in found for name in variants.get(base, ())]
    if not documents:
        raise InputError(
            f"{asked}: select/{not_judged[0]} is not published, so the document was not judged yet; "
            f"run `webtext refresh --snapshot {not_judged[0]}` to its end"
        )
    return DuplicatesFound(asked, documents, not_judged)


def _key(asked: str) -> tuple[str, str | bytes]:
    """The column of text to look in, and its value."""
    if _DOC_ID.fullmatch(asked):
        return "doc_id", bytes.fromhex(asked)
    if _HEX.fullmatch(asked):
        raise InputError(f"{asked}: a doc_id has 32 hexadecimal digits, got {len(asked)}")
    try:
        return "url", canonical_url(asked)
    except ValueError as error:
        raise InputError(f"{asked}: neither a doc_id (32 hexadecimal digits) nor a URL: {error}") from error


def _judged(lake: Lake, name: str, place: Place) -> JudgedDocument:
    document = place.read("doc_id", "url", "karma", *SHINGLED)
    verdict_place = place.of("select", name)
    verdict = verdict_place.read("doc_id", "status", "reason", "duplicate_of")
    if verdict["doc_id"] != document["doc_id"]:
        raise InputError(
            f"{verdict_place.dataset.label} {place.file} does not match the rows of {place.dataset.label}: "
            "remove it and run again"
        )
    settings = judged_by(lake, name).settings
    displaced = _displaced(lake, name, document["doc_id"]) if verdict["status"] == SelectStatus.OK else iter(())
    listed: list[DisplacedDocument] = []
    n_displaced = 0
    for snapshot, other in displaced:
        n_displaced += 1
        if len(listed) < LISTED:
            listed.append(_displaced_document(snapshot, other))
    kept = None
    if verdict["duplicate_of"] is not None:
        kept = _kept(lake, name, verdict["duplicate_of"], shingle_set(document, settings), settings)
    return JudgedDocument(
        name,
        document["doc_id"].hex(),
        document["url"],
        document["karma"],
        verdict["status"],
        verdict["reason"],
        settings["ngram"],
        document["text"],
        kept,
        listed,
        n_displaced,
    )


def _kept(lake: Lake, name: str, doc_id: bytes, ours: U64, settings: dict[str, Any]) -> KeptDocument | None:
    keeper = keeper_of(lake, name, doc_id)
    if keeper is None:
        return None
    snapshot, place = keeper
    row = place.read("url", "karma", *SHINGLED)
    theirs = shingle_set(row, settings)
    return KeptDocument(snapshot, doc_id.hex(), row["url"], row["karma"], row["text"], jaccard(ours, theirs))


def _displaced(lake: Lake, name: str, doc_id: bytes) -> Iterator[tuple[str, Place]]:
    """The select snapshot and the verdict of each document that a kept one displaced."""
    for other in lake.snapshots("select"):
        is_later = judged_by(lake, other).snapshot == other and name in compared_with(lake, other)
        if other == name or is_later:
            for place in places(lake.dataset("select", other), "duplicate_of", doc_id):
                yield other, place


def _displaced_document(snapshot: str, place: Place) -> DisplacedDocument:
    verdict: dict[str, Any] = place.read("doc_id", "status", "reason")
    url = place.of("text", base_snapshot(snapshot)).read("url")["url"]
    return DisplacedDocument(snapshot, verdict["doc_id"].hex(), url, verdict["status"], verdict["reason"])
