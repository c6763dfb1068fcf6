"""Learning, at a published recipe: nanoGPT's character model of Shakespeare for a CPU, which reaches about 1.88."""

from __future__ import annotations

import hashlib
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from data.lake import Lake
from model.config import TrainSpec
from model.loader import open_corpus
from model.train import train
from tests.model.lakes import publish_tokens
from tests.model.test_train import Events

TEXT = Path(__file__).parents[2].parent / "shared" / "data" / "reference" / "tinyshakespeare.txt"
SPLIT = 1_003_854, 111_540  # characters to train on and to validate with
RECIPE = {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch_size": 12, "micro_batch_size": 12}
RECIPE |= {"learning_rate": 1e-3, "final_lr_share": 0.1, "warmup_steps": 100, "beta2": 0.99, "dropout": 0.0}
RECIPE |= {"val_every": 2_000, "val_sequences": 0, "checkpoint_every": 2_000, "precision": "float32"}


@pytest.mark.slow  # 2,000 steps with three seeds, twice
@pytest.mark.skipif(not TEXT.is_file(), reason="no ../shared/data/reference/tinyshakespeare.txt here")
@pytest.mark.parametrize(("optimizer", "bound"), [("adamw", 1.91), ("muon", 1.88)])
def test_tiny_shakespeare(tmp_path: Path, optimizer: str, bound: float) -> None:
    """The mean of three seeds over the whole validation split.

    The published 1.88 is the mean of 20 random batches. Over the whole split nanoGPT itself was at 1.898 and 1.891 with
    two seeds, so that is what its recipe is held to here; with Muon, and nothing else changed, it is 1.88.
    """
    text = TEXT.read_text()
    characters = sorted(set(text))
    ids = np.array([characters.index(character) for character in text], dtype=np.uint16)
    tokenizer = f"characters-{hashlib.sha256(''.join(characters).encode()).hexdigest()[:12]}"
    lake = Lake(tmp_path / "lake")
    publish_tokens(lake, "shakespeare", [[ids[: SPLIT[0]]]], [[ids[SPLIT[0] :]]], tokenizer)
    corpus = open_corpus(lake, ("shakespeare",), tmp_path / "cache")
    assert (len(corpus.train), len(corpus.val), corpus.tokenizer) == (*SPLIT, tokenizer)
    losses = []
    for seed in range(3):
        settings = RECIPE | {
            "seed": seed,
            "tokenizer": tokenizer,
            "vocab_size": len(characters),
            "optimizer": optimizer,
        }
        overrides = {name: str(value) for name, value in settings.items()}
        run, cache = f"seed-{seed}", str(tmp_path / "cache")
        spec = TrainSpec(lake.root, ("shakespeare",), run, "nano", cache, overrides=overrides, steps=2_000)
        events = Events()
        summary = train(spec, events)
        assert events.of("val")[-1]["tokens"] == SPLIT[1] - 1
        losses.append(summary["val_loss"])
    print(f"{optimizer}: validation loss {mean(losses):.4f}: {', '.join(f'{loss:.4f}' for loss in losses)}")
    assert mean(losses) <= bound, losses
