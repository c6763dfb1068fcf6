"""Training that is killed again and again: ``python -m tests.model.killing SPEC SEED``.

Forked children train one after the other. Each is killed (SIGKILL) at a point drawn from the seed: in the middle of a
step's micro-batches, or while it writes a checkpoint. Then this process trains to the end. All events go to standard
output, with a line ``{"event": "killed", "at": ..}`` before each death.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo  # the first step of an optimizer imports it: do it once for all children

from model import checkpoint
from model.config import TrainSpec
from model.events import EvalEvent, TrainEvent, to_line
from model.flops import measured_peak
from model.train import train
from model.trainer import Trainer

FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
PLACES = ("step", "save", "step", "save", "save", "save")


def emit(event: TrainEvent | EvalEvent) -> None:
    print(to_line(event).decode(), end="", flush=True)


def die(at: str) -> NoReturn:
    print(json.dumps({"event": "killed", "at": at}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def die_in_a_step(after: int) -> None:
    """In the middle of an accumulation, at the first such micro-batch after ``after`` of them."""
    forward = Trainer._forward
    done = 0

    def counting(self: Trainer, *arguments: Any) -> Any:
        nonlocal done
        result = forward(self, *arguments)
        done += self.model.training
        if self.model.training and done >= after and done % len(self.batches.samples(self.step)) == 1:
            die(f"micro-batch {done}")
        return result

    Trainer._forward = counting  # type: ignore[method-assign]


def die_in_a_save(after: int) -> None:
    """At that file event of this process's second checkpoint, or after it is written and before it is reported."""
    save = checkpoint.save
    fsync = os.fsync
    saves = 0
    events = 0

    def event(name: str, _: Any = None) -> None:
        nonlocal events
        if saves == 2 and name in FILE_EVENTS:
            events += 1
            if events == after:
                die(f"file event {events}: {name}")

    def counting(*arguments: Any) -> Any:
        nonlocal saves
        saves += 1
        result = save(*arguments)
        if saves == 2:
            die(f"after the save, {events} file events")
        return result

    checkpoint.save = counting
    sys.addaudithook(event)
    os.fsync = lambda descriptor: (event("os.remove"), fsync(descriptor))[1]  # its audit event does not exist


def main() -> None:
    spec = TrainSpec.from_json(json.loads(Path(sys.argv[1]).read_bytes()), "spec")
    random_ = random.Random(int(sys.argv[2]))
    torch.set_num_threads(1)
    measured_peak(torch.device("cpu"), spec.resolve().train.precision)  # once for all children
    for place in PLACES:
        after = random_.randrange(3, 9) if place == "step" else random_.randrange(1, 25)
        child = os.fork()
        if child == 0:
            (die_in_a_step if place == "step" else die_in_a_save)(after)
            train(spec, emit)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    train(spec, emit)


if __name__ == "__main__":
    main()
