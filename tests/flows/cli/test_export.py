"""``webtext export --corpus`` as a person and a program call it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from data.exports.corpus import FORMATS
from data.lake.store import Lake
from flows.cli import options
from tests.data.exports.test_corpus import make_corpus
from tests.flows.serving import webtext


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def export(lake: Lake, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = str(Path(lake.root).parent / "home")
    environment = {**os.environ, "WEBTEXT_LAKE": lake.root, "WEBTEXT_HOME": home, "COLUMNS": "200"}
    return webtext(environment, "export", *arguments)


def test_the_result_is_one_line_of_json_and_progress_goes_to_standard_error(lake: Lake, tmp_path: Path) -> None:
    to = tmp_path / "out"
    run = export(lake, "--corpus", "2026-10,2026-11", "--format", "nanogpt", "--to", str(to), "--json")
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    result = json.loads(line)
    assert result["snapshots"] == ["2026-10", "2026-11"]
    assert result["files"] == {f"{split}.bin": 2 * result["tokens"][split] for split in ("train", "val")}
    assert "export: 8/8 parts" in run.stderr
    again = export(lake, "--corpus", "2026-10", "--format", "hf", "--to", str(to))
    assert again.returncode == 1
    assert "exists and is not an empty directory; choose another" in again.stderr


def test_a_person_reads_how_much_was_written(lake: Lake, tmp_path: Path) -> None:
    run = export(lake, "--corpus", "2026-10", "--format", "jsonl", "--to", str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr
    assert "out: 2026-10 as jsonl" in run.stdout
    assert run.stdout.startswith("train: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--to", "x"), 2, "name exactly one of --run and --corpus"),
        (("--to", "x", "--corpus", "2026-10", "--run", "a"), 2, "name exactly one of --run and --corpus"),
        (("--to", "x", "--corpus", "2026-10"), 2, "--corpus needs --format: nanogpt, llmc, datatrove, hf or jsonl"),
        (("--to", "x", "--run", "a", "--format", "hf"), 2, "--format belongs to --corpus"),
        (("--to", "x", "--corpus", "2026-10", "--format", "hf", "--step", "1"), 2, "--step belongs to --run"),
        (("--to", "x", "--corpus", "2026-10", "--format", "mds"), 1, "--format mds: no such format; choose from"),
        (("--to", "x", "--corpus", "none", "--format", "hf"), 1, "tokens/none: no such dataset"),
        (("--to", "x", "--corpus", "", "--format", "hf"), 2, "is empty"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(lake: Lake, arguments: tuple[str, ...], code: int, message: str) -> None:
    run = export(lake, *arguments)
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_the_help_names_every_format(lake: Lake) -> None:
    shown = export(lake, "--help").stdout
    for name in FORMATS:
        assert f"`{name}`" in options.EXPORT_FORMATS
        assert name in shown
