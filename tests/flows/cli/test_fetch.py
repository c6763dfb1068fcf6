"""``webtext eval --fetch``: which sets are asked for, what is printed, and when it fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import InputError
from data.evalsets.registry import SETS, Download, OfficialFile
from flows.cli import fetch as fetching
from flows.cli.main import app
from flows.settings import Settings
from tests.data.links.services import NETWORK, Services, serving


def settings(home: Path) -> Settings:
    return Settings(home=home, lake=str(home / "lake"))


def test_the_sets_of_the_tasks_are_fetched_into_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Services()) as server:
        server.files["/lambada"] = b'{"text": "a b"}\n'
        file = OfficialFile("lambada_test.jsonl", (Download(f"{server.base}/lambada"),))
        monkeypatch.setitem(SETS, "lambada", dataclasses.replace(SETS["lambada"], files=(file,)))
        names = ["paper/lambada", "harness/lambada_openai", "heldout_ppl"]  # two tasks with one file, one without
        result = fetching.fetch_sets(settings(tmp_path), names, None, NETWORK)
        assert [(one.evalset, one.outcome) for one in result.sets] == [("lambada", "fetched")]
        assert (Path(result.directory) / "lambada_test.jsonl").read_bytes() == server.files["/lambada"]
        assert result.directory == str(tmp_path / "eval-data")
        fetching.require_fetched(result)
        file = OfficialFile("lambada_test.jsonl", (Download(f"{server.base}/none"),))
        monkeypatch.setitem(SETS, "lambada", dataclasses.replace(SETS["lambada"], files=(file,)))
        failed = fetching.fetch_sets(settings(tmp_path), names, str(tmp_path / "other"), NETWORK)
        with pytest.raises(InputError, match=r"--fetch: 1 of 1 sets failed: lambada: .*answered 404"):
            fetching.require_fetched(failed)


def test_sets_that_a_task_reads_besides_its_own_are_fetched_too(tmp_path: Path) -> None:
    for name in ("NQ-open.dev.jsonl", "NQ-open.train.jsonl"):
        (tmp_path / name).write_text("mine")
    result = fetching.fetch_sets(settings(tmp_path), ["paper/nq"], str(tmp_path), NETWORK)
    assert [one.evalset for one in result.sets] == ["nq_open", "nq_open_train"]


def test_the_command_line_fetches_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBTEXT_HOME", str(tmp_path))
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "news.en.heldout-00000-of-00050").write_text("A line .\n")  # there, and its hash is not known
    arguments = ["eval", "--fetch", "--tasks", "paper/1bw", "--eval-data", str(folder)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "1bw there: news.en.heldout-00000-of-00050\n" in shown.output
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output.splitlines()[-1])
    assert found["directory"] == str(folder)
    assert found["sets"][0]["outcome"] == "there"
    (folder / "lambada_test.jsonl").write_text("{}")
    wrong = CliRunner().invoke(app, ["eval", "--fetch", "--tasks", "paper/lambada", "--eval-data", str(folder)])
    assert isinstance(wrong.exception, InputError)
    assert "is not the official file; remove it" in str(wrong.exception)


def test_a_model_is_still_needed_without_fetch() -> None:
    assert CliRunner().invoke(app, ["eval"]).exit_code == 2
    assert CliRunner().invoke(app, ["eval", "--fetch", "--run", "a", "--hf", "b"]).exit_code == 2
