"""The scoring benchmark at its smallest: the peer scores what we score, and the last line is JSON."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # starts five programs that import torch
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval comes with the extra bench")
def test_our_scores_equal_those_of_the_harness(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.eval", "--quick", "--threads", "1", "--eval-data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "made-up texts" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= {"bench", "ratios", "ours", "peers", "peak_rss_mb", "machine"}
    assert result["bench"] == "eval"
    assert result["ratios"].keys() == result["cpu_ratios"].keys() == {"cloze", "hellaswag", "lambada"}
    assert result["threads"] == 1
    assert max(result["differences"].values()) < 1e-4
    assert result["ours"]["peak_rss_mb_memory"] > 100
    assert result["peers"]["hflm"]["cloze_items_per_s"] > 0


def test_the_loads_are_read_from_the_official_files(tmp_path: Path) -> None:
    from benchmarks import eval as bench
    from data.bpe import decode

    lines = [f"{n} Sentence {n} ." for n in range(1, 21)]
    query = "21 The XXXXX barked .\tdog\t\tdog|cat"
    (tmp_path / "cbtest_CN_valid_2000ex.txt").write_text("\n".join([*lines, query]) + "\n\n")
    row = {"activity_label": "Golf", "ctx": "A man", "endings": ["swings.", "sits."]}
    (tmp_path / "hellaswag_val.jsonl").write_text(json.dumps(row) + "\n")
    loads, made_up = bench.make_loads(tmp_path, {"cloze": 1, "hellaswag": 1, "lambada": 2}, 64)
    assert made_up == ["lambada"]
    assert [decode(continuation) for _, continuation in loads["cloze"]] == [" dog barked .", " cat barked ."]
    assert decode(loads["cloze"][0][0]).endswith("Sentence 20 . The")
    assert [decode(context + continuation) for context, continuation in loads["hellaswag"]] == [
        "Golf: A man swings.",
        "Golf: A man sits.",
    ]
    assert len(loads["lambada"]) == 2
    assert {len(context) + len(continuation) - 1 for context, continuation in loads["memory"]} == {64}
