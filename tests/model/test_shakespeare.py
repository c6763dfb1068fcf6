"""Learning, at a published recipe: nanoGPT's character model of Shakespeare for a CPU, which reaches about 1.88."""

from __future__ import annotations

import hashlib
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from data.lake.store import Lake
from model.checkpoint import load_model
from model.config import TrainSpec
from model.loader import open_corpus
from model.scoring import rolling, score
from model.train import train
from tests.model.lakes import publish_tokens
from tests.model.running import Events

TEXT = Path(__file__).parents[2].parent / "shared" / "data" / "reference" / "tinyshakespeare.txt"
SPLIT = 1_003_854, 111_540  # characters to train on and to validate with
RECIPE = {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch_size": 12, "micro_batch_size": 12}
RECIPE |= {"learning_rate": 1e-3, "final_lr_share": 0.1, "warmup_steps": 100, "beta2": 0.99, "dropout": 0.0}
RECIPE |= {"val_every": 2_000, "val_sequences": 0, "checkpoint_every": 2_000, "precision": "float32"}


@pytest.mark.slow  # 2,000 steps with three seeds, twice
@pytest.mark.skipif(not TEXT.is_file(), reason="no ../shared/data/reference/tinyshakespeare.txt here")
@pytest.mark.parametrize(("optimizer", "bound"), [("adamw", 1.91), ("muon", 1.88)])
def test_tiny_shakespeare_reaches_the_published_loss(tmp_path: Path, optimizer: str, bound: float) -> None:
    """The mean of three seeds over the whole validation split.

    Every character is predicted once. The bound of 1.88 applies to windows that move by half the context, as when we
    score perplexity: a character has at least 32 before it. ``bound`` applies to windows that follow each other, as
    when training validates: a character has 32 before it on average. The published 1.88 was measured that second way,
    but on 20 random batches. Over the whole split nanoGPT itself was at 1.898 and 1.891 with two seeds.
    """
    text = TEXT.read_text()
    characters = sorted(set(text))
    ids = np.array([characters.index(character) for character in text], dtype=np.uint16)
    tokenizer = f"characters-{hashlib.sha256(''.join(characters).encode()).hexdigest()[:12]}"
    lake = Lake(tmp_path / "lake")
    publish_tokens(lake, "shakespeare", [[ids[: SPLIT[0]]]], [[ids[SPLIT[0] :]]], tokenizer)
    corpus = open_corpus(lake, ("shakespeare",), tmp_path / "cache")
    assert (len(corpus.train), len(corpus.val), corpus.tokenizer) == (*SPLIT, tokenizer)
    first, *rest = ids[SPLIT[0] :].tolist()
    windows = rolling(rest, RECIPE["context"], RECIPE["context"] // 2, before=first)
    losses = []
    by_halves = []
    for seed in range(3):
        settings = RECIPE | {
            "seed": seed,
            "tokenizer": tokenizer,
            "vocab_size": len(characters),
            "optimizer": optimizer,
            "schedule": "cosine",
            "batch_warmup_steps": 0,
        }
        overrides = {name: str(value) for name, value in settings.items()}
        run = f"seed-{seed}"
        cache = str(tmp_path / "cache")
        spec = TrainSpec(lake.root, ("shakespeare",), run, "nano", cache, overrides=overrides, steps=2_000)
        events = Events()
        summary = train(spec, events)
        assert events.of("val")[-1]["tokens"] == len(rest)
        losses.append(summary.val_loss)
        model, state = load_model(lake, run, tokenizer=tokenizer)
        scores = score(model, windows)
        assert (state.step, sum(len(one.log_probs) for one in scores)) == (2_000, len(rest))
        by_halves.append(-sum(one.log_likelihood for one in scores) / len(rest))
    for name, values in ("windows that follow each other", losses), ("windows that move by half", by_halves):
        print(f"{optimizer}, {name}: {mean(values):.4f}: {', '.join(f'{value:.4f}' for value in values)}")
    assert mean(losses) <= bound, losses
    assert mean(by_halves) <= 1.88, by_halves
