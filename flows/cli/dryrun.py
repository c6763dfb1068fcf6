"""Dry runs: what a refresh would fetch, and what a training run would need."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.lake.store import Lake
from data.links import stage as links_stage

if TYPE_CHECKING:
    from model.config import ModelConfig, TrainConfig

GPUS = (1, 8)
USUAL_CARD = ("a card of 80 GB", 80_000_000_000)
ASSUMED_MFU = 0.4  # between GPT-3's 21 % on V100s and PaLM's 46 % (Chowdhery et al., 2022, table 3)


@dataclass(frozen=True)
class LinkCounts:
    rows_in: int
    rows_out: int
    by_status: dict[str, int]


@dataclass(frozen=True)
class RefreshPlan:
    """What a refresh would fetch."""

    dry_run: bool
    links: LinkCounts
    domains: int
    largest_domains: dict[str, int]  # links by domain
    least_hours: float  # the delays between requests alone take this long


@dataclass(frozen=True)
class TrainingSize:
    parameters: int
    flop_per_token: int
    tokens_per_step: int  # after the batch has warmed up
    steps: int
    tokens: int
    flop: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class GpuPlan:
    """Two ways: ``plain``, and with activations recomputed (``recompute``); ``memory`` is in bytes, by part."""

    micro_batch_size: dict[str, int]
    memory: dict[str, dict[str, int]]
    a100_hours: float


@dataclass(frozen=True)
class TrainPlan:
    """What a training run would need, by number of GPUs and kind of parallelism."""

    dry_run: bool
    preset: str
    model: ModelConfig
    training: TrainConfig
    size: TrainingSize
    card: str  # whose memory decides an automatic micro_batch_size
    gpus: dict[str, GpuPlan]
    impossible: dict[str, str]  # why the batch cannot be divided, by number of GPUs
    notes: list[str]  # settings that were fitted to the length of the run
    assumed_mfu: float
    compile_s: float | None  # measured here, if a run on this machine compiles


def refresh_plan(sources: Sequence[str], links: LinksConfig, pages: PagesConfig, lake_root: str) -> RefreshPlan:
    """Read the sources and count links and domains.

    Live sources are read from the watermarks of the lake at ``lake_root`` on. The lake is not changed.
    """
    with tempfile.TemporaryDirectory(prefix="webtext-plan-") as folder:
        lake = Lake(folder)
        manifest = links_stage.run(lake, "plan", sources, links, network=pages, state=Lake(lake_root)).manifest
        dataset = lake.dataset("links", "plan")
        domains: Counter[str] = Counter()
        for part in manifest.parts:
            for file in part.files:
                if file.path.startswith("part-"):
                    table = dataset.read(file.path, columns=["domain", "status"])
                    kept = (row["domain"] for row in table.to_pylist() if row["status"] == "ok")
                    domains.update(kept)
    largest = domains.most_common(5)
    return RefreshPlan(
        dry_run=True,
        links=LinkCounts(manifest.rows_in, manifest.rows_out, manifest.counts),
        domains=len(domains),
        largest_domains=dict(largest),
        least_hours=round((largest[0][1] if largest else 0) * pages.host_delay_s / 3600, 2),
    )


def train_plan(preset: str, overrides: Mapping[str, str], steps: int | None, processes: int = 1) -> TrainPlan:
    """The resolved settings of a run, its size, its memory per process, and its time on A100s.

    Computed for one GPU, for eight, and for ``processes``. An automatic micro-batch is the one for this machine's GPU
    or, without one, for a card of 80 GB. Memory is for compiled blocks, for bfloat16 on one GPU and for autocast on
    several, unless the settings say otherwise (model/memory.py explains the estimate). Times assume 40 % of the GPUs'
    peak; 124M reached 46 % on an H200. If a run on this machine compiles, that is tried and timed. Raises InputError
    for an unknown preset or setting, for a batch that the processes cannot share, and for a warm-up that does not fit
    into the run.
    """
    from model.config import Parallel, resolve
    from model.flops import A100_PEAK, flop_per_token
    from model.gpt2 import count_parameters
    from model.memory import optimizer_bytes

    chosen = resolve(preset, overrides if steps is None else {**overrides, "steps": str(steps)})
    chosen.train.require_apart()
    model = chosen.model
    config = chosen.train
    parameters = count_parameters(model)
    tokens = config.samples_before(config.steps) * model.context
    flop = flop_per_token(model, parameters) * tokens
    hours = flop / (ASSUMED_MFU * A100_PEAK) / 3600
    card, card_bytes = _card()
    gpus: dict[str, GpuPlan] = {}
    impossible: dict[str, str] = {}
    for n in sorted({*GPUS, processes}):
        try:
            config.require_divisible(n)
            # One process has nothing to shard, and TrainConfig refuses fsdp with bfloat16.
            kinds = get_args(Parallel)[: 1 if config.precision == "bfloat16" else n]
            for parallel in kinds:
                planned = dataclasses.replace(config, parallel=parallel)
                gpus[f"{n} {parallel}" if n > 1 else "1"] = _gpu_plan(model, planned, parameters, n, card_bytes, hours)
        except InputError as error:
            if n == 1:
                raise
            impossible[str(n)] = str(error)
    size = TrainingSize(
        parameters=parameters,
        flop_per_token=flop_per_token(model, parameters),
        tokens_per_step=config.batch_size * model.context,
        steps=config.steps,
        tokens=tokens,
        flop=flop,
        checkpoint_bytes=4 * parameters + optimizer_bytes(model, parameters, config.optimizer == "muon"),
    )
    return TrainPlan(
        dry_run=True,
        preset=preset,
        model=model,
        training=config,
        size=size,
        card=card,
        gpus=gpus,
        impossible=impossible,
        notes=list(chosen.notes),
        assumed_mfu=ASSUMED_MFU,
        compile_s=_compile_s(model, config),
    )


def _card() -> tuple[str, int]:
    """The name and the bytes of the GPU to plan for."""
    import torch

    from model import world

    if not torch.cuda.is_available():
        return USUAL_CARD
    device = torch.device("cuda", 0)
    return torch.cuda.get_device_name(device), world.memory_of(device)[1]


def _gpu_plan(
    model: ModelConfig, config: TrainConfig, parameters: int, gpus: int, card_bytes: int, hours: float
) -> GpuPlan:
    from model.memory import estimate_for, largest_micro_batch

    sizes: dict[str, int] = {}
    memory: dict[str, dict[str, int]] = {}
    for name, is_recomputed in (("plain", False), ("recompute", True)):
        planned = dataclasses.replace(
            config,
            recompute=is_recomputed,
            precision=config.precision if config.precision != "auto" else "bfloat16" if gpus == 1 else "autocast",
            compile=True if config.compile == "auto" else config.compile,
        )
        size = config.micro_batch_size
        if size == "auto":
            size = largest_micro_batch(model, planned, parameters, gpus, card_bytes)
        sizes[name] = min(size, config.batch_size // gpus)
        one = estimate_for(model, planned, parameters, sizes[name], gpus)
        memory[name] = {**dataclasses.asdict(one), "total": one.total}
    return GpuPlan(sizes, memory, hours / gpus)


def _compile_s(model: ModelConfig, config: TrainConfig) -> float | None:
    """The seconds that a run on this machine would spend on compiling; None if it would not compile."""
    import torch

    from model import compiling, world

    device = torch.device(world.best_device())
    wanted = device.type == "cuda" if config.compile == "auto" else config.compile
    if not wanted or compiling.why_not(device):
        return None
    precision = world.precision_for(config.precision, device, config.parallel)
    return round(compiling.first_compilation_s(model, device, precision), 1)
