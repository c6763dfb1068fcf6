"""Links: real dumps, merging, parts, interruption."""

import functools
import lzma
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from data.config import LinksConfig
from data.errors import InputError
from data.lake.store import Dataset, Lake
from data.links import stage as links
from data.schema import LINKS, LinkStatus
from data.stage import MakePart
from data.trace import why
from data.urls.canonical import canonical_url, domain_of, partition_of
from tests.data.links.dumps import build, dump, one_link, post, rows_of

SHARED_LINKS = Path(__file__).parents[3].parent / "shared" / "data" / "links"


def real(name: str) -> Path:
    path = SHARED_LINKS / name
    if not path.exists():
        pytest.skip(f"{name} is not at ../shared/data/links")
    return path


# ---------------------------------------------------------------------------------------------------- real dumps


def test_june_2005_gives_the_83_known_links(tmp_path: Path) -> None:
    manifest = build(tmp_path, [real("RS_v2_2005-06.xz")])
    assert manifest.rows_in == 103
    assert manifest.rows_out == 83
    assert manifest.counts["low_karma"] == 20


def test_july_2005_gives_all_but_three_of_the_757_known_links(tmp_path: Path) -> None:
    """757 submissions of score >= 3: 754 links, one file, one page of the Wikimedia family, one URL posted twice."""
    manifest = build(tmp_path, [real("RS_v2_2005-07.xz")])
    assert manifest.rows_in == sum(manifest.counts.values()) == 1_079
    rows = rows_of(tmp_path)
    voted = [row for row in rows if row["karma"] >= 3]
    lines = lzma.decompress(real("RS_v2_2005-07.xz").read_bytes()).splitlines()
    submissions = [item for item in map(orjson.loads, lines) if item["score"] >= 3]
    assert len(submissions) == 757
    twice = [row for row in voted if len(row["submission_ids"]) == 2]
    assert [row["canonical_url"] for row in twice] == ["http://db.uwaterloo.ca/~alopez-o/Coffee/caffaq.html"]
    dropped = {row["canonical_url"]: row["status"] for row in voted if row["status"] != "ok"}
    assert dropped == {
        "http://wikimania.wikimedia.org/wiki/Main_Page": "blocked_domain",
        "http://www.varsityphotos.net/images/last%20photo%202.jpg": "blocked_extension",
    }
    assert manifest.rows_out == 754 == 757 - len(dropped) - len(twice)


def test_api_recordings_of_twenty_years_add_up(tmp_path: Path) -> None:
    path = real("reddit_api_submissions.ndjson")
    manifest = build(tmp_path, [path])
    items = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert manifest.rows_in == sum(manifest.counts.values()) == len(items) == 3_957
    rows = rows_of(tmp_path)
    assert not [row for row in rows if row["domain"] in ("reddit.com", "redd.it")]
    assert manifest.counts["self_post"] >= sum(item["is_self"] for item in items)
    ids = {i for row in rows for i in row["submission_ids"]}
    kept = [
        i for i in items if not i["is_self"] and not i["over_18"] and "redd" not in i["url"] and "&" not in i["url"]
    ]
    assert len(kept) > 1_000
    assert {item["id"] for item in kept if item["url"].startswith("http")} <= ids


def test_hacker_news_items_are_recognised(tmp_path: Path) -> None:
    path = real("hn_items.ndjson")
    manifest = build(tmp_path, [path])
    items = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert manifest.rows_in == len(items) == 1_009
    best: dict[str, int] = {}
    for item in items:
        url = canonical_url(item["url"])
        best[url] = max(best.get(url, 0), item["points"])
    rows = rows_of(tmp_path)
    assert {row["canonical_url"]: row["karma"] for row in rows} == best
    row = next(row for row in rows if row["submission_ids"] == ["21389850"])
    assert row["submitted_at"] == datetime(2019, 10, 29, 17, 36, 37, tzinfo=UTC)
    assert row["subreddits"] == []


# ---------------------------------------------------------------------------------------------------- merging


def test_submissions_of_one_url_become_one_row(tmp_path: Path) -> None:
    one, two = "http://site.example/a?utm_source=1", "http://SITE.example/a#x"
    row = one_link(
        tmp_path,
        [
            post(3, url=one, score=2, subreddit="b", created_utc=1_500_000_000),
            post(1, url=two, score=40, subreddit="a", created_utc=1_600_000_000, retrieved_on=1_700_000_000),
            post(2, url=one, score=-5, subreddit="b", created_utc=1_400_000_000),
        ],
    )
    assert (row["karma"], row["karma_sum"], row["url"]) == (40, 37, two)
    assert row["submission_ids"] == ["id1", "id2", "id3"]
    assert row["subreddits"] == ["a", "b"]
    assert row["submitted_at"] == datetime.fromtimestamp(1_400_000_000, UTC)
    assert row["score_observed_at"] == datetime.fromtimestamp(1_700_000_000, UTC)
    manifest = Lake(tmp_path / "lake").dataset("links", "demo").require()
    assert manifest.counts["merged"] == 2
    assert manifest.counts["ok"] == 1


def test_a_submission_in_two_dumps_counts_once_in_the_sum(tmp_path: Path) -> None:
    early = dump(tmp_path / "early.ndjson", [post(1, score=1), post(2, url=post(1)["url"], score=4)])
    late = dump(
        tmp_path / "late.ndjson", [post(1, score=9), {"id": "id1", "points": 5, "time": 1, "url": post(1)["url"]}]
    )
    manifest = build(tmp_path / "lake", [early, late])
    (row,) = rows_of(tmp_path / "lake")
    assert row["karma"] == 9
    assert row["karma_sum"] == 9 + 4 + 5  # ids on Hacker News are a different series
    assert row["source"] == "late.ndjson"
    assert manifest.counts["merged"] == 3


def test_a_url_list_counts_as_voted_up(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(
        "https://listed.example/\r\n\nhttps://www.site1.example/story\nhttps://en.wikipedia.org/wiki/X\nnonsense\n"
        "https://listed.example/#again\nhttps://www.reddit.com/r/x\n"
    )
    other = dump(tmp_path / "dump.ndjson", [post(1, score=1)])
    manifest = build(tmp_path / "lake", [f"urls:{tmp_path / 'list.txt'}", other])
    rows = {row["canonical_url"]: row for row in rows_of(tmp_path / "lake")}
    assert {url: (row["karma"], row["status"]) for url, row in rows.items()} == {
        "https://listed.example/": (None, "ok"),
        "https://www.site1.example/story": (1, "ok"),
        "https://en.wikipedia.org/wiki/X": (None, "blocked_domain"),
        "https://www.reddit.com/r/x": (None, "blocked_domain"),
    }
    assert rows["https://listed.example/"]["source"] == "urls:list.txt"
    assert rows["https://listed.example/"]["karma_sum"] is None
    assert rows["https://listed.example/"]["submission_ids"] == []
    assert manifest.counts == {"bad_url": 1, "blocked_domain": 2, "merged": 2, "ok": 2}
    assert manifest.extra["blank_lines"] == 1


# ---------------------------------------------------------------------------------------------------- parts


def many(n: int, seed: int) -> list[dict[str, Any] | bytes]:
    """Posts on few domains with repeated URLs, and an occasional malformed line."""
    rows: list[dict[str, Any] | bytes] = []
    for number in range(n):
        mixed = partition_of(f"{seed}-{number}")
        url = f"https://w{mixed % 3}.site{mixed % 41}.example/{mixed % 997 % 60}"
        rows.append(post(number + seed * n, url=url, score=mixed % 23 - 4, subreddit=f"r{mixed % 5}"))
        if mixed % 17 == 0:
            rows.append(b"{broken")
    return rows


@pytest.fixture
def two_dumps(tmp_path: Path) -> list[str]:
    return [dump(tmp_path / f"{name}.ndjson", many(800, seed)) for seed, name in enumerate(("b", "a"))]


SMALL = LinksConfig(part_links=200, spill_rows=64)


def test_rows_add_up_and_parts_hold_whole_domains(two_dumps: list[str], tmp_path: Path) -> None:
    manifest = build(tmp_path / "lake", two_dumps, SMALL)
    n_lines = sum(Path(path).read_bytes().count(b"\n") for path in two_dumps)
    assert manifest.rows_in == n_lines == sum(manifest.counts.values()) == manifest.extra["lines"]
    parts = [part for part in manifest.parts if part.name.startswith("part-")]
    assert len(parts) == 8  # 1,600 submissions / 200, rounded up to a power of two
    assert sum(part.rows_in for part in parts) == manifest.extra["outbound"] == 1_600
    seen: set[str] = set()
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    for number, part in enumerate(parts):
        table = dataset.read(f"{part.name}.parquet")
        assert table.schema.equals(LINKS)
        urls = table["canonical_url"].to_pylist()
        assert urls == sorted(set(urls))
        domains = set(table["domain"].to_pylist())
        assert not domains & seen
        assert {partition_of(domain) >> 61 for domain in domains} <= {number}
        seen |= domains
    assert len(seen) == 41


def test_rows_equal_a_naive_computation(two_dumps: list[str], tmp_path: Path) -> None:
    build(tmp_path / "lake", two_dumps, SMALL)
    expected: dict[str, list[dict[str, Any]]] = {}
    for path in two_dumps:
        for line in Path(path).read_bytes().splitlines():
            if line != b"{broken":
                item = orjson.loads(line)
                expected.setdefault(item["url"], []).append(item)
    rows = rows_of(tmp_path / "lake")
    assert len(rows) == len(expected)
    for row in rows:
        group = expected[row["canonical_url"]]
        assert row["karma"] == max(item["score"] for item in group)
        assert row["karma_sum"] == sum(item["score"] for item in group)
        assert row["submission_ids"] == sorted(item["id"] for item in group)
        assert row["submitted_at"].timestamp() == min(item["created_utc"] for item in group)
        assert row["status"] == ("ok" if row["karma"] >= 3 else "low_karma")
        assert row["domain"] == domain_of(row["canonical_url"])


def test_order_of_sources_and_directory_and_memory_do_not_matter(two_dumps: list[str], tmp_path: Path) -> None:
    first = build(tmp_path / "one", two_dumps, SMALL)
    moved = [dump(tmp_path / "elsewhere" / Path(path).name, [Path(path).read_bytes()[:-1]]) for path in two_dumps]
    config = LinksConfig(part_links=200, spill_rows=100_000)

    def backwards(make: MakePart, names: Sequence[str]) -> None:
        for name in reversed(names):
            make(name)

    second = build(tmp_path / "two", moved[::-1], config, mapper=backwards)
    assert second.digest == first.digest
    assert [part.digest for part in second.parts] == [part.digest for part in first.parts]
    assert second.inputs == first.inputs
    assert set(first.inputs) == {"source:a.ndjson", "source:b.ndjson"}
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")


def test_different_rows_give_different_digests(tmp_path: Path) -> None:
    digests = set()
    for number, score in enumerate((9, 10)):
        path = dump(tmp_path / str(number) / "a.ndjson", [post(1, score=score)])
        digests.add(build(tmp_path / f"lake{number}", [path]).parts[-1].digest)
    assert len(digests) == 2


def test_files_with_the_same_name_get_distinct_labels_in_any_order(tmp_path: Path) -> None:
    one = dump(tmp_path / "x" / "RS.ndjson", [post(1)])
    two = dump(tmp_path / "y" / "RS.ndjson", [post(2)])
    first, second = build(tmp_path / "one", [one, two]), build(tmp_path / "two", [two, one])
    assert first.counts == {"merged": 0, "ok": 2}
    assert first.digest == second.digest
    assert len(first.inputs) == 2
    assert all(name.startswith("source:RS.ndjson@") for name in first.inputs)
    with pytest.raises(InputError, match=r"RS\.ndjson.*: named twice among the link sources"):
        build(tmp_path / "three", [one, one])


def test_interrupted_anywhere_and_resumed_equals_uninterrupted(two_dumps: list[str], tmp_path: Path) -> None:
    expected = build(tmp_path / "whole", two_dumps, SMALL)
    names = [part.name for part in expected.parts]
    assert names[:2] == ["source-00000", "source-00001"]
    made: list[str] = []

    def stop_before(last: str, make: MakePart, todo: Sequence[str]) -> None:
        for name in todo:
            if name == last:
                raise KeyboardInterrupt
            made.append(make(name).name)

    for last in ("source-00001", "part-00000", "part-00005"):
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "cut", two_dumps, SMALL, mapper=functools.partial(stop_before, last))
        assert Lake(tmp_path / "cut").dataset("links", "demo").manifest() is None
    resumed = build(tmp_path / "cut", two_dumps, SMALL, mapper=functools.partial(stop_before, ""))
    assert made == names  # each exactly once
    assert resumed.digest == expected.digest
    again = links.run(Lake(tmp_path / "cut"), "demo", two_dumps[::-1], SMALL)
    assert again.skipped
    assert again.manifest.digest == expected.digest


def test_find_link_accepts_any_spelling_and_searches_every_part(two_dumps: list[str], tmp_path: Path) -> None:
    build(tmp_path / "lake", two_dumps, SMALL)
    lake = Lake(tmp_path / "lake")
    for row in rows_of(tmp_path / "lake")[::60]:
        assert links.find_link(lake, "demo", row["canonical_url"]) == row
        assert links.find_link(lake, "demo", row["canonical_url"].upper().replace("HTTPS", "https") + "#x") == row
    assert links.find_link(lake, "demo", "https://nowhere.example/") is None
    with pytest.raises(ValueError, match="scheme"):
        links.find_link(lake, "demo", "ftp://site1.example/")
    with pytest.raises(InputError, match="no such dataset"):
        links.find_link(lake, "other", "https://site1.example/")


def test_find_link_reads_only_the_part_of_the_domain(
    two_dumps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "lake", two_dumps, SMALL)
    lake = Lake(tmp_path / "lake")
    row = rows_of(tmp_path / "lake")[-1]
    url = (
        f"https://www.google.com/amp/s/{row['canonical_url'].removeprefix('https://')}"  # it belongs to another domain
    )
    assert len(files_read(monkeypatch, lambda: links.find_link(lake, "demo", url))) == 1
    monkeypatch.setattr(links, "PUBLIC_SUFFIX_LIST", "a later list")  # so the domains of the lake may differ
    assert links.find_link(lake, "demo", url) == row
    nowhere = "https://nowhere.example/"
    assert len(files_read(monkeypatch, lambda: links.find_link(lake, "demo", nowhere))) == 8


def files_read(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> set[str]:
    """The Parquet files of datasets that a call reads."""
    names: set[str] = set()
    read = Dataset.read

    def noting(self: Dataset, relative: str, columns: list[str] | None = None) -> pa.Table:
        names.add(relative)
        return read(self, relative, columns)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "read", noting)
        call()
    return names


def test_why_reads_one_part_of_the_links(two_dumps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "lake", two_dumps, SMALL)
    lake = Lake(tmp_path / "lake")
    row = rows_of(tmp_path / "lake")[-1]
    found: list[dict[str, Any]] = []
    names = files_read(monkeypatch, lambda: found.extend(why(lake, f"{row['canonical_url']}#top")))
    assert len(names) == 1
    (entry,) = found
    assert entry["canonical_url"] == row["canonical_url"]
    assert entry["stages"]["links"] == {
        name: row[name] for name in ("status", "reason", "karma", "karma_sum", "submission_ids", "subreddits")
    }
    assert why(lake, "https://nowhere.example/") == []


def test_sources_without_any_outbound_link_give_one_empty_part(tmp_path: Path) -> None:
    manifest = build(tmp_path / "lake", [dump(tmp_path / "a.ndjson", [post(is_self=True), b"{"])])
    assert [part.name for part in manifest.parts] == ["source-00000", "part-00000"]
    assert manifest.counts == {"malformed_line": 1, "merged": 0, "self_post": 1}
    assert rows_of(tmp_path / "lake") == []
    assert links.find_link(Lake(tmp_path / "lake"), "demo", "https://site1.example/") is None


def test_min_karma_and_block_domains_drop_links(tmp_path: Path) -> None:
    config = LinksConfig(min_karma=11, block_domains=("site2.example",))
    path = dump(tmp_path / "a.ndjson", [post(1), post(2, score=50), post(3, score=11)])
    build(tmp_path / "lake", [path], config)
    found = {row["domain"]: (row["status"], row["reason"]) for row in rows_of(tmp_path / "lake")}
    assert found == {
        "site1.example": (str(LinkStatus.LOW_KARMA), "highest score 10, min_karma 11"),
        "site2.example": (str(LinkStatus.BLOCKED_DOMAIN), "site2.example"),
        "site3.example": (str(LinkStatus.OK), ""),
    }


def test_bad_settings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="profile 'x' is not known"):
        build(tmp_path / "lake", [tmp_path / "missing"], LinksConfig(profile="x"))


def test_a_damaged_published_dataset_is_not_rebuilt(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.ndjson", [post(1)])
    build(tmp_path / "lake", [path])
    part = tmp_path / "lake" / "links" / "demo" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"part-00000\.parquet: sha256 is"):
        build(tmp_path / "lake", [path])
    with pytest.raises(InputError, match="made with other settings"):
        build(tmp_path / "lake", [path], LinksConfig(min_karma=9))
