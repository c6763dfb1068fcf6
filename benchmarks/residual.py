"""The size of a new model's residual stream, layer by layer, with and without GPT-2's scaling by 1/sqrt(N).

    python -m benchmarks.residual [--to docs/images/residual.svg] [--width 512] [--depths 12,24,36,48]

"We scale the weights of residual layers at initialization by a factor of 1/sqrt(N) where N is the number of residual
layers" (GPT-2 paper, section 2.3). The output of a residual layer is independent of the stream it is added to, so
variances add up. At the first position, attention sees one token. With C the width:

    after the embeddings   0.02^2 + 0.01^2
    attention adds         (C 0.02^2)^2               value and projection, each of C inputs with weights of 0.02
    feed-forward adds      4 C 0.02^2 E[gelu(h)^2]    h normal with variance C 0.02^2

There are N = 2 x layers residual layers. Without scaling the variance grows with the depth; with scaling it does not.
At later positions attention averages over tokens and adds less, so the first position has the highest variance.

Draws the weights of models of one width with the paper's depths, feeds them random tokens, and writes the plot. Takes a
few seconds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from benchmarks.machine import machine
from data.figures import svg
from model.config import ModelConfig
from model.gpt2 import GPT2, Block

PLOT = Path(__file__).parents[1] / "docs" / "images" / "residual.svg"


@dataclass(frozen=True)
class Growth:
    """Variances of the residual stream after the embeddings and after each block: ``layers + 1`` numbers each."""

    measured: list[float]  # all positions
    measured_first: list[float]  # the first position
    predicted_first: list[float]

    @property
    def final_std(self) -> float:
        return math.sqrt(self.measured[-1])


@torch.no_grad()
def measure(config: ModelConfig, *, is_scaled: bool, seed: int = 0, sequences: int = 8, length: int = 64) -> Growth:
    """Measure a new model. The model always scales, so ``is_scaled=False`` undoes the scaling."""
    torch.manual_seed(seed)
    model = GPT2(config)
    factor = 1.0 if is_scaled else math.sqrt(2 * config.layers)
    streams: list[Tensor] = []
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention.proj.weight.mul_(factor)
        block.feed_forward.proj.weight.mul_(factor)
        block.register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
    model.ln.register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
    model.hidden(torch.randint(config.vocab_size, (sequences, length)))
    return Growth(
        [stream.square().mean().item() for stream in streams],
        [stream[:, 0].square().mean().item() for stream in streams],
        predict(config, is_scaled=is_scaled),
    )


def predict(config: ModelConfig, *, is_scaled: bool) -> list[float]:
    """The variances at the first position; see the module's docstring."""
    inner = config.width * 0.02**2
    h = torch.linspace(-8, 8, 4_001, dtype=torch.float64)
    density = torch.exp(-(h**2) / 2) / math.sqrt(2 * math.pi)
    gelu = F.gelu(h * math.sqrt(inner), approximate="tanh")
    a_block = inner**2 + 4 * inner * torch.trapezoid(gelu**2 * density, h).item()
    if is_scaled:
        a_block /= 2 * config.layers
    return [0.02**2 + config.position_std**2 + layer * a_block for layer in range(config.layers + 1)]


def plot(found: dict[tuple[int, bool], Growth], width: int) -> Figure:
    figure = Figure(figsize=(9, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    titles = {False: "weights of 0.02 everywhere", True: "residual layers scaled by 1/sqrt(N)"}
    for panel, (is_scaled, title) in zip(panels, titles.items(), strict=True):
        for index, layers in enumerate(sorted({depth for depth, _ in found})):
            growth = found[layers, is_scaled]
            panel.plot([math.sqrt(v) for v in growth.measured], color=f"C{index}", label=f"{layers} layers")
            panel.plot([math.sqrt(v) for v in growth.predicted_first], color=f"C{index}", linestyle=":", linewidth=1)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("blocks passed")
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
    stds = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]
    panels[0].set_yticks(stds, labels=[f"{std:g}" for std in stds])
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("std of the residual stream")
    panels[0].legend(fontsize=8)
    figure.suptitle(
        f"New models of width {width}: measured, and predicted for the first position (dotted)", fontsize=10
    )
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, default=PLOT, help="SVG file to write")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depths", default="12,24,36,48")
    arguments = parser.parse_args()
    depths = [int(depth) for depth in arguments.depths.split(",")]
    found = {}
    print(f"width {arguments.width}: std of the residual stream after the last block")
    for layers in depths:
        config = ModelConfig(layers, max(1, arguments.width // 64), arguments.width, context=64, vocab_size=1_000)
        for is_scaled in (False, True):
            found[layers, is_scaled] = growth = measure(config, is_scaled=is_scaled)
            first, predicted = (math.sqrt(v[-1]) for v in (growth.measured_first, growth.predicted_first))
            print(
                f"  {layers:3} layers, {'scaled    ' if is_scaled else 'not scaled'}  {growth.final_std:.3f}; "
                f"first position {first:.3f}, predicted {predicted:.3f}"
            )
    matplotlib.rcParams["svg.hashsalt"] = "webtext"  # equal numbers give equal files
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    arguments.to.write_text(svg(plot(found, arguments.width)))
    print(f"{arguments.to} written")
    shallow, deep = depths[0], depths[-1]
    ratios = {f"not_scaled_by_scaled_{n}": found[n, False].final_std / found[n, True].final_std for n in depths}
    ratios["scaled_deepest_by_shallowest"] = found[deep, True].final_std / found[shallow, True].final_std
    ratios["not_scaled_deepest_by_shallowest"] = found[deep, False].final_std / found[shallow, False].final_std
    result = {
        "bench": "residual",
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "ours": {
            f"{'scaled' if is_scaled else 'not_scaled'}_{n}": round(growth.final_std, 4)
            for (n, is_scaled), growth in found.items()
        },
        "peers": {},
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
