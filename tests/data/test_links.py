"""Links: the real dumps, odd lines, damaged files, merging, parts, interruption."""

import bz2
import functools
import gzip
import io
import itertools
import lzma
import random
import resource
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from data import blocks, links, sources
from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.lake import Lake
from data.manifest import Manifest
from data.schema import LINKS, LinkStatus
from data.stage import MakePart
from data.urls import canonical_url, domain_of, partition_of

SHARED_LINKS = Path(__file__).parents[2].parent / "shared" / "data" / "links"
CONFIG = LinksConfig()


def real(name: str) -> Path:
    path = SHARED_LINKS / name
    if not path.exists():
        pytest.skip(f"{name} is not at ../shared/data/links")
    return path


def post(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A submission as Reddit's dumps have it; fields given as None are null, ``...`` takes a field away."""
    row = {
        "id": f"id{number}",
        "created_utc": 1_500_000_000 + number,
        "retrieved_on": 1_510_000_000,
        "subreddit": "news",
        "domain": f"site{number}.example",
        "url": f"https://www.site{number}.example/story",
        "score": 10,
        "is_self": False,
        "over_18": False,
    } | fields
    return {name: value for name, value in row.items() if value is not ...}


def ndjson(rows: Sequence[dict[str, Any] | bytes]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows)


def dump(path: Path, rows: Sequence[dict[str, Any] | bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ndjson(rows))
    return str(path)


def build(lake: Path, specs: Sequence[str | Path], config: LinksConfig = CONFIG, **options: Any) -> Manifest:
    return links.run(Lake(lake), "demo", [str(spec) for spec in specs], config, **options).manifest


def reading(folder: Path) -> sources.Reading:
    return sources.Reading(Lake(folder / "lake").dataset("links", "demo"), folder, CONFIG, PagesConfig(), time.time)


def rows_of(lake: Path) -> list[dict[str, Any]]:
    dataset = Lake(lake).dataset("links", "demo")
    names = [part.name for part in dataset.require().parts if part.name.startswith("part-")]
    return [row for name in names for row in dataset.read(f"{name}.parquet").to_pylist()]


def one_link(tmp_path: Path, rows: Sequence[dict[str, Any]], config: LinksConfig = CONFIG) -> dict[str, Any]:
    build(tmp_path / "lake", [dump(tmp_path / "dump.ndjson", rows)], config)
    (row,) = rows_of(tmp_path / "lake")
    return row


def only_count(tmp_path: Path, row: dict[str, Any] | bytes) -> str:
    """The status of the only line of a dump."""
    manifest = build(tmp_path / "lake", [dump(tmp_path / "dump.ndjson", [row])])
    (status,) = (name for name, count in manifest.counts.items() if count)
    return status


# ---------------------------------------------------------------------------------------------------- real dumps


def test_june_2005_gives_the_83_links_that_are_known(tmp_path: Path) -> None:
    manifest = build(tmp_path, [real("RS_v2_2005-06.xz")])
    assert manifest.rows_in == 103
    assert manifest.rows_out == 83
    assert manifest.counts["low_karma"] == 20


def test_july_2005_gives_the_757_links_that_are_known_but_for_three(tmp_path: Path) -> None:
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


# ---------------------------------------------------------------------------------------------------- single lines


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (post(), "ok"),
        (post(score=3), "ok"),
        (post(score=2), "low_karma"),
        (post(score=-3), "low_karma"),
        (post(score="7"), "ok"),
        (post(score=7.0), "ok"),
        (post(score=None), "low_karma"),
        (post(score=...), "low_karma"),
        (orjson.dumps(post(score=77)).replace(b"77", b"1" * 30), "low_karma"),
        (post(score=2**40), "low_karma"),
        (post(is_self=...), "ok"),
        (post(is_self=True), "self_post"),
        (
            post(is_self=..., domain="self.AskReddit", url="http://www.reddit.com/r/AskReddit/comments/1/x/"),
            "self_post",
        ),
        (post(is_self=..., domain=..., url="https://old.reddit.com/r/x/comments/1/y/"), "self_post"),
        (post(is_self=..., domain="self.news", url="https://elsewhere.example/"), "self_post"),
        (post(is_self=..., domain="self.news", url=...), "self_post"),
        (post(is_self=..., domain="self.com", url="https://www.self.com/loans"), "ok"),
        (post(is_self=False, url="https://i.redd.it/a.png"), "self_post"),
        (post(is_self=False, url="https://redd.it/abc"), "self_post"),
        (post(is_self=False, url="/r/news/comments/1/x/"), "self_post"),
        (post(url="https://notreddit.com/r/news/comments/1/x/"), "ok"),
        (post(url=None), "no_url"),
        (post(url=""), "no_url"),
        (post(url=...), "no_url"),
        (post(url=17), "no_url"),
        (post(url="ftp://site.example/x"), "bad_url"),
        (post(url="http://me:pass@site.example/"), "bad_url"),
        (post(url="not a url"), "bad_url"),
        (post(over_18=True), "over_18"),
        (post(over_18=...), "ok"),
        (post(over_18=True, is_self=True), "self_post"),
        (post(url="https://en.wikipedia.org/wiki/X"), "blocked_domain"),
        (post(url="https://site.example/x.png?w=1"), "blocked_extension"),
        (post(url="https://en.wikipedia.org/wiki/X", score=0), "blocked_domain"),
        ({"id": 8863, "type": "story", "by": "a", "time": 1175714200, "score": 111, "url": "http://a.example/"}, "ok"),
        ({"id": 8864, "type": "story", "by": "a", "time": 1175714200, "score": 111, "text": "Ask HN"}, "no_url"),
        (
            {"id": "1", "points": 9, "dt": "2020-01-01T00:00:00", "url": "https://news.ycombinator.com/item?id=1"},
            "self_post",
        ),
        ({"id": "1", "points": 2, "dt": "2020-01-01T00:00:00", "url": "https://a.example/"}, "low_karma"),
        (b"{", "malformed_line"),
        (b"[1, 2]", "malformed_line"),
        (b"null", "malformed_line"),
        (b'"text"', "malformed_line"),
        (b'{"url": NaN}', "malformed_line"),
        (b'{"url": "\xff"}', "malformed_line"),
        (b"[" * 100_000, "malformed_line"),
    ],
)
def test_each_line_ends_in_one_status(line: dict[str, Any] | bytes, status: str, tmp_path: Path) -> None:
    assert only_count(tmp_path, line) == status


def test_fields_of_a_row(tmp_path: Path) -> None:
    row = one_link(
        tmp_path,
        [
            post(
                1,
                url="HTTPS://Www.Site1.Example/a?utm_source=x&amp;id=1#top",
                created_utc="1500000000.5",
                subreddit="b",
            )
        ],
    )
    assert row == {
        "url": "HTTPS://Www.Site1.Example/a?utm_source=x&id=1#top",  # Reddit's escape is undone, no more
        "canonical_url": "https://www.site1.example/a?id=1",
        "domain": "site1.example",
        "source": "dump.ndjson",
        "karma": 10,
        "karma_sum": 10,
        "submission_ids": ["id1"],
        "subreddits": ["b"],
        "submitted_at": datetime(2017, 7, 14, 2, 40, 0, 500_000, tzinfo=UTC),
        "score_observed_at": datetime.fromtimestamp(1_510_000_000, UTC),
        "deferred_from": None,
        "status": "ok",
        "reason": "",
    }


@pytest.mark.parametrize("created", [1_500_000_000.0, 1_500_000_000, "1500000000", "1500000000.0"])
def test_created_utc_in_all_its_types(created: Any, tmp_path: Path) -> None:
    row = one_link(tmp_path, [post(created_utc=created, subreddit=None, subreddit_id=None, retrieved_on=...)])
    assert row["submitted_at"] == datetime.fromtimestamp(1_500_000_000, UTC)
    assert row["score_observed_at"] is None
    assert row["subreddits"] == []


@pytest.mark.parametrize("created", [None, ..., "yesterday", 1e40, -5, [], {}])
def test_a_time_that_is_none_is_null(created: Any, tmp_path: Path) -> None:
    assert one_link(tmp_path, [post(created_utc=created)])["submitted_at"] is None


def test_the_second_look_of_arctic_shift_is_the_time_of_the_score(tmp_path: Path) -> None:
    row = one_link(tmp_path, [post(_meta={"retrieved_2nd_on": 1_520_000_000})])
    assert row["score_observed_at"] == datetime.fromtimestamp(1_520_000_000, UTC)


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


def test_a_submission_that_stands_in_two_dumps_counts_once_in_the_sum(tmp_path: Path) -> None:
    early = dump(tmp_path / "early.ndjson", [post(1, score=1), post(2, url=post(1)["url"], score=4)])
    late = dump(
        tmp_path / "late.ndjson", [post(1, score=9), {"id": "id1", "points": 5, "time": 1, "url": post(1)["url"]}]
    )
    manifest = build(tmp_path / "lake", [early, late])
    (row,) = rows_of(tmp_path / "lake")
    assert row["karma"] == 9
    assert row["karma_sum"] == 9 + 4 + 5  # ids of Hacker News are others
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


# ---------------------------------------------------------------------------------------------------- files


def _zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(body)


COMPRESSORS = {".zst": _zstd, ".xz": lzma.compress, ".bz2": bz2.compress, ".gz": gzip.compress, ".ndjson": bytes}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_compression_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    body = b"\xef\xbb\xbf" + ndjson([post(number) for number in range(300)]).removesuffix(b"\n")
    path = tmp_path / f"RS_2017-01{suffix}"
    path.write_bytes(COMPRESSORS[suffix](body))
    assert build(tmp_path / "lake", [path]).counts == {"merged": 0, "ok": 300}
    assert sorted(row["karma_sum"] for row in rows_of(tmp_path / "lake")) == [10] * 300


def test_zstd_with_pushshifts_window_of_2_gib(tmp_path: Path) -> None:
    params = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=31, enable_ldm=True, hash_log=12, chain_log=12, ldm_hash_log=12
    )
    path = tmp_path / "RS_2020-01.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(compression_params=params).stream_writer(file) as writer:
        writer.write(ndjson([post(number) for number in range(2_000)]))
    assert zstandard.get_frame_parameters(path.read_bytes()[:18]).window_size == 2**31
    with pytest.raises(zstandard.ZstdError, match="too much memory"):
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
    assert build(tmp_path / "lake", [path]).rows_in == 2_000


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    frames = [_zstd(ndjson([post(number) for number in range(start, start + 50)])) for start in (0, 50, 100)]
    (tmp_path / "a.zst").write_bytes(skippable + frames[0] + skippable + frames[1] + frames[2] + skippable)
    assert build(tmp_path / "lake", [tmp_path / "a.zst"]).rows_in == 150


@pytest.mark.parametrize("suffix", [".zst", ".xz", ".bz2", ".gz"])
@pytest.mark.parametrize("cut", [0.5, 0.9, -1])
def test_a_cut_off_file_is_an_error_and_publishes_nothing(suffix: str, cut: float, tmp_path: Path) -> None:
    rows = [post(number, title=str(partition_of(str(number)))) for number in range(9_000)]
    whole = COMPRESSORS[suffix](ndjson(rows))
    path = tmp_path / f"RS_2017-01{suffix}"
    path.write_bytes(whole[: int(len(whole) * cut) if cut > 0 else -1])
    with pytest.raises(InputError, match=rf"RS_2017-01\{suffix}: damaged or cut off after [\d,]+ bytes") as caught:
        build(tmp_path / "lake", [path])
    assert "\n" not in str(caught.value)
    read = int(str(caught.value).split(" after ")[1].split()[0].replace(",", ""))
    assert 0 < read <= len(ndjson(rows))
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    assert dataset.manifest() is None
    assert dataset.sealed() == {}
    path.write_bytes(whole)  # the user downloads it again and repeats the command
    assert build(tmp_path / "lake", [path]).rows_in == 9_000


def test_a_cut_off_file_loses_nothing_that_was_sealed_before(tmp_path: Path) -> None:
    first = dump(tmp_path / "a.ndjson", [post(1)])
    whole = _zstd(ndjson([post(number) for number in range(5_000)]))
    (tmp_path / "b.zst").write_bytes(whole[:-3])
    with pytest.raises(InputError, match=r"b\.zst: damaged or cut off"):
        build(tmp_path / "lake", [first, tmp_path / "b.zst"])
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    assert list(dataset.sealed()) == ["source-00000"]
    dataset.verify(list(dataset.sealed().values()))
    (tmp_path / "b.zst").write_bytes(whole)
    with pytest.raises(InputError, match=r"made with other inputs \(source:b.zst: .*remove links/demo"):
        build(tmp_path / "lake", [first, tmp_path / "b.zst"])


def test_damage_inside_a_file_is_an_error(tmp_path: Path) -> None:
    body = bytearray(_zstd(ndjson([post(number) for number in range(5_000)])))
    body[len(body) // 2] ^= 0xFF
    (tmp_path / "a.zst").write_bytes(body)
    with pytest.raises(InputError, match=r"a\.zst: damaged or cut off after"):
        build(tmp_path / "lake", [tmp_path / "a.zst"])


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("missing.zst", None, "missing.zst: no such file"),
        ("empty.ndjson", b"", "empty.ndjson: the file is empty"),
        ("empty.zst", b"", "empty.zst: the file is empty"),
        ("nothing.zst", _zstd(b""), "nothing.zst: holds no lines"),
        ("a.zip", b"PK\x03\x04\x14\x00\x00\x00", "a.zip: unknown compression"),
        ("a.lz4", b"\x04\x22\x4d\x18\x60\x40\x82", "a.lz4: unknown compression"),
        ("a.ndjson", "{}\n".encode("utf-16"), "a.ndjson: unknown compression"),
        ("page.zst", b"<!doctype html>\n<p>404</p>", "page.zst: named .zst but its content is plain"),
        ("a.xz", gzip.compress(b"{}", mtime=0), "a.xz: named .xz but its content is gzip"),
    ],
)
def test_files_that_cannot_be_read(name: str, body: bytes | None, message: str, tmp_path: Path) -> None:
    if body is not None:
        (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=message):
        build(tmp_path / "lake", [tmp_path / name])
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    assert dataset.manifest() is None
    assert dataset.sealed() == {}


def test_sources_that_are_no_files(tmp_path: Path) -> None:
    for specs, message in (
        ([], "no link source given"),
        ([tmp_path], "is a directory"),
        (["hn:november"], "hn:november: 'november' is no month; write it like 2026-11"),
        (["hn:2999-12"], "hn:2999-12: 2999-12 has not begun yet"),
        (["hn-items:9-8"], "hn-items:9-8: no items from 9 to 8"),
        (["hn-items:x"], "hn-items:x: write it like"),
        (["reddit:a b"], "'a b' is no subreddit"),
        (["reddit:news,News"], "reddit:news: among the link sources twice"),
        ([f"{tmp_path}/RS_*.zst"], "no file matches the pattern"),
        ([f"urls:{tmp_path}/none.txt"], "none.txt: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            build(tmp_path / "lake", specs)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.ndjson", [post(1)])
    source = sources.file_source(path)
    dump(Path(path), [post(2)])
    with pytest.raises(InputError, match=r"a\.ndjson: changed while it was read"):
        list(source.records(reading(tmp_path), []))


def test_malformed_lines_are_counted_and_the_first_hundred_named(tmp_path: Path) -> None:
    bad = [b'{"id": "cut', b"17", b"", b"   ", b'{"a": "\xff"}']
    rows = [post(0), *bad, post(1), *[b"{"] * 120, post(2)]
    manifest = build(tmp_path / "lake", [dump(tmp_path / "dump.ndjson", rows)])
    assert manifest.counts == {"malformed_line": 123, "merged": 0, "ok": 3}
    assert manifest.rows_in == 126
    assert manifest.extra == {"lines": 126, "blank_lines": 2, "outbound": 3}
    report = Lake(tmp_path / "lake").read_json("links", "demo", "source-00000.malformed.json")
    assert report["source"] == "dump.ndjson"
    assert report["malformed_lines"] == 123
    assert len(report["first"]) == 100
    assert [entry["line"] for entry in report["first"][:4]] == [2, 3, 6, 8]
    assert report["first"][0]["reason"].startswith("not JSON: ")
    assert report["first"][1]["reason"] == "JSON, but no object: int"


def test_a_line_without_end_is_malformed_and_not_held_in_memory(tmp_path: Path) -> None:
    """1 GB in one line, compressed to a few kB: at most a block and the bound are held."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(ndjson([post(1)]) + b'{"id": "')
        for _ in range(1_000):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + ndjson([post(2)]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = build(tmp_path / "lake", [path])
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert manifest.counts == {"malformed_line": 1, "merged": 0, "ok": 2}
    report = Lake(tmp_path / "lake").read_json("links", "demo", "source-00000.malformed.json")
    assert report["first"] == [{"line": 2, "reason": "longer than 16,777,216 bytes"}]
    assert grown_kib < 200_000


@pytest.mark.parametrize("extra", [0, 1])
def test_the_bound_of_a_line_is_exact(extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = orjson.dumps(post(1))
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", len(line) - extra)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "READ_BYTES", 7)
    path = Path(dump(tmp_path / "a.ndjson", [line, b"{}", line]))
    assert lines_of(path) == ([None, b"{}\n", None] if extra else [line + b"\n", b"{}\n", line + b"\n"])


def lines_of(path: Path) -> list[bytes | None]:
    """All lines as the blocks hold them, None for one that is too long."""
    found: list[bytes | None] = []
    memory = bytearray(2 * blocks.buffer_bytes())
    with path.open("rb") as file:
        reader = blocks.BlockReader(path, file)
        starts = itertools.cycle((0, blocks.buffer_bytes()))
        while block := reader.fill(blocks.Buffer(memory, next(starts))):
            lines = bytes(memory[block.start : block.end])
            assert len(lines) < blocks.BLOCK_BYTES + blocks.MAX_LINE_BYTES + blocks.READ_BYTES
            found += [None] if block.is_too_long else lines.splitlines(keepends=True)
        assert reader.fill(blocks.Buffer(memory, 0)) is None
    return found


@pytest.mark.parametrize(("block", "size"), [(1, 4), (1, 8), (2, 5), (3, 6), (4, 5), (5, 4)])
def test_blocks_hold_every_line_once(block: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "READ_BYTES", size)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 9)
    lines = [b"one", b"", b"1234567890", b"two", b"123456789", b"x" * 30, b"x" * 30, b"", b"three", b"y" * 40]
    for last in (3, 6, 9, 10):
        for end in (b"", b"\n", b"\n\n"):
            path = tmp_path / "a.ndjson"
            path.write_bytes(b"\n".join(lines[:last]) + end)
            every = path.read_bytes().splitlines(keepends=True)
            assert lines_of(path) == [None if len(line.removesuffix(b"\n")) > 9 else line for line in every]


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf", b"\xef\xbb\xbfa\n", b"\xef\xbb", b"a", b"ab\n", b"abc\n", b"abcd"])
def test_a_byte_order_mark_is_no_part_of_a_line(text: bytes, tmp_path: Path) -> None:
    for suffix in COMPRESSORS:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(COMPRESSORS[suffix](text))
        assert lines_of(path) == text.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)


def test_a_zstd_file_that_is_cut_off_anywhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also inside a block that is stored as it is, which takes what follows for its own."""
    for name, size in (("READ_BYTES", 2**11), ("BLOCK_BYTES", 2**11), ("MAX_LINE_BYTES", 2**12)):
        monkeypatch.setattr(blocks, name, size)  # small buffers
    random_ = random.Random(7)
    bodies = [random_.randbytes(300).hex().encode(), bytes(random_.choices(range(32, 127), k=300)), b"a" * 300]
    for checksum in (True, False):
        compressor = zstandard.ZstdCompressor(write_checksum=checksum)
        frames = [compressor.compress(body + b"\n") for body in bodies]
        whole = b"".join(frames)
        ends = set(itertools.accumulate(map(len, frames)))
        path = tmp_path / "a.zst"
        for length in range(4, len(whole)):
            path.write_bytes(whole[:length])
            if length in ends:
                assert len(lines_of(path)) == sorted(ends).index(length) + 1
                continue
            with pytest.raises(InputError, match=r"a\.zst: damaged or cut off after [\d,]+ bytes"):
                lines_of(path)


# ---------------------------------------------------------------------------------------------------- parts


def many(n: int, seed: int) -> list[dict[str, Any] | bytes]:
    """Posts on few domains with repeated URLs, and now and then a line that is none."""
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
    assert len(parts) == 8  # 1,600 submissions / 200, up to a power of two
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


def test_rows_equal_a_plain_computation(two_dumps: list[str], tmp_path: Path) -> None:
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


def test_order_of_sources_directory_and_memory_do_not_matter(two_dumps: list[str], tmp_path: Path) -> None:
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


def test_other_rows_give_another_digest(tmp_path: Path) -> None:
    digests = set()
    for number, score in enumerate((9, 10)):
        path = dump(tmp_path / str(number) / "a.ndjson", [post(1, score=score)])
        digests.add(build(tmp_path / f"lake{number}", [path]).parts[-1].digest)
    assert len(digests) == 2


def test_files_of_one_name_are_told_apart_whatever_their_order(tmp_path: Path) -> None:
    one = dump(tmp_path / "x" / "RS.ndjson", [post(1)])
    two = dump(tmp_path / "y" / "RS.ndjson", [post(2)])
    first, second = build(tmp_path / "one", [one, two]), build(tmp_path / "two", [two, one])
    assert first.counts == {"merged": 0, "ok": 2}
    assert first.digest == second.digest
    assert len(first.inputs) == 2
    assert all(name.startswith("source:RS.ndjson@") for name in first.inputs)
    with pytest.raises(InputError, match=r"RS\.ndjson.*: among the link sources twice"):
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
    assert made == names  # each once
    assert resumed.digest == expected.digest
    again = links.run(Lake(tmp_path / "cut"), "demo", two_dumps[::-1], SMALL)
    assert again.skipped
    assert again.manifest.digest == expected.digest


def test_find_link_by_any_spelling_and_in_every_part(two_dumps: list[str], tmp_path: Path) -> None:
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


def test_sources_without_any_outbound_link_give_one_empty_part(tmp_path: Path) -> None:
    manifest = build(tmp_path / "lake", [dump(tmp_path / "a.ndjson", [post(is_self=True), b"{"])])
    assert [part.name for part in manifest.parts] == ["source-00000", "part-00000"]
    assert manifest.counts == {"malformed_line": 1, "merged": 0, "self_post": 1}
    assert rows_of(tmp_path / "lake") == []
    assert links.find_link(Lake(tmp_path / "lake"), "demo", "https://site1.example/") is None


def test_min_karma_and_block_domains(tmp_path: Path) -> None:
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


def test_a_damaged_published_dataset_is_not_begun_anew(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.ndjson", [post(1)])
    build(tmp_path / "lake", [path])
    part = tmp_path / "lake" / "links" / "demo" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"part-00000\.parquet: sha256 is"):
        build(tmp_path / "lake", [path])
    with pytest.raises(InputError, match="made with other settings"):
        build(tmp_path / "lake", [path], LinksConfig(min_karma=9))
