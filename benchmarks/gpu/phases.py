"""The phases in order of worth, each with its budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """``where`` names the function, ``module:function``, which gets a Job; an empty one means that the parent computes
    the phase from the lines of the others. Phases of one group share a process.
    """

    name: str
    budget_s: float
    group: str
    where: str
    what: str


PHASES: tuple[Phase, ...] = (
    Phase("card", 30, "first", "card:card", "card, driver, torch, the rate of a large product"),
    Phase("model", 45, "first", "exactness:model", "logits, loss, gradients against transformers' GPT-2"),
    Phase("loss", 25, "first", "exactness:loss", "the loss of the head against fp64"),
    Phase("steps", 20, "first", "exactness:steps", "prepared batches; a refused step changes nothing"),
    Phase("resume", 25, "first", "exactness:resume", "a killed and resumed run ends in the same bits"),
    Phase("transfer", 30, "first", "exactness:transfer", "a run that moves from CPU to GPU and back"),
    Phase("loop", 30, "loop", "loop:loop", "the training loop: validates, saves and resumes"),
    Phase("speed", 150, "speed", "speed:speed", "124M: ours, ours eager and nanoGPT in turn"),
    Phase("sizes", 90, "sizes", "sizes:sizes", "1558M, 774M, 355M: ours only"),
    Phase("scoring", 30, "last", "scoring:scoring", "last words per second, ours and transformers'"),
    Phase("recipes", 60, "last", "recipes:recipes", "tokens to a fixed loss; bf16 against fp32"),
    Phase(
        "variants",
        80,
        "last",
        "speed:variants",
        "124M: what the defaults were chosen from, one turn each",
    ),
    Phase("dry run", 5, "dry run", "", "memory and time, predicted and measured"),
)
LIMIT_S = 420.0


def named(name: str) -> Phase:
    return next(phase for phase in PHASES if phase.name == name)
