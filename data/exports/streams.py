"""A corpus as streams of 16-bit tokens, little-endian.

    nanogpt     train.bin, val.bin: all tokens, an end-of-text after each document
    llmc        webtext_train_000001.bin, .., webtext_val_000000.bin: a header of 256 32-bit integers (magic number,
                version, number of tokens), then at most 100 million tokens; an end-of-text *before* each document
    datatrove   train/00000.ds, val/00000.ds, ..: a file per shard, an end-of-text after each document; beside it
                00000.ds.index, the end of each document in tokens as 64-bit integers, and 00000.ds.metadata

Sources: nanoGPT, data/openwebtext/prepare.py and train.py; llm.c, dev/data/data_common.py, dev/data/fineweb.py and
llmc/dataloader.h, which reads all files that match a pattern; datatrove 0.10, pipeline/tokens/tokenizer.py and
utils/dataset.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data import bpe
from data.exports.source import Snapshot, Written
from data.lake.manifest import SPLITS

LLMC_MAGIC = 20240520
LLMC_VERSION = 1
LLMC_HEADER_BYTES = 4 * 256
LLMC_FILE_TOKENS = 100_000_000  # as fineweb.py; llm.c counts the tokens of a file in 31 bits

Tokens = npt.NDArray[np.uint16]


def nanogpt(corpus: Sequence[Snapshot], folder: Path) -> Iterator[Written]:
    with (folder / "train.bin").open("wb") as train, (folder / "val.bin").open("wb") as val:
        for shard in _shards(corpus):
            for split, file in (("train", train), ("val", val)):
                file.write(_flat(shard[split]).astype("<u2").tobytes())
            yield _written(shard)


def llmc(corpus: Sequence[Snapshot], folder: Path) -> Iterator[Written]:
    with (
        contextlib.closing(_LlmcFiles(folder / "webtext_train", first=1)) as train,
        contextlib.closing(_LlmcFiles(folder / "webtext_val", first=0)) as val,
    ):
        for shard in _shards(corpus):
            for split, files in (("train", train), ("val", val)):
                files.write(np.roll(_flat(shard[split]), 1))  # the end-of-text that follows a document goes before it
            yield _written(shard)


def datatrove(corpus: Sequence[Snapshot], folder: Path) -> Iterator[Written]:
    for number, shard in enumerate(_shards(corpus)):
        for split, table in shard.items():
            if not len(table):
                continue  # its reader does not expect an empty file
            path = folder / split / f"{number:05d}.ds"
            path.parent.mkdir(exist_ok=True)
            tokens = _flat(table)
            path.write_bytes(tokens.astype("<u2").tobytes())
            ends = np.cumsum(table.column("n_tokens").to_numpy(), dtype=np.uint64)
            path.with_name(f"{path.name}.index").write_bytes(ends.astype("<u8").tobytes())
            metadata = f"{bpe.TOKENIZER_ID}|2\n{len(tokens)}\n{len(tokens):,} tokens"
            path.with_name(f"{path.name}.metadata").write_text(metadata)
        yield _written(shard)


class _LlmcFiles:
    """Tokens cut into files of at most LLMC_FILE_TOKENS. A file has its header once it is complete."""

    def __init__(self, stem: Path, first: int) -> None:
        self.stem = stem
        self.number = first
        self.n_tokens = 0  # of the open file
        self.file: BinaryIO | None = None

    def write(self, tokens: Tokens) -> None:
        while len(tokens):
            if self.file is None:
                self.file = self.stem.with_name(f"{self.stem.name}_{self.number:06d}.bin").open("wb")
                self.file.write(bytes(LLMC_HEADER_BYTES))
            some = tokens[: LLMC_FILE_TOKENS - self.n_tokens]
            self.file.write(some.astype("<u2").tobytes())
            self.n_tokens += len(some)
            tokens = tokens[len(some) :]
            if self.n_tokens == LLMC_FILE_TOKENS:
                self.close()

    def close(self) -> None:
        if self.file is None:
            return
        header = np.zeros(LLMC_HEADER_BYTES // 4, dtype="<i4")
        header[:3] = LLMC_MAGIC, LLMC_VERSION, self.n_tokens
        with self.file:
            self.file.seek(0)
            self.file.write(header.tobytes())
        self.file = None
        self.number += 1
        self.n_tokens = 0


def _shards(corpus: Sequence[Snapshot]) -> Iterator[dict[str, pa.Table]]:
    """Both splits of each shard."""
    for snapshot in corpus:
        tables = [snapshot.shards(split, ["tokens", "n_tokens"]) for split in SPLITS]
        for both in zip(*tables, strict=True):
            yield dict(zip(SPLITS, both, strict=True))


def _flat(table: pa.Table) -> Tokens:
    if not len(table):
        return np.empty(0, np.uint16)
    tokens: Tokens = table.column("tokens").combine_chunks().flatten().to_numpy()
    return tokens


def _written(shard: dict[str, pa.Table]) -> Written:
    return Written(
        {split: len(table) for split, table in shard.items()},
        {split: int(table.column("n_tokens").to_numpy().sum()) for split, table in shard.items()},
    )
