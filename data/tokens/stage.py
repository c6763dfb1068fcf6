"""The tokens stage: each selected document as GPT-2 tokens, followed by end-of-text, in one of two splits.

Row k of a ``select`` part is the verdict on row k of the ``text`` part of the same name. The ``ok`` ones go to

    train/part-00000.parquet    val/part-00000.parquet        columns of schema.TOKENS, one pair of files per shard

in two rounds:

    pieces-part-00000   per text part: its documents as tokens, cut by shard  -> pieces/part-00000.arrow
    part-00000          per shard: its pieces from every text part, in order  -> train/... and val/...

The pieces are removed once the manifest is published. Split, shard and order depend on a hash of (split_seed, doc_id)
alone (data/tokens/shards.py), so adding documents moves none to the other split, and removing one changes one shard.
Select has dropped near-copies, so none can be in the other split.

Speed: 1,600 documents per CPU second at 700 words each, or 1.9 million tokens. Memory: the texts and 16-bit tokens of
one text part, then the tokens of one shard. Disk: the tokens twice while the stage runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data import bpe
from data.config import TokensConfig
from data.errors import InputError
from data.lake.manifest import SPLITS, Part
from data.lake.names import base_snapshot, parse_part_name, part_name
from data.lake.store import Dataset, Lake, write_parquet
from data.schema import TOKENS, SelectStatus, TokenStatus
from data.stage import Mapper, StageResult, in_turn, run_stage
from data.tokens import shards

PIECES = "pieces"
GROUP_DOCUMENTS = 1_000  # a row group of a shard: about a million tokens, which a loader reads without the others

_PIECE = pa.schema([*TOKENS, ("n_bytes", pa.int64())])


def run(lake: Lake, snapshot: str, config: TokensConfig, mapper: Mapper = in_turn) -> StageResult:
    """Tokenize the documents of ``select/<snapshot>``; their texts are in ``text/<snapshot without its variant>``.

    Raises InputError for a tokenizer other than GPT-2's, or if select or text is not published.
    """
    if config.tokenizer != bpe.TOKENIZER_ID:
        raise InputError(f"tokenizer {config.tokenizer!r} is not known; set {bpe.TOKENIZER_ID!r}")
    select = lake.dataset("select", snapshot).require()
    text = lake.dataset("text", base_snapshot(snapshot)).require()
    dataset = lake.dataset("tokens", snapshot)
    n_shards = shards.shard_count(select.rows_out, config.shard_documents)
    return run_stage(
        dataset,
        config,
        {"select": select.digest, "text": text.digest},
        lambda: _rounds(dataset, [part.name for part in text.parts], n_shards),
        functools.partial(make_part, lake.root, snapshot, config),
        mapper,
        temporary=PIECES,
    )


def _rounds(dataset: Dataset, text_parts: list[str], n_shards: int) -> Iterator[list[str]]:
    names = [part_name(number) for number in range(n_shards)]
    if not dataset.sealed().keys() >= set(names):
        yield [f"{PIECES}-{name}" for name in text_parts]
    yield names


def make_part(lake_root: str, snapshot: str, config: TokensConfig, name: str) -> Part:
    """Make and seal the part with the given name, in either round."""
    lake = Lake(lake_root)
    if name.startswith(f"{PIECES}-"):
        return _make_pieces(lake, snapshot, config, name)
    return _make_shard(lake, snapshot, config, name)


def _make_pieces(lake: Lake, snapshot: str, config: TokensConfig, name: str) -> Part:
    """Round 1: the tokens of the selected documents of a text part, cut by shard."""
    text_part = name.removeprefix(f"{PIECES}-")
    doc_ids, texts = selected(lake, snapshot, text_part, ["text"])
    table = _tokenized(doc_ids, texts.column("text").to_pylist())
    n_shards = shards.shard_count(lake.dataset("select", snapshot).require().rows_out, config.shard_documents)
    with lake.scratch() as folder:
        local = folder / text_part
        shards.scatter(table, shards.hashes(doc_ids, config.split_seed), n_shards, local)
        file = f"{PIECES}/{text_part}.arrow"
        return lake.dataset("tokens", snapshot).seal(name, {file: local}, table, counts={}, rows={file: len(table)})


def _make_shard(lake: Lake, snapshot: str, config: TokensConfig, name: str) -> Part:
    """Round 2: the documents of a shard in order: a train file and a val file. Either may be empty."""
    dataset = lake.dataset("tokens", snapshot)
    text = lake.dataset("text", base_snapshot(snapshot)).require()
    pieces = (lake.open(*dataset.names(PIECES, f"{part.name}.arrow")) for part in text.parts)
    try:
        table = shards.gather(pieces, parse_part_name(name)[1], _PIECE, config.split_seed)
    except pa.ArrowInvalid as error:
        where = lake.path(*dataset.names(PIECES))
        raise InputError(f"{where}: a piece is damaged ({error}); remove this folder and run again") from error
    held_out = shards.in_val(shards.hashes(table.column("doc_id").to_pylist(), config.split_seed), config.val_share)
    tables = {split: table.filter(pa.array(held_out == (split == "val"))) for split in SPLITS}
    extra = {}
    for split, rows in tables.items():
        extra[f"{split}_docs"] = len(rows)
        extra[f"{split}_tokens"] = pc.sum(rows.column("n_tokens"), min_count=0).as_py()
        extra[f"{split}_bytes"] = pc.sum(rows.column("n_bytes"), min_count=0).as_py()
    with lake.scratch() as folder:
        files = {f"{split}/{name}.parquet": folder / split for split in SPLITS}
        for local in files.values():
            write_parquet(tables[local.name].select(TOKENS.names), local, rows_per_group=GROUP_DOCUMENTS)
        return dataset.seal(
            name,
            files,
            [tables[split].select(TOKENS.names) for split in SPLITS],
            counts={TokenStatus.OK: len(table)},
            rows={file: len(tables[local.name]) for file, local in files.items()},
            extra=extra,
        )


def selected(lake: Lake, snapshot: str, name: str, columns: list[str]) -> tuple[list[bytes], pa.Table]:
    """Ids and columns of the selected documents of a text part, in its order.

    Raises InputError if the rows of select are not about the rows of text.
    """
    select = lake.dataset("select", snapshot)
    text = lake.dataset("text", base_snapshot(snapshot))
    verdicts = select.read(f"{name}.parquet", ["doc_id", "status"])
    texts = text.read(f"{name}.parquet", list(dict.fromkeys(["doc_id", *columns])))
    if not verdicts.column("doc_id").equals(texts.column("doc_id")):
        raise InputError(f"{select.label} {name} does not match the rows of {text.label}: remove it and run again")
    chosen = texts.filter(pc.equal(verdicts.column("status"), str(SelectStatus.OK)))
    return chosen.column("doc_id").to_pylist(), chosen.select(columns)


def _tokenized(doc_ids: list[bytes], texts: list[str]) -> pa.Table:
    encoded: list[npt.NDArray[np.uint16]] = []
    n_bytes = []
    for text in texts:
        encoded.append(np.append(bpe.encode(text), np.uint16(bpe.END_OF_TEXT)))
        n_bytes.append(len(text.encode()))
    lengths = np.array([len(tokens) for tokens in encoded], dtype=np.int32)
    values = np.concatenate(encoded) if encoded else np.empty(0, dtype=np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    columns = [
        pa.array(doc_ids, TOKENS.field("doc_id").type),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        pa.array(lengths),
        pa.array(n_bytes, pa.int64()),
    ]
    return pa.table(columns, schema=_PIECE)
