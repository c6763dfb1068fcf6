"""``python -m model.train --spec FILE.json``: train a GPT-2 on a corpus of the lake; alone or under torchrun.

One step: the next ``batch_size`` samples, in micro-batches, dealt to the processes; the mean of the gradients;
clipping; AdamW at the step's learning rate (model/trainer.py). Everything random is a function of the seed and the
number of samples seen, so a run that was killed and resumed ends in the same bits as one that was not (same machine,
same number of threads), neither validation nor logging can change it, and the samples of a step are the same for any
number of processes (so are the dropout masks, if the micro-batch size is).

Standard output holds one JSON object a line for the supervising process: ``start``, ``resumed``, ``step``, ``val``,
``checkpoint``, ``warning``, and at the end one of ``done`` (with the summary), ``stopped`` (SIGTERM or SIGINT: saved,
to be resumed) and ``error``. Exit codes: 0 done or stopped, 1 failed, 2 wrong input.

Cost: see model/gpt2.py; a checkpoint is 12 bytes a parameter.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError, told
from data.lake.store import Lake
from data.process import die_with_parent
from model import failure, runs, world
from model.config import TrainSpec
from model.failure import FailedStepError
from model.launch import ENDED
from model.loop import Loop
from model.observer import UNSENT, Emit
from model.recorder import Recorder
from model.setup import Setup
from model.trainer import Trainer
from model.world import World


def train(
    spec: TrainSpec,
    emit: Emit,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Begin or resume the run of ``spec`` and bring it to its end; returns its summary.

    The summary has ``skipped`` true if the run was finished before, and ``stopped`` true if ``should_stop`` (asked
    after each step) ended it early. Raises InputError for bad input, before any work is lost, and FailedStepError; the
    process must then end, for the others may be waiting for it in a collective, and only its end ends them.
    """
    peers = world.join(spec.device)
    lake = Lake(spec.lake)
    with runs.locked(lake, spec.run, emit) if peers.is_first else contextlib.nullcontext():
        if peers.is_first:
            lake.sweep()  # checkpoints that were being written when their processes were killed
        summary = _train(spec, lake, peers, emit if peers.is_first else _quiet, should_stop, clock)
    peers.close()  # not after an error: with NCCL it would wait for the others
    return summary


def _train(
    spec: TrainSpec,
    lake: Lake,
    peers: World,
    emit: Emit,
    should_stop: Callable[[], bool],
    clock: Callable[[], float],
) -> dict[str, Any]:
    """One process's share in a run."""
    setup = Setup.of(spec, lake, peers)
    trainer = Trainer(setup.preset.model, setup.preset.train, setup.corpus, peers)
    newest, damaged = setup.newest(emit)
    record = setup.begin(newest, trainer.weights)
    state = setup.beginning() if newest is None else setup.resume(newest, trainer, emit)
    summary = runs.finished(lake, spec.run, state.step)
    if summary is not None and state.step >= setup.preset.train.steps:
        if lake.exists("checkpoints", spec.run, UNSENT):  # MLflow was away at the end
            late = Recorder(setup, trainer, record, state, damaged, emit)
            late.observer.checkpoint(state, with_weights=True)
            late.end("FINISHED")
        summary = {**summary, "skipped": True}
        emit("done", **summary)
        return summary
    recorder = Recorder(setup, trainer, record, state, damaged, emit)
    if state.step:  # the process may have been killed between saving the checkpoint and recording it in MLflow
        recorder.checkpoint(state)
    loop = Loop(setup, trainer, recorder, state, clock)
    try:
        if loop.run(should_stop):
            recorder.end("KILLED")
            emit("stopped", run=spec.run, step=loop.state.step)
            return {"run": spec.run, "steps": loop.state.step, "stopped": True, "skipped": False}
        val_loss = loop.state.val_loss
        if val_loss is None:  # saved on the way out, without a validation
            val_loss, _ = loop.validate()
        summary = recorder.finish(loop.state, val_loss)
    except Exception:
        recorder.end("FAILED")
        raise
    emit("done", **summary)
    return summary


def _quiet(event: str, **fields: Any) -> None:
    """What the processes beside the first one report."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="model.train", description="Train a GPT-2; see the module's docstring.")
    parser.add_argument("--spec", required=True, type=Path, help="the run's TrainSpec as a JSON file")
    path = parser.parse_args(arguments).spec
    die_with_parent(signal.SIGTERM)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C reaches every process of the terminal
        signal.signal(number, lambda received, _frame: stop.append(received))

    def emit(event: str, **fields: Any) -> None:
        try:
            # In one write, newline included: under torchrun several processes may report errors to one pipe.
            sys.stdout.write(orjson.dumps({"event": event, **fields}).decode() + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # whoever watched is gone: save and end
            stop.append(signal.SIGPIPE)
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends

    try:
        spec = TrainSpec.from_json(orjson.loads(path.read_bytes()), str(path))
        if spec.device.startswith("cpu") or (spec.device == "auto" and world.best_device() == "cpu"):
            world.keep_freed_memory()
        train(spec, emit, lambda: bool(stop))
        if ENDED in os.environ and os.environ.get("RANK") == "0":
            Path(os.environ[ENDED]).touch()
    except Exception as error:
        if not isinstance(error, (InputError, OSError)) and failure.kind_of(error) is None:
            raise  # a defect; OSError: the disk is full, the lake is gone; memory runs out in a validation, too
        is_ours = isinstance(error, (InputError, OSError, FailedStepError))
        message = told(error) if isinstance(error, OSError) else str(error) if is_ours else failure.one_line(error)
        emit("error", message=message, kind=type(error).__name__)
        print(message, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:  # a defect; the interpreter's own way out would close the group, and wait
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # all is saved; threads of torch's and Arrow's libraries may abort a process that unloads them
