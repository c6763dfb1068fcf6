"""Two runs against each other: significance against closed forms, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from data.errors import InputError
from data.lake.store import Lake
from model import scores
from model.compare import NotComparable, compare, compare_records
from model.evals import EvalSpec, stats
from model.evaluate import evaluate
from model.scores import MeasuredOn
from model.train import train
from tests.model.corpora import publish_prose
from tests.model.lakes import tiny_spec
from tests.model.running import ignore
from tests.model.scored import publish_score

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


def quotient(top: stats.Floats, bottom: stats.Floats) -> stats.Floats:
    return top / bottom


def accuracies(a: list[float], b: list[float], clusters: list[Any] | range) -> stats.Difference:
    ones = [1.0] * len(a)
    return stats.paired((a, ones), (b, ones), clusters, quotient)


def test_two_clusters_are_resampled_as_by_hand() -> None:
    """The differences 0 and 1 give 0, 1/2, 1/2 and 1 when two are drawn: half the draws are 1/2 away from 1/2."""
    found = accuracies([0, 0], [0, 1], range(2))
    assert (found.a, found.b, found.value, found.interval) == (0, 0.5, 0.5, (0, 1))
    assert found.p == pytest.approx(0.5, abs=0.02)


def test_every_resampling_of_three_unequal_documents_is_as_likely() -> None:
    a, b = np.array([1.0, 4.0, 2.0]), np.array([2.0, 9.0, 1.0])
    sizes = np.array([1.0, 3.0, 2.0])
    found = stats.paired((a, sizes), (b, sizes), range(3), lambda top, bottom: np.exp(top / bottom))
    every = [list(drawn) for drawn in itertools.product(range(3), repeat=3)]
    exact = np.array([math.exp(b[i].sum() / sizes[i].sum()) - math.exp(a[i].sum() / sizes[i].sum()) for i in every])
    value = math.exp(12 / 6) - math.exp(7 / 6)
    assert found.value == pytest.approx(value)
    assert found.p == pytest.approx((np.abs(exact - value) >= value).mean(), abs=0.02)
    assert found.interval[0] == pytest.approx(exact.min())  # one draw in 27 is the least: more than 2.5 %


@pytest.mark.parametrize("effect", [0.0, 0.05, 0.15])
def test_many_documents_give_the_normal_approximation(effect: float) -> None:
    random = np.random.default_rng(3)
    a = random.normal(3.0, 2.0, 500)  # the models agree on what is hard: pairing takes that away
    b = a + random.normal(effect, 0.6, 500)
    found = accuracies(a.tolist(), b.tolist(), range(500))
    mean, stderr = float((b - a).mean()), float((b - a).std()) / math.sqrt(500)
    assert found.p == pytest.approx(2 * NormalDist().cdf(-abs(mean) / stderr), abs=0.015)
    assert found.interval == pytest.approx((mean - stats.Z * stderr, mean + stats.Z * stderr), abs=0.15 * stderr)


def test_documents_are_resampled_whole() -> None:
    """Copies of each example within its document prove nothing new."""
    random = np.random.default_rng(4)
    a, b = (random.integers(0, 2, 40).astype(float) for _ in range(2))
    alone = accuracies(a.tolist(), b.tolist(), range(40))
    copied = accuracies(np.repeat(a, 9).tolist(), np.repeat(b, 9).tolist(), np.repeat(np.arange(40), 9).tolist())
    assert (copied.p, copied.interval) == (alone.p, pytest.approx(alone.interval))
    assert copied.clusters == 40


def test_the_same_answers_are_no_difference_and_the_seed_fixes_the_draw() -> None:
    same = accuracies([0, 1, 1], [0, 1, 1], range(3))
    assert (same.value, same.p, same.interval) == (0, 1, (0, 0))
    a, b = [0.0, 1, 0, 1, 1, 0], [1.0, 1, 0, 0, 1, 1]
    assert accuracies(a, b, range(6)) == accuracies(a, b, range(6))
    assert accuracies(a, b, range(6)).draws == 10_000
    assert accuracies([0.0] * 20_000, [1.0] * 20_000, range(20_000)).draws == 5_000


def test_a_better_run_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    worse, better = [0.0, 1.0] * 30, [1.0, 1.0] * 30
    publish_score(lake, "old", worse)
    publish_score(lake, "new", better)
    one = compare(lake, "old", "new").tasks["t"]
    assert (one.a, one.b, one.difference, one.items, one.documents) == (0.5, 1.0, 0.5, 60, 30)
    assert (one.better, one.p < 0.001) == ("b", True)
    publish_score(lake, "same", worse)
    assert compare(lake, "old", "same").tasks["t"].better is None
    record = publish_score(lake, "old", worse)
    for run, values in (("old", worse), ("new", [1.0] * 60)):
        rows = [{"item": f"{i:03d}", "nats": value} for i, value in enumerate(values)]
        score = {"metric": "perplexity", "perplexity": math.exp(np.mean(values)), "lower_is_better": True}
        ours = dataclasses.replace(record, model=run, task="p", score=score)
        scores.publish(lake, ours, rows if run == "old" else rows[::-1])  # paired by name, not by place
    one = compare(lake, "old", "new").tasks["p"]
    assert (one.better, one.difference) == ("a", pytest.approx(math.e - math.exp(0.5)))


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    a = publish_score(lake, "a", [0.0, 1.0])
    for changes, expected in (
        ({"version": 2}, "other versions of the task: 1 and 2"),
        ({"data": MeasuredOn("f.jsonl", "cd" * 32)}, "other data: f.jsonl abababababab and f.jsonl cdcdcdcdcdcd"),
        ({"settings": {"limit": 5}}, "other limits: 100 and 5"),
        ({"score": {"metric": "accuracy", "accuracy": 0.7}}, "b: its items give accuracy 0.5, its score is 0.7"),
    ):
        b = publish_score(lake, "b", [1.0, 0.0], **changes)
        with pytest.raises(NotComparable, match=expected):
            compare_records(lake, a, b)
        with pytest.raises(InputError, match=f"--compare a b: nothing can be compared: t: {expected}"):
            compare(lake, "a", "b")
    with pytest.raises(NotComparable, match=r"other items \(2 and 3\)"):
        compare_records(lake, a, publish_score(lake, "b", [1.0, 0.0, 1.0]))
    of_two = {"metric": "accuracy", "accuracy": 0.5, "documents": 2}  # resampling items would claim too much
    with pytest.raises(NotComparable, match="its items name 1 documents, its score 2"):
        compare_records(lake, publish_score(lake, "a", [0.0, 1.0], score=of_two), publish_score(lake, "b", [1.0, 0.0]))
    publish_score(lake, "a", [0.0, 1.0])
    publish_score(lake, "a", [0.0, 1.0], task="u")
    publish_score(lake, "b", [0.0, 1.0])
    assert compare(lake, "a", "b").refused == {"u": "b has no score"}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three runs that differ in their seed alone and one that is wider, scored."""
    lake = Lake(tmp_path_factory.mktemp("seeds") / "lake")
    publish_prose(lake)
    has_sets = {"eval_data": str(SHARED), "any_file": True} if SHARED.is_dir() else {}
    for run, changes in (("s0", {}), ("s1", {"seed": "1"}), ("s2", {"seed": "2"}), ("wide", {"width": "16"})):
        spec = tiny_spec(lake, run)
        train(dataclasses.replace(spec, overrides={**spec.overrides, **changes}), ignore)
        evaluate(EvalSpec(lake.root, run=run, device="cpu", limit=6, **has_sets), ignore)
    return lake


def test_the_spread_of_seeds_is_beside_the_difference(seeds: Lake) -> None:
    found = compare(seeds, "s0", "wide")
    one = found.tasks["heldout_ppl"]
    values = [scores.newest(seeds, run)["heldout_ppl"].value for run in ("s0", "s1", "s2")]
    assert one.spread_a is not None
    assert one.spread_a.runs == ("s0", "s1", "s2")
    assert one.spread_a.std == pytest.approx(np.std(values, ddof=1))
    assert one.spread_b is None
    both = compare(seeds, "s0", "s1").tasks["heldout_ppl"]
    assert both.spread_a == both.spread_b


def test_the_items_of_every_task_add_up_to_its_score(seeds: Lake) -> None:
    found = compare(seeds, "s0", "s1")
    for task, record in scores.newest(seeds, "s0").items():
        assert found.tasks[task].a == pytest.approx(record.value, rel=1e-9)
    assert found.refused == {}
    assert {"heldout_ppl", "heldout_lastword", "heldout_cloze"} <= found.tasks.keys()
    if SHARED.is_dir():
        assert {
            "paper/lambada",
            "harness/lambada_openai",
            "paper/winograd",
            "paper/wikitext2_valid",
        } <= found.tasks.keys()
