"""One line of a dump, however odd: its fields and its one status."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from data.lake.store import Lake
from tests.data.links.dumps import build, dump, item, one_link, post

COMMENT = {
    "id": "c1",
    "body": "A comment.",
    "link_id": "t3_abc",
    "parent_id": "t1_xyz",
    "subreddit": "news",
    "score": 12,
    "created_utc": 1_500_000_000,
}


def only_count(tmp_path: Path, row: dict[str, Any] | bytes) -> str:
    """The status of a line of a dump. The other line is a submission, since a dump without any is refused."""
    other = post(99, url="https://other.example/")
    manifest = build(tmp_path / "lake", [dump(tmp_path / "dump.ndjson", [other, row])])
    (status,) = (Counter(manifest.counts) - Counter(ok=1)).elements()
    return status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (post(), "ok"),
        (post(score=3), "ok"),
        (post(score=2), "low_karma"),
        (post(score=-3), "low_karma"),
        (post(score="7"), "ok"),
        (post(score=7.0), "ok"),
        (post(score="12.0"), "ok"),
        (post(score=" 7 "), "ok"),
        (post(score="2.0"), "low_karma"),
        (post(score="many"), "low_karma"),
        (post(score="inf"), "low_karma"),
        (post(score="nan"), "low_karma"),
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
        (post(over_18=1), "over_18"),
        (post(over_18=1.0), "over_18"),
        (post(over_18="true"), "over_18"),
        (post(over_18="True", is_self=...), "over_18"),
        (post(over_18="1"), "over_18"),
        (post(over_18=0), "ok"),
        (post(over_18="False"), "ok"),
        (post(over_18=""), "ok"),
        (post(over_18=None), "ok"),
        (post(over_18=7), "ok"),
        (post(is_self="True"), "self_post"),
        (post(is_self=1), "self_post"),
        (post(is_self="1"), "self_post"),
        (post(is_self="False"), "ok"),
        (post(is_self=0, domain="self.news"), "ok"),
        (post(is_self="", domain="self.news"), "self_post"),
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
        (item(), "ok"),
        (item(score="12.0"), "ok"),
        (item(dead=True), "dead"),
        (item(dead="true"), "dead"),
        (item(dead=1), "dead"),
        (item(dead=None, deleted=False), "ok"),
        (item(deleted=True), "deleted"),
        (item(deleted=True, dead=True, url=None), "deleted"),
        (item(type="job"), "not_a_submission"),
        (item(type="job", dead=True), "not_a_submission"),
        (item(type="comment", url=None), "not_a_submission"),
        (item(type="poll", url=None), "not_a_submission"),
        (item(type="pollopt", url=None), "not_a_submission"),
        (item(type=..., points=9, _tags=["job", "author_a", "job_8863"]), "not_a_submission"),
        (item(type=..., points=9, _tags=["story", "author_job", "story_8863"]), "ok"),
        (item(type=..., points=9, _tags=["comment"], url=None), "not_a_submission"),
        (item(type=..., title=..., points=9, url=None), "not_a_submission"),
        (item(type=..., points=9, url=None), "no_url"),
        (COMMENT, "not_a_submission"),
        (COMMENT | {"over_18": False, "link_title": "A story", "link_url": "https://a.example/"}, "not_a_submission"),
        ({"kind": "Listing", "data": {"children": [{"kind": "t1", "data": COMMENT}]}}, "not_a_submission"),
        (
            {"id": "2qh3l", "display_name": "news", "url": "/r/news/", "created_utc": 1, "over18": False},
            "not_a_submission",
        ),
        ({"name": "someone", "link_karma": 7, "created_utc": 1}, "not_a_submission"),
        ({"url": "https://a.example/", "text": "A page.", "timestamp": "2019-04-25T12:57:54Z"}, "not_a_submission"),
        ({"url": "https://a.example/", "text": "A page.", "title": "A title"}, "not_a_submission"),
        ({"url": "https://a.example/"}, "not_a_submission"),
        ({"url": "https://a.example/", "title": "A title"}, "low_karma"),
        ({"url": "https://a.example/", "score": 5}, "ok"),
        ({"title": "Only a title", "created_utc": 1}, "no_url"),
        ({}, "not_a_submission"),
        (b"{", "malformed_line"),
        (b"[1, 2]", "malformed_line"),
        (b"null", "malformed_line"),
        (b'"text"', "malformed_line"),
        (b'{"url": NaN}', "malformed_line"),
        (b'{"score": 5, "url": "\xff"}', "malformed_line"),
        (b"[" * 100_000, "malformed_line"),
    ],
)
def test_each_line_gets_one_status(line: dict[str, Any] | bytes, status: str, tmp_path: Path) -> None:
    assert only_count(tmp_path, line) == status


@pytest.mark.parametrize("value", [8863, 8863.0, "8863"])
def test_an_id_is_read_in_every_type(value: Any, tmp_path: Path) -> None:
    assert one_link(tmp_path, [item(id=value)])["submission_ids"] == ["8863"]


def test_a_row_has_the_fields_of_its_submission(tmp_path: Path) -> None:
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
        "url": "HTTPS://Www.Site1.Example/a?utm_source=x&id=1#top",  # only Reddit's own escaping is undone
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
def test_created_utc_is_read_in_every_type(created: Any, tmp_path: Path) -> None:
    row = one_link(tmp_path, [post(created_utc=created, subreddit=None, subreddit_id=None, retrieved_on=...)])
    assert row["submitted_at"] == datetime.fromtimestamp(1_500_000_000, UTC)
    assert row["score_observed_at"] is None
    assert row["subreddits"] == []


@pytest.mark.parametrize("created", [None, ..., "yesterday", 1e40, -5, [], {}])
def test_an_invalid_time_is_null(created: Any, tmp_path: Path) -> None:
    assert one_link(tmp_path, [post(created_utc=created)])["submitted_at"] is None


def test_the_second_retrieval_of_arctic_shift_dates_the_score(tmp_path: Path) -> None:
    row = one_link(tmp_path, [post(_meta={"retrieved_2nd_on": 1_520_000_000})])
    assert row["score_observed_at"] == datetime.fromtimestamp(1_520_000_000, UTC)


def test_malformed_lines_are_counted_and_the_first_hundred_listed(tmp_path: Path) -> None:
    bad = [b'{"id": "cut', b"17", b"", b"   ", b'{"score": 5, "url": "\xff"}']
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
