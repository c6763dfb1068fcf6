"""Scoring beside lm-evaluation-harness's HFLM: items/s, and whether the log-likelihoods are the same.

    python -m benchmarks.eval [--eval-data DIR] [--turns 3] [--threads 1] [--batch-size 8] [--quick]

GPT-2 124M with random weights, exported by model/hf.py, in fp32 on the CPU. Both subjects read the same tokens. Each
runs ``turns`` times, in turn, in a process of its own. The loads:

    cloze       ten choices, each followed by the rest of its sentence, after about 20 sentences (Children's Book Test)
    hellaswag   four endings after a context
    lambada     the last word of a passage
    memory      ten choices after a context that fills the window of 1,024: run once, for its peak memory

``--eval-data`` names a directory with cbtest_CN_valid_2000ex.txt, hellaswag_val*.jsonl and lambada_test*.jsonl, by
default ``../shared/data/eval``. Where a file is missing or has too few items, texts of the same lengths are made up,
which is said.

An item is a choice among its answers, or a passage. HFLM gets ``--batch-size`` requests per pass, which it pads. Of 1,
4 and 8, its CPU time was lowest with 8 (25.5 s for all loads; 27.3 s with 1). Its log-likelihoods must equal ours to
1e-4 nats per request, or the program fails. We compute a ratio within each turn and report the median: above 1, ours is
faster. On a busy machine threads wait for each other, so everything is also given in CPU seconds, which ``--threads 1``
makes exact. ``--quick`` uses a tiny model to check that it works; its numbers mean nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine import machine, peak_rss_mb

ROOT = Path(__file__).parents[1]
PEER = ROOT / "benchmarks" / "eval_peers" / "hflm.py"
SHARED = ROOT.parent / "shared" / "data" / "eval"
GOALS = {"cloze": 5.0, "hellaswag": 2.5, "lambada": 1.5}
TOLERANCE = 1e-4  # nats
ITEMS = {"cloze": 4, "hellaswag": 24, "lambada": 48}
QUICK_ITEMS = {"cloze": 1, "hellaswag": 3, "lambada": 4}
FILES = {
    "cloze": "cbtest_CN_valid_2000ex.txt",
    "hellaswag": "hellaswag_val*.jsonl",
    "lambada": "lambada_test*.jsonl",
}
MADE_UP = {"cloze": (430, 15, 10), "hellaswag": (60, 25, 4), "lambada": (75, 2, 1)}
"""Tokens of the context, tokens of a continuation, and continuations per item, like those of the real files."""
CONTEXT = 1_024
QUICK_CONTEXT = 128

Result = dict[str, Any]
Tokens = tuple[list[int], list[int]]  # context, continuation


def items_of(load: str, folder: Path) -> Iterator[list[Tokens]]:
    """The items of a load's file, each with a request per answer. Raises FileNotFoundError if there is no such file."""
    from data.bpe import encode

    paths = sorted(folder.rglob(FILES[load]))
    if not paths:
        raise FileNotFoundError(FILES[load])
    text = paths[0].read_text(encoding="utf-8")
    if load == "cloze":
        for block in text.strip().split("\n\n"):
            *lines, query = [line.partition(" ")[2] for line in block.strip().splitlines()]
            question, _, _, choices = query.split("\t")
            before, _, after = question.partition("XXXXX")
            context = encode(" ".join([*lines, before]).rstrip()).tolist()
            yield [(context, encode(f" {choice}{after}").tolist()) for choice in choices.split("|")]
        return
    for line in text.splitlines():
        row = json.loads(line)
        if load == "hellaswag":
            context = encode(f"{row['activity_label']}: {row['ctx']}").tolist()
            yield [(context, encode(f" {ending}").tolist()) for ending in row["endings"]]
        else:
            passage, _, word = row["text"].rpartition(" ")
            yield [(encode(passage).tolist(), encode(f" {word}").tolist())]


def make_loads(folder: Path, wanted: dict[str, int], context: int) -> tuple[dict[str, list[Tokens]], list[str]]:
    """The requests of each load, and the loads with made-up items. Items are spread evenly over a file."""
    random = np.random.default_rng(0)
    loads: dict[str, list[Tokens]] = {}
    short = []
    for load, count in wanted.items():
        try:
            every = list(items_of(load, folder))
        except FileNotFoundError:
            every = []
        if len(every) < count:
            short.append(f"{load} ({len(every)} of {count} from its file)" if every else load)
            every += [_made_up(random, *MADE_UP[load]) for _ in range(count - len(every))]
        step = max(1, len(every) // count)
        loads[load] = [request for item in every[::step][:count] for request in item]
    loads["memory"] = _made_up(random, context - 20, 21, 10)
    return loads, short


def _made_up(random: np.random.Generator, context: int, continuation: int, choices: int) -> list[Tokens]:
    before = random.integers(0, 50_000, context).tolist()
    return [(before, random.integers(0, 50_000, continuation).tolist()) for _ in range(choices)]


def make_model(folder: Path, *, is_quick: bool) -> None:
    """A model of random weights, larger than at the start of a training, so that probabilities differ."""
    import torch

    from model import hf
    from model.config import PRESETS, ModelConfig
    from model.gpt2 import GPT2

    torch.manual_seed(0)
    tiny = ModelConfig(layers=1, heads=2, width=16, context=CONTEXT)
    model = GPT2(tiny if is_quick else PRESETS["124M"].model)
    with torch.no_grad():
        model.tokens.weight.mul_(3)
    hf.export(model, folder)


def run_ours(size: Result) -> Result:
    """In a child: score the loads."""
    import torch

    from model import hf, world
    from model.scoring import Request, score

    world.keep_freed_memory()
    loads = json.loads(Path(size["requests"]).read_bytes())
    model = hf.load_hf(Path(size["model"]))
    score(model, [Request(context[-8:], continuation[:4]) for context, continuation in loads["lambada"][:2]])
    found: Result = {}
    for load in size["loads"]:
        asked = [Request(*request) for request in loads[load]]
        began, cpu_began = time.perf_counter(), time.process_time()
        scores = score(model, asked)
        found[load] = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu_began,
            "log_likelihoods": [one.log_likelihood for one in scores],
        }
    return {"loads": found, "peak_rss_mb": peak_rss_mb(), "threads": torch.get_num_threads()}


def _child(subject: str, size: Result) -> Result:
    program = ["-m", "benchmarks.eval", "--run"] if subject == "ours" else [str(PEER)]
    command = [sys.executable, *program, json.dumps(size)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{subject} failed:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(size: Result, items: dict[str, int], turns: int) -> Result:
    """Run all turns and print the table; returns the JSON of the last line."""
    subjects = ("hflm", "ours")
    results: dict[str, list[Result]] = {subject: [] for subject in subjects}
    for _ in range(turns):
        for subject in subjects:
            results[subject].append(_child(subject, {**size, "loads": list(items)}))
    memory = {subject: _child(subject, {**size, "loads": ["memory"]}) for subject in subjects}
    differences = {load: _difference(*(results[subject][0]["loads"][load] for subject in subjects)) for load in items}
    differences["memory"] = _difference(*(memory[subject]["loads"]["memory"] for subject in subjects))
    ratios: dict[str, dict[str, float]] = {"seconds": {}, "cpu_seconds": {}}
    rates: dict[str, Result] = {subject: {} for subject in subjects}
    print(f"  {'load':10} {'items':>5}  {'HFLM':>10} {'ours':>10}  ratio   by CPU time (goal)   difference")
    for load, count in items.items():
        for unit, of_unit in ratios.items():
            of_subject = {name: [one["loads"][load][unit] for one in results[name]] for name in subjects}
            of_unit[load] = round(median(a / b for a, b in zip(of_subject["hflm"], of_subject["ours"], strict=True)), 2)
            for name in subjects:
                rates[name][f"{load}_items_per_{'cpu_' if unit == 'cpu_seconds' else ''}s"] = round(
                    count / median(of_subject[name]), 3
                )
        shown = [f"{rates[name][f'{load}_items_per_s']:10.2f}" for name in subjects]
        print(
            f"  {load:10} {count:5}  {shown[0]} {shown[1]}  {ratios['seconds'][load]:5.2f}   "
            f"{ratios['cpu_seconds'][load]:11.2f} ({GOALS[load]:.1f})   {differences[load]:10.1e}"
        )
    for name in subjects:
        rates[name]["peak_rss_mb"] = max(one["peak_rss_mb"] for one in results[name])
        rates[name]["peak_rss_mb_memory"] = memory[name]["peak_rss_mb"]
        print(
            f"  {name:10} peak {rates[name]['peak_rss_mb']:,.0f} MB, with contexts of {size['context']:,} "
            f"{rates[name]['peak_rss_mb_memory']:,.0f} MB"
        )
    apart = {load: difference for load, difference in differences.items() if not difference <= TOLERANCE}  # NaN, too
    if apart:
        raise SystemExit(f"the log-likelihoods differ by more than {TOLERANCE} nats: {apart}")
    return {
        "bench": "eval",
        "ratios": ratios["seconds"],
        "cpu_ratios": ratios["cpu_seconds"],
        "differences": differences,
        "ours": rates["ours"],
        "peers": {"hflm": rates["hflm"]},
        "peak_rss_mb": rates["ours"]["peak_rss_mb"],
        "threads": results["ours"][0]["threads"],
        "machine": machine(),
    }


def _difference(one: Result, other: Result) -> float:
    pairs = zip(one["log_likelihoods"], other["log_likelihoods"], strict=True)
    return float(np.max([abs(a - b) for a, b in pairs]))  # NaN if one is


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--eval-data", type=Path, default=SHARED, help="directory with the files of the loads")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, help="threads of each process, instead of one per core")
    parser.add_argument("--batch-size", type=int, default=8, help="requests per pass of HFLM")
    parser.add_argument(
        "--quick", action="store_true", help="use a tiny model to check that it works; the numbers mean nothing"
    )
    parser.add_argument("--run", metavar="SIZE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run_ours(json.loads(arguments.run))))
        return
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # children inherit it
    items, context = (QUICK_ITEMS, QUICK_CONTEXT) if arguments.quick else (ITEMS, CONTEXT)
    with tempfile.TemporaryDirectory(prefix="webtext-bench-") as name:
        folder = Path(name)
        loads, made_up = make_loads(arguments.eval_data, items, context)
        if made_up:
            print(f"  made-up texts, because {arguments.eval_data} has too few: {', '.join(made_up)}")
        (folder / "requests.json").write_text(json.dumps(loads))
        make_model(folder / "model", is_quick=arguments.quick)
        size = {
            "model": str(folder / "model"),
            "requests": str(folder / "requests.json"),
            "batch_size": arguments.batch_size,
            "context": context,
        }
        print(json.dumps(compare(size, items, 1 if arguments.quick else arguments.turns)))


if __name__ == "__main__":
    main()
