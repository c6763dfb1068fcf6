"""Dry runs: what a refresh would fetch, and what a training run would be."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data import links as links_stage
from data.config import LinksConfig, PagesConfig
from data.lake import Lake


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


def train_plan(preset: str, overrides: Mapping[str, str], steps: int | None) -> dict[str, Any]:
    """The resolved settings of a run and its size; 6 FLOP a parameter and token, 12 bytes of checkpoint a parameter.

    Raises InputError for an unknown preset or setting.
    """
    import torch

    from model.config import resolve
    from model.gpt2 import GPT2

    chosen = resolve(preset, overrides if steps is None else {**overrides, "steps": str(steps)})
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in GPT2(chosen.model).parameters())
    tokens = chosen.train.steps * chosen.train.batch_size * chosen.model.context
    return {
        "dry_run": True,
        "preset": preset,
        "model": chosen.model.to_json(),
        "training": chosen.train.to_json(),
        "size": {
            "parameters": parameters,
            "tokens_per_step": chosen.train.batch_size * chosen.model.context,
            "tokens": tokens,
            "flop": 6 * parameters * tokens,
            "checkpoint_bytes": 12 * parameters,
        },
    }
