"""A small token corpus in a lake, and a training process over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from data.lake.store import Lake, write_parquet
from data.schema import TOKENS
from model.config import TrainSpec

VOCABULARY = {"tokenizer": "sixty-four", "vocab_size": "64"}


def documents(count: int, seed: int, vocab_size: int = 64) -> list[np.ndarray]:
    """Token sequences that can be learnt: a token is mostly the one before it plus its document's stride."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(random.integers(20, 60))
        stride = int(random.integers(1, 4))
        tokens = (np.arange(length) * stride + random.integers(vocab_size - 1)) % (vocab_size - 1)
        noise = random.random(length) < 0.05
        tokens[noise] = random.integers(0, vocab_size - 1, noise.sum())
        found.append(np.append(tokens, vocab_size - 1).astype(np.uint16))
    return found


def publish_tokens(
    lake: Lake, snapshot: str, train: list[list[np.ndarray]], val: list[list[np.ndarray]], tokenizer: str = "sixty-four"
) -> None:
    """Publish ``tokens/<snapshot>`` with one part per pair of document lists."""
    dataset = lake.dataset("tokens", snapshot)
    assert dataset.begin({"tokenizer": tokenizer}, {"select": snapshot}) is None
    names = [f"part-{index:05d}" for index in range(len(train))]
    for name, in_train, in_val in zip(names, train, val, strict=True):
        tables = {f"train/{name}.parquet": _table(in_train), f"val/{name}.parquet": _table(in_val)}
        with lake.scratch() as folder:
            files = {}
            for path, table in tables.items():
                files[path] = folder / path.replace("/", "-")
                write_parquet(table, files[path])
            rows = {path: len(table) for path, table in tables.items()}
            dataset.seal(name, files, list(tables.values()), counts={"ok": sum(rows.values())}, rows=rows)
    dataset.finish(names, {}, 0.0)


def make_lake(root: Path, snapshot: str = "2026-10", seed: int = 0) -> Lake:
    lake = Lake(root)
    publish_tokens(lake, snapshot, [documents(40, seed), documents(30, seed + 1)], [documents(6, seed + 2), []])
    return lake


def make_spec(lake: Lake, run: str = "a", steps: int | None = 8, **settings: object) -> TrainSpec:
    """A run that takes seconds: two layers, with dropout, two micro-batches per step."""
    known = {
        **VOCABULARY,
        **{"layers": 2, "heads": 2, "width": 16, "context": 16, "dropout": 0.1, "batch_size": 8},
        **{"micro_batch_size": 4, "checkpoint_every": 2, "val_every": 4, "log_every": 1, "warmup_steps": 2},
        **{
            "optimizer": "adamw",
            "schedule": "cosine",
            "final_lr_share": 0.1,
            "learning_rate": 3e-3,
            "beta2": 0.95,
            "batch_warmup_steps": 0,
        },
    }
    overrides = {key: str(value) for key, value in {**known, **settings}.items()}
    cache_dir = str(Path(lake.base).parent / "cache")
    return TrainSpec(lake.root, ("2026-10",), run, "nano", cache_dir, overrides=overrides, steps=steps)


def _table(rows: list[np.ndarray]) -> pa.Table:
    ids = [index.to_bytes(16, "little") for index in range(len(rows))]
    columns = [ids, [row.tolist() for row in rows], [len(row) for row in rows]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, TOKENS, strict=True)], schema=TOKENS)


def tiny_spec(lake: Lake, run: str, **fields: str) -> TrainSpec:
    """Two steps of a tiny GPT-2 on the snapshot ``a``, whose tokens are GPT-2's."""
    small = {"layers": 1, "heads": 1, "width": 8, "context": 64, "batch_size": 2, "micro_batch_size": 2}
    overrides = {key: str(value) for key, value in {**small, "val_sequences": 2, "batch_warmup_steps": 0}.items()}
    cache_dir = str(Path(lake.base).parent / "cache")
    return TrainSpec(lake.root, ("a",), run, "nano", cache_dir, overrides, steps=2, **fields)
