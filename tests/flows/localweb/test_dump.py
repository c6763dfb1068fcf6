"""The Reddit dump of the local web, read back without the code that wrote it, and by the links stage."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import zstandard

from data.config import LinksConfig
from data.lake.store import Lake
from data.links import stage as links
from data.urls.canonical import canonical_url
from flows.localweb.build import Built, build, building
from flows.localweb.dump import LOW_KARMA_PAGES, ORIGINAL_SCORE, write_dump


@pytest.fixture(scope="module")
def built(home: Path) -> Built:
    with building(home):
        pass
    (_,) = (home / "localweb").glob("*/site.json.zst")  # the child has built it
    return build(home)


@pytest.fixture(scope="module")
def lines(built: Built) -> list[bytes]:
    with built.dump.open("rb") as file:
        reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(file)
        return io.BufferedReader(reader).read().split(b"\n")[:-1]


@pytest.fixture(scope="module")
def items(lines: list[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):
            found.append(item)
    return found


def _best(items: list[dict[str, Any]]) -> dict[str, int]:
    """The highest score of each canonical URL."""
    best: dict[str, int] = defaultdict(lambda: -(10**9))
    for item in items:
        try:
            url = canonical_url(item["url"].replace("&amp;", "&"))
        except (KeyError, AttributeError, ValueError):
            continue
        best[url] = max(best[url], item["score"])
    return best


def test_lines_are_compressed_with_a_long_window(built: Built) -> None:
    packed = built.dump.read_bytes()
    assert zstandard.get_frame_parameters(packed).window_size == 2**31
    with pytest.raises(zstandard.ZstdError, match="memory"):
        zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(io.BytesIO(packed)).read(1)


def test_lines_match_the_counts(built: Built, lines: list[bytes], items: list[dict[str, Any]]) -> None:
    counts = built.dump_counts
    blank = sum(not line for line in lines)
    assert blank == counts.blank_lines > 0
    assert len(lines) - blank == counts.lines == sum(counts.by_status.values())
    assert len(lines) - blank - len(items) == counts.by_status["malformed_line"] > 0
    assert sum(item["over_18"] for item in items) == counts.by_status["over_18"] > 0
    assert sum("crosspost_parent" in item for item in items) == counts.crossposts > 0
    tracking = ("utm_", "fbclid", "gclid")
    assert sum(any(name in (item.get("url") or "") for name in tracking) for item in items) == counts.tracked > 0


def test_the_links_stage_agrees_with_the_counts(built: Built, tmp_path: Path) -> None:
    outcome = links.run(Lake(str(tmp_path)), "demo", [str(built.dump)], LinksConfig(part_links=500))
    assert outcome.manifest.counts == {status: n for status, n in built.dump_counts.by_status.items() if n}
    only_elsewhere = {"not_a_submission", "deleted", "dead"}  # in no dump of Reddit's submissions
    assert set(built.dump_counts.by_status) - only_elsewhere == set(outcome.manifest.counts)


def test_all_but_a_known_number_of_pages_are_voted_up(built: Built, items: list[dict[str, Any]]) -> None:
    best = _best(items)
    low = sorted(url for url, route in built.site.routes.items() if route.kind != "hop" and best[url] < 3)
    assert low == built.dump_counts.low_karma_pages
    assert len(low) == LOW_KARMA_PAGES


def test_originals_score_above_their_copies(built: Built, items: list[dict[str, Any]]) -> None:
    best = _best(items)
    for url, route in built.site.routes.items():
        if route.original and route.kind != "hop":
            assert best[url] < ORIGINAL_SCORE <= best[route.original]


def test_fields_are_as_irregular_as_in_real_dumps(items: list[dict[str, Any]]) -> None:
    assert {type(item["created_utc"]) for item in items} == {int, float, str}
    absent = [item for item in items if "is_self" not in item]
    assert {item["domain"].startswith("self.") for item in absent} == {True, False}
    scores = [item["score"] for item in items]
    assert min(scores) == -3
    assert max(scores) > 10_000
    assert Counter(item.get("url") for item in items).most_common(1)[0][1] > 1
    ids = [item["id"] for item in items]
    assert len(ids) == len(set(ids))
    parents = {item["crosspost_parent"] for item in items if "crosspost_parent" in item}
    assert parents <= {item["name"] for item in items}
    by_id = {item["name"]: item for item in items}
    crossed = [(item, by_id[item["crosspost_parent"]]) for item in items if "crosspost_parent" in item]
    assert all(item["subreddit"] != parent["subreddit"] for item, parent in crossed)


def test_a_second_dump_has_the_same_bytes(built: Built, tmp_path: Path) -> None:
    assert write_dump(built.site, tmp_path / "again.zst") == built.dump_counts
    assert (tmp_path / "again.zst").read_bytes() == built.dump.read_bytes()
