from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.config import SelectConfig, TextConfig, content_settings
from data.errors import InputError
from data.lake.store import Lake, write_parquet
from data.schema import TEXT
from data.select import minhash, shingles
from data.select import stage as select
from data.stage import MakePart
from data.text import signals
from data.text import stage as text

CONFIG = SelectConfig()
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
Row = dict[str, Any]


def prose(seed: int, n_words: int = 300, edits: int = 0) -> str:
    """Text generated from that seed, with some words changed."""
    words = np.random.default_rng(seed).choice(WORDS, n_words)
    words[np.random.default_rng(seed + 1_000_000 * edits).choice(n_words, edits, replace=False)] = "changed"
    return " ".join(words.tolist())


def exact_jaccard(a: str, b: str) -> float:
    """The reference: sets of tuples of words, no hashing."""
    sets = [{tuple(words[k : k + 5]) for k in range(len(words) - 4)} for words in (a.split(), b.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def row(body: str | None, name: str = "a", karma: int = 5, **changes: Any) -> Row:
    """A row of the text stage, in English unless ``changes`` says otherwise."""
    url = f"http://{name}.example/"
    measured = signals.measure(body)._asdict() if body is not None else {}
    values = {"status": "ok" if body else "empty", "language": "en", "language_score": 0.99, "domain": "a.example"}
    identity = {"doc_id": text.document_id(url, body or ""), "url": url, "karma": karma, "text": body}
    return {**dict.fromkeys(TEXT.names), **identity, **values, **measured, **changes}


def add_text(lake: Lake, snapshot: str, parts: dict[str, list[Row]]) -> None:
    dataset = lake.dataset("text", snapshot)
    dataset.begin(content_settings(TextConfig()), {})
    for name, rows in parts.items():
        table = pa.Table.from_pylist(rows, schema=TEXT)
        with lake.scratch() as folder:
            write_parquet(table, folder / "text")
            statuses = table["status"].to_pylist()
            counts = {status: statuses.count(status) for status in set(statuses)}
            file = f"{name}.parquet"
            dataset.seal(name, {file: folder / "text"}, table, counts=counts, rows={file: len(rows)})
    dataset.finish(list(parts), {}, 0.0)


def verdicts(lake: Lake, snapshot: str) -> dict[bytes, Row]:
    dataset = lake.dataset("select", snapshot)
    names = [p.name for p in dataset.require().parts if p.name.startswith("part-")]
    return {r["doc_id"]: r for name in names for r in dataset.read(f"{name}.parquet").to_pylist()}


def test_filters_drop_with_their_status_and_reason_and_rows_stay_aligned(tmp_path: Path) -> None:
    good = prose(1)
    index = exact_jaccard(good, prose(1, edits=3))
    similar = f"Jaccard index {index:.3f} of the shingles, at least 0.75"
    cases = [
        (row(None, "none"), "no_text", "empty"),
        (row(good, "wiki", domain="wikipedia.org", n_words=1), "wikipedia", "wikipedia.org"),
        (row(good, "en.wikipedia.org", url="http://en.wikipedia.org/wiki/A"), "wikipedia", "wikipedia.org"),
        (row(good, "short", n_gpt2_tokens=127), "too_short", "n_gpt2_tokens 127 < 128"),
        (row("x", "shorter", language="de"), "too_short", "n_gpt2_tokens 1 < 128"),
        (row(good, "long", n_chars=1_000_001), "too_long", "n_chars 1000001 > 1000000"),
        (row(good, "german", language="de"), "not_english", "de with probability 0.99"),
        (row(good, "unsure", language_score=0.5), "not_english", "en with probability 0.50"),
        (row(good, "good"), "ok", None),
        (row(good.upper(), "copy", karma=4), "exact_duplicate", None),
        (row(prose(1, edits=3), "near", karma=3), "near_duplicate", similar),
    ]
    rows = [case[0] for case in cases]
    lake = Lake(tmp_path)
    add_text(lake, "s", {"part-00000": rows[:5], "part-00001": [], "part-1-00000": rows[5:]})
    manifest = select.run(lake, "s", None, CONFIG).manifest
    judged = [
        r
        for name in ("part-00000", "part-00001", "part-1-00000")
        for r in lake.dataset("select", "s").read(f"{name}.parquet").to_pylist()
    ]
    assert [(r["doc_id"], r["status"], r["reason"]) for r in judged] == [(c["doc_id"], *rest) for c, *rest in cases]
    kept = rows[8]["doc_id"]
    assert [r["duplicate_of"] for r in judged] == [None] * 9 + [kept, kept]
    assert manifest.rows_in == len(cases)
    assert manifest.counts["ok"] == 1
    assert sum(manifest.counts.values()) == len(cases)


def test_the_better_document_survives_in_any_order_of_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = [row(prose(k // 3, edits=k % 3), f"n{k}", karma=int(rng.integers(3, 6))) for k in range(120)]
    results = []
    for run in range(3):
        shuffled = [rows[k] for k in rng.permutation(len(rows))]
        lake = Lake(tmp_path / str(run))
        add_text(lake, "s", {f"part-{k:05d}": shuffled[k::4] for k in range(4)})
        select.run(lake, "s", None, CONFIG)
        results.append(verdicts(lake, "s"))
    assert results[0] == results[1] == results[2]
    for group in range(40):
        members = rows[3 * group : 3 * group + 3]
        best = min(members, key=lambda r: (-r["karma"], r["doc_id"]))
        found = [results[0][r["doc_id"]] for r in members]
        assert [r["status"] == "ok" for r in found] == [r is best for r in members]
        assert {r["duplicate_of"] for r in found} == {None, best["doc_id"]}


def test_history_drops_copies_and_its_record_is_reused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = row(prose(1), "first", karma=3)
    second = row(prose(2), "second", karma=3)
    dropped = row(prose(2), "dropped", karma=2)
    add_text(lake, "2026-01", {"part-00000": [first, row("too short", "x")], "part-00001": [second, dropped]})
    add_text(lake, "2026-02", {"part-00000": [row(prose(1, edits=3), "a", karma=99), row(prose(3), "b")]})
    add_text(lake, "2026-03", {"part-00000": [row(prose(2).title(), "c"), row(prose(3), "d"), row(prose(4), "e")]})
    select.run(lake, "2026-01", None, CONFIG)
    select.run(lake, "2026-02", None, CONFIG)
    february = list(verdicts(lake, "2026-02").values())
    assert [r["status"] for r in february] == ["near_duplicate", "ok"]  # higher karma does not beat an earlier document
    assert february[0]["duplicate_of"] == first["doc_id"]

    manifest = select.run(lake, "2026-03", None, CONFIG).manifest
    march = list(verdicts(lake, "2026-03").values())
    assert [r["status"] for r in march] == ["exact_duplicate", "exact_duplicate", "ok"]
    assert march[0]["duplicate_of"] == second["doc_id"]
    assert sorted(manifest.inputs) == ["history:2026-01", "history:2026-02", "text"]

    add_text(lake, "2026-04", {"part-00000": [row(prose(5), "f")]})
    select.run(lake, "2026-04", None, CONFIG)
    again = select.run(lake, "2026-03", None, CONFIG)  # with its original history, though another one is published now
    assert again.skipped
    assert again.manifest.digest == manifest.digest
    with pytest.raises(InputError, match=r"made with other inputs \(history:2026-01: '\w+' -> '\(none\)'\)"):
        select.run(lake, "2026-03", ["2026-02"], CONFIG)


def test_a_variant_shares_the_base_texts_and_has_its_own_history(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    body = prose(1, 100)
    for snapshot in ("2026-01", "2026-02"):
        add_text(lake, snapshot, {"part-00000": [row(body, snapshot)]})
    gopher = SelectConfig(profile="gopher")  # no stop words in this text
    assert select.run(lake, "2026-01@gopher", None, gopher).manifest.counts == {"low_quality": 1}
    assert select.run(lake, "2026-01", None, CONFIG).manifest.counts == {"ok": 1}
    assert select.run(lake, "2026-02@gopher", None, gopher).manifest.inputs.keys() == {"history:2026-01@gopher", "text"}
    assert select.run(lake, "2026-02", None, CONFIG).manifest.counts == {"exact_duplicate": 1}
    explicit = select.run(lake, "2026-02@alone", [], CONFIG).manifest
    assert explicit.counts == {"ok": 1}


def test_bad_input_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for snapshot in ("2026-01", "2026-02"):
        add_text(lake, snapshot, {"part-00000": [row(prose(1), snapshot)]})
    select.run(lake, "2026-01", None, CONFIG)
    with pytest.raises(
        InputError, match=r"select/2026-01 has another MinHash scheme \(ngram: 5 -> 4, threshold: 0.75 -> 0.8\)"
    ):
        select.run(lake, "2026-02", None, SelectConfig(ngram=4, threshold=0.8))
    assert lake.dataset("select", "2026-02").begun() is None
    with pytest.raises(InputError, match="select/2025-12: no such dataset"):
        select.run(lake, "2026-02", ["2025-12"], CONFIG)
    with pytest.raises(InputError, match="cannot be compared with itself"):
        select.run(lake, "2026-01", ["2026-01"], CONFIG)
    with pytest.raises(InputError, match="text/2026-09: no such dataset"):
        select.run(lake, "2026-09", None, CONFIG)
    path = tmp_path / "select/2026-01/sig/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"sig/part-00000.parquet: sha256 is"):
        select.run(lake, "2026-02", None, CONFIG)


def test_an_empty_text_dataset_is_published(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    add_text(lake, "a", {"part-00000": [row("too short")], "part-00001": []})
    add_text(lake, "b", {})
    assert select.run(lake, "a", None, CONFIG).manifest.counts == {"too_short": 1}
    assert select.run(lake, "b", None, CONFIG).manifest.counts == {}
    add_text(lake, "c", {"part-00000": [row(prose(1))]})
    assert select.run(lake, "c", None, CONFIG).manifest.counts == {"ok": 1}


class KilledError(Exception):
    pass


def test_a_run_killed_after_any_part_resumes_to_the_same_digest(tmp_path: Path) -> None:
    early = {"part-00000": [row(prose(k), f"h{k}") for k in range(5)]}
    now = {f"part-{p:05d}": [row(prose(k, edits=p), f"n{p}-{k}") for k in range(3, 9)] for p in range(2)}

    def fresh(name: str) -> Lake:
        lake = Lake(tmp_path / name)
        add_text(lake, "2026-01", early)
        add_text(lake, "2026-02", now)
        select.run(lake, "2026-01", None, CONFIG)
        return lake

    whole = select.run(fresh("whole"), "2026-02", None, CONFIG).manifest
    names = [part.name for part in whole.parts]
    assert names == [
        *("sig-part-00000", "sig-part-00001", "order", "buckets-000", "compare-000", "shingles-000"),
        *("verify-part-00000", "verify-part-00001", "judgement", "part-00000", "part-00001"),
    ]
    assert whole.counts["ok"] < 12
    for allowed in range(len(names)):
        lake = fresh(f"killed-{allowed}")
        left = allowed

        def mapper(make_part: MakePart, names: list[str]) -> None:
            nonlocal left
            for name in reversed(names):
                if left == 0:
                    raise KilledError
                left -= 1
                make_part(name)

        with pytest.raises(KilledError):
            select.run(lake, "2026-02", None, CONFIG, mapper)
        left = len(names) - allowed  # sealed parts are not rebuilt
        assert select.run(lake, "2026-02", None, CONFIG, mapper).manifest.digest == whole.digest
        assert left == 0


def test_later_snapshots_compare_only_with_kept_documents(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = [row(prose(1), "a", karma=9), row(prose(1), "b"), row(prose(2), "c"), row("short", "d")]
    add_text(lake, "s", {"part-00000": rows})
    select.run(lake, "s", None, CONFIG)
    dataset = lake.dataset("select", "s")
    sig = dataset.read("sig/part-00000.parquet")
    bands = dataset.read("bands/part-00000.parquet")
    kept = [rows[0], rows[2]]
    assert sig["doc_id"].to_pylist() == bands["doc_id"].to_pylist() == [r["doc_id"] for r in kept]
    documents = [shingles.shingles(r["text"], "en", CONFIG) for r in kept]
    signed = minhash.signatures(documents, permutations=112, seed=1)
    assert sig["signature"].to_pylist() == [s.tobytes() for s in signed]
    assert sig["exact_hash"].to_pylist() == [shingles.exact_hash(r["text"]) for r in kept]
    hashes = np.stack([bands[f"band_{k:02d}"].to_numpy() for k in range(14)], axis=1)
    assert np.array_equal(hashes, minhash.band_hashes(signed, 14))
