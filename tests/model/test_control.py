"""The control: the same answers after another example's context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.bpe import encode
from data.evalsets.files import find
from data.lake.store import Lake
from flows.cli import show
from model.evals import EvalSpec, control, heldout
from model.evals.heldout import HeldOut
from model.evals.task import Subject
from model.evals.tasks import TASKS
from model.evaluate import evaluate
from model.events import to_json
from model.gpt2 import GPT2
from model.train import train
from tests.model.corpora import Liking, Oracle, Uniform, config, prose, publish_texts
from tests.model.running import ignore
from tests.model.test_evaluate import tiny_spec


def controlled(model: GPT2, held_out: HeldOut | None, limit: int = 40, files: Path | None = None) -> Subject:
    found = {name: file.path for name, file in find(files).items()} if files else {}
    return Subject(model, held_out, found, limit, lambda _done, _total: None, control=True)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    every = prose(40, seed=21)
    publish_texts(lake, "a", every[:20], every[20:])
    return heldout.load(lake, ["a"])


# Who gets whose context


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40))
def test_nobody_keeps_a_context_of_its_own_document(documents: list[int]) -> None:
    names = [f"item/{i}" for i in range(len(documents))]
    given_to = control.partners(names, documents)
    assert given_to == control.partners(names, documents)
    found = [other for other in given_to if other is not None]
    assert len(set(found)) == len(found)  # no context is used twice
    assert all(documents[i] != documents[other] for i, other in enumerate(given_to) if other is not None)
    largest = max(documents.count(one) for one in documents)
    others = len(documents) - largest
    assert len(found) == (len(documents) if largest <= others else 2 * others)


def test_the_order_of_the_examples_does_not_matter() -> None:
    names = [f"item/{i}" for i in range(12)]
    documents = [i // 3 for i in range(12)]
    given_to = control.partners(names, documents)
    backwards = control.partners(names[::-1], documents[::-1])
    assert [None if other is None else names[::-1][other] for other in backwards[::-1]] == [
        None if other is None else names[other] for other in given_to
    ]


# What remains


def test_a_model_that_ignores_context_loses_nothing(held_out: HeldOut, tmp_path: Path) -> None:
    lines = ["I saw the dog", "you saw the cat", "we saw the the", "we saw Dschemila"]
    (tmp_path / "lambada_test.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    liking = Liking(config(), encode(" the dog cat").tolist())
    for name, documents in (
        ("heldout_cloze", held_out),
        ("heldout_lastword", held_out),
        ("paper/lambada", None),
        ("harness/lambada_openai", None),
    ):
        score = TASKS[name].run(controlled(liking, documents, files=tmp_path))
        assert score["control_accuracy"] == pytest.approx(score["accuracy"]), name
        assert score["control_n"] == score["n"]
        assert score["control_left_out"] == 0
        assert score["intervals"]["control_accuracy"][0] <= score["control_accuracy"]


def test_an_oracle_is_lost_without_its_context(held_out: HeldOut) -> None:
    oracle = Oracle(config(), ([50_256, *d.tokens.tolist()] for d in held_out.documents))
    cloze = TASKS["heldout_cloze"].run(controlled(oracle, held_out))
    assert cloze["accuracy"] == 1
    assert cloze["control_accuracy"] < 0.5
    last = TASKS["heldout_lastword"].run(controlled(oracle, held_out))
    assert last["accuracy"] == 1
    assert last["control_accuracy"] < 0.1


def test_contexts_that_are_cut_are_not_counted_again(held_out: HeldOut) -> None:
    subject = controlled(Uniform(config(context=64)), held_out, limit=10)
    with_control = TASKS["heldout_cloze"].run(subject)
    subject = controlled(Uniform(config(context=64)), held_out, limit=10)
    subject.control = False
    without = TASKS["heldout_cloze"].run(subject)
    assert with_control["truncated"] == without["truncated"] == 10
    assert "control_accuracy" not in without


def test_a_kept_score_without_control_is_scored_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake(tmp_path / "lake")
    every = prose(16, seed=5, n_sentences=40)
    publish_texts(lake, "a", every[:8], every[8:])
    train(tiny_spec(lake, "r"), ignore)
    tasks = ("heldout_ppl", "heldout_lastword")
    results = []
    tables = []
    for is_controlled in (False, True, True, False):
        spec = EvalSpec(lake.root, run="r", device="cpu", limit=5, tasks=tasks, control=is_controlled)
        found = evaluate(spec, ignore)
        show.scores(found)
        tables.append(capsys.readouterr().out)
        results.append(to_json(found))
    assert [result["skipped"] for result in results] == [False, False, True, True]
    last = [result["scores"]["heldout_lastword"] for result in results]
    assert ["control_accuracy" in score for score in last] == [False, True, True, True]
    assert last[0]["accuracy"] == last[1]["accuracy"]
    assert all("control_accuracy" not in result["scores"]["heldout_ppl"] for result in results)
    assert ["another" in table for table in tables] == [False, True, True, True]  # the column's title
