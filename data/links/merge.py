"""Submissions of one canonical URL become one link: its karma, who posted it where, and whether it is kept.

The same submission may come several times: from two dumps, or from a live source before and after its score settled.
Its site and id identify it, and the latest observation counts, even if its score is lower. An observation without a
time counts as the earliest; among observations of the same time the highest score counts. Then, as in WebText (the
paper, section 2.1), the karma of a URL is the highest score of its submissions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.config import LinksConfig
from data.schema import LINKS, LinkStatus
from data.urls.canonical import blocked_at

_BATCH = 10_000  # rows that are Python objects at once
_PORT = re.compile(r":\d+$")

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


def n_lines(submissions: pa.Table) -> int:
    """How many lines they come from. A deferred link is one line, however many submissions it has."""
    deferred = submissions.filter(pc.is_valid(submissions["deferred_from"]))
    links = deferred.group_by(["deferred_from", "canonical_url"]).aggregate([])
    return len(submissions) - len(deferred) + len(links)


def _rows(table: pa.Table) -> Iterator[Row]:
    """Rows with their times as milliseconds since 1970."""
    table = table.drop_columns(["partition"])
    for name in ("created", "observed_at"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _link(canonical_url: str, group: Iterable[Row], config: LinksConfig) -> Row:
    """``karma`` is the highest score, ``karma_sum`` the sum over submissions.

    ``url``, ``source`` and ``score_observed_at`` come from the submission with the highest score.
    """
    rows = list(group)
    looks = rows if len(rows) == 1 else sorted(_latest_looks(rows), key=_rank)
    best = looks[0]
    scores = [row["score"] for row in looks if row["score"] is not None]
    status, reason = _status(canonical_url, best["score"], any(row["is_listed"] for row in rows), config)
    return {
        "url": best["url"],
        "canonical_url": canonical_url,
        "domain": best["domain"],
        "source": best["source"],
        "karma": best["score"],
        "karma_sum": sum(scores) if scores else None,
        "submission_ids": sorted({row["id"] for row in rows if row["id"] is not None}),
        "subreddits": sorted({row["subreddit"] for row in rows if row["subreddit"] is not None}),
        "submitted_at": min((row["created"] for row in rows if row["created"] is not None), default=None),
        "score_observed_at": best["observed_at"],
        "deferred_from": min((row["deferred_from"] for row in rows if row["deferred_from"] is not None), default=None),
        "status": str(status),
        "reason": reason,
    }


def _latest_looks(rows: list[Row]) -> Iterable[Row]:
    """One row per submission. A row without an id is a submission of its own."""
    latest: dict[object, Row] = {}
    for number, row in enumerate(sorted(rows, key=_rank)):
        key = number if row["id"] is None else (row["site"], row["id"])
        known = latest.get(key)
        if known is None or (row["observed_at"] or 0) > (known["observed_at"] or 0):
            latest[key] = row
    return latest.values()


def _rank(row: Row) -> tuple[Any, ...]:
    """Highest score first, then the latest observation, then names: a total order up to equal rows."""
    score = row["score"]
    return (
        score is None,
        -(score or 0),
        -(row["observed_at"] or 0),
        row["created"] or 0,
        row["id"] or "",
        row["url"],
        row["source"],
    )


def _status(canonical_url: str, karma: int | None, is_listed: bool, config: LinksConfig) -> tuple[LinkStatus, str]:
    """A URL list has no votes: its URLs count as voted up, even if a dump has a low score for them."""
    _, _, host, path = canonical_url.partition("?")[0].split("/", 3)
    blocked = blocked_at(_PORT.sub("", host), path, config)
    if blocked is not None:
        return blocked
    if is_listed or (karma is not None and karma >= config.min_karma):
        return LinkStatus.OK, ""
    if karma is None:
        return LinkStatus.LOW_KARMA, "no submission says its score"
    return LinkStatus.LOW_KARMA, f"highest score {karma}, min_karma {config.min_karma}"
