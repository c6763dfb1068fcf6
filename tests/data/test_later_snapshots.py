"""How later snapshots depend on earlier ones: they skip files already read, and start with deferred links."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from data.errors import InputError
from data.lake.store import Lake, write_parquet
from data.schema import PAGES
from tests.data.links.services import Services, links_of, refresh, submission

# ---------------------------------------------------------------------------------------------------- patterns


def test_a_pattern_skips_files_that_an_earlier_snapshot_has_read(services: Services, tmp_path: Path) -> None:
    def month(number: int) -> None:
        rows = [submission(number * 10 + n, 1.0) for n in range(3)]
        (tmp_path / f"RS_{number}.ndjson").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    lake, pattern = tmp_path / "lake", str(tmp_path / "RS_*.ndjson")
    month(1)
    month(2)
    first = refresh(lake, "s1", [pattern], services)
    assert sorted(first.inputs) == ["source:RS_1.ndjson", "source:RS_2.ndjson"]
    month(3)
    (tmp_path / "RS_1.ndjson").rename(tmp_path / "RS_0.ndjson")  # known by its hash, not by its name
    second = refresh(lake, "s2", [pattern], services)
    assert sorted(second.inputs) == ["source:RS_3.ndjson"]
    assert second.extra["consumed_files"] == 2
    listed = Lake(lake).read_json("links", "s2", "part-00000.consumed.json")
    assert [(Path(file["path"]).name, file["snapshot"]) for file in listed] == [
        ("RS_0.ndjson", "s1"),
        ("RS_2.ndjson", "s1"),
    ]
    month(4)
    (tmp_path / "RS_0.ndjson").rename(tmp_path / "RS_1.ndjson")
    assert (
        refresh(lake, "s1", [pattern], services).digest == first.digest
    )  # done; a new file belongs to the next snapshot
    third = refresh(lake, "s3", [pattern, str(tmp_path / "RS_2.ndjson")], services)
    assert sorted(third.inputs) == ["source:RS_2.ndjson", "source:RS_4.ndjson"]  # named explicitly, so it is read again
    empty = refresh(lake, "s4", [pattern], services)
    assert (empty.rows_in, empty.extra["consumed_files"]) == (0, 4)


# ---------------------------------------------------------------------------------------------------- deferred


def crawl(lake: Lake, snapshot: str, deferred: set[str]) -> None:
    """A pages dataset in which these links are deferred and all others are pages."""
    rows = [
        {"canonical_url": url, "status": "deferred" if url in deferred else "ok"}
        for url, row in links_of(Path(lake.base), snapshot).items()
        if row["status"] == "ok"
    ]
    table = pa.Table.from_pylist([{name: row.get(name) for name in PAGES.names} for row in rows], PAGES)
    dataset = lake.dataset("pages", snapshot)
    assert dataset.begin({}, {"links": lake.dataset("links", snapshot).require().digest}) is None
    with lake.scratch() as folder:
        write_parquet(table, folder / "part.parquet")
        n_deferred = sum(row["status"] == "deferred" for row in rows)
        dataset.seal(
            "part-00000",
            {"part-00000.parquet": folder / "part.parquet"},
            table,
            counts={"deferred": n_deferred, "ok": len(rows) - n_deferred},
        )
    dataset.finish(["part-00000"], {}, 0.0)


def test_deferred_links_appear_once_in_the_next_refresh(services: Services, tmp_path: Path) -> None:
    def write(name: str, *rows: dict[str, Any]) -> str:
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return str(tmp_path / name)

    lake = Lake(tmp_path / "lake")
    shared = "https://shared.example/"
    one = write(
        "one.ndjson",
        submission(1, 1.0, 10),
        submission(2, 1.0, 20),
        submission(3, 1.0, 4, url=shared, subreddit="a"),
        submission(4, 1.0, 1, url=shared, subreddit="b"),
        submission(5, 1.0, 2),
    )
    refresh(tmp_path / "lake", "s1", [one], services)
    crawl(lake, "s1", {"https://site1.example/?a=1&b=2", shared})

    two = write("two.ndjson", submission(6, 1.0, 6), submission(7, 2.0, 9, url=shared, subreddit="c"))
    second = refresh(tmp_path / "lake", "s2", [two], services)
    assert second.inputs["deferred:s1"] == lake.dataset("pages", "s1").require().digest
    rows = links_of(tmp_path / "lake", "s2")
    assert {url: row["deferred_from"] for url, row in rows.items()} == {
        "https://site1.example/?a=1&b=2": "s1",
        shared: "s1",
        "https://site6.example/?a=1&b=2": None,
    }
    merged = rows[shared]
    assert (merged["karma"], merged["karma_sum"]) == (9, 14)
    assert merged["submission_ids"] == ["r3", "r4", "r7"]
    assert merged["subreddits"] == ["a", "b", "c"]
    assert rows["https://site1.example/?a=1&b=2"]["source"] == "one.ndjson"
    assert second.rows_in == sum(second.counts.values()) == second.extra["lines"] == 2 + 2
    assert second.counts == {"merged": 1, "ok": 3}

    crawl(lake, "s2", {shared})  # deferred again
    again = refresh(tmp_path / "lake", "s2", [two], services)  # resumes with its original input
    assert again.digest == second.digest
    third = refresh(tmp_path / "lake", "s3", [one], services)
    assert [name for name in third.inputs if name.startswith("deferred:")] == ["deferred:s2"]
    rows = links_of(tmp_path / "lake", "s3")
    assert {url for url, row in rows.items() if row["deferred_from"]} == {shared}
    assert rows[shared]["deferred_from"] == "s2"
    assert rows[shared]["karma_sum"] == 14  # submissions 3 and 4 are named again, and counted once
    assert third.rows_in == 5 + 1

    crawl(lake, "s3", set())
    fourth = refresh(tmp_path / "lake", "s4", [one], services)
    assert not [name for name in fourth.inputs if name.startswith("deferred:")]


def test_deferred_links_of_a_rebuilt_links_dataset_are_an_error(services: Services, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(orjson.dumps(submission(1, 1.0)) + b"\n")
    lake = Lake(tmp_path / "lake")
    refresh(tmp_path / "lake", "s1", [str(tmp_path / "a.ndjson")], services)
    crawl(lake, "s1", {"https://site1.example/?a=1&b=2"})
    lake.remove("links", "s1")
    (tmp_path / "a.ndjson").write_bytes(orjson.dumps(submission(2, 1.0)) + b"\n")
    refresh(tmp_path / "lake", "s1", [str(tmp_path / "a.ndjson")], services)
    with pytest.raises(InputError, match="pages/s1: 1 links are deferred, 0 of them are in links/s1"):
        refresh(tmp_path / "lake", "s2", [str(tmp_path / "a.ndjson")], services)
