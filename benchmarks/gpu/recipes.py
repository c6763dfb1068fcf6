"""Tokens to a fixed loss on synthetic text, with the mini preset (30 M parameters), and bf16 beside fp32.

The fixed loss is what the paper's recipe reaches on average at the end of its schedule; the best recipe of
docs/benchmarks.md (``modern``) needs a share of these tokens. The paper's recipe also runs in other precisions. Losses
of two precisions count as equal if their means differ by at most one standard deviation over the seeds.
"""

from __future__ import annotations

import dataclasses
from statistics import mean, stdev
from typing import Any

from benchmarks.gpu import ours
from benchmarks.gpu.corpus import make as make_corpus
from benchmarks.gpu.job import Job
from benchmarks.recipe import RECIPES, crossing, plan
from model import world
from model.config import PRESETS, ModelConfig, TrainConfig
from model.loader import Corpus

TOKENS = 300_000
VALIDATIONS = 20
BEST = "modern"
Curve = list[tuple[int, float]]


def recipes(job: Job) -> None:
    model = job.model("mini")
    corpus = make_corpus(job.pick(4_000_000, 8_000), job.pick(100_000, 2_000), model.vocab_size)
    precisions = _precisions(job)
    curves: dict[str, list[Curve]] = {}
    seconds = 0.0
    for seed in range(job.pick(3, 2)):
        for name, precision in [("paper", "auto"), (BEST, "auto"), *(("paper", one) for one in precisions)]:
            if not job.has(1.2 * seconds, f"{name} {precision} seed {seed}"):
                continue
            left_s = job.left_s()
            curve = _curve(job, model, corpus, name, precision, seed)
            seconds = max(seconds, left_s - job.left_s())
            curves.setdefault(name if precision == "auto" else precision, []).append(curve)
            job.put(**summary(curves), seconds_per_run=round(seconds, 2))


def summary(curves: dict[str, list[Curve]]) -> dict[str, Any]:
    """Losses at the end; tokens to the target; how far precisions are apart, in standard deviations of the seeds."""
    ends = {name: [run[-1][1] for run in runs] for name, runs in curves.items()}
    found: dict[str, Any] = {"losses": {name: [round(loss, 4) for loss in of] for name, of in ends.items()}}
    target = mean(ends["paper"])
    tokens = {name: [_crossing(run, target) for run in curves[name]] for name in ("paper", BEST) if name in curves}
    found |= {"target": round(target, 4), "tokens_to_target": tokens}
    if BEST in curves and None not in tokens[BEST]:
        found["share"] = round(mean(tokens[BEST]) / curves["paper"][0][-1][0], 3)  # type: ignore[type-var, arg-type]
    found["apart"] = {
        name: round(abs(mean(ends[name]) - mean(ends["float32"])) / max(stdev(ends["float32"]), 1e-6), 3)
        for name in ("paper", "autocast")
        if name in ends and len(ends[name]) > 1 and len(ends.get("float32", ())) > 1
    }
    return found


def _crossing(curve: Curve, target: float) -> int | None:
    tokens = crossing(curve, target)
    return None if tokens is None else round(tokens)


def _precisions(job: Job) -> list[str]:
    """fp32, and what a GPU supports besides its own choice, bfloat16."""
    chosen = world.precision_for("auto", job.device)
    return ["float32", *(["autocast"] if chosen == "bfloat16" and job.is_cuda else [])]


def _curve(job: Job, model: ModelConfig, corpus: Corpus, name: str, precision: str, seed: int) -> Curve:
    recipe = RECIPES[name]
    tokens = job.pick(TOKENS, 1_024)
    config = plan(recipe, tokens, model.context, _base(job), recipe.learning_rate, seed)
    settings = {key: getattr(config, key) for key in TrainConfig.__dataclass_fields__ if key not in ("compile",)}
    trainer = ours.make(job, model, corpus, **{**settings, "precision": precision, "compile": False})
    found: Curve = []
    every = max(1, tokens // VALIDATIONS)
    for step in range(1, config.steps + 1):
        ours.run(trainer, 1)
        seen = config.samples_before(step) * model.context
        if seen // every > config.samples_before(step - 1) * model.context // every or step == config.steps:
            found.append((seen, trainer.validate()[0]))
    return found


def _base(job: Job) -> TrainConfig:
    base = PRESETS["mini"].train
    return dataclasses.replace(base, warmup_steps=2, val_sequences=4) if job.is_tiny else base
