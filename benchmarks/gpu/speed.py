"""GPT-2 124M beside nanoGPT: subjects take turns, and each keeps its process, so that it compiles once.

Both use as many tokens per step as nanoGPT's own settings: 40 micro-batches of 12 sequences of 1,024 tokens. nanoGPT's
step is its train.py's (benchmarks/gpu/nanogpt.py); it has no biases and a vocabulary of 50,304, which are its defaults.
MFU counts our FLOP per token for both.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks.gpu import kernels
from benchmarks.gpu.child import one_line
from benchmarks.gpu.compare import furthest
from benchmarks.gpu.corpus import make as make_corpus
from benchmarks.gpu.job import Job
from benchmarks.gpu.ours import Subject, fitting, free, run
from model import attention, gelu, world
from model.config import ModelConfig
from model.loader import Corpus

TURNS = 3
TURN_S = 3.0
LOSS_LIMIT = 0.02  # nats; the first update lowers the loss by tenths
ROOM = 0.1  # of the card; held while ours chooses its micro-batch: for the weights and caches of the others
PEER = Path(__file__).with_name("nanogpt.py")
SETTINGS = {"micro_batch": 12, "accumulate": 40}  # nanoGPT's, for one card
TINY = {"micro_batch": 2, "accumulate": 2}


class NanoGPT:
    """nanoGPT in a process of its own, in its own folder, where its model.py does not shadow our package."""

    def __init__(self, job: Job, model: ModelConfig, corpus: Corpus, folder: Path) -> None:
        corpus.train.tofile(folder / "train.bin")
        size = {"layers": model.layers, "heads": model.heads, "width": model.width, "context": model.context}
        vocab_size = -(-model.vocab_size // 64) * 64
        settings = {**size, **job.pick(SETTINGS, TINY), "vocab_size": vocab_size, "device": job.device_name}
        settings |= {"tokens": str(folder / "train.bin"), "compile": job.is_cuda}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PEER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=job.nanogpt,
        )
        self.began = self._read()  # its first step is over

    def turn(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._read()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"nanoGPT ended with exit code {self.process.wait()}; the log says why")
        return json.loads(line)  # type: ignore[no-any-return]


def speed(job: Job) -> None:
    model, corpus, batch = _setting(job)
    rates: dict[str, list[float]] = {"ours": [], "eager": []}
    room = torch.empty(_room_bytes(job), dtype=torch.uint8, device=job.device)
    subjects = {"ours": fitting(job, model, corpus, batch_size=batch)}
    del room
    subjects["ours"].turn(0.0)
    run(subjects["ours"].trainer, 1)  # allocates what the turn gave back
    job.put(tokens_per_step=batch * model.context, ours=subjects["ours"].facts())
    try:
        job.put(profile=kernels.of_steps(job, lambda count: run(subjects["ours"].trainer, count)))
    except (RuntimeError, OSError, ValueError) as error:  # a profiler that cannot run here must not end the phase
        job.put(profile={"error": one_line(error)})
    if job.has(job.pick(20, 0), "eager"):
        subjects["eager"] = fitting(job, model, corpus, batch_size=batch, compile=False)
        firsts = [subject.losses[:2] for subject in subjects.values()]
        job.check("losses of the first two steps, as it comes and eager", furthest(*firsts), LOSS_LIMIT)
    with tempfile.TemporaryDirectory(prefix="webtext-gpu-") as folder:
        nanogpt = None
        if job.nanogpt is None:
            job.put(nanogpt="not measured: name a checkout with NANOGPT=DIR")
        elif job.has(job.pick(30, 0), "nanogpt"):
            nanogpt = NanoGPT(job, model, corpus, Path(folder))
        try:
            _take_turns(job, subjects, nanogpt, rates)
        finally:
            if nanogpt is not None:
                nanogpt.end()


def _room_bytes(job: Job) -> int:
    if not job.is_cuda:
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(min(ROOM * total, free / 2))


def _take_turns(job: Job, subjects: dict[str, Subject], nanogpt: NanoGPT | None, rates: dict[str, list[float]]) -> None:
    seconds = job.pick(TURN_S, 0.0)
    for turn in range(job.pick(TURNS, 1)):
        if turn and not job.has((len(subjects) + 1) * seconds, f"turn {turn + 1}"):
            return
        for name, subject in subjects.items():
            rates[name].append(subject.turn(seconds))
        if nanogpt is not None:
            found = nanogpt.turn(seconds)
            rates.setdefault("nanogpt", []).append(found.pop("tokens_per_s"))
            job.put(nanogpt={**nanogpt.began, **found, "micro_batch_size": job.pick(SETTINGS, TINY)["micro_batch"]})
        job.put(
            tokens_per_s={name: [round(rate, 1) for rate in of] for name, of in rates.items() if of},
            ratios=ratios(rates),
            **{name: subject.facts() for name, subject in subjects.items()},
        )


def ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Our rate divided by each other subject's in the same turn: the median over the turns."""
    others = (name for name, of in rates.items() if name != "ours" and of)
    return {name: round(median(a / b for a, b in zip(rates["ours"], rates[name], strict=False)), 3) for name in others}


def variants(job: Job) -> None:
    """One turn each, so that defaults can be decided."""
    model, corpus, batch = _setting(job)
    found: dict[str, Any] = {}
    for name, settings in VARIANTS.items():
        if "precision" in settings and world.precision_for("auto", job.device) == "float32":
            found[name] = {"error": "the device has no instructions for bf16"}
        elif job.has(job.pick(15, 0), name):
            try:
                found[name] = _variant(job, model, corpus, batch, name)
            except (RuntimeError, torch.OutOfMemoryError) as error:  # also what a compiler raises
                found[name] = {"error": one_line(error)}
        job.put(variants=found)
        free(job)


VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "80 sequences": {"micro_batch_size": 80},  # more logits than model/memory.py allows
    "autocast": {"precision": "autocast"},
    "flash attention": {},  # torch's choice
    "GELU with tanh": {},
    "compiled as one": {"compile": False},
}


def _variant(job: Job, model: ModelConfig, corpus: Corpus, batch: int, name: str) -> dict[str, Any]:
    with CHANGES.get(name, contextlib.nullcontext)():
        is_whole = name == "compiled as one" and job.is_cuda
        measured = fitting(job, model, corpus, batch_size=batch, is_whole=is_whole, **VARIANTS[name])
        return {"tokens_per_s": round(measured.turn(job.pick(TURN_S, 0.0)), 1), **measured.facts()}


def _never() -> bool:
    return False


CHANGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "flash attention": lambda: mock.patch.object(attention, "prefers_cudnn", new=_never),
    "GELU with tanh": lambda: mock.patch.object(gelu, "by_sigmoid", new=partial(F.gelu, approximate="tanh")),
}


def _setting(job: Job) -> tuple[ModelConfig, Corpus, int]:
    model = job.model("124M")
    corpus = make_corpus(job.pick(8_000_000, 8_000), job.pick(100_000, 2_000), model.vocab_size)
    counts = job.pick(SETTINGS, TINY)
    return model, corpus, counts["micro_batch"] * counts["accumulate"]
