"""Printed results: text of the web is shown unchanged, never as markup."""

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from flows.cli import show
from flows.cli.doctor import Check, Checks
from flows.cli.main import app
from model.events import EvalResult, TaskScore


def test_titles_with_brackets_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"status": "ok", "reason": "", "title": "[/r/foo] A [video] of [bold]markup"}
    show.why([{"snapshot": "s", "canonical_url": "http://a.example/[x]", "stages": {"text": fields}}])
    printed = capsys.readouterr().out
    assert "[/r/foo] A [video] of [bold]markup" in printed
    assert "http://a.example/[x]" in printed


def test_doctor_marks_are_styled_and_details_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    show.doctor(Checks([Check("links/s", "bad", "[red]damaged[/red]")]))
    assert capsys.readouterr().out == "bad   links/s: [red]damaged[/red]\n"


@pytest.mark.parametrize(
    ("metric", "lower_is_better", "expected"),
    [("f1", False, "yes"), ("bleu", False, "yes"), ("perplexity", True, "no")],
)
def test_a_score_above_its_baseline_is_beyond_it_only_where_more_is_better(
    metric: str, lower_is_better: bool, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    score = {metric: 0.55, "metric": metric, "n": 9, "stderr": 0.02, "interval": [0.5, 0.6]}
    score |= {"intervals": {metric: [0.5, 0.6]}, "baselines": {"b": {"value": 0.2, "interval": [0.1, 0.3]}}}
    score |= {"best_baseline": "b", "limit": 9, "truncated": 0, "lower_is_better": lower_is_better}
    scores = {"t": TypeAdapter(TaskScore).validate_python(score)}
    show.scores(EvalResult(scores, {}, 1.0, False, (), None, "first", 20, "lake/x", "ab", ("s",), "cd", "0.1.0"))
    row = next(line for line in capsys.readouterr().out.splitlines() if " t " in line)
    assert row.split("│")[-2].strip() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare", "a", "b", "--control", "--limit", "3"), "cannot go with --control, --limit"),
        (("--run", "a", "--ablate", "paper/lambada", "--promote", "heldout_ppl"), "cannot go with --promote"),
        (("--fetch", "--ablate", "paper/lambada"), "--ablate needs --run"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["eval", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.output


def test_many_tasks_without_their_files_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    missing = {f"paper/{name}": f"needs a file {name}.txt: name its directory" for name in "abcd"}
    missing["harness/x"] = "needs lm-evaluation-harness"
    found = EvalResult({}, missing, 1.0, False, (), None, "first", 20, "lake/x", "ab", ("s",), "cd", "0.1.0")
    show.scores(found)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not scored")]
    assert len(lines) == 2
    assert lines[0].startswith("not scored, without their official files: paper/a, paper/b, paper/c, paper/d; get them")
    assert lines[1] == "not scored: harness/x: needs lm-evaluation-harness"
