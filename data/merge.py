"""Submissions of one canonical URL become one link: its karma, who posted it where, and whether it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from data.config import LinksConfig
from data.schema import LINKS, LinkStatus
from data.urls import blocked_by

_BATCH = 10_000  # rows that are Python objects at once

Row = dict[str, Any]


def merged_links(submissions: pa.Table, config: LinksConfig) -> pa.Table:
    """Rows of schema.LINKS, one per canonical URL, sorted by it. The order of the submissions does not matter."""
    by_url = groupby(_rows(submissions.sort_by("canonical_url")), key=itemgetter("canonical_url"))
    tables, links = [LINKS.empty_table()], []
    for canonical_url, group in by_url:
        links.append(_link(canonical_url, group, config))
        if len(links) == _BATCH:
            tables.append(pa.Table.from_pylist(links, LINKS))
            links = []
    return pa.concat_tables([*tables, pa.Table.from_pylist(links, LINKS)])


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _link(canonical_url: str, group: Iterable[Row], config: LinksConfig) -> Row:
    """``karma`` is the highest score. ``karma_sum`` counts a submission that stands in several dumps once.

    ``url``, ``source`` and ``score_observed_at`` are those of the submission with the highest score.
    """
    rows = sorted(group, key=_rank)
    best = rows[0]
    scores: dict[object, int] = {}
    for number, row in enumerate(rows):
        if row["score"] is not None:
            scores.setdefault(number if row["id"] is None else (row["site"], row["id"]), row["score"])
    status, reason = _status(canonical_url, best["score"], any(row["is_listed"] for row in rows), config)
    return {
        "url": best["url"],
        "canonical_url": canonical_url,
        "domain": best["domain"],
        "source": best["source"],
        "karma": best["score"],
        "karma_sum": sum(scores.values()) if scores else None,
        "submission_ids": sorted({row["id"] for row in rows if row["id"] is not None}),
        "subreddits": sorted({row["subreddit"] for row in rows if row["subreddit"] is not None}),
        "submitted_at": min((row["created"] for row in rows if row["created"] is not None), default=None),
        "score_observed_at": best["observed_at"],
        "status": str(status),
        "reason": reason,
    }


def _rank(row: Row) -> tuple[Any, ...]:
    """Highest score first, then the latest look at it, then names: a total order up to equal rows."""
    score, observed, created = row["score"], row["observed_at"], row["created"]
    return (
        score is None,
        -(score or 0),
        -(observed.timestamp() if observed else 0.0),
        created.timestamp() if created else 0.0,
        row["id"] or "",
        row["url"],
        row["source"],
    )


def _status(canonical_url: str, karma: int | None, is_listed: bool, config: LinksConfig) -> tuple[LinkStatus, str]:
    """A URL list has no votes: its URLs count as voted up, whatever a dump says of them."""
    blocked = blocked_by(canonical_url, config)
    if blocked is not None:
        return blocked
    if is_listed or (karma is not None and karma >= config.min_karma):
        return LinkStatus.OK, ""
    if karma is None:
        return LinkStatus.LOW_KARMA, "no submission says its score"
    return LinkStatus.LOW_KARMA, f"highest score {karma}, min_karma {config.min_karma}"
