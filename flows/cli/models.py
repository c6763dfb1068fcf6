"""What the command line does with a trained run: ``sample`` and ``export``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import bpe
from data.lake.store import Lake
from flows.settings import Settings
from model import hf
from model.checkpoint import load_model
from model.generate import Sampling, generate


def sample_text(
    settings: Settings, run: str, prompt: str, n_tokens: int, sampling: Sampling, step: int | None = None
) -> str:
    """What the run's checkpoint of ``step``, or its newest, writes after ``prompt``, up to an end-of-text."""
    model, _ = load_model(Lake(settings.lake), run, step)
    ids = [int(token) for token in bpe.encode(prompt)] or [bpe.END_OF_TEXT]
    tokens: Iterator[int] = generate(model, ids, n_tokens, sampling, stop_token=bpe.END_OF_TEXT)
    return bpe.decode(list(tokens))


def export_model(settings: Settings, run: str, to: Path, step: int | None = None) -> dict[str, Any]:
    """Write the run's checkpoint of ``step``, or its newest, as transformers' files into ``to``."""
    model, state = load_model(Lake(settings.lake), run, step)
    hf.export(model, to)
    return {"run": run, "step": state.step, "directory": str(to), "files": sorted(path.name for path in to.iterdir())}
