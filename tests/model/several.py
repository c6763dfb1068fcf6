"""Trains several runs, one after another, in the processes of one launch: starting them costs more than the training.

``train_all`` starts it, under torchrun if there are several processes, and returns what each run has reported. In fp64
rounding errors of fp32 cannot hide other differences.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from data.lake.store import Lake
from model import train
from model.config import TrainSpec

PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64}


Reported = dict[str, list[dict[str, Any]]]
"""The events of each run, by its name."""


def train_all(lake: Lake, specs: list[TrainSpec], *, processes: int, precision: str = "fp32") -> Reported:
    folder = Path(lake.base).parent
    paths = [folder / f"{spec.run}-{number}.json" for number, spec in enumerate(specs)]
    for path, spec in zip(paths, specs, strict=True):
        path.write_text(json.dumps(spec.to_json()))
    arguments = [f"{port}:{path}" for port, path in zip(free_ports(len(paths)), paths, strict=True)]
    program = ["-m", "tests.model.several", precision, *arguments]
    if processes > 1:
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *program]
    done = subprocess.run(
        [sys.executable, *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    events: Reported = {}
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "next":
            current = events.setdefault(event["run"], [])
        else:
            current.append(event)
    assert [found[-1]["event"] for found in events.values()] == ["done"] * len(specs)
    return events


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def main(precision: str, *arguments: str) -> int:
    """In each process of the launch."""
    torch.set_default_dtype(PRECISIONS[precision])
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # the launcher's store still knows the group of the last run
    for argument in arguments:
        os.environ["MASTER_PORT"], _, path = argument.partition(":")
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps({"event": "next", "run": json.loads(Path(path).read_bytes())["run"]}), flush=True)
        if code := train.main(["--spec", path]):
            return code
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # as model.train ends
