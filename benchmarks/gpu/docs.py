"""The section of docs/benchmarks.md about GPUs, written from the lines of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import goals
from benchmarks.gpu.goals import mfu, results

BEGIN = "<!-- gpu-report: written by `python -m benchmarks.gpu --write-docs FILE`; do not edit -->"
END = "<!-- end of gpu-report -->"
COMMAND = "make gpu-report NANOGPT=DIR"
TITLE = f"## On a GPU (`{COMMAND}`)"
Line = dict[str, Any]


def read(*paths: Path) -> list[Line]:
    """The lines of a report. Of several, the last line of each phase that ran, in the order of the first report; the
    dry run and the goals follow from these lines.
    """
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]
    *_, last = (line for line in lines if "bench" in line)
    if len(paths) == 1:
        return lines
    phases: dict[str, Line] = {}
    for line in lines:
        if "phase" in line and (line["status"] != "skipped" or line["phase"] not in phases):
            phases[line["phase"]] = line
    merged = list(phases.values())
    phases["dry run"] = {**phases["dry run"], "status": "ok", **goals.dry_run(merged)}
    merged = list(phases.values())
    judged = goals.last_line(merged, device=last["device"], is_tiny=last["tiny"], date=last["date"])
    return [*merged, {**judged, "machine": last["machine"]}]


def write(document: Path, lines: Sequence[Line]) -> None:
    """Replace what is between the markers. Raises ValueError if they are not there."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document}: the markers of the section are missing: {BEGIN} and {END}")
    document.write_text(f"{before}{section(lines)}{after}")


def section(lines: Sequence[Line]) -> str:
    """The section with its markers; without lines it says that nothing was run."""
    body = _filled(lines) if lines else _empty()
    return "\n".join([BEGIN, TITLE, *body, END])


def _empty() -> list[str]:
    return [
        f"Not run yet. `{COMMAND}` on a machine with an NVIDIA GPU runs it in seven minutes ([how](gpu.md)), and",
        "`python -m benchmarks.gpu --write-docs gpu-report.jsonl` writes the results here.",
    ]


def _filled(lines: Sequence[Line]) -> list[str]:
    last = lines[-1]
    card = results(lines[:-1], "card")
    head = f"{card.get('card', 'an unknown card')}, driver {card.get('driver_version', 'unknown')}, "
    head += f"torch {card.get('torch', 'unknown')}; {last['date']}."
    if "product_flop_per_s" in card:
        head += (
            f" Product ({card['product'].removesuffix(' product')}): {card['product_flop_per_s'] / 1e12:,.0f} TFLOP/s."
        )
    out = [head]
    if last["tiny"] or not last["device"].startswith("cuda"):
        out.append("**These sizes are tiny or not on a GPU: the numbers mean nothing.**")
    out += [*_notes(lines[:-1], last), *_speed(lines[:-1], last), *_dry_run(lines[:-1]), *_time(lines[:-1])]
    return [*out, *_checks(lines[:-1]), *_rest(lines[:-1]), *_goals(last)]


def _notes(lines: Sequence[Line], last: Line) -> list[str]:
    notes = [f"- {note}" for note in results(lines, "card").get("notes", [])]
    notes += [
        f"- {one['phase']} failed: {one.get('error', 'no reason given')}" for one in lines if one["status"] == "failed"
    ]
    return [*notes, *(f"- {phase} was not reached" for phase in last["not_reached"])]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [
        "",
        title,
        "",
        f"| {' | '.join(names)} |",
        f"|{' --- |' * len(names)}",
        *(f"| {' | '.join(r)} |" for r in rows),
    ]


def _speed(lines: Sequence[Line], last: Line) -> list[str]:
    speed = results(lines, "speed")
    ours = {"124M": speed.get("ours", {}), **results(lines, "sizes").get("sizes", {})}
    variants = results(lines, "variants").get("variants", {})
    rows = [_row(lines, f"{name}, ours", one["tokens_per_s"], ours[name]) for name, one in last["ours"].items()]
    for name, of in speed.get("tokens_per_s", {}).items():
        if name != "ours":
            facts = {"flop_per_token": speed["ours"]["flop_per_token"], **speed.get(name, {})}
            rows.append(_row(lines, f"124M, {name}", sorted(of)[len(of) // 2], facts, f"{speed['ratios'][name]:.2f}"))
    for name, one in variants.items():
        if "tokens_per_s" in one:
            rows.append(_row(lines, f"124M, variant {name}", one["tokens_per_s"], one))
    names = ("", "tokens/s", "MFU, data sheet", "MFU, product", "micro-batch", "peak GB", "ours is times")
    return _table("Training, 1,024 positions:", names, rows)


def _row(lines: Sequence[Line], name: str, rate: float, facts: Line, ratio: str = "") -> list[str]:
    share = mfu(lines, {**facts, "tokens_per_s": rate})
    percent = [f"{100 * share[by]:.1f} %" if by in share else "" for by in ("data sheet", "product")]
    memory = f"{facts['peak_bytes'] / 1e9:.1f}" if "peak_bytes" in facts else ""
    return [name, f"{rate:,.0f}", *percent, str(facts["micro_batch_size"]), memory, ratio]


def _dry_run(lines: Sequence[Line]) -> list[str]:
    rows = []
    for name, row in results(lines, "dry run").get("dry_run", {}).items():
        memory = row["memory_bytes"]
        seconds = row.get("step_s", {"predicted": 0.0, "measured": 0.0})
        off = f"{100 * row['memory_off']:+.1f} %" if "memory_off" in row else ""
        gigabytes = [f"{memory[kind] / 1e9:.1f}" for kind in ("predicted", "measured")]
        rows.append([name, *gigabytes, off, f"{seconds['predicted']:.2f}", f"{seconds['measured']:.2f}"])
    names = ("", "GB predicted", "GB measured", "off by", "s/step predicted", "s/step measured")
    return _table("The dry run and reality:", names, rows)


def _time(lines: Sequence[Line]) -> list[str]:
    profile = results(lines, "speed").get("profile", {})
    rows = [[kind, f"{100 * share:.1f} %"] for kind, share in profile.get("shares", {}).items()]
    if profile.get("waits_per_step") is not None:
        rows.append(["the host waits for the device, times per step", str(profile["waits_per_step"])])
    return _table("Where the time of a step of 124M goes:", ("", "share"), rows)


def _checks(lines: Sequence[Line]) -> list[str]:
    rows = [
        [
            line["phase"],
            name,
            "not finite" if check["measured"] is None else f"{check['measured']:g}",
            f"{check['limit']:.3g}",
            "yes" if check["met"] else "**no**",
        ]
        for line in lines
        for name, check in line.get("checks", {}).items()
    ]
    return _table("Exactness:", ("phase", "check", "measured", "limit", "met"), rows)


def _rest(lines: Sequence[Line]) -> list[str]:
    rows = []
    scoring = results(lines, "scoring")
    if "items_per_s" in scoring:
        for name, of in scoring["items_per_s"].items():
            rows.append([f"last words per second, {name}", f"{sorted(of)[len(of) // 2]:,.0f}"])
    found = results(lines, "recipes")
    if "share" in found:
        rows.append(
            ["tokens of the best recipe to the paper's loss, as a share of the paper's", f"{found['share']:.2f}"]
        )
    for name, one in found.get("apart", {}).items():
        what = "as it comes" if name == "paper" else name
        rows.append([f"loss of {what} and of fp32 differ by, in deviations of the seeds", f"{one:.2f}"])
    return _table("Scoring and recipes:", ("", "measured"), rows)


def _goals(last: Line) -> list[str]:
    words = {True: "yes", False: "**no**", None: ""}
    rows = [
        [
            name,
            goal["goal"],
            "not measured" if goal["measured"] is None else f"{goal['measured']:g}",
            words[goal["met"]],
        ]
        for name, goal in last["goals"].items()
    ]
    return _table("Goals on one H100:", ("", "goal", "measured", "met"), rows)
