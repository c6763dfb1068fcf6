"""Goals on one H100, the dry run beside reality, and the last line of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.machine import machine

ASSUMED_MFU = 0.4  # of the dry run (flows/cli/dryrun.py)
Line = dict[str, Any]

GOALS: tuple[tuple[str, str, float], ...] = (
    ("124M MFU", "at least", 0.45),
    ("124M times nanoGPT", "at least", 1.15),
    ("1558M MFU", "at least", 0.52),
    ("memory off prediction", "at most", 0.10),
    ("bf16 off fp32, deviations of the seeds", "at most", 1.0),
    ("host synchronisations per step", "at most", 1.0),
)


def results(lines: Sequence[Line], phase: str) -> Line:
    return next((line for line in lines if line["phase"] == phase), {})


def measured_sizes(lines: Sequence[Line]) -> dict[str, Line]:
    """The rate and the facts of each size that was measured."""
    speed = results(lines, "speed")
    rates = speed.get("tokens_per_s", {}).get("ours", [])
    found: dict[str, Line] = {}
    if rates:
        found["124M"] = {**speed["ours"], "tokens_per_s": sorted(rates)[len(rates) // 2]}
    sizes = results(lines, "sizes").get("sizes", {})
    return {**found, **{name: size for name, size in sizes.items() if "tokens_per_s" in size}}


def mfu(lines: Sequence[Line], size: Line) -> dict[str, float]:
    """The utilisation by the data sheet, where the card is known, and by the measured product."""
    card = results(lines, "card")
    rate: float = size["tokens_per_s"] * size["flop_per_token"]
    peaks = {"data sheet": card.get("data_sheet_flop_per_s"), "product": card.get("product_flop_per_s")}
    return {name: round(rate / peak, 4) for name, peak in peaks.items() if peak}


def dry_run(lines: Sequence[Line]) -> Line:
    """For each size: memory and seconds per step, predicted and measured."""
    card = results(lines, "card")
    peak = card.get("data_sheet_flop_per_s") or card.get("product_flop_per_s")
    rows: dict[str, Line] = {}
    for name, size in measured_sizes(lines).items():
        row: Line = {"memory_bytes": {"predicted": size["predicted_bytes"], "measured": size["peak_bytes"]}}
        if size["peak_bytes"]:
            row["memory_off"] = round(size["predicted_bytes"] / size["peak_bytes"] - 1, 4)
        if peak:
            predicted = size["tokens_per_step"] * size["flop_per_token"] / (ASSUMED_MFU * peak)
            row["step_s"] = {"predicted": round(predicted, 4), "measured": size["step_s"]}
            row["time_off"] = round(predicted / size["step_s"] - 1, 4)
        rows[name] = row
    return {"dry_run": rows, "assumed_mfu": ASSUMED_MFU}


def _measured(lines: Sequence[Line]) -> dict[str, float | None]:
    sizes = measured_sizes(lines)
    utilisation = {name: mfu(lines, size).get("data sheet") for name, size in sizes.items()}
    off = [
        abs(row["memory_off"]) for row in results(lines, "dry run").get("dry_run", {}).values() if "memory_off" in row
    ]
    values = (
        utilisation.get("124M"),
        results(lines, "speed").get("ratios", {}).get("nanogpt"),
        utilisation.get("1558M"),
        max(off, default=None),
        results(lines, "recipes").get("apart", {}).get("paper"),
        results(lines, "speed").get("profile", {}).get("waits_per_step"),
    )
    return dict(zip((name for name, _, _ in GOALS), values, strict=True))


def judge(lines: Sequence[Line], *, is_real: bool) -> dict[str, Line]:
    """Each goal with what was measured; ``met`` is None if nothing was, or if the numbers mean nothing."""
    judged: dict[str, Line] = {}
    for (name, bound, goal), measured in zip(GOALS, _measured(lines).values(), strict=True):
        met = None
        if measured is not None and is_real:
            met = measured >= goal if bound == "at least" else measured <= goal
        judged[name] = {"goal": f"{bound} {goal:g}", "measured": measured, "met": met}
    return judged


def last_line(lines: Sequence[Line], *, device: str, is_tiny: bool, date: str) -> Line:
    speed = results(lines, "speed")
    scoring = results(lines, "scoring")
    sizes = measured_sizes(lines)
    ours = {name: {"tokens_per_s": size["tokens_per_s"], "mfu": mfu(lines, size)} for name, size in sizes.items()}
    rates = speed.get("tokens_per_s", {})
    return {
        "bench": "gpu",
        "ratios": {**speed.get("ratios", {}), **({"scoring": scoring["ratio"]} if "ratio" in scoring else {})},
        "ours": ours,
        "peers": {name: sorted(of)[len(of) // 2] for name, of in rates.items() if name not in ("ours", "eager")},
        "goals": judge(lines, is_real=device.startswith("cuda") and not is_tiny),
        "failed": [line["phase"] for line in lines if line["status"] == "failed"],
        "not_reached": [line["phase"] for line in lines if line["status"] == "not reached"],
        "peak_rss_mb": max((line["peak_rss_mb"] for line in lines if "peak_rss_mb" in line), default=0.0),
        "machine": machine(),
        "card": results(lines, "card").get("card"),
        "device": device,
        "tiny": is_tiny,
        "date": date,
    }
