"""Why a document was dropped, the document that was kept, and what a kept one displaced."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.clusters import largest_clusters
from data.config import DecontaminateConfig, SelectConfig, TokensConfig
from data.duplicates import LISTED, duplicates_of
from data.errors import InputError
from data.lake.store import Lake
from data.overlap import stage as overlap
from data.select import decontaminate
from data.select import stage as select
from data.tokens import stage as tokens
from flows.cli import main as cli
from tests.data.overlap.test_stage import write_sets
from tests.data.select.test_stage import add_text, prose, row

LINES = [prose(n, 30) for n in range(10)]
ORIGINAL = "\n".join(LINES)
NEAR = "\n".join([*LINES[:4], LINES[4].replace(" ", " novel ", 1), *LINES[5:]])


def lake_with_duplicates(folder: Path) -> Lake:
    """January keeps ``first``; February drops a near-copy, an unchanged page, and a short one."""
    lake = Lake(folder / "lake")
    january = [row(prose(7), "other"), row(ORIGINAL, "first", karma=3), row(ORIGINAL.upper(), "shout", karma=2)]
    add_text(lake, "2026-01", {"part-00000": january[:1], "part-00001": january[1:]})
    february = [row(prose(8), "alone"), row(NEAR, "near"), row(ORIGINAL, "first"), row("too short", "short")]
    add_text(lake, "2026-02", {"part-00000": february})
    for snapshot in ("2026-01", "2026-02"):
        select.run(lake, snapshot, None, SelectConfig())
    return lake


def word_ngrams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}


def test_a_near_duplicate_is_shown_with_the_kept_text_and_the_exact_jaccard_index(tmp_path: Path) -> None:
    lake = lake_with_duplicates(tmp_path)
    (found,) = duplicates_of(lake, "http://NEAR.example/?utm_source=x#top").documents
    assert (found.snapshot, found.status, found.text) == ("2026-02", "near_duplicate", NEAR)
    assert found.kept is not None
    (first,) = duplicates_of(lake, found.kept.doc_id).documents[:1]
    assert (found.kept.snapshot, found.kept.url, found.kept.text) == ("2026-01", "http://first.example/", ORIGINAL)
    assert found.kept.karma == first.karma == 3
    ours, theirs = word_ngrams(NEAR), word_ngrams(ORIGINAL)
    assert found.kept.jaccard == pytest.approx(len(ours & theirs) / len(ours | theirs), abs=1e-12)
    assert 0.9 < found.kept.jaccard < 1
    assert (found.displaced, found.n_displaced) == ([], 0)
    assert duplicates_of(lake, found.doc_id.upper()).documents == [found]


def test_a_kept_document_lists_what_it_displaced_in_this_snapshot_and_later_ones(tmp_path: Path) -> None:
    lake = lake_with_duplicates(tmp_path)
    kept, again = duplicates_of(lake, "http://first.example/").documents
    assert (kept.snapshot, kept.status, kept.kept, kept.n_displaced) == ("2026-01", "ok", None, 3)
    assert [(d.snapshot, d.url, d.status) for d in kept.displaced] == [
        ("2026-01", "http://shout.example/", "exact_duplicate"),
        ("2026-02", "http://near.example/", "near_duplicate"),
        ("2026-02", "http://first.example/", "exact_duplicate"),
    ]
    assert kept.displaced[1].reason
    assert (again.snapshot, again.status, again.doc_id) == ("2026-02", "exact_duplicate", kept.doc_id)
    assert again.kept is not None
    assert (again.kept.snapshot, again.kept.jaccard) == ("2026-01", 1.0)
    (short,) = duplicates_of(lake, "http://short.example/").documents
    assert (short.status, short.reason, short.kept) == ("too_short", "n_gpt2_tokens 2 < 128", None)


def test_the_list_of_displaced_documents_is_cut_but_all_are_counted(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    rows = [row(ORIGINAL, f"n{k}", karma=100 - k) for k in range(LISTED + 5)]
    add_text(lake, "s", {"part-00000": rows[:9], "part-00001": rows[9:]})
    select.run(lake, "s", None, SelectConfig())
    (found,) = duplicates_of(lake, "http://n0.example/").documents
    assert (len(found.displaced), found.n_displaced) == (LISTED, LISTED + 4)
    result = CliRunner().invoke(cli.app, ["duplicates", found.doc_id, "--lake", lake.root])
    assert f"{LISTED + 4} documents were dropped because this one was kept" in result.stdout
    assert "and 4 more" in result.stdout


def test_each_variant_judges_the_document_again_and_an_unjudged_snapshot_is_named(tmp_path: Path) -> None:
    lake = lake_with_duplicates(tmp_path)
    select.run(lake, "2026-01@german", None, SelectConfig(language="de"))
    add_text(lake, "2026-03", {"part-00000": [row(ORIGINAL, "first")]})
    found = duplicates_of(lake, "http://first.example/")
    assert [(d.snapshot, d.status) for d in found.documents] == [
        ("2026-01", "ok"),
        ("2026-01@german", "not_english"),
        ("2026-02", "exact_duplicate"),
    ]
    assert found.not_judged == ["2026-03"]


def test_a_decontaminated_variant_has_the_duplicates_of_its_origin(tmp_path: Path) -> None:
    lake = lake_with_duplicates(tmp_path)
    for snapshot in ("2026-01", "2026-02"):
        tokens.run(lake, snapshot, TokensConfig())
    found = overlap.run(lake, ["2026-02"], write_sets(tmp_path / "sets")).manifest
    decontaminate.run(lake, "2026-02", "2026-02@clean", found.snapshot, DecontaminateConfig())
    original, clean = duplicates_of(lake, "http://near.example/").documents
    assert (original.snapshot, clean.snapshot) == ("2026-02", "2026-02@clean")
    assert clean.kept == original.kept
    assert original.kept is not None
    assert original.kept.snapshot == "2026-01"
    kept = duplicates_of(lake, "http://first.example/").documents[0]
    assert {displaced.snapshot for displaced in kept.displaced} == {"2026-01", "2026-02"}
    clusters = largest_clusters(lake, "2026-02@clean")
    assert [(cluster.url, cluster.kept_by) for cluster in clusters] == [("http://first.example/", "2026-01")]


def test_what_cannot_be_shown_is_an_error_that_says_why(tmp_path: Path) -> None:
    empty = Lake(tmp_path / "empty")
    with pytest.raises(InputError, match="no such document in the text of"):
        duplicates_of(empty, "0" * 32)
    lake = lake_with_duplicates(tmp_path)
    with pytest.raises(InputError, match=r"^0{32}: no such document in the text of 2026-01, 2026-02$"):
        duplicates_of(lake, "0" * 32)
    with pytest.raises(InputError, match=r"text of 2026-01, 2026-02; `webtext why URL` shows"):
        duplicates_of(lake, "http://unseen.example/")
    with pytest.raises(InputError, match=r"^abc123: a doc_id has 32 hexadecimal digits, got 6$"):
        duplicates_of(lake, "abc123")
    with pytest.raises(InputError, match=r"^a story: neither a doc_id \(32 hexadecimal digits\) nor a URL: "):
        duplicates_of(lake, "a story")
    add_text(lake, "2026-03", {"part-00000": [row(prose(9), "late")]})
    with pytest.raises(InputError, match=r"select/2026-03 is not published.*run `webtext refresh --snapshot 2026-03`"):
        duplicates_of(lake, "http://late.example/")


def test_a_verdict_on_other_rows_is_refused(tmp_path: Path) -> None:
    lake = lake_with_duplicates(tmp_path)
    lake.remove("text", "2026-02")
    add_text(lake, "2026-02", {"part-00000": [row(NEAR, "near"), row(prose(8), "alone")]})
    with pytest.raises(InputError, match=r"select/2026-02 part-00000\.parquet does not match the rows of text/2026-02"):
        duplicates_of(lake, "http://near.example/")


def test_the_command_marks_the_words_that_differ_and_its_json_has_both_texts(tmp_path: Path) -> None:
    lake = lake_with_duplicates(tmp_path)
    arguments = ["duplicates", "http://near.example/", "--lake", lake.root]
    printed = CliRunner().invoke(cli.app, arguments)
    assert printed.exit_code == 0
    assert "near_duplicate: " in printed.stdout
    assert "kept    http://first.example/ of 2026-01, doc_id " in printed.stdout
    assert "Jaccard index of their 5-grams: 0.9" in printed.stdout
    assert printed.stdout.count("{+") == printed.stdout.count("[-") - 1 == 0
    assert "[-novel-]" in printed.stdout
    (document,) = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)["documents"]
    assert (document["text"], document["kept"]["text"]) == (NEAR, ORIGINAL)
    failed = CliRunner().invoke(cli.app, ["duplicates", "0" * 32, "--lake", lake.root])
    assert isinstance(failed.exception, InputError)
    assert CliRunner().invoke(cli.app, ["duplicates", "--lake", lake.root]).exit_code == 2
