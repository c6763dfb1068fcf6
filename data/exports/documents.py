"""A corpus as documents, with their texts and where they are from.

    hf       data/train-00000.parquet, data/validation-00000.parquet, .. and README.md: ``datasets.load_dataset(DIR)``,
             whole or streaming
    jsonl    train-00000.jsonl, val-00000.jsonl, ..: one JSON object per line

A document has the fields of ``COLUMNS``. The texts are those of the text stage. They are brought into the order of the
shards in two rounds (data/tokens/shards.py), so texts take their space twice on disk while an export runs. A shard is a
file; one without documents is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from data.exports.source import Snapshot, Written
from data.lake.manifest import SPLITS
from data.lake.store import write_parquet
from data.tokens import shards

FORMATS = ("hf", "jsonl")

SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),  # in hexadecimal
        ("snapshot", pa.string()),
        ("url", pa.string()),
        ("domain", pa.string()),
        ("karma", pa.int64()),
        ("title", pa.string()),
        ("date", pa.string()),
        ("language", pa.string()),
        ("n_tokens", pa.int32()),  # end-of-text included
        ("text", pa.string()),
    ]
)
COLUMNS = tuple(SCHEMA.names)
_FROM_TEXT = [name for name in COLUMNS if name not in ("doc_id", "snapshot", "n_tokens")]
_GROUP_DOCUMENTS = 1_000  # as in token shards: 4 MB of text, so that streaming begins at once

_CARD = """---
configs:
- config_name: default
  data_files:
{splits}---
# {title}

Exported by WebText. One row per document, in pseudo-random order. `karma` is the highest score of the document's
links, `n_tokens` counts GPT-2's tokens with one end-of-text. The texts belong to their authors.
"""


def hugging_face(corpus: Sequence[Snapshot], folder: Path) -> Iterator[Written]:
    data = folder / "data"
    data.mkdir()
    names = {"train": "train", "val": "validation"}

    def write(split: str, number: int, table: pa.Table) -> None:
        write_parquet(table, data / f"{names[split]}-{number:05d}.parquet", rows_per_group=_GROUP_DOCUMENTS)

    yield from _export(corpus, folder, write)
    found = [name for name in names.values() if any(data.glob(f"{name}-*"))]
    splits = "".join(f"  - split: {name}\n    path: data/{name}-*.parquet\n" for name in found)
    card = _CARD.format(splits=splits, title=", ".join(snapshot.name for snapshot in corpus))
    (folder / "README.md").write_text(card)


def jsonl(corpus: Sequence[Snapshot], folder: Path) -> Iterator[Written]:
    def write(split: str, number: int, table: pa.Table) -> None:
        with (folder / f"{split}-{number:05d}.jsonl").open("wb") as file:
            for batch in table.to_batches(max_chunksize=_GROUP_DOCUMENTS):
                file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch.to_pylist())

    yield from _export(corpus, folder, write)


def _export(corpus: Sequence[Snapshot], folder: Path, write: Callable[[str, int, pa.Table], None]) -> Iterator[Written]:
    """Both rounds for each snapshot; yields after each text part and each shard."""
    first = 0
    for snapshot in corpus:
        seed = snapshot.config.split_seed
        pieces: list[Path] = []
        scratch = folder.parent / "pieces"
        scratch.mkdir(exist_ok=True)
        for table in snapshot.documents(_FROM_TEXT):
            pieces.append(scratch / f"{len(pieces):05d}")
            hashed = shards.hashes(table.column("doc_id").to_pylist(), seed)
            shards.scatter(table, hashed, snapshot.n_shards, pieces[-1])
            yield Written({}, {})
        splits = {split: snapshot.shards(split, ["doc_id", "n_tokens"]) for split in SPLITS}
        for number in range(snapshot.n_shards):
            table = shards.gather((path.open("rb") for path in pieces), number, table.schema, seed)
            chosen = {split: _documents(table, next(tokens), snapshot.name) for split, tokens in splits.items()}
            for split, rows in chosen.items():
                if len(rows):
                    write(split, first + number, rows)
            yield Written(
                {split: len(rows) for split, rows in chosen.items()},
                {split: int(rows.column("n_tokens").to_numpy().sum()) for split, rows in chosen.items()},
            )
        first += snapshot.n_shards
        for path in pieces:
            path.unlink()


def _documents(texts: pa.Table, tokens: pa.Table, snapshot: str) -> pa.Table:
    """The rows of SCHEMA for the documents of ``tokens``. Both tables are in the order of the places."""
    ids = tokens.column("doc_id")
    found = texts.filter(pc.is_in(texts.column("doc_id"), value_set=ids.combine_chunks()))
    assert found.column("doc_id").equals(ids), f"tokens/{snapshot}: its documents are not the selected ones"
    columns = {
        **{name: found.column(name) for name in _FROM_TEXT},
        "doc_id": pa.array([doc_id.hex() for doc_id in ids.to_pylist()], pa.string()),
        "snapshot": pa.array([snapshot] * len(found), pa.string()),
        "n_tokens": tokens.column("n_tokens"),
    }
    return pa.table([columns[name] for name in COLUMNS], schema=SCHEMA)
