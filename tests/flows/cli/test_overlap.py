"""``webtext overlap`` as a person and a program call it, and what the report shows of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from data.lake.store import Lake
from data.report import snapshot_report
from tests.data.overlap.test_stage import make_corpus, write_sets
from tests.flows.serving import webtext


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("corpus")
    write_sets(folder / "sets")
    return make_corpus(folder)


def overlap(lake: Lake, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = Path(lake.root).parent
    environment = {**os.environ, "WEBTEXT_LAKE": lake.root, "WEBTEXT_HOME": str(folder / "home"), "COLUMNS": "200"}
    return webtext(environment, "overlap", *arguments)


def test_the_result_is_printed_kept_and_reported(lake: Lake) -> None:
    sets = str(Path(lake.root).parent / "sets")
    run = overlap(lake, "--corpus", "2026-10,2026-11", "--eval-data", sets, "--decontaminate", "clean", "--json")
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    result = json.loads(line)
    assert [one["evalset"] for one in result["sets"]] == ["lambada", "wikitext2_valid"]
    for one in result["sets"]:
        assert one["share"] == one["in_corpus"] / one["n_grams"]
        assert 0 < one["share"] < 1
    assert result["sets"][0]["training_share"] is None
    assert result["sets"][1]["training_share"] > 0
    assert set(result["variants"]) == {"2026-10@clean", "2026-11@clean"}
    for name, counts in result["variants"].items():
        tokens = lake.dataset("tokens", name).require()
        assert counts["contaminated"] > 0
        assert tokens.rows_out == counts["documents"]
    assert "overlap: 4/4 parts" in run.stderr

    again = overlap(lake, "--corpus", "2026-10,2026-11", "--eval-data", sets)
    assert again.returncode == 0, again.stderr
    flat = " ".join(again.stdout.split())
    share = f"{result['sets'][1]['share']:.2%}"
    assert share in flat
    assert result["dataset"] in flat

    links = lake.dataset("links", "2026-10")
    links.begin({}, {})
    links.finish([], {}, 0.0)
    rows = snapshot_report(lake, "2026-10").overlap
    assert [(row["corpus"], row["in_corpus"]) for row in rows] == [
        ("2026-10, 2026-11", one["in_corpus"]) for one in result["sets"]
    ]
    page = Path(lake.root).parent / "report.html"
    environment = {**os.environ, "WEBTEXT_LAKE": lake.root, "WEBTEXT_HOME": str(page.parent / "home")}
    report = webtext(environment, "report", "--snapshot", "2026-10", "--to", str(page))
    assert report.returncode == 0, report.stderr
    assert share in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--corpus", "none", "--eval-data", "sets"), 1, "tokens/none: no such dataset"),
        (("--corpus", "2026-10", "--eval-data", "nowhere"), 1, "--eval-data nowhere: no such directory"),
        (("--corpus", "2026-10", "--eval-data", ""), 2, "is empty"),
        (("--corpus", "2026-10"), 2, "Missing option '--eval-data'"),
        (("--corpus", "2026-10", "--eval-data", "sets", "--decontaminate", "a b"), 1, "not a valid snapshot name"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(lake: Lake, arguments: tuple[str, ...], code: int, message: str) -> None:
    sets = str(Path(lake.root).parent / "sets")
    run = overlap(lake, *(sets if one == "sets" else one for one in arguments))
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
