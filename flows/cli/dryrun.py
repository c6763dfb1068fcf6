"""Dry runs: what a refresh would fetch, and what a training run would be."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.lake.store import Lake
from data.links import stage as links_stage

if TYPE_CHECKING:
    from model.config import Preset

GPUS = (1, 8)
ASSUMED_MFU = 0.4  # PaLM's 46 % and GPT-3's 21 % on V100s (Chowdhery et al., 2022, table 3) lie on either side


def refresh_plan(sources: Sequence[str], links: LinksConfig, pages: PagesConfig, lake_root: str) -> dict[str, Any]:
    """Counts of the links stage, the number of domains, and the least time that politeness alone asks for.

    Live sources are asked, from the watermarks of the lake at ``lake_root`` on; the lake itself is left as it is.
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
    return {
        "dry_run": True,
        "links": {"rows_in": manifest.rows_in, "rows_out": manifest.rows_out, "by_status": manifest.counts},
        "domains": len(domains),
        "largest_domains": dict(largest),
        "least_hours": round((largest[0][1] if largest else 0) * pages.host_delay_s / 3600, 2),
    }


def train_plan(preset: str, overrides: Mapping[str, str], steps: int | None, processes: int = 1) -> dict[str, Any]:
    """The resolved settings of a run, its size, what a process needs, and how long it takes at a usual utilisation.

    On one GPU, on eight, and on as many as ``processes``. Memory is for autocast unless another precision is set
    (model/memory.py says how it is counted). Hours are those of A100s at 40 % of their peak, which is an assumption and
    no measurement. ``impossible`` says why the batch cannot be divided among so many GPUs. Raises InputError for an
    unknown preset or setting, and for a batch that is not even divisible by the micro-batch.
    """
    from model.config import resolve
    from model.flops import A100_PEAK, flop_per_token
    from model.gpt2 import count_parameters
    from model.memory import optimizer_bytes

    chosen = resolve(preset, overrides if steps is None else {**overrides, "steps": str(steps)})
    model, config = chosen.model, chosen.train
    parameters = count_parameters(model)
    tokens = config.samples_before(config.steps) * model.context
    flop = flop_per_token(model, parameters) * tokens
    hours = flop / (ASSUMED_MFU * A100_PEAK) / 3600
    gpus: dict[str, Any] = {}
    impossible: dict[str, str] = {}
    for n in sorted({*GPUS, processes}):
        try:
            config.require_divisible(n)
            # a process on its own shards nothing, and nothing shards bfloat16 (TrainConfig)
            for parallel in ("ddp", "fsdp")[: 1 if config.precision == "bfloat16" else n]:
                memory = _memory(chosen, parameters, n, parallel == "fsdp")
                gpus[f"{n} {parallel}" if n > 1 else "1"] = {"memory": memory, "a100_hours": hours / n}
        except InputError as error:
            if n == 1:
                raise
            impossible[str(n)] = str(error)
    return {
        "dry_run": True,
        "preset": preset,
        "model": model.to_json(),
        "training": config.to_json(),
        "size": {
            "parameters": parameters,
            "flop_per_token": flop_per_token(model, parameters),
            "tokens_per_step": config.batch_size * model.context,  # after a warm-up of the batch
            "steps": config.steps,
            "tokens": tokens,
            "flop": flop,
            "checkpoint_bytes": 4 * parameters + optimizer_bytes(model, parameters, config.optimizer == "muon"),
        },
        "gpus": gpus,
        "impossible": impossible,
        "assumed_mfu": ASSUMED_MFU,
    }


def _memory(chosen: Preset, parameters: int, gpus: int, is_sharded: bool) -> dict[str, Any]:
    """Bytes a process, as training runs and with activation checkpointing."""
    from model.memory import estimate

    found: dict[str, Any] = {}
    for is_recomputed in (False, True):
        one = estimate(
            chosen.model,
            parameters,
            chosen.train.micro_batch_size,
            "autocast" if chosen.train.precision == "auto" else chosen.train.precision,
            processes=gpus,
            is_sharded=is_sharded,
            is_recomputed=is_recomputed,
            is_muon=chosen.train.optimizer == "muon",
            is_accumulated=chosen.train.batch_size > chosen.train.micro_batch_size * gpus,
        )
        name = "recompute" if is_recomputed else "plain"
        found[name] = {**dataclasses.asdict(one), "total": one.total}
    return found
