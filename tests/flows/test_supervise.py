"""What is said of a child process that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import InputError
from flows.cli import main as cli
from flows.supervise import run_child


def test_the_last_words_of_a_child_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun ends its report of a killed process with a line of equals signs."""
    (tmp_path / "child.py").write_text("print('traceback : Signal 9 (SIGKILL) received')\nprint('=' * 60)\nexit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match=r"exit code 1; see .*child\.log: traceback : Signal 9 \(SIGKILL\) received$"):
        run_child("child", [], tmp_path / "child.log", lambda _: None)


def test_no_processes_are_wrong_usage() -> None:
    arguments = ["train", "--corpus", "a", "--preset", "nano", "--dry-run", "--processes", "0"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 2
