"""Tokens needed to reach a validation loss: the paper's recipe beside newer ones with the same architecture.

    python -m benchmarks.recipe [--tokens 300000] [--target LOSS] [--seeds 3] [--recipes NAME,..] [--rates R,..]

Trains the mini preset on the CPU with the Trainer, on the documentation of installed packages. All recipes validate on
the same windows; every twentieth document is held out.

    paper      AdamW and the cosine schedule: the mini preset unchanged
    muon       Muon for the matrices of the blocks, the cosine schedule
    modern     Muon, the wsd schedule, and a growing batch

``paper`` and ``muon`` use the best learning rate of a search with seed 0; ``modern`` uses the rate of ``muon``.
``--rates`` tries other rates instead. The schedule of each recipe spans its own share of ``--tokens``. With every seed,
``paper`` reaches the target at the end of its schedule. We interpolate between two validations to find where a curve
crosses the target. ``--quick`` uses tiny sizes to check that it works; its numbers mean nothing. Writes a plot. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.machine import machine, peak_rss_mb
from benchmarks.train import SNAPSHOT, make_corpus
from data.figures import svg
from data.lake.store import Lake
from model import world
from model.config import PRESETS, ModelConfig, TrainConfig
from model.loader import Corpus, open_corpus
from model.machine import settle
from model.trainer import Trainer

TARGET = 6.0
VALIDATIONS = 15  # over the whole token budget
Curve = list[tuple[int, float]]  # tokens trained on, validation loss in nats/token


@dataclass(frozen=True)
class Recipe:
    """The settings that differ from the preset, and the share of the token budget that the schedule spans."""

    share: float
    learning_rate: float
    settings: dict[str, Any]


GROWING = {"batch_warmup_steps": 40}  # the first batch is 8 / 8 = 1 sequence
RECIPES = {
    "paper": Recipe(1.0, 1e-3, {}),
    "muon": Recipe(0.5, 4e-3, {"optimizer": "muon"}),
    "modern": Recipe(0.5, 4e-3, {"optimizer": "muon", "schedule": "wsd", "decay_share": 0.5, **GROWING}),
}


def plan(recipe: Recipe, tokens: int, context: int, base: TrainConfig, rate: float, seed: int) -> TrainConfig:
    """The settings, with as many steps as it takes to see the recipe's share of ``tokens``."""
    fields = {**recipe.settings, "learning_rate": rate, "seed": seed}
    config = dataclasses.replace(base, **fields)
    steps = next(n for n in range(1, tokens) if config.samples_before(n) * context >= recipe.share * tokens)
    return dataclasses.replace(config, steps=steps)


def curve(model: ModelConfig, config: TrainConfig, corpus: Corpus, every: int) -> Curve:
    """Train to the last step; returns the validation loss after every ``every`` tokens, and at the end."""
    peers = world.join("cpu")
    config, _ = settle(model, config, peers)
    trainer = Trainer(model, config, corpus, peers)
    found: Curve = []
    for step in range(1, config.steps + 1):
        before = config.samples_before(step - 1) * model.context
        trainer.train_step()
        seen = config.samples_before(step) * model.context
        if seen // every > before // every or step == config.steps:
            found.append((seen, trainer.validate()[0]))
    return found


def crossing(found: Curve, target: float) -> float | None:
    """The tokens at which the loss first reaches the target, interpolated between two validations."""
    last_tokens, last_loss = 0, float("inf")
    for tokens, loss in found:
        if loss <= target:
            if last_loss == float("inf"):
                return float(tokens)
            return last_tokens + (tokens - last_tokens) * (last_loss - target) / (last_loss - loss)
        last_tokens, last_loss = tokens, loss
    return None


def plot(curves: dict[str, list[Curve]], target: float) -> Figure:
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for index, (name, runs) in enumerate(curves.items()):
        for number, run in enumerate(runs):
            label = name if number == 0 else None
            axes.plot([t / 1e6 for t, _ in run], [loss for _, loss in run], f"C{index}", linewidth=1, label=label)
    axes.axhline(target, color="0.4", linestyle=":", linewidth=1)
    axes.set_xlabel("million tokens")
    axes.set_ylabel("validation loss, nats/token")
    axes.set_ylim(top=min(8.0, max(loss for runs in curves.values() for run in runs for _, loss in run)))
    axes.legend()
    figure.tight_layout()
    return figure


def summary(tokens: list[float | None]) -> str:
    reached = [one for one in tokens if one is not None]
    if len(reached) < len(tokens):
        return f"reached with {len(reached)} of {len(tokens)} seeds"
    spread = f" +- {stdev(reached):,.0f}" if len(reached) > 1 else ""
    return f"{mean(reached):,.0f}{spread} tokens"


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every recipe, rate and seed, and print a line for each."""
    model, base = PRESETS["mini"].model, PRESETS["mini"].train
    if arguments.quick:
        model = dataclasses.replace(model, layers=1, heads=2, width=32, context=32)
        base = dataclasses.replace(base, batch_size=8, warmup_steps=2, val_sequences=8)
    make_corpus(folder / "lake", 20_000 if arguments.quick else 5_000_000)
    corpus = open_corpus(Lake(folder / "lake"), (SNAPSHOT,), folder / "cache")
    curves: dict[str, list[Curve]] = {}
    for name in arguments.recipes.split(","):
        recipe = RECIPES[name]
        for rate in arguments.rates or [recipe.learning_rate]:
            runs = curves.setdefault(f"{name}, rate {rate:g}", [])
            for seed in range(arguments.seeds):
                config = plan(recipe, arguments.tokens, model.context, base, rate, seed)
                runs.append(curve(model, config, corpus, max(1, arguments.tokens // VALIDATIONS)))
                tokens, loss = runs[-1][-1]
                at = crossing(runs[-1], arguments.target)
                when = "never" if at is None else f"after {at:,.0f} tokens"
                print(
                    f"  {name:8} rate {rate:g} seed {seed}: {loss:.4f} at {tokens:,} tokens; target {when}", flush=True
                )
    reached = {name: [crossing(one, arguments.target) for one in runs] for name, runs in curves.items()}
    print(f"target {arguments.target} nats/token; {len(corpus.val):,} validation tokens")
    for name, tokens_to in reached.items():
        last = [one[-1][1] for one in curves[name]]
        print(f"  {name:20} {summary(tokens_to)}; {mean(last):.4f} at the end")
    means = {name: None if None in of else mean(of) for name, of in reached.items()}  # type: ignore[type-var, arg-type]
    first, *others = means
    base_tokens = means[first]
    if arguments.to:
        arguments.to.write_text(svg(plot(curves, arguments.target)))
    return {
        "bench": "recipe",
        "target": arguments.target,
        "tokens_to_target": {name: [one and round(one) for one in of] for name, of in reached.items()},
        "ratios": {name: round(of / base_tokens, 3) for name, of in means.items() if of and base_tokens},
        "ours": {name: means[name] for name in others},
        "peers": {first: base_tokens},
        "curves": {name: [[(t, round(loss, 4)) for t, loss in one] for one in runs] for name, runs in curves.items()},
        "peak_rss_mb": peak_rss_mb(),
        "machine": machine(),
    }


def _rates(text: str) -> list[float]:
    return [float(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=300_000, help="token budget of a run")
    parser.add_argument("--target", type=float, default=TARGET, help="validation loss to reach, nats/token")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", default="paper,muon,modern", help=f"recipes to run, from {', '.join(RECIPES)}")
    parser.add_argument("--rates", type=_rates, help="learning rates to try with each recipe, instead of its own")
    parser.add_argument("--to", type=Path, help="SVG file to write")
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes to check that it works; the numbers mean nothing"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.recipes.split(",")) - RECIPES.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        parser.error(f"--recipes {arguments.recipes}: no such recipe {names}; choose from {', '.join(RECIPES)}")
    with tempfile.TemporaryDirectory(prefix="webtext-recipe-") as name:
        print(json.dumps(run(arguments, Path(name))))


if __name__ == "__main__":
    main()
