"""The training loop as a whole on the device: a run trains, validates, saves and ends; with more steps it goes on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.corpus import LENGTH
from benchmarks.gpu.corpus import make as make_corpus
from benchmarks.gpu.job import Job
from benchmarks.train import SNAPSHOT, publish_tokens
from data.lake.store import Lake
from model import checkpoint
from model.config import TrainSpec
from model.events import EvalEvent, TrainEvent, to_line
from model.train import train

STEPS = (20, 40)
SETTINGS = {"val_every": "10", "checkpoint_every": "10", "log_every": "5", "warmup_steps": "2", "compile": "auto"}
TINY = {"layers": "2", "heads": "2", "width": "32", "context": "32", "batch_size": "2", "warmup_steps": "0"}


def loop(job: Job) -> None:
    corpus = make_corpus(job.pick(2_000_000, 20_000), job.pick(100_000, 2_000), vocab_size=50_257)
    splits = [list(part.reshape(-1, LENGTH)) for part in (corpus.train, corpus.val)]
    first, last = job.pick(STEPS, (1, 2))
    settings = job.pick(SETTINGS, {**SETTINGS, **TINY})
    events: list[dict[str, Any]] = []

    def emit(event: TrainEvent | EvalEvent) -> None:
        events.append(json.loads(to_line(event)))

    with tempfile.TemporaryDirectory(prefix="webtext-gpu-") as folder:
        root, cache = Path(folder) / "lake", str(Path(folder) / "cache")
        publish_tokens(root, *splits)
        for steps in (first, last):
            spec = TrainSpec(str(root), (SNAPSHOT,), "gpu", "mini", cache, settings, job.device_name, steps)
            train(spec, emit)
        saved = checkpoint.steps(Lake(root), "gpu")
    _, ended = (event for event in events if event["event"] == "done")
    start = [event for event in events if event["event"] == "start"][-1]
    job.put(
        settings={name: start[name] for name in ("precision", "micro_batch_size", "compile")},
        tokens_per_s=round(ended["tokens_per_s"], 1),
        mfu=round(ended["mfu"], 4),
        time_shares=[event for event in events if event["event"] == "step"][-1]["time_shares"],
        warnings=[event["message"] for event in events if event["event"] == "warning"],
    )
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    job.check("runs that did not resume where they ended", float(resumed != [first]), 0)
    job.check("runs without a checkpoint of their last step", float(last not in saved), 0)
    job.check("final validation loss, as a share of the first loss", ended["val_loss"] / ended["first_loss"], 1)
