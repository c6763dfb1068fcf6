"""The plain line of each score."""

from __future__ import annotations

import pytest

from flows.cli import explain, show
from flows.cli.explain import score_line
from model.evals.lastword import GUESSES
from model.evals.tasks import TASKS
from model.events import Baseline, EvalResult, TaskScore


def score(metric: str, value: float, baseline: str | None, baseline_value: float = 0.0, **details: str) -> TaskScore:
    return TaskScore(
        metric=metric,
        values={metric: value},
        n=40,
        stderr=0.01,
        interval=(value / 2, 2 * value),
        intervals={metric: (value / 2, 2 * value)},
        baselines={baseline: Baseline(baseline_value, (0.0, 1.0))} if baseline else {},
        best_baseline=baseline,
        limit=40,
        truncated=0,
        details=details,
    )


@pytest.mark.parametrize(
    ("task", "found", "line"),
    [
        (
            "heldout_lastword",
            score("accuracy", 0.044, "unigram", 0.012),
            "heldout_lastword accuracy 0.044: the model guesses the last word of 4.4 % of held-out passages; "
            "always guessing the commonest word of the training text gets 1.2 %.",
        ),
        (
            "heldout_cloze",
            score("accuracy", 0.12, "latest_in_context", 0.105),
            "heldout_cloze accuracy 0.12: the model finds the missing word, among ten, in 12.0 % of held-out "
            "sentences; always guessing the choice that the context uses last gets 10.5 %.",
        ),
        (
            "heldout_ppl",
            score("perplexity", 385.25, "unigram", 1712.3, unit="token", lower_is_better=True),
            "heldout_ppl perplexity 385.2: on held-out documents the model is as unsure as if it chose each token "
            "among 385.2 equally likely ones; knowing only how often each token occurs in training gives 1,712 "
            "(lower is better).",
        ),
        (
            "a_new_task",
            score("accuracy", 0.5, None),
            "a_new_task accuracy 0.5: the model is right in 50.0 % of the examples.",
        ),
    ],
)
def test_a_score_is_one_plain_line(task: str, found: TaskScore, line: str) -> None:
    assert score_line(task, found) == line


def test_every_task_and_every_baseline_has_its_own_wording() -> None:
    assert explain.MEANINGS.keys() == TASKS.keys()
    assert GUESSES.keys() <= explain.BASELINES.keys()


def test_the_lines_stand_under_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"heldout_lastword": score("accuracy", 0.044, "latest", 0.012)}
    show.scores(EvalResult(found, {}, 1.0, False, (), None, "first", 20, "lake/x", "ab", ("s",), "cd", "0.1.0"))
    table, lines = capsys.readouterr().out.split("What the scores mean:\n")
    assert "0.022 .. 0.088" in table
    assert lines == f"  {score_line('heldout_lastword', found['heldout_lastword'])}\n"
