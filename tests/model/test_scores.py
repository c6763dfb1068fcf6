"""The files of the scores in the lake: what they hold, and that a killed evaluation leaves nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from data.lake.store import Lake
from model import scores
from model.evals import EvalSpec, lambada
from model.evals.tasks import TASKS
from model.evaluate import evaluate
from tests.model.running import Events, ignore
from tests.model.scored import make_record

HELD_OUT = ("heldout_cloze", "heldout_lastword", "heldout_order", "heldout_ppl")


def files_of(lake: Lake) -> dict[str, bytes]:
    folder = Path(lake.path("scores", "r", "step-00000002"))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def without_times(content: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(content).items() if name != "seconds"}


def test_a_killed_evaluation_goes_on_at_its_task_and_ends_with_the_same_files(
    trained: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after each number of published files: between two tasks, and between items and score."""
    spec = EvalSpec(trained.root, run="r", device="cpu", limit=5)
    trained.remove("scores")
    evaluate(spec, ignore)
    whole = files_of(trained)
    assert list(whole) == [f"{name}.{suffix}" for name in HELD_OUT for suffix in ("json", "parquet")]
    publish = Lake.publish
    for survived in range(2 * len(HELD_OUT)):
        trained.remove("scores")
        left = survived

        def dying(self: Lake, local: Path, *names: str) -> None:
            nonlocal left
            if names[0] == "scores":
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
            publish(self, local, *names)

        monkeypatch.setattr(Lake, "publish", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate(spec, ignore)
        monkeypatch.setattr(Lake, "publish", publish)
        events = Events()
        evaluate(spec, events)
        assert len({event["task"] for event in events.of("task")}) == len(HELD_OUT) - survived // 2
        again = files_of(trained)
        for name, content in whole.items():
            if name.endswith(".json"):
                assert without_times(again[name]) == without_times(content)
            else:
                assert again[name] == content


def test_items_of_a_larger_limit_without_their_score_are_not_read(
    trained: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer was killed when a score of more examples had its items, but not yet its JSON."""
    trained.remove("scores")
    spec = EvalSpec(trained.root, run="r", device="cpu", limit=3, tasks=("heldout_ppl",))
    evaluate(spec, ignore)
    monkeypatch.setattr(scores, "update", lambda *_: None)
    evaluate(dataclasses.replace(spec, limit=4), ignore)
    monkeypatch.undo()
    (record,) = scores.newest(trained, "r").values()
    with pytest.raises(InputError, match="not the items of the score beside it; score heldout_ppl again"):
        scores.read_items(trained, record)
    assert not evaluate(spec, ignore).skipped
    (record,) = scores.newest(trained, "r").values()
    assert len(scores.read_items(trained, record)) == 3


def test_a_record_says_what_its_score_depends_on(trained: Lake) -> None:
    trained.remove("scores")
    result = evaluate(EvalSpec(trained.root, run="r", device="cpu", limit=5), ignore)
    for name, record in scores.newest(trained, "r").items():
        assert (record.task, record.version, record.step) == (name, TASKS[name].version, 2)
        assert (record.weights_digest, record.settings["limit"]) == (result.weights_digest, 5)
        assert (record.data.name, record.data.digest) == ("tokens/a/val", result.corpus_digest)
        assert record.task_hash == scores.code_hash(TASKS[name].run)
        assert record.value == result.scores[name].value
        items = scores.read_items(trained, record).to_pylist()
        assert len({item["item"] for item in items}) == len(items) == record.items.rows
        assert all(item["text"] and item["document"] for item in items)


def test_scores_of_other_weights_are_removed(trained: Lake) -> None:
    trained.remove("scores")
    scores.publish(trained, make_record(task="paper/x", weights_digest="other"), [{"item": "1"}])
    evaluate(EvalSpec(trained.root, run="r", device="cpu", limit=3, tasks=("heldout_ppl",)), ignore)
    assert list(files_of(trained)) == ["heldout_ppl.json", "heldout_ppl.parquet"]


def test_the_hash_of_a_task_covers_the_modules_that_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, paper = (scores.code_hash(task.run) for task in lambada.TASKS[:2])
    assert harness != paper  # the same module with other arguments
    source = Path(str(lambada.stats.__file__))
    changed = tmp_path / "stats.py"
    shutil.copy(source, changed)
    changed.write_text(changed.read_text() + "\n# changed\n")
    monkeypatch.setattr(lambada.stats, "__file__", str(changed))
    assert scores.code_hash(lambada.TASKS[0].run) != harness


def test_file_names_of_tasks_differ(tmp_path: Path) -> None:
    assert all("." not in name for name in TASKS)
    lake = Lake(tmp_path)
    scores.publish(lake, make_record(task="paper/x"), [{"item": "1", "credit": 1.0}])
    assert lake.names("scores", "r", "step-00000002") == ["paper.x.json", "paper.x.parquet"]
    path = Path(lake.path("scores", "r", "step-00000002", "paper.x.json"))
    path.write_text(path.read_text().replace('"version": 1', '"version": "one"'))
    with pytest.raises(InputError, match=r"paper.x.json: not a score \(version: .*; remove it and score again"):
        scores.newest(lake, "r")
    with pytest.raises(InputError, match=r"other: no scores in .*; run webtext eval --run other"):
        scores.newest(lake, "other")
