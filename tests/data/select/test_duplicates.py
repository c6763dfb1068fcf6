"""Duplicates, from texts to verdicts: compared with a judgement by the definition, without blocks, files or bounds."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasketch import MinHash

from data.config import SelectConfig
from data.errors import InputError
from data.lake.store import Lake
from data.select import buckets, compare, plan, verify
from data.select import stage as select
from data.select.shingles import shingles
from data.stage import MakePart, Mapper, in_turn
from tests.data.select.test_stage import CONFIG, WORDS, Row, add_text, exact_jaccard, prose, row, verdicts


def backwards_on_threads(make_part: MakePart, names: list[str]) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(make_part, reversed(names)))


def by_definition(snapshots: list[list[Row]], config: SelectConfig) -> dict[bytes, tuple[str, bytes | None]]:
    """The verdicts of the last snapshot: greedy over all pairs of documents that share a band."""
    kept: list[Row] = []
    found: dict[bytes, tuple[str, bytes | None]] = {}
    signed: dict[bytes, np.ndarray] = {}
    for rows in snapshots:
        found = {}
        for one in sorted(rows, key=lambda r: (-r["karma"], r["doc_id"])):
            minhash = MinHash(config.permutations, seed=config.minhash_seed, hashfunc=int, scheme="affine32")
            minhash.update_batch((shingles(one["text"], "en", config) >> np.uint64(32)).astype(np.uint32))
            mine = signed[one["doc_id"]] = minhash.digest()
            verdict: tuple[str, bytes | None] = ("ok", None)
            for other in kept:
                equal = mine == signed[other["doc_id"]]
                meet = equal.reshape(config.bands, config.rows).all(axis=1).any()
                if one["text"].casefold().split() == other["text"].casefold().split():
                    verdict = ("exact_duplicate", other["doc_id"])
                    break
                worth = np.count_nonzero(equal) >= (config.threshold - compare.MARGIN) * config.permutations
                if verdict[0] == "ok" and meet and worth and exact_jaccard(one["text"], other["text"]) >= 0.75:
                    verdict = ("near_duplicate", other["doc_id"])
            if verdict[0] == "ok":
                kept.append(one)
            found[one["doc_id"]] = verdict
    return found


LONG_ENOUGH = {"n_gpt2_tokens": 1_000}
"""Changes of a row that take it past the filters, whatever its text."""


def families(seed: int, n: int = 60) -> list[list[Row]]:
    """Two snapshots of families: an original, copies of it and copies of copies, some near, some not, some exact."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    texts: list[str] = []
    for number in range(2 * n):
        if texts and rng.random() < 0.8:
            words = texts[int(rng.integers(max(0, len(texts) - 12), len(texts)))].split()
            for at in rng.choice(len(words), int(rng.choice([0, 1, 2, 3, 4, 5, 8])), replace=False):
                words[at] = str(rng.choice(WORDS))
        else:
            words = rng.choice(WORDS, 80).tolist()
        texts.append(" ".join(words))
        rows.append(row(texts[-1], f"n{number}", karma=int(rng.integers(3, 7)), **LONG_ENOUGH))
    order = rng.permutation(len(rows))
    return [[rows[k] for k in order[:n]], [rows[k] for k in order[n:]]]


def judge(folder: Path, snapshots: list[list[Row]], n_parts: int, mapper: Mapper = in_turn) -> Lake:
    lake = Lake(folder)
    for number, rows in enumerate(snapshots):
        name = f"2026-{number + 1:02d}"
        add_text(lake, name, {f"part-{k:05d}": rows[k::n_parts] for k in range(n_parts)})
        select.run(lake, name, None, CONFIG, mapper)
    return lake


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_the_definition(tmp_path: Path, seed: int) -> None:
    snapshots = families(seed)
    lake = judge(tmp_path, snapshots, 3)
    ours = {one: (r["status"], r["duplicate_of"]) for one, r in verdicts(lake, "2026-02").items()}
    assert ours == by_definition(snapshots, CONFIG)
    assert min(Counter(status for status, _ in ours.values())[s] for s in ("near_duplicate", "exact_duplicate")) > 2


def test_neither_files_nor_division_nor_workers_change_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = families(9)
    whole = verdicts(judge(tmp_path / "whole", snapshots, 1), "2026-02")
    monkeypatch.setattr(plan, "RANGE", 17)
    monkeypatch.setattr(plan, "PER_PART", 30)
    monkeypatch.setattr(plan, "PER_SHINGLES_PART", 20)
    monkeypatch.setattr(verify, "_CACHE_BYTES", 2_000)
    lake = judge(tmp_path / "divided", [rows[::-1] for rows in snapshots], 5, backwards_on_threads)
    assert verdicts(lake, "2026-02") == whole
    names = Counter(part.name.partition("-")[0] for part in lake.dataset("select", "2026-02").require().parts)
    assert min(names["buckets"], names["compare"], names["shingles"], names["verify"]) > 2


def boilerplate(n: int, shared: int, own: int, seed: int = 5) -> list[Row]:
    """Unlike documents with most of their words in common."""
    rng = np.random.default_rng(seed)
    frame = " ".join(rng.choice(WORDS, shared))
    return [row(f"{frame} {' '.join(rng.choice(WORDS, own))}", f"b{k}") for k in range(n)]


def test_nothing_below_the_threshold_is_dropped(tmp_path: Path) -> None:
    rows = boilerplate(150, 300, 75)
    texts = [r["text"] for r in rows]
    assert max(exact_jaccard(texts[k], texts[k + 1]) for k in range(149)) < 0.70
    minhashes = [MinHash(112, seed=1, hashfunc=int, scheme="affine32") for _ in rows]
    for one, text in zip(minhashes, texts, strict=True):
        one.update_batch((shingles(text, "en", CONFIG) >> np.uint64(32)).astype(np.uint32))
    alike = sum(a.jaccard(b) >= 0.75 for k, a in enumerate(minhashes) for b in minhashes[:k])
    assert alike > 20  # what the signatures alone would drop
    assert select_counts(tmp_path, rows) == {"ok": 150}


def select_counts(folder: Path, rows: list[Row]) -> dict[str, int]:
    lake = Lake(folder)
    add_text(lake, "s", {"part-00000": rows})
    return select.run(lake, "s", None, CONFIG).manifest.counts


def test_near_copies_among_boilerplate_are_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = boilerplate(1_200, 300, 100)
    copies = []
    for k in range(200):
        words = rows[k]["text"].split()
        words[310 + k % 80] = "changed"
        copies.append(row(" ".join(words), f"c{k}", karma=4))
    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": [*rows, *copies]})
    with caplog.at_level(logging.WARNING, "data.select"):
        manifest = select.run(lake, "s", None, CONFIG).manifest
    found = verdicts(lake, "s")
    dropped = [found[copy["doc_id"]]["duplicate_of"] == rows[k]["doc_id"] for k, copy in enumerate(copies)]
    assert sum(dropped) >= 199
    assert manifest.counts["ok"] == 1_400 - sum(dropped)
    assert manifest.extra["crowded"] > 0
    warning = next(record.getMessage() for record in caplog.records if "share a bucket" in record.getMessage())
    assert f"like none of the {buckets.PIVOTS}" in warning
    assert bytes.fromhex(warning.rpartition(" ")[2]) in found


def test_a_crowd_of_near_copies_leaves_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    words = rng.choice(WORDS, 300).tolist()
    rows = []
    for k in range(400):
        mine = list(words)
        mine[int(rng.integers(300))] = f"word{k}"
        rows.append(row(" ".join(mine), f"n{k}", karma=int(rng.integers(3, 9))))
    assert select_counts(tmp_path, rows) == {"near_duplicate": 399, "ok": 1}


def test_a_copy_of_a_dropped_document_shares_its_verdict(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    near = prose(1, edits=3)
    rows = [row(prose(1), "a", karma=9), row(near, "b", karma=5), row(near.upper(), "c", karma=4)]
    add_text(lake, "s", {"part-00000": rows})
    select.run(lake, "s", None, CONFIG)
    first, second, third = (verdicts(lake, "s")[r["doc_id"]] for r in rows)
    assert first["status"] == "ok"
    assert second["status"] == third["status"] == "near_duplicate"
    assert second["duplicate_of"] == third["duplicate_of"] == rows[0]["doc_id"]
    assert second["reason"] == third["reason"]


def test_a_chain_is_not_followed(tmp_path: Path) -> None:
    a = prose(1, 600).split()
    b = [*a[:60], *(f"b{k}" for k in range(40)), *a[100:]]
    c = [*b[:300], *(f"c{k}" for k in range(40)), *b[340:]]
    texts = [" ".join(words) for words in (a, b, c)]
    assert exact_jaccard(texts[0], texts[1]) > 0.8
    assert exact_jaccard(texts[1], texts[2]) > 0.8
    assert exact_jaccard(texts[0], texts[2]) < 0.75
    rows = [row(text, f"n{k}", karma=9 - k) for k, text in enumerate(texts)]
    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": rows})
    select.run(lake, "s", None, CONFIG)
    assert [verdicts(lake, "s")[r["doc_id"]]["status"] for r in rows] == ["ok", "near_duplicate", "ok"]


def test_a_missing_text_of_the_history_is_named_before_work_begins(tmp_path: Path) -> None:
    lake = judge(tmp_path, [[row(prose(1), "a")]], 1)
    add_text(lake, "2026-02", {"part-00000": [row(prose(2), "b")]})
    path = tmp_path / "text/2026-01/part-00000.parquet"
    body = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match=r"text/2026-01/part-00000.parquet is missing, and select/2026-01 was made"):
        select.run(lake, "2026-02", None, CONFIG)
    lake.remove("text", "2026-01")
    with pytest.raises(InputError, match=r"text/2026-01 is missing, .*without 2026-01"):
        select.run(lake, "2026-02", None, CONFIG)
    add_text(lake, "2026-01", {"part-00000": [row(prose(7), "a")]})
    with pytest.raises(InputError, match="text/2026-01 is not the one that select/2026-01 was made from"):
        select.run(lake, "2026-02", None, CONFIG)
    assert lake.dataset("select", "2026-02").begun() is None
    assert select.run(lake, "2026-02", [], CONFIG).manifest.counts == {"ok": 1}

    lake.remove("text", "2026-01")
    add_text(lake, "2026-01", {"part-00000": [row(prose(1), "a")]})
    assert path.read_bytes() == body
    add_text(lake, "2026-03", {"part-00000": [row(prose(1, edits=3), "c")]})
    path.write_bytes(body[:-1] + b"?")
    with pytest.raises(InputError, match=r"text/2026-01/part-00000.parquet: sha256 is"):
        select.run(lake, "2026-03", ["2026-01"], CONFIG)
    path.write_bytes(body)
    manifest = select.run(lake, "2026-03", ["2026-01"], CONFIG).manifest
    assert manifest.counts == {"near_duplicate": 1}
    lake.remove("text", "2026-01")
    assert select.run(lake, "2026-03", None, CONFIG).skipped  # what is published needs no texts


def test_long_repeated_and_tiny_documents_are_judged(tmp_path: Path) -> None:
    paragraph = prose(1, 30)
    long = " ".join(f"{number:010d}" for number in range(10**6))  # 11 MB
    bodies = [
        "\n\n".join([paragraph] * 10_000),
        "\n\n".join([paragraph] * 9_999),
        long,
        "word",
        "other",
        "Word",
        "!?",
    ]
    rows = [row("measured", f"n{k}", karma=99 - k, text=body, **LONG_ENOUGH) for k, body in enumerate(bodies)]
    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": rows})
    assert select.run(lake, "s", None, CONFIG).manifest.extra["candidates"] == 7
    found = [verdicts(lake, "s")[r["doc_id"]]["status"] for r in rows]
    assert found == ["ok", "near_duplicate", "ok", "ok", "ok", "exact_duplicate", "ok"]


def with_jaccard(rng: np.random.Generator, similarity: float, n: int = 596) -> tuple[str, str]:
    """Two texts of n 5-grams; the second ends with other words than the first."""
    shared = int(np.ceil(2 * n * similarity / (1 + similarity)))
    words = rng.choice(WORDS, n + 4).tolist()
    return " ".join(words), " ".join([*words[: shared + 4], *(f"own{k}" for k in range(n - shared))])


def test_pairs_are_found_by_their_exact_jaccard_index(tmp_path: Path) -> None:
    """The curve of recall: a band is shared with probability 1-(1-s**8)**14, and nothing below 0.75 is dropped."""
    rng = np.random.default_rng(4)
    n = 60
    points = [0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
    rows = []
    for point in points:
        for k in range(n):
            a, b = with_jaccard(rng, point)
            assert point <= exact_jaccard(a, b) < point + 0.003
            rows += [row(a, f"a{point}-{k}", karma=9), row(b, f"b{point}-{k}", karma=4)]
    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": rows})
    select.run(lake, "s", None, CONFIG)
    found = verdicts(lake, "s")
    dropped = [found[r["doc_id"]]["status"] != "ok" for r in rows]
    share = {point: sum(dropped[2 * n * k : 2 * n * (k + 1)]) / n for k, point in enumerate(points)}
    for point in points:
        if point < 0.75:
            assert share[point] == 0, point
        else:
            expected = 1 - (1 - point**8) ** 14
            error = (expected * (1 - expected) / n) ** 0.5
            assert share[point] >= expected - 3 * error, point
    assert share[0.95] == share[1.0] == 1


def clauses(rng: np.random.Generator) -> list[str]:
    """Forty clauses in 800 Chinese characters."""
    return ["".join(map(chr, 0x4E00 + rng.integers(0, 800, rng.integers(6, 19)))) for _ in range(40)]


@pytest.mark.parametrize("n_changed", [1, 2, 4])
def test_changed_characters_in_chinese_clauses_are_found(tmp_path: Path, n_changed: int) -> None:
    rng = np.random.default_rng(n_changed)
    config = SelectConfig(language="zh")
    rows = []
    for k in range(40):
        original = clauses(rng)
        changed = list(original)
        for at in rng.choice(40, n_changed, replace=False):
            changed[at] = f"{changed[at][:3]}々{changed[at][4:]}"
        for karma, text in ((9, original), (4, changed)):
            rows.append(row("，".join(text), f"n{k}-{karma}", karma=karma, language="zh", **LONG_ENOUGH))
    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": rows})
    counts = select.run(lake, "s", None, config).manifest.counts
    assert counts == {"near_duplicate": 40, "ok": 40}


def run_until_killed(lake: str, name: str) -> None:
    """Select, and die by SIGKILL after the files of this part are published, before its record."""
    real = Lake.publish_json

    def publish_json(self: Lake, value: object, *names: str) -> None:
        if names[-1] == f"{name}.json":
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, value, *names)

    Lake.publish_json = publish_json  # type: ignore[method-assign]
    select.run(Lake(lake), "2026-02", None, CONFIG)


def test_a_full_disk_at_any_write_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = families(3, 12)
    lake = Lake(tmp_path)
    for name, rows in (("2026-01", early), ("2026-02", late)):
        add_text(lake, name, {"part-00000": rows})
    select.run(lake, "2026-01", None, CONFIG)
    n_left = many = 1_000  # writes until the disk is full

    def limited(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            nonlocal n_left
            n_left -= 1
            if n_left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        return write

    monkeypatch.setattr(plan, "write_parquet", limited(plan.write_parquet))
    monkeypatch.setattr(compare.os, "posix_fallocate", limited(os.posix_fallocate))
    whole = select.run(lake, "2026-02", None, CONFIG).manifest
    n_writes = many - n_left
    assert n_writes > len(whole.parts)
    for n in range(n_writes):
        lake.remove("select", "2026-02")
        n_left = n
        with pytest.raises(OSError, match="No space left"):
            select.run(lake, "2026-02", None, CONFIG)
        assert lake.dataset("select", "2026-02").manifest() is None
        n_left = many
        assert select.run(lake, "2026-02", None, CONFIG).manifest.digest == whole.digest


def test_kills_in_every_round_leave_the_digest(tmp_path: Path) -> None:
    early, late = families(3, 30)
    digests = []
    for folder in ("whole", "killed"):
        lake = Lake(tmp_path / folder)
        add_text(lake, "2026-01", {"part-00000": early})
        select.run(lake, "2026-01", None, CONFIG)
        add_text(lake, "2026-02", {"part-00000": late[::2], "part-00001": late[1::2]})
        if folder == "killed":
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            first = lake.dataset("select", "2026-01").require()
            for part in first.parts:  # this snapshot has the same rounds
                child = context.Process(target=run_until_killed, args=(lake.root, part.name))
                child.start()
                child.join()
                assert child.exitcode == -signal.SIGKILL, part.name
        digests.append(select.run(lake, "2026-02", None, CONFIG).manifest.digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("candidates/part-00000.parquet", "sig-part-00000"),
        ("order/part-00000.parquet", "order"),
        ("pairs/000.parquet", "buckets-000"),
        ("edges/000.parquet", "compare-000"),
        ("shingles/000.bin", "shingles-000"),
        ("proofs/part-00000.parquet", "verify-part-00000"),
    ],
)
def test_a_damaged_file_of_a_sealed_part_is_named(tmp_path: Path, file: str, part: str) -> None:
    class StoppedError(Exception):
        pass

    def until(make_part: MakePart, names: list[str]) -> None:
        for name in names:
            make_part(name)
            if name == part:
                raise StoppedError

    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": [row(prose(1), "a"), row(prose(1, edits=3), "b")]})
    with pytest.raises(StoppedError):
        select.run(lake, "s", None, CONFIG, until)
    path = tmp_path / "select/s" / file
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(InputError, match=f"{path.name}: sha256 is .*only its part is made again"):
        select.run(lake, "s", None, CONFIG)
    path.unlink()
    assert select.run(lake, "s", None, CONFIG).manifest.counts == {"near_duplicate": 1, "ok": 1}
