"""The report of a run: its scores beside the paper's, its pictures, its items."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from data.lake.store import Lake
from model import scores
from model.evals import published
from model.report import run_report
from tests.model.scored import make_record, publish_score

TABLE = Path(__file__).parents[2].parent / "shared" / "data" / "eval" / "gpt2_paper_table.md"


def publish(lake: Lake, task: str, step: int, items: list[dict[str, Any]] | None = None, **score: Any) -> None:
    metric = score["metric"]
    value = score[metric]
    full = {"n": 1000, "interval": [value, value], "intervals": {metric: [value * 0.9, value * 1.1]}, **score}
    scores.publish(lake, make_record(task=task, step=step, score=full), items or [{"item": "1"}])


@pytest.mark.skipif(not TABLE.is_file(), reason="no ../shared/data/eval here")
def test_the_numbers_are_those_of_the_papers_table() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.read_text().splitlines() if "|" in line]
    table = {row[0].split(" ")[0]: [float(cell) for cell in row[1:]] for row in rows[2:7]}
    titles = rows[0][1:]
    of_table = [row for row in published.ROWS if row.where == "table 3"]
    assert len(of_table) == len(titles) == 10
    for i, title in enumerate(titles):
        expected = tuple(table[size][i] for size in published.SIZES)
        (row,) = (row for row in of_table if row.values == expected)
        assert row.before == table["prior"][i]
        assert row.lower_is_better == (title.split(" ")[-1] != "ACC")


def test_scores_stand_beside_the_papers_in_its_units(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    baselines = {"best_baseline": "most_frequent", "baselines": {"most_frequent": {"value": 0.25}}}
    publish(
        lake,
        "paper/cbt_cn",
        2,
        metric="accuracy",
        accuracy=0.5,
        control_accuracy=0.125,
        train_overlap=0.01,
        **baselines,
    )
    publish(lake, "paper/wikitext2", 2, metric="perplexity", perplexity=40.0)
    publish(lake, "heldout_ppl", 2, metric="perplexity", perplexity=50.0)
    report = run_report(lake, "r", {})
    rows = {row.title: row for row in report.paper}
    one = rows["CBT common nouns"]
    assert (one.value, one.interval, one.n) == ("50", "45 .. 55", "1,000")
    assert (one.baseline, one.best_baseline, one.control, one.overlap) == ("25", "most frequent", "12.5", "1.00%")
    assert (one.published, one.before) == (("87.65", "92.35", "93.45", "93.3"), "85.7")
    assert rows["WikiText-2"].value == "40"
    assert rows["Winograd Schema"].value == ""
    assert rows["Winograd Schema"].published == ("", "", "", "70.7")
    assert [row.task for row in report.others] == ["heldout_ppl"]
    assert (report.has_control, report.has_overlap, report.step) == (True, True, 2)
    assert list(report.figures) == ["sizes"]
    assert not run_report(lake, "never-scored", {}).figures


def test_scores_over_steps_are_drawn_if_there_are_several(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for step in (2, 4):
        publish(lake, "heldout_ppl", step, metric="perplexity", perplexity=100.0 / step)
    publish(lake, "paper/ptb", 4, metric="perplexity", perplexity=90.0)
    report = run_report(lake, "r", {})
    assert "heldout_ppl perplexity" in report.figures["steps"]  # matplotlib writes texts into comments
    assert "paper/ptb" not in report.figures["steps"]
    assert report.step == 4


def test_pictures_have_the_colour_of_the_page(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    publish(lake, "paper/ptb", 2, metric="perplexity", perplexity=90.0)
    for figure in run_report(lake, "r", {"loss": [(1, 3.0), (2, 2.0)]}).figures.values():
        assert re.match(r'<svg fill="currentColor" ', figure)
        assert "stroke: currentColor" in figure
        assert not re.search("#000000|#ffffff", figure)


def test_the_most_and_the_least_confident_items_are_shown_in_a_fixed_order(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    items = [
        {"item": f"{i}", "text": f"text {i}", "answer": "a", "credit": i % 2, "confidence": confidence}
        for i, confidence in enumerate([0.5, 0.9, 0.5, 0.1, 0.9, 0.7, 0.2, 0.1])
    ]
    publish(lake, "t", 2, items, metric="accuracy", accuracy=0.5)
    publish(lake, "u", 2, [{"item": "x", "nats": 2.0, "per": 4.0}], metric="perplexity", perplexity=2.0)
    publish(lake, "v", 2, [{"item": "x", "bleu": 2.0}], metric="bleu", bleu=2.0)
    assert run_report(lake, "r", {}).items == []
    of_t, of_u, of_v = run_report(lake, "r", {}, with_items=True).items
    assert [item.item for item in of_t.most] == ["1", "4", "5"]
    assert [item.item for item in of_t.least] == ["3", "7", "6"]
    assert [item.outcome for item in of_t.most] == ["right", "wrong", "right"]
    assert (of_t.most[0].text, of_t.most[0].said) == ("text 1", [("answer", "a")])
    assert ([item.confidence for item in of_u.most], of_u.least) == (["0.607"], [])
    assert of_v.problem == "its items have no confidence"


def test_damaged_items_are_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    publish(lake, "t", 2, metric="accuracy", accuracy=0.5)
    Path(lake.path("scores", "r", "step-00000002", "t.parquet")).write_bytes(b"")
    (task,) = run_report(lake, "r", {}, with_items=True).items
    assert "not the items of the score beside it" in task.problem


def test_score_files_of_earlier_versions_are_ignored(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    record = publish_score(lake, "r", [1.0, 0.0])
    lake.publish_json({"format": 1, "scores": {}}, "scores", "r", "step-00000009.json")
    assert scores.steps(lake, "r") == [record.step]
    assert scores.steps(lake, "other") == []
