"""``webtext report --run``: one page that needs nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from data.errors import InputError
from data.lake.store import Lake
from flows.cli.report import write_report
from flows.settings import Settings
from model import scores
from model.evals import EvalSpec
from model.evaluate import evaluate
from model.train import train
from tests.model.corpora import prose, publish_texts
from tests.model.lakes import tiny_spec
from tests.model.running import ignore
from tests.model.scored import publish_score


def test_the_page_of_a_run(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    every = prose(8, seed=5, n_sentences=40)
    publish_texts(lake, "a", every[:4], every[4:])
    for steps in (2, 4):
        train(dataclasses.replace(tiny_spec(lake, "r"), steps=steps), ignore)
        evaluate(EvalSpec(lake.root, run="r", device="cpu", limit=3, tasks=("heldout_ppl",)), ignore)
    (record,) = scores.newest(lake, "r").values()
    scores.publish(lake, dataclasses.replace(record, task="paper/ptb"), [{"item": "<b>", "nats": 1.0, "text": "<i>"}])
    settings = Settings(lake=lake.root, home=tmp_path / "home")
    page = tmp_path / "page.html"
    assert write_report(settings, None, "r", page).runs == ["r"]
    html = page.read_text()
    assert html.index("Beside GPT-2") < html.index("By model size") < html.index("Over training steps")
    assert html.index("Over training steps") < html.index("Samples") < html.index("The most and the least confident")
    assert html.count("<pre>") == 3
    assert html.count("<svg") == 2
    assert "prefers-color-scheme: dark" in html
    assert "<td><code>&lt;b&gt;</code></td>" in html
    assert "&lt;i&gt;" in html
    assert not re.search(r'(src|href)="http|<script|@import|url\(http', html)


def test_a_model_that_was_not_trained_here_has_a_page_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    publish_score(lake, "hf-gpt2", [1.0, 0.0])
    record = scores.newest(lake, "hf-gpt2")["t"]
    score = {**record.score, "n": 2, "interval": [0.1, 0.9], "intervals": {"accuracy": [0.1, 0.9]}}
    scores.update(lake, dataclasses.replace(record, score=score))
    settings = Settings(lake=lake.root, home=tmp_path / "home")
    write_report(settings, None, "hf-gpt2", tmp_path / "page.html")
    assert "0.1 .. 0.9" in (tmp_path / "page.html").read_text()
    with pytest.raises(InputError, match="--run nobody: no such run"):
        write_report(settings, None, "nobody", tmp_path / "page.html")
