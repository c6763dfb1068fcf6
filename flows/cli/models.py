"""``webtext sample`` and ``webtext export``: use the model of a trained run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import bpe
from data.lake.store import Lake
from flows.settings import Settings
from model import hf
from model.checkpoint import load_model
from model.generate import Sampling, generate


@dataclass(frozen=True)
class SampledText:
    run: str
    prompt: str
    text: str  # what follows the prompt


@dataclass(frozen=True)
class ExportedModel:
    run: str
    step: int
    directory: str
    files: list[str]


def sample_text(
    settings: Settings, run: str, prompt: str, n_tokens: int, sampling: Sampling, step: int | None = None
) -> SampledText:
    """Continue ``prompt`` with the run's checkpoint of ``step`` (by default the newest), up to an end-of-text."""
    model, _ = load_model(Lake(settings.lake), run, step)
    ids = [int(token) for token in bpe.encode(prompt)] or [bpe.END_OF_TEXT]
    tokens: Iterator[int] = generate(model, ids, n_tokens, sampling, stop_token=bpe.END_OF_TEXT)
    return SampledText(run, prompt, bpe.decode(list(tokens)))


def export_model(settings: Settings, run: str, to: Path, step: int | None = None) -> ExportedModel:
    """Write the run's checkpoint of ``step`` (by default the newest) into ``to``, as transformers' files."""
    model, state = load_model(Lake(settings.lake), run, step)
    hf.export(model, to)
    return ExportedModel(run, state.step, str(to), sorted(path.name for path in to.iterdir()))
