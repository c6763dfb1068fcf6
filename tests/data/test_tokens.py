from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from data import bpe, tokens
from data.config import SelectConfig, TextConfig, TokensConfig, content_settings
from data.errors import InputError
from data.lake.manifest import SPLITS
from data.lake.store import Dataset, Lake, write_parquet
from data.schema import SELECT, TEXT

HALF = TokensConfig(val_share=0.5)


def doc_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


def publish(dataset: Dataset, settings: dict, inputs: dict, tables: dict[str, pa.Table], tmp_path: Path) -> None:
    dataset.begin(settings, inputs)
    for name, table in tables.items():
        local = tmp_path / f"{name}.parquet"
        write_parquet(table, local)
        counts = {status: table["status"].to_pylist().count(status) for status in set(table["status"].to_pylist())}
        dataset.seal(name, {f"{name}.parquet": local}, table, counts=counts)
    dataset.finish(list(tables), {}, 0.0)


def make_lake(tmp_path: Path, parts: dict[str, list[tuple[str, str]]]) -> Lake:
    """A lake with text and select; ``parts`` holds (text, verdict) by part."""
    lake = Lake(tmp_path / "lake")
    texts = {}
    verdicts = {}
    for part, rows in parts.items():
        ids = [doc_id(f"{part}{n}") for n in range(len(rows))]
        empty = {name: [None] * len(rows) for name in TEXT.names}
        words = {"doc_id": ids, "text": [text for text, _ in rows], "status": ["ok"] * len(rows)}
        texts[part] = pa.table({**empty, **words}, schema=TEXT)
        judged = {"doc_id": ids, "status": [v for _, v in rows], "reason": [None] * len(rows)}
        verdicts[part] = pa.table({**judged, "duplicate_of": [None] * len(rows)}, schema=SELECT)
    publish(lake.dataset("text", "s"), content_settings(TextConfig()), {}, texts, tmp_path)
    publish(lake.dataset("select", "s"), content_settings(SelectConfig()), {}, verdicts, tmp_path)
    return lake


def test_every_selected_document_reads_back_from_one_split(tmp_path: Path) -> None:
    rows = [(f"Document {n}: naïve café № {n} <|endoftext|>", "ok" if n % 3 else "too_short") for n in range(60)]
    lake = make_lake(tmp_path, {"part-00000": rows[:40], "part-1-00000": rows[40:]})
    manifest = tokens.run(lake, "s", HALF).manifest

    wanted = {}
    for part, some in (("part-00000", rows[:40]), ("part-1-00000", rows[40:])):
        wanted |= {doc_id(f"{part}{n}"): text for n, (text, verdict) in enumerate(some) if verdict == "ok"}
    found: dict[str, dict[bytes, list[int]]] = {}
    for split in SPLITS:
        paths = [file.path for file in manifest.files_in(split)]
        assert paths == [f"{split}/part-00000.parquet", f"{split}/part-1-00000.parquet"]
        files = [str(tmp_path / "lake/tokens/s" / path) for path in paths]
        read = duckdb.sql(
            f"select doc_id, tokens, n_tokens from read_parquet({files})"
        ).fetchall()  # an independent reader
        found[split] = {row[0]: row[1] for row in read}
        assert all(len(row[1]) == row[2] for row in read)
    assert not found["train"].keys() & found["val"].keys()
    assert min(len(found["train"]), len(found["val"])) >= 10
    together = found["train"] | found["val"]
    assert {key: bpe.decode(value[:-1]) for key, value in together.items()} == wanted
    assert all(value[-1] == bpe.END_OF_TEXT for value in together.values())

    assert manifest.counts == {"ok": len(wanted)}
    for split in SPLITS:
        docs = found[split]
        assert manifest.extra[f"{split}_docs"] == len(docs)
        assert manifest.extra[f"{split}_tokens"] == sum(map(len, docs.values()))
        assert manifest.extra[f"{split}_bytes"] == sum(len(wanted[key].encode()) for key in docs)


def test_the_split_is_a_share_of_the_hashes_and_depends_on_the_seed() -> None:
    ids = [doc_id(str(n)) for n in range(20_000)]
    config = TokensConfig(val_share=0.1)
    held_out = [tokens.is_val(key, config) for key in ids]
    assert np.mean(held_out) == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / len(ids)))  # four standard errors
    other = [tokens.is_val(key, dataclasses.replace(config, split_seed=1)) for key in ids]
    both = np.mean(np.array(held_out) & np.array(other))
    assert both == pytest.approx(0.01, abs=4 * np.sqrt(0.01 * 0.99 / len(ids)))  # independent of the first split


def test_an_empty_corpus_is_published(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, {"part-00000": [("x", "too_short")], "part-00001": []})
    manifest = tokens.run(lake, "s", HALF).manifest
    assert manifest.rows_in == 0
    assert manifest.extra["train_tokens"] == 0
    table = lake.dataset("tokens", "s").read(manifest.files_in("train")[0].path)
    assert table.schema.names == ["doc_id", "tokens", "n_tokens"]
    assert len(table) == 0


def test_a_second_run_is_skipped_and_a_sealed_part_is_reused(tmp_path: Path) -> None:
    parts = {f"part-{n:05d}": [(f"text {n}", "ok")] for n in range(3)}
    whole = tokens.run(make_lake(tmp_path / "a", parts), "s", HALF).manifest
    lake = make_lake(tmp_path / "b", parts)

    class KilledError(Exception):
        pass

    def killed_after_two(make_part, names) -> None:
        for name in names[:2]:
            make_part(name)
        raise KilledError

    with pytest.raises(KilledError):
        tokens.run(lake, "s", HALF, killed_after_two)
    made = []
    resumed = tokens.run(lake, "s", HALF, lambda make_part, names: made.extend(map(make_part, names)))
    assert [part.name for part in made] == ["part-00002"]
    assert resumed.manifest.digest == whole.digest
    assert tokens.run(lake, "s", HALF).skipped


def test_bad_input_is_refused(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, {"part-00000": [("text", "ok")]})
    with pytest.raises(InputError, match="tokenizer 'llama'"):
        tokens.run(lake, "s", TokensConfig(tokenizer="llama"))
    with pytest.raises(InputError, match="select/other: no such dataset"):
        tokens.run(lake, "other", HALF)


def test_a_document_with_a_million_white_space_characters_is_encoded(tmp_path: Path) -> None:
    text = "before" + "\n" * 1_000_000 + "after"
    lake = make_lake(tmp_path, {"part-00000": [("an ordinary document", "ok"), (text, "ok")]})
    manifest = tokens.run(lake, "s", TokensConfig(val_share=0.0)).manifest
    rows = lake.dataset("tokens", "s").read("train/part-00000.parquet").column("tokens").to_pylist()
    assert [bpe.decode(row[:-1]) for row in rows] == ["an ordinary document", text]
    assert manifest.counts == {"ok": 2}
