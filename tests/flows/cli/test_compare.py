"""``webtext eval --compare``: what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.lake.store import Lake
from flows.cli import show
from flows.cli.main import app
from model.compare import compare
from tests.model.scored import publish_score


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Two seeds of one setting, a better run, and a task that only this one has."""
    lake = Lake(tmp_path)
    for run, seed, earned in (("s0", 0, [0.0, 1.0]), ("s1", 1, [0.0, 0.0]), ("other", 2, [1.0, 1.0])):
        settings = {"seed": seed, "width": 8 if run == "other" else 4}
        record = {"key": "k", "spec": {}, "train": {}, "settings": settings}
        lake.publish_json(record, "checkpoints", run, "run.json")
        publish_score(lake, run, earned * 20)
    publish_score(lake, "other", [1.0], task="u")
    monkeypatch.setenv("WEBTEXT_LAKE", lake.root)
    return lake


def test_it_prints_a_table_the_spread_of_seeds_and_what_is_left_out(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    show.comparison(compare(lake, "s0", "other"))
    printed = capsys.readouterr().out
    assert "s0 (step 2) and other (step 2)" in printed
    row = [cell.strip() for line in printed.splitlines() if "accuracy" in line for cell in line.split("│")]
    assert row[1:8] == ["t", "accuracy", "0.5", "1", "+0.5", "+0.5 .. +0.5", "0.0001"]
    assert row[8:10] == ["other", "40"]
    assert "t: 0.25 with a standard deviation of 0.3536 over the seeds of s0, s1" in printed
    assert "not compared: u: s0 has no score" in printed


def test_json_and_usage(lake: Lake) -> None:
    runner = CliRunner()
    line = runner.invoke(app, ["eval", "--compare", "s0", "other", "--json"]).output.splitlines()[-1]
    found = json.loads(line)
    assert found["tasks"]["t"]["spread_a"]["runs"] == ["s0", "s1"]
    assert (found["tasks"]["t"]["better"], found["b"]) == ("b", {"run": "other", "step": 2})
    assert runner.invoke(app, ["eval", "--compare", "s0", "other", "--run", "s0"]).exit_code == 2
