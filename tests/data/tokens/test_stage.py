from __future__ import annotations

import dataclasses
import errno
import hashlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import bpe
from data.config import SelectConfig, TextConfig, TokensConfig, content_settings
from data.errors import InputError
from data.lake.manifest import SPLITS
from data.lake.store import Dataset, Lake, write_parquet
from data.schema import SELECT, TEXT
from data.select import stage as select_stage
from data.tokens import shards
from data.tokens import stage as tokens
from tests.data.select.test_stage import add_text, prose, row

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
        assert paths == [f"{split}/part-00000.parquet"]
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


def is_val(doc_id: bytes, config: TokensConfig) -> bool:
    """The reference: the hash of (seed, id), taken as a number in [0, 1), is below val_share."""
    hashed = hashlib.sha256(config.split_seed.to_bytes(8, "little", signed=True) + doc_id).digest()
    return int.from_bytes(hashed[:8], "little") < config.val_share * 2**64


def test_the_split_is_a_share_of_the_hashes_and_depends_on_the_seed() -> None:
    ids = [doc_id(str(n)) for n in range(20_000)]
    config = TokensConfig(val_share=0.1)
    held_out = [is_val(key, config) for key in ids]
    assert np.mean(held_out) == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / len(ids)))  # four standard errors
    other = [is_val(key, dataclasses.replace(config, split_seed=1)) for key in ids]
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


SHARDED = TokensConfig(val_share=0.2, shard_documents=10)


def corpus(n: int = 60, without: int | None = None) -> dict[str, list[tuple[str, str]]]:
    """Documents in three text parts; the verdict on document ``without`` is not ok."""
    rows = [(f"Document {k} " + "word " * (k % 7), "ok" if k != without else "too_short") for k in range(n)]
    return {f"part-{part:05d}": rows[part * n // 3 : (part + 1) * n // 3] for part in range(3)}


def files_of(lake: Lake, snapshot: str = "s") -> dict[str, tuple[str, list[bytes]]]:
    """sha256 and documents of every published file."""
    dataset = lake.dataset("tokens", snapshot)
    files = [file for part in dataset.require().parts for file in part.files]
    return {file.path: (file.sha256, dataset.read(file.path).column("doc_id").to_pylist()) for file in files}


def test_documents_lie_in_the_order_of_their_hashes_whatever_the_number_of_shards(tmp_path: Path) -> None:
    orders = set()
    for per_shard, n_shards in ((10, 8), (60, 1), (31, 2)):
        lake = make_lake(tmp_path / str(per_shard), corpus())
        tokens.run(lake, "s", dataclasses.replace(SHARDED, shard_documents=per_shard))
        files = files_of(lake)
        assert len(files) == 2 * n_shards
        orders.add(tuple(key for path, (_, ids) in sorted(files.items()) for key in ids))
    assert len(orders) == 1
    (order,) = orders
    for split in SPLITS:
        ids = [key for key in order if is_val(key, SHARDED) == (split == "val")]
        place = {key: hashlib.sha256(bytes(8) + key).digest() for key in ids}
        assert ids == sorted(ids, key=lambda key: int.from_bytes(place[key][8:16], "little"))
        assert len(ids) >= 6
    assert list(order) != sorted(order)


def test_removing_a_document_changes_one_shard(tmp_path: Path) -> None:
    whole = make_lake(tmp_path / "whole", corpus())
    less = make_lake(tmp_path / "less", corpus(without=25))
    for lake in (whole, less):
        tokens.run(lake, "s", SHARDED)
    before = files_of(whole)
    after = files_of(less)
    assert before.keys() == after.keys()
    (changed,) = [path for path in before if before[path] != after[path]]
    assert [key for key in before[changed][1] if key not in after[changed][1]] == [doc_id("part-000015")]
    parts = [{part.name: part.digest for part in one.dataset("tokens", "s").require().parts} for one in (whole, less)]
    assert [name for name in parts[0] if parts[0][name] != parts[1][name]] == [changed.partition("/")[2][:-8]]


def test_a_document_added_to_another_part_moves_no_other(tmp_path: Path) -> None:
    parts = corpus()
    lake = make_lake(tmp_path / "a", parts)
    tokens.run(lake, "s", SHARDED)
    more = make_lake(tmp_path / "b", {**parts, "part-00003": [("one more document", "ok")]})
    tokens.run(more, "s", SHARDED)
    before, after = files_of(lake), files_of(more)
    assert sum(before[path] != after[path] for path in before) == 1


def test_a_row_group_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "GROUP_DOCUMENTS", 7)
    lake = make_lake(tmp_path, corpus())
    tokens.run(lake, "s", dataclasses.replace(SHARDED, val_share=0.0, shard_documents=60))
    file = pq.ParquetFile(tmp_path / "lake/tokens/s/train/part-00000.parquet")
    whole = file.read().column("doc_id").to_pylist()
    assert file.num_row_groups == 9
    assert file.read_row_group(3).column("doc_id").to_pylist() == whole[21:28]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("fatal", ["pieces-part-00001", "part-00000", "part-00005", "manifest", "discard"])
def test_a_run_that_ends_in_any_round_is_repeated_with_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: str
) -> None:
    whole = tokens.run(make_lake(tmp_path / "a", corpus()), "s", SHARDED).manifest
    lake = make_lake(tmp_path / "b", corpus())

    def killed(make_part, names) -> None:
        for name in names:
            if name == fatal:
                raise KilledError
            make_part(name)

    def refuse(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if fatal in ("manifest", "discard"):
            patch.setattr(Dataset, "finish" if fatal == "manifest" else "discard", refuse)
        with pytest.raises(KilledError):
            tokens.run(lake, "s", SHARDED, killed)
    made: list[str] = []
    resumed = tokens.run(lake, "s", SHARDED, lambda make, names: made.extend(make(name).name for name in names))
    assert resumed.manifest.digest == whole.digest
    rounds = [f"pieces-part-{n:05d}" for n in range(3)] + [f"part-{n:05d}" for n in range(8)]
    assert made == (rounds[rounds.index(fatal) :] if fatal in rounds else [])
    assert resumed.skipped == (fatal == "discard")
    folder = tmp_path / "b/lake/tokens/s"
    assert not (folder / "pieces").exists()
    assert sorted(path.stem for path in (folder / "_parts").iterdir()) == [f"part-{n:05d}" for n in range(8)]
    assert tokens.run(lake, "s", SHARDED).skipped


def test_the_digest_depends_neither_on_the_order_of_parts_nor_on_threads(tmp_path: Path) -> None:
    one = make_lake(tmp_path / "a", corpus())
    other = make_lake(tmp_path / "b", corpus())

    def scrambled(make_part, names) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(make_part, reversed(names)))

    assert tokens.run(one, "s", SHARDED).manifest.digest == tokens.run(other, "s", SHARDED, scrambled).manifest.digest


def test_a_shard_with_a_flipped_byte_is_refused_and_made_again(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, corpus())
    digest = tokens.run(lake, "s", SHARDED).manifest.digest
    shard = tmp_path / "lake/tokens/s/train/part-00003.parquet"
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    with pytest.raises(InputError, match=r"part-00003.parquet: sha256 is .* remove it and tokens/s/_manifest.json"):
        tokens.run(lake, "s", SHARDED)
    shard.unlink()
    (tmp_path / "lake/tokens/s/_manifest.json").unlink()
    made: list[str] = []
    repaired = tokens.run(lake, "s", SHARDED, lambda make, names: made.extend(make(name).name for name in names))
    assert repaired.manifest.digest == digest
    assert [name for name in made if name.startswith("part")] == ["part-00003"]


def test_a_piece_that_is_damaged_meanwhile_is_named(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, corpus())

    def damaging(make_part, names) -> None:
        for name in names:
            make_part(name)
        for piece in (tmp_path / "lake/tokens/s/pieces").iterdir():
            piece.write_bytes(piece.read_bytes()[:100])

    with pytest.raises(InputError, match="tokens/s/pieces: a piece is damaged"):
        tokens.run(lake, "s", SHARDED, damaging)


def test_a_full_disk_is_an_error_and_the_next_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokens.run(make_lake(tmp_path / "a", corpus()), "s", SHARDED).manifest
    lake = make_lake(tmp_path / "b", corpus())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "train")

    for owner, name in ((shards, "scatter"), (tokens, "write_parquet")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="No space left"):
                tokens.run(lake, "s", SHARDED)
        assert lake.dataset("tokens", "s").manifest() is None
        assert not list((tmp_path / "b/lake/tmp").iterdir())
    assert tokens.run(lake, "s", SHARDED).manifest.digest == whole.digest


def test_shards_are_a_power_of_two_with_at_most_so_many_documents() -> None:
    counted = [shards.shard_count(n, 50_000) for n in (0, 1, 3_400, 50_000, 50_001, 100_001, 10_000_000)]
    assert counted == [1, 1, 1, 1, 2, 4, 256]


def test_texts_that_are_odd_read_back(tmp_path: Path) -> None:
    odd = ["", "\x00" * 50, "a\x00b", "\u2028" * 3, "word " * 2_000_000]  # the last one has 10 MB
    lake = make_lake(tmp_path, {"part-00000": [(text, "ok") for text in odd]})
    manifest = tokens.run(lake, "s", TokensConfig(val_share=0.0)).manifest
    table = lake.dataset("tokens", "s").read("train/part-00000.parquet")
    rows = dict(zip(table["doc_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    assert [bpe.decode(rows[doc_id(f"part-00000{n}")][:-1]) for n in range(len(odd))] == odd
    assert manifest.extra["train_bytes"] == sum(len(text.encode()) for text in odd)


def test_near_copies_in_two_snapshots_are_never_in_both_splits(tmp_path: Path) -> None:
    """Every document of the second snapshot is a near-copy of one of the first, or new."""
    first = [row(prose(n), f"a{n}") for n in range(60)]
    copies = [row(prose(n, edits=1), f"b{n}") for n in range(60)]
    others = [row(prose(n), f"b{n}") for n in range(60, 80)]
    lake = Lake(tmp_path / "lake")
    for snapshot, rows in (("2026-10", first), ("2026-11", [*copies, *others])):
        add_text(lake, snapshot, {"part-00000": rows})
        select_stage.run(lake, snapshot, None, SelectConfig())
        tokens.run(lake, snapshot, HALF)
    numbers = {one["doc_id"]: n for rows in (first, copies) for n, one in enumerate(rows)}
    splits: dict[int, set[str]] = {}
    n_documents = 0
    for snapshot in ("2026-10", "2026-11"):
        for path, (_, ids) in files_of(lake, snapshot).items():
            n_documents += len(ids)
            for key in ids:
                if key in numbers:
                    splits.setdefault(numbers[key], set()).add(path.partition("/")[0])
    assert n_documents == 80
    assert set(splits) == set(range(60))
    assert {len(where) for where in splits.values()} == {1}
    hashed_apart = [is_val(a["doc_id"], HALF) != is_val(b["doc_id"], HALF) for a, b in zip(first, copies, strict=True)]
    assert sum(hashed_apart) > 10  # these would be in both splits if select had kept the copies


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
    assert {bpe.decode(row[:-1]) for row in rows} == {"an ordinary document", text}
    assert manifest.counts == {"ok": 2}


KILLED = """
import os, signal, sys
from data.config import TokensConfig
from data.lake.store import Lake
from data.tokens import stage

method, number = sys.argv[2], int(sys.argv[3])
real = getattr(Lake, method)
calls = 0

def killing(*arguments):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

setattr(Lake, method, killing)
stage.run(Lake(sys.argv[1]), "s", TokensConfig(val_share=0.2, shard_documents=10))
"""


@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("publish", 4),  # the second text part's pieces, before they have their name
        ("publish", 7),  # the last record of round 1
        ("publish", 15),  # the third shard, between its two files
        ("publish", 32),  # the manifest
        ("remove", 1),  # the pieces, after the manifest
        ("remove", 3),
    ],
)
def test_a_stage_killed_with_sigkill_ends_in_the_same_digest(tmp_path: Path, method: str, number: int) -> None:
    whole = tokens.run(make_lake(tmp_path / "a", corpus()), "s", SHARDED).manifest
    lake = make_lake(tmp_path / "b", corpus())
    command = [sys.executable, "-c", KILLED, lake.root, method, str(number)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == -signal.SIGKILL
    assert (lake.dataset("tokens", "s").manifest() is None) == (method == "publish")
    lake.sweep()
    assert tokens.run(lake, "s", SHARDED).manifest.digest == whole.digest
    folder = tmp_path / "b/lake/tokens/s"
    assert sorted(path.name for path in folder.iterdir()) == ["_begun.json", "_manifest.json", "_parts", "train", "val"]
    assert sorted(path.stem for path in (folder / "_parts").iterdir()) == [f"part-{n:05d}" for n in range(8)]
