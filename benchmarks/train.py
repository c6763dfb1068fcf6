"""A training step beside nanoGPT and transformers: tokens/s, memory, and the share of the machine's peak rate.

    python -m benchmarks.train [--nanogpt DIR] [--turns 3] [--steps 6] [--threads 1] [--quick] [--seeds 3 --mini]

GPT-2 124M, 4 sequences of 256 tokens per step, on the CPU. Each subject runs ``turns`` times, in turn, each time in its
own process; the first step does not count. ``--nanogpt`` names a checkout of nanoGPT; without it transformers is the
only peer.

    ours            the Trainer with a corpus of the lake and its loader; ``precision=auto``, which is bfloat16 with
                    fp32 masters if the CPU has instructions for it; clipping, AdamW
    others          benchmarks/train_peers/peer.py
    machine         2048-cubed products in bfloat16, the machine's peak rate. A token costs 6 x parameters FLOP.

We compute a ratio within each turn and report the median. On a busy machine threads wait for each other and ratios of
wall time mean little, so everything is also given in CPU seconds, which ``--threads 1`` makes exact.

Instead, ``--mini`` trains the mini preset for 200 steps in fp32 and in bfloat16 with several seeds, and prints losses
with their spread. ``--quick`` uses tiny sizes to check that it works; its numbers mean nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.machine import machine, peak_rss_mb

ROOT = Path(__file__).parents[1]
PEER = ROOT / "benchmarks" / "train_peers" / "peer.py"
GOALS = {"nanogpt": 2.4, "transformers": 1.9, "nanogpt-bf16": 1.4, "machine": 0.5}
SIZE = {"layers": 12, "heads": 12, "width": 768, "context": 256, "vocab_size": 50_257, "batch": 4}
TINY = {"layers": 1, "heads": 2, "width": 32, "context": 32, "vocab_size": 50_257, "batch": 2}
SNAPSHOT = "bench"

Result = dict[str, Any]
Tokens = npt.NDArray[np.uint16]


def make_corpus(lake_root: Path, n_tokens: int) -> None:
    """Make a ``tokens`` dataset from the documentation of installed packages, like the demo's; every twentieth
    document is for validation.
    """
    from data.bpe import END_OF_TEXT, encode
    from flows.localweb.docs import choose_articles
    from flows.localweb.prose import plain

    documents, held = [], 0
    for article in choose_articles():
        documents.append(np.append(encode(plain(article.blocks)), END_OF_TEXT).astype(np.uint16))
        held += len(documents[-1])
        if held >= n_tokens:
            break
    publish_tokens(lake_root, [one for n, one in enumerate(documents) if n % 20], documents[::20])


def publish_tokens(lake_root: Path, train: Sequence[Tokens], val: Sequence[Tokens]) -> None:
    """Publish documents in GPT-2's tokens as ``tokens/<SNAPSHOT>``, one part."""
    from data.lake.store import Lake, write_parquet
    from data.schema import TOKENS

    dataset = Lake(lake_root).dataset("tokens", SNAPSHOT)
    assert dataset.begin({"tokenizer": "gpt2"}, {"select": SNAPSHOT}) is None
    with dataset.lake.scratch() as folder:
        files, tables = {}, []
        for split, some in (("train", train), ("val", val)):
            ids = [number.to_bytes(16, "little") for number in range(len(some))]
            columns = [ids, [list(map(int, one)) for one in some], [len(one) for one in some]]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, TOKENS, strict=True)]
            tables.append(pa.table(arrays, schema=TOKENS))
            files[f"{split}/part-00000.parquet"] = folder / f"{split}.parquet"
            write_parquet(tables[-1], folder / f"{split}.parquet")
        dataset.seal("part-00000", files, tables, counts={"ok": len(train) + len(val)})
    dataset.finish(["part-00000"], {}, 0.0)


def run_ours(folder: Path, size: Result) -> Result:
    """In a child: train; returns the seconds of each step and the seconds spent in the loader."""
    from data.lake.store import Lake
    from model import world
    from model.config import ModelConfig, TrainConfig
    from model.loader import open_corpus
    from model.machine import settle
    from model.trainer import Trainer

    world.keep_freed_memory()
    corpus = open_corpus(Lake(folder / "lake"), (SNAPSHOT,), folder / "cache")
    peers = world.join("cpu")
    precision = world.precision_for(size.get("precision", "auto"), peers.device)
    model = ModelConfig(*(size[name] for name in ("layers", "heads", "width", "context", "vocab_size")))
    config = TrainConfig(batch_size=size["batch"], micro_batch_size=size["batch"], warmup_steps=0, precision=precision)
    if "seed" in size:
        from model.config import PRESETS

        model = dataclasses.replace(PRESETS["mini"].model, **({"layers": 1, "width": 48} if size["quick"] else {}))
        config = dataclasses.replace(PRESETS["mini"].train, steps=size["steps"], seed=size["seed"], precision=precision)
    config, _ = settle(model, config, peers)
    trainer = Trainer(model, config, corpus, peers)
    sampler, batch, loader_s = type(trainer.sampler), trainer.sampler.batch, [0.0]

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        found = batch(*arguments)
        loader_s[0] += time.perf_counter() - began
        return found

    sampler.batch = lambda _, *arguments: timed(*arguments)  # type: ignore[method-assign]
    seconds, cpu_seconds, losses = [], [], []
    for _ in range(size["steps"]):
        began, cpu_began = time.perf_counter(), time.process_time()
        losses.append(trainer.train_step().read().loss)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "losses": losses,
        "loader_s": loader_s[0],
        "precision": precision,
        "val_loss": trainer.validate()[0] if "seed" in size else None,
        "parameters": sum(weight.numel() for weight in trainer.weights),
        "peak_rss_mb": peak_rss_mb(),
    }


def run_machine(size: Result) -> Result:
    """FLOP a second of a product of two bfloat16 matrices; the best of several, as other work only slows it down."""
    import torch

    n = 2048 if size["width"] > 100 else 256
    one, other = torch.randn(n, n).bfloat16(), torch.randn(n, n).bfloat16()
    seconds, cpu_seconds = [], []
    for _ in range(12):
        began, cpu_began = time.perf_counter(), time.process_time()
        one @ other
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    return {name: 2 * n**3 / median(sorted(of)[:6]) for name, of in (("flops", seconds), ("cpu_flops", cpu_seconds))}


def _child(command: list[str], folder: Path) -> Result:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def _ours(kind: str, folder: Path, size: Result) -> Result:
    return _child(["-m", "benchmarks.train", "--run", kind, str(folder), json.dumps(size)], ROOT)


def _rates(results: dict[str, list[Result]], size: Result, prefix: str = "") -> dict[str, list[float]]:
    """Tokens/s of each subject, turn by turn; per CPU second with the prefix ``cpu_``."""
    a_token = 6 * results["ours"][0]["parameters"]
    rates = {"machine": [one[f"{prefix}flops"] / a_token for one in results["machine"]]}
    for name in results.keys() - rates.keys():
        rates[name] = [size["batch"] * size["context"] / median(one[f"{prefix}seconds"][1:]) for one in results[name]]
    return rates


def _ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Our rate divided by each other rate."""
    others = (name for name in rates if name != "ours")
    return {name: round(median(a / b for a, b in zip(rates["ours"], rates[name], strict=True)), 3) for name in others}


def compare(folder: Path, size: Result, turns: int, nanogpt: Path | None) -> Result:
    """Run all turns and print the table; returns the JSON of the last line."""
    peers = ["transformers", *(["nanogpt", "nanogpt-bf16"] if nanogpt else [])]
    results: dict[str, list[Result]] = {name: [] for name in ("ours", "machine", *peers)}
    tokens = str(next((folder / "cache").glob("corpus-*/train.bin")))
    for _ in range(turns):
        for name in peers:
            where = nanogpt if name.startswith("nanogpt") and nanogpt else ROOT
            results[name].append(_child([str(PEER), name, json.dumps({**size, "tokens": tokens})], where))
        results["ours"].append(_ours("ours", folder, size))
        results["machine"].append(_ours("machine", folder, size))
    rates, cpu_rates = _rates(results, size), _rates(results, size, "cpu_")
    ratios, cpu_ratios = _ratios(rates), _ratios(cpu_rates)
    parameters = results["ours"][0]["parameters"]
    flops = [one["flops"] for one in results["machine"]]
    waits = [one["loader_s"] / sum(one["seconds"]) for one in results["ours"]]
    print(f"{parameters:,} parameters, {size['batch']} x {size['context']} tokens per step, {turns} turns")
    for name in ("ours", *peers):
        memory = max(one["peak_rss_mb"] for one in results[name])
        versus = ""
        if name != "ours":
            versus = (
                f"  ours is {ratios[name]:.2f} times that, {cpu_ratios[name]:.2f} by CPU seconds (goal {GOALS[name]})"
            )
        print(f"  {name:13}{median(rates[name]):8.1f} tokens/s{median(cpu_rates[name]):8.1f} per CPU second", end="")
        print(f"  {memory:7,.0f} MB{versus}")
    print(f"  machine: {median(flops) / 1e9:,.0f} GFLOP/s in bfloat16; ours is {ratios['machine']:.0%} of it, ", end="")
    print(f"by CPU seconds {cpu_ratios['machine']:.0%} (goal 50 %)")
    print(f"  precision {results['ours'][0]['precision']}, the loader took {median(waits):.2%} of the time (goal 1 %)")
    return {
        "bench": "train",
        "ratios": ratios,
        "cpu_ratios": cpu_ratios,
        "ours": {
            "tokens_per_s": round(median(rates["ours"]), 1),
            "tokens_per_cpu_s": round(median(cpu_rates["ours"]), 1),
            "loader_share": round(median(waits), 5),
            "peak_rss_mb": round(max(one["peak_rss_mb"] for one in results["ours"]), 1),
            "precision": results["ours"][0]["precision"],
        },
        "peers": {
            name: {
                "tokens_per_s": round(median(rates[name]), 1),
                "tokens_per_cpu_s": round(median(cpu_rates[name]), 1),
                "peak_rss_mb": round(max(one["peak_rss_mb"] for one in results[name]), 1),
            }
            for name in peers
        },
        "peak_rss_mb": round(max(one["peak_rss_mb"] for one in results["ours"]), 1),
        "bf16_gflops": round(median(flops) / 1e9, 1),
        "machine": machine(),
    }


def mini(folder: Path, seeds: int, steps: int, *, is_quick: bool) -> Result:
    """The validation loss of the mini preset after ``steps`` steps in fp32 and in bfloat16, for each seed."""
    found: dict[str, list[float]] = {}
    peaks = []
    for precision in ("float32", "bfloat16"):
        runs = [
            _ours("ours", folder, {**TINY, "steps": steps, "precision": precision, "seed": seed, "quick": is_quick})
            for seed in range(seeds)
        ]
        found[precision] = [run["val_loss"] for run in runs]
        peaks += [run["peak_rss_mb"] for run in runs]
        spread = stdev(found[precision]) if seeds > 1 else 0.0
        print(
            f"  {precision:10} {mean(found[precision]):.4f} +- {spread:.4f}   {[round(x, 4) for x in found[precision]]}"
        )
    apart = mean(b - a for a, b in zip(found["float32"], found["bfloat16"], strict=True))
    print(f"  bfloat16 - float32: {apart:+.4f} nats/token")
    losses = {name: [round(loss, 5) for loss in of] for name, of in found.items()}
    return {
        "bench": "train-mini",
        "ratios": {"bfloat16_minus_float32": round(apart, 5)},
        "ours": losses,
        "peers": {},
        "peak_rss_mb": max(peaks),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps of each subject per turn; the first does not count")
    parser.add_argument("--threads", type=int, help="threads of each process, instead of one per core")
    parser.add_argument("--mini", action="store_true", help="compare the losses of fp32 and bfloat16 instead")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of --mini")
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes to check that it works; the numbers mean nothing"
    )
    parser.add_argument("--run", nargs=3, metavar=("KIND", "FOLDER", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        kind, folder, size = arguments.run[0], Path(arguments.run[1]), json.loads(arguments.run[2])
        print(json.dumps(run_machine(size) if kind == "machine" else run_ours(folder, size)))
        return
    if arguments.nanogpt and not (arguments.nanogpt / "model.py").is_file():
        parser.error(f"--nanogpt {arguments.nanogpt}: no model.py there; name a checkout of nanoGPT")
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # children inherit it
    with tempfile.TemporaryDirectory(prefix="webtext-bench-") as name:
        folder = Path(name)
        make_corpus(folder / "lake", 50_000 if arguments.quick else 2_000_000)
        if arguments.mini:
            steps = 3 if arguments.quick else 200
            print(json.dumps(mini(folder, arguments.seeds, steps, is_quick=arguments.quick)))
            return
        from data.lake.store import Lake
        from model.loader import open_corpus

        open_corpus(Lake(folder / "lake"), (SNAPSHOT,), folder / "cache")  # peers read its file of tokens
        size = {**(TINY if arguments.quick else SIZE), "steps": 3 if arguments.quick else arguments.steps}
        nanogpt = arguments.nanogpt.absolute() if arguments.nanogpt else None
        print(json.dumps(compare(folder, size, 1 if arguments.quick else arguments.turns, nanogpt)))


if __name__ == "__main__":
    main()
