"""The pictures of a run's report, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from data.figures import INK, svg
from model.evals.published import SIZES, Published

OURS = "#2f9e77"  # seen on white and on black
FAINT = "#8a938f"
COLUMNS = 4

History = dict[str, list[tuple[int, float]]]
"""Metric name to (step, value), ascending by step."""

Point = tuple[float, tuple[float, float] | None]
"""A score and its 95 % interval, if there is one."""


def curve(history: History, unigram_entropy: float | None) -> str:
    """Losses by step."""
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    for name, label, style, color in (("loss", "training", "-", FAINT), ("val_loss", "validation", "o-", OURS)):
        if history.get(name):
            axes.plot(*zip(*history[name], strict=True), style, label=label, color=color, markersize=3, linewidth=1.2)
    if unigram_entropy is not None:
        axes.axhline(unigram_entropy, color=INK, linestyle="--", linewidth=0.8, label="unigram entropy")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats/token)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def by_size(rows: Sequence[Published], ours: Mapping[int, Point], parameters: int | None) -> str:
    """The paper's scores by model size, a panel per row, with this run's point.

    ``ours`` has scores in the paper's unit by the index of the row.
    """
    figure, panels = _panels(len(rows))
    sizes = list(SIZES.values())
    for i, (axes, row) in enumerate(zip(panels, rows, strict=True)):
        known = [(size, value) for size, value in zip(sizes, row.values, strict=True) if value is not None]
        axes.plot(*zip(*known, strict=True), "o-", color=FAINT, markersize=4, linewidth=1.2, label="GPT-2, the paper")
        if row.before is not None:
            axes.axhline(row.before, color=INK, linestyle=":", linewidth=0.9, label="best before the paper")
        if i in ours and parameters:
            value, interval = ours[i]
            _with_interval(axes, [parameters], [value], [interval], f"this run, {_short(parameters)} parameters")
        axes.set_xscale("log")
        axes.set_xlim(min(sizes[0], parameters or sizes[0]) / 1.6, max(sizes[-1], parameters or 0) * 1.6)
        axes.set_xticks(sizes, list(SIZES), fontsize=6, rotation=45, ha="right")
        axes.xaxis.set_minor_locator(NullLocator())
        if row.unit == "perplexity":
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=12))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.margins(y=0.15)
        direction = "lower" if row.lower_is_better else "higher"
        axes.set_title(f"{row.title}\n({row.unit}, {direction} is better)", fontsize=7)
    _legend(figure, panels)
    return svg(figure)


def by_step(series: Mapping[str, list[tuple[int, Point]]], baselines: Mapping[str, float]) -> str:
    """Scores over training steps, a panel per task and metric."""
    figure, panels = _panels(len(series))
    for axes, (name, points) in zip(panels, series.items(), strict=True):
        steps = [step for step, _ in points]
        _with_interval(axes, steps, [value for _, (value, _) in points], [one for _, (_, one) in points], "this run")
        axes.lines[0].set_linestyle("-")
        if name in baselines:
            axes.axhline(baselines[name], color=INK, linestyle="--", linewidth=0.8, label="best trivial baseline")
        axes.set_xlabel("step", fontsize=7)
        axes.set_title(name, fontsize=8)
    _legend(figure, panels)
    return svg(figure)


def _short(count: int) -> str:
    return f"{count / 1e6:,.0f} M" if count >= 1e7 else f"{count / 1e6:.1f} M"


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels; those of the last row that are not needed are hidden."""
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(11, 0.4 + 2.2 * rows), layout="constrained")
    every = figure.subplots(rows, COLUMNS, squeeze=False).flatten().tolist()
    for axes in every:
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in every[count:]:
        axes.set_visible(False)
    return figure, every[:count]


def _with_interval(
    axes: Axes,
    x: Sequence[float],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    label: str,
) -> None:
    axes.plot(x, values, "o", color=OURS, markersize=5, label=label)
    for at, interval in zip(x, intervals, strict=True):
        if interval is not None:
            axes.plot([at, at], interval, "-", color=OURS, linewidth=1.2)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    found: dict[str, Artist] = {}
    for axes in panels:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), line)
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=len(found), frameon=False, fontsize=8
    )
