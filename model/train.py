"""``python -m model.train --spec FILE.json``: train a GPT-2 on a corpus of the lake, alone or under torchrun.

A step takes the next ``batch_size`` samples, splits them into micro-batches, deals these to the processes, averages the
gradients, clips them and updates the weights at the step's learning rate (model/trainer.py). Everything random is a
function of the seed and the number of samples seen. So:

- A run that was killed and resumed ends in the same bits as one that was not, on the same machine with the same number
  of threads.
- Validation and logging cannot change the result.
- A step sees the same samples for any number of processes, and the same dropout masks if its micro-batches stay.

Standard output holds one JSON object per line for the supervising process (model/events.py). The last one is the
summary, ``stopped`` after SIGTERM or SIGINT (the run is saved and can be resumed), or ``error``. Exit codes: see
model/program.py.

Cost: see model/gpt2.py. A checkpoint takes 12 bytes per parameter.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from data.lake.store import Lake
from data.process import die_with_parent
from model import program, runs, world
from model.config import TrainSpec
from model.events import Emit, EvalEvent, Stopped, TrainEvent, TrainSummary, to_line
from model.launch import ENDED
from model.loop import Loop
from model.observer import UNSENT
from model.recorder import Recorder
from model.setup import Setup
from model.trainer import Trainer
from model.world import World


def train(
    spec: TrainSpec,
    emit: Emit,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> TrainSummary | Stopped:
    """Start or resume the run of ``spec`` and train it to its end, or until ``should_stop``, called after each step.

    The summary has ``skipped`` set if the run was finished before. Raises InputError for bad input, before any
    training, and FailedStepError. After an error the process must end: others may wait for it in a collective, and only
    its end ends them.
    """
    peers = world.join(spec.device)
    lake = Lake(spec.lake)
    with runs.locked(lake, spec.run, emit) if peers.is_first else contextlib.nullcontext():
        if peers.is_first:
            lake.sweep()  # removes checkpoints that were half written when their processes were killed
        result = _train(spec, lake, peers, emit if peers.is_first else _quiet, should_stop, clock)
    peers.close()  # not after an error: with NCCL it would wait for the others
    return result


def _train(
    spec: TrainSpec,
    lake: Lake,
    peers: World,
    emit: Emit,
    should_stop: Callable[[], bool],
    clock: Callable[[], float],
) -> TrainSummary | Stopped:
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
            late.observer.end("FINISHED")
        summary = dataclasses.replace(summary, skipped=True)
        emit(summary)
        return summary
    recorder = Recorder(setup, trainer, record, state, damaged, emit)
    if state.step:  # the process may have been killed between saving the checkpoint and recording it in MLflow
        recorder.checkpoint(state)
    loop = Loop(setup, trainer, recorder, state, clock)
    try:
        if loop.run(should_stop):
            recorder.observer.end("KILLED")
            stopped = Stopped(spec.run, loop.state.step)
            emit(stopped)
            return stopped
        val_loss = loop.state.val_loss
        if val_loss is None:  # the last checkpoint was saved by a run that was stopped, without a validation
            val_loss, _ = loop.validate()
        summary = recorder.finish(loop.state, val_loss)
    except Exception:
        recorder.observer.end("FAILED")
        raise
    emit(summary)
    return summary


def _quiet(event: TrainEvent | EvalEvent) -> None:
    """Only the first process reports."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="model.train", description="Train a GPT-2; see the module's docstring.")
    parser.add_argument("--spec", required=True, type=Path, help="the run's TrainSpec as a JSON file")
    path = parser.parse_args(arguments).spec
    die_with_parent(signal.SIGTERM)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C reaches every process of the terminal
        signal.signal(number, lambda received, _frame: stop.append(received))

    def emit(event: TrainEvent | EvalEvent) -> None:
        try:
            # In one write, newline included: under torchrun several processes may report errors to one pipe.
            sys.stdout.write(to_line(event).decode())
            sys.stdout.flush()
        except BrokenPipeError:  # the supervisor is gone: save and end
            stop.append(signal.SIGPIPE)
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends

    try:
        spec = TrainSpec.from_json(program.read_spec(path), str(path))
        program.prepare(spec.device)
        train(spec, emit, lambda: bool(stop))
        if ENDED in os.environ and os.environ.get("RANK") == "0":
            Path(os.environ[ENDED]).touch()
    except Exception as error:
        return program.report_error(error, emit)
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:  # a defect: the interpreter's own way out would close the process group, and wait
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # all is saved; unloading torch's and Arrow's libraries while their threads run may abort
