"""How a child process is supervised: its events, its result, and the error when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import InputError
from flows.cli import main as cli
from flows.supervise import Event, run_child
from model.events import Resumed, Stopped, train_event

ENDS_WELL = """
print('{"event": "resumed", "step": 3, "samples_seen": 12}')
print("a library's remark")
print('{"event": "stopped", "run": "first", "step": 7}')
"""
FAILS = """
print('{"event": "error", "message": "--corpus x: no such dataset", "kind": "InputError"}')
exit(2)
"""


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> tuple[Event, list[Event]]:
    (folder / "child.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    events: list[Event] = []
    return run_child("child", [], folder / "child.log", train_event, events.append), events


def test_the_last_event_is_the_result_and_other_lines_go_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, events = run(tmp_path, monkeypatch, ENDS_WELL)
    assert result == Stopped("first", 7)
    assert events == [Resumed(step=3, samples_seen=12), Stopped("first", 7)]
    assert (tmp_path / "child.log").read_text() == "a library's remark\n"


def test_the_message_of_an_error_event_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^--corpus x: no such dataset$"):
        run(tmp_path, monkeypatch, FAILS)


def test_the_last_line_of_a_failed_child_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun ends its report of a killed process with a line of equals signs."""
    program = "print('traceback : Signal 9 (SIGKILL) received')\nprint('=' * 60)\nexit(1)\n"
    with pytest.raises(InputError, match=r"exit code 1; see .*child\.log: traceback : Signal 9 \(SIGKILL\) received$"):
        run(tmp_path, monkeypatch, program)


def test_a_killed_child_is_an_error_that_names_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os\nprint('step 3', flush=True)\nos.kill(os.getpid(), 9)\n"
    with pytest.raises(InputError, match=r"^child was killed by SIGKILL; see .*child\.log: step 3$"):
        run(tmp_path, monkeypatch, program)


def test_a_child_without_a_result_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"child ended without a result; see .*child\.log: nothing to do$"):
        run(tmp_path, monkeypatch, "print('nothing to do')\n")


def test_zero_processes_are_wrong_usage() -> None:
    arguments = ["train", "--corpus", "a", "--preset", "nano", "--dry-run", "--processes", "0"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 2
