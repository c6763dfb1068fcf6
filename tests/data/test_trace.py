"""What became of a URL: links that were redirected to it, copies of other snapshots' pages, and URLs without a row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.config import SelectConfig
from data.errors import InputError
from data.lake.store import Lake, write_parquet
from data.links import stage as links
from data.schema import PAGES
from data.select import stage as select
from data.trace import why
from flows.cli import show
from flows.cli.explain import what_became_of
from tests.data.links.dumps import CONFIG, dump, item, post
from tests.data.select.test_stage import add_text, prose, row

FINAL = "https://elsewhere.example/2026/story?id=1"


def lake_with(folder: Path, snapshot: str, rows: list[dict[str, Any]], final: dict[str, str]) -> Lake:
    """A lake whose links were fetched; ``final`` has where the redirected ones ended."""
    lake = Lake(folder / "lake")
    links.run(lake, snapshot, [dump(folder / f"{snapshot}.ndjson", rows)], CONFIG)
    pages = [
        {"canonical_url": post["url"], "final_url": final.get(post["url"], post["url"]), "status": "ok"}
        for post in rows
        if "url" in post
    ]
    table = pa.Table.from_pylist([{name: page.get(name) for name in PAGES.names} for page in pages], PAGES)
    dataset = lake.dataset("pages", snapshot)
    dataset.begin({}, {})
    with lake.scratch() as scratch:
        write_parquet(table, scratch / "part")
        files = {"part-00000.parquet": scratch / "part"}
        dataset.seal("part-00000", files, table, counts={"ok": len(pages)}, rows={"part-00000.parquet": len(pages)})
    dataset.finish(["part-00000"], {}, 0.0)
    return lake


@pytest.mark.parametrize("asked", [FINAL, f"{FINAL}&utm_source=x#top", FINAL.replace("elsewhere", "ELSEWHERE")])
def test_the_final_url_of_a_redirect_finds_its_link(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, other = post(1)["url"], post(2)["url"]
    final = {short: f"{FINAL}&utm_campaign=y", other: "https://elsewhere.example/2026/story?id=11"}
    lake = lake_with(tmp_path, "s", [post(1), post(2), post(3)], final)
    (found,) = what_became_of(lake, asked)
    assert (found["snapshot"], found["canonical_url"], found["redirected_to"]) == ("s", short, FINAL)
    assert found["stages"]["pages"]["final_url"] == final[short]
    show.why([found])
    assert f"s: {short}, redirected to {FINAL}\n" in capsys.readouterr().out
    (direct,) = what_became_of(lake, short)
    assert direct["canonical_url"] == short
    assert "redirected_to" not in direct


def test_a_url_that_is_a_link_and_the_end_of_another_has_both_entries(tmp_path: Path) -> None:
    one, two = post(1)["url"], post(2)["url"]
    lake = lake_with(tmp_path, "s", [post(1), post(2)], {one: two})
    assert [(e["canonical_url"], e.get("redirected_to")) for e in why(lake, two)] == [(two, None), (one, two)]


def test_a_copy_names_the_snapshot_that_kept_its_original(tmp_path: Path) -> None:
    same, changed = "http://same.example/", "http://changed.example/"
    lake = Lake(tmp_path / "lake")
    january = [row(prose(1), "same"), row(prose(2), "first")]
    february = [row(prose(1), "same"), row(prose(2, edits=3), "changed"), row(prose(3), "own"), row(prose(3), "x", 1)]
    for snapshot, rows in (("2026-01", january), ("2026-02", february)):
        lake = lake_with(tmp_path, snapshot, [post(n, url=text["url"]) for n, text in enumerate(rows)], {})
        add_text(lake, snapshot, {"part-00000": rows})
        select.run(lake, snapshot, None, SelectConfig())
    first, second = (entry["stages"]["select"] for entry in why(lake, same))
    assert first["status"] == "ok"
    assert (second["status"], second["duplicate_of_url"]) == ("exact_duplicate", same)
    assert second["duplicate_of_snapshot"] == "2026-01"
    (entry,) = why(lake, changed)
    assert entry["stages"]["select"]["duplicate_of_url"] == "http://first.example/"
    assert entry["stages"]["select"]["duplicate_of_snapshot"] == "2026-01"
    (entry,) = why(lake, "http://x.example/")
    assert entry["stages"]["select"]["duplicate_of_snapshot"] == "2026-02"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://a.example/x", r"neither http nor https, so it is a bad URL: .* only counted \(bad_url: 1 in s\)$"),
        ("http://me:secret@a.example/", r"credentials inside, so it is a bad URL"),
        ("https://old.reddit.com/r/news/comments/1/x/", r"own hosts, so it is a self post: .* \(self_post: 2 in s\)$"),
        ("https://news.ycombinator.com/item?id=8863", r"on the site's own hosts, so it is a self post"),
        (
            "https://unseen.example/",
            r"in no snapshot's links, .* safe for work leaves no row.* \(over_18: 3 in s\)",
        ),
        (
            "https://unseen.example/",
            r"killed by moderators or flags leaves no row.* \(dead: 1 in s\)$",
        ),
    ],
)
def test_a_url_without_a_row_gets_words_of_its_own(url: str, words: str, tmp_path: Path) -> None:
    rows = [post(0), *(post(n, is_self=True) for n in (1, 2)), *(post(n, over_18=True) for n in (3, 4, 5))]
    rows += [post(6, url="ftp://a.example/x"), item(dead=True)]
    links.run(Lake(tmp_path / "lake"), "s", [dump(tmp_path / "a.ndjson", rows)], CONFIG)
    with pytest.raises(InputError, match=words):
        what_became_of(Lake(tmp_path / "lake"), url)
