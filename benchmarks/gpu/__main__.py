"""``python -m benchmarks.gpu``: see the package."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import docs, goals, needs, parent
from benchmarks.gpu.phases import LIMIT_S, PHASES, Phase

ROOT = Path(__file__).parents[2]


def main() -> int:
    arguments = _arguments()
    if arguments.write_docs:
        docs.write(ROOT / "docs" / "benchmarks.md", docs.read(*arguments.write_docs))
        return 0
    needs.use_packages()
    complaints = _complaints(arguments)
    if complaints:
        print("\n".join(complaints), file=sys.stderr)
        return 2
    return report(arguments)


def report(arguments: argparse.Namespace) -> int:
    chosen = [phase for phase in PHASES if phase.name in (arguments.only or [one.name for one in PHASES])]
    with arguments.to.open("w") as file:

        def emit(line: dict[str, Any]) -> None:
            for out in (sys.stdout, file):
                out.write(json.dumps(line) + "\n")
                out.flush()

        lines = [{"phase": one.name, "seconds": 0.0, "status": "skipped"} for one in PHASES if one not in chosen]
        for line in lines:
            emit(line)
        if arguments.tiny:  # one child: importing torch takes longer than all the phases
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # on busy cores, threads wait for each other
            chosen = [dataclasses.replace(one, group="tiny" if one.where else "") for one in chosen]

        def command(phases: Sequence[Phase], ends: float) -> list[str]:
            settings = {
                "phases": [phase.name for phase in phases],
                "ends": ends,
                "device": arguments.device,
                "tiny": arguments.tiny,
                "nanogpt": str(arguments.nanogpt.resolve()) if arguments.nanogpt else "",
            }
            return [sys.executable, "-m", "benchmarks.gpu.child", json.dumps(settings)]

        log = arguments.to.with_suffix(".log")
        lines += parent.run(chosen, command, arguments.limit, log, emit, goals.dry_run)
        date = time.strftime("%Y-%m-%d")
        last = goals.last_line(lines, device=arguments.device, is_tiny=arguments.tiny, date=date)
        emit(last)
    return 1 if last["failed"] or last["not_reached"] else 0


def _complaints(arguments: argparse.Namespace) -> list[str]:
    """Why the report cannot begin, a line each, and what to do."""
    found = needs.missing()
    if found:
        return [
            *found,
            f"install the wheels with: {needs.INSTALL}",
            f"(make gpu-wheels collects them in {needs.WHEELS_FOLDER})",
        ]
    complaint = needs.torch_complaint() or (needs.gpu_complaint() if arguments.device.startswith("cuda") else None)
    return [complaint] if complaint else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu",
        description="Check what a GPU computes, and measure training and scoring on it.",
    )
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT to compare with")
    parser.add_argument("--to", type=Path, default=Path("gpu-report.jsonl"), metavar="FILE", help="where the lines go")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, metavar="S", help="seconds for everything (default: 420)"
    )
    parser.add_argument(
        "--only", type=_names, metavar="NAME,..", help=f"phases, from {', '.join(p.name for p in PHASES)}"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes to check that it works; the numbers mean nothing"
    )
    parser.add_argument(
        "--write-docs",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="write docs/benchmarks.md from a report, and end; of several reports, each phase's last line counts",
    )
    arguments = parser.parse_args()
    if arguments.nanogpt and not (arguments.nanogpt / "model.py").is_file():
        parser.error(f"--nanogpt {arguments.nanogpt}: no model.py there; name a checkout of nanoGPT")
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu: the sizes are for a GPU; add --tiny to check that the program works")
    if not arguments.device.startswith(("cpu", "cuda")):
        parser.error(f"--device {arguments.device}: use cuda, or cpu with --tiny")
    for path in arguments.write_docs or ():
        if not path.is_file():
            parser.error(f"--write-docs {path}: no such file; it is written by the report")
    return arguments


def _names(text: str) -> list[str]:
    unknown = sorted(set(text.split(",")) - {phase.name for phase in PHASES})
    if unknown:
        names = ", ".join(phase.name for phase in PHASES)
        raise argparse.ArgumentTypeError(f"no such phase {', '.join(unknown)}; choose from {names}")
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
