"""Events of the training and evaluation programs: what is written is read back, and its JSON is flat."""

import dataclasses
import math

import orjson
import pytest

from model.events import (
    Baseline,
    EvalResult,
    Failed,
    Resumed,
    StepDone,
    Stopped,
    TaskProgress,
    TaskScore,
    TrainEvent,
    TrainSummary,
    Warned,
    eval_event,
    to_json,
    to_line,
    train_event,
)

FLAT_SCORE = {
    "metric": "accuracy",
    "accuracy": 0.25,
    "perplexity": 812.5,
    "n": 40,
    "stderr": 0.0625,
    "interval": [0.125, 0.5],
    "intervals": {"accuracy": [0.125, 0.5], "perplexity": [700.0, 900.0]},
    "baselines": {"latest": {"value": 0.03125, "interval": [0.0, 0.0625]}},
    "best_baseline": "latest",
    "limit": 500,
    "truncated": 0,
    "unit": "word",
    "documents": 12,
    "corpus": ["2026-11"],
    "key": "ab12",
}
RESULT = {
    "scores": {"heldout_lastword": FLAT_SCORE},
    "missing": {"harness/lambada_openai": "needs a file"},
    "seconds": 1.5,
    "skipped": False,
    "warnings": [],
    "mlflow_run_id": None,
    "model": "first",
    "step": 20,
    "checkpoint": "lake/checkpoints/first/step-00000020",
    "weights_digest": "cd34",
    "corpus": ["2026-11"],
    "corpus_digest": "ef56",
    "code_version": "0.1.0",
    "promotion": None,
}


@pytest.mark.parametrize(
    "event",
    [
        Resumed(step=3, samples_seen=12),
        StepDone(1, 20, 3.5, 6.0, 1.0, 1e-3, 2000.0, 0.125, 512.0, {"forward": 0.5, "backward": 0.5}),
        Warned("the server is away"),
        Stopped("first", 7),
        Failed("no such file", "InputError"),
    ],
)
def test_training_events_survive_their_line(event: TrainEvent) -> None:
    line = to_line(event)
    assert line.count(b"\n") == 1
    assert orjson.loads(line) == {"event": event.event, **to_json(event)}
    assert train_event(line) == event


def test_the_summary_keeps_the_order_of_its_keys() -> None:
    names = [field.name for field in dataclasses.fields(TrainSummary)]
    values = dict.fromkeys(names, 1) | {"run": "first", "peak": "table", "checkpoint": "lake", "mlflow_run_id": None}
    values |= {"steps_left_out": [3], "warnings": ["late"], "skipped": True, "train_loss": math.nan}
    line = orjson.dumps({"event": "done", **values})
    summary = train_event(line)
    assert isinstance(summary, TrainSummary)
    assert (summary.steps_left_out, summary.train_loss) == ((3,), None)
    assert list(to_json(summary)) == names


def test_an_evaluation_result_is_read_and_written_with_the_same_keys_in_the_same_order() -> None:
    line = orjson.dumps({"event": "done", **RESULT})
    result = eval_event(line)
    assert isinstance(result, EvalResult)
    assert orjson.dumps(to_json(result)) == orjson.dumps(RESULT)
    assert to_line(result) == line + b"\n"
    score = result.scores["heldout_lastword"]
    assert (score.value, score.values) == (0.25, {"accuracy": 0.25, "perplexity": 812.5})
    assert score.baselines == {"latest": Baseline(0.03125, (0.0, 0.0625))}
    assert score.details == {"unit": "word", "documents": 12, "corpus": ["2026-11"], "key": "ab12"}


def test_a_score_has_the_same_json_before_and_after_reading() -> None:
    made = TaskScore(
        metric="accuracy",
        values={"accuracy": 0.25, "perplexity": 812.5},
        n=40,
        stderr=0.0625,
        interval=(0.125, 0.5),
        intervals={"accuracy": (0.125, 0.5), "perplexity": (700.0, 900.0)},
        baselines={"latest": Baseline(0.03125, (0.0, 0.0625))},
        best_baseline="latest",
        limit=500,
        truncated=0,
        details={"unit": "word", "documents": 12, "corpus": ["2026-11"], "key": "ab12"},
    )
    assert orjson.dumps(to_json(made)) == orjson.dumps(FLAT_SCORE)


@pytest.mark.parametrize(
    "line",
    [
        b"Traceback (most recent call last):\n",
        b"[1, 2]\n",
        b'{"level": "info", "message": "a library\'s own JSON"}\n',
        b'{"event": "task", "task": "x", "done": 1, "total": 2}\n',  # of the other program
        b'{"event": "resumed", "step": "many", "samples_seen": 0}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_line_that_is_not_an_event_is_read_as_none(line: bytes) -> None:
    assert train_event(line) is None


def test_progress_of_a_task_is_reported() -> None:
    assert eval_event(b'{"event": "task", "task": "x", "done": 1, "total": 2}') == TaskProgress("x", 1, 2)
