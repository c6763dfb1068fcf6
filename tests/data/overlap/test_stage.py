"""Shares of evaluation sets in a corpus, against a plain search of every 8-gram in every training document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.config import SelectConfig, TokensConfig
from data.errors import InputError
from data.lake.store import Lake
from data.overlap import stage as overlap
from data.overlap.grams import GRAM_WORDS, BloomFilter
from data.select import stage as select_stage
from data.tokens import stage as tokens_stage
from tests.data.overlap.test_grams import words_of
from tests.data.select.test_stage import add_text, prose, row
from tests.data.tokens.test_stage import is_val

CONFIG = TokensConfig(val_share=0.3)
SNAPSHOTS = ("2026-10", "2026-11")


def write_sets(folder: Path) -> Path:
    """LAMBADA, and WikiText-2 with its training part, of generated prose."""
    folder.mkdir(exist_ok=True)
    passages = [prose(1_000 + n, 40) for n in range(30)]
    passages.append(passages[0])  # a repeated passage counts twice
    (folder / "lambada_test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in passages))
    lines = [f" {prose(2_000 + n, 60)} . \n" for n in range(8)]
    (folder / "wiki.valid.tokens").write_text("".join(lines))
    (folder / "wiki.train.tokens").write_text("".join([*lines[:2], f" {prose(3_000, 60)} . \n"]))
    return folder


def make_corpus(folder: Path, snapshots: Sequence[str] = SNAPSHOTS, n: int = 24) -> Lake:
    """Every third document holds a passage, every fourth a line of WikiText or a string of nine of its words."""
    lake = Lake(folder / "lake")
    for number, snapshot in enumerate(snapshots):
        rows = []
        for k in range(n):
            key = number * n + k
            text = prose(key)
            if k % 3 == 0:
                text = f"{text[:500]}. {prose(1_000 + key % 40, 40).upper()}! {text[500:]}"
            if k % 4 == 0:
                words = prose(2_000 + key % 9, 60).split()
                text = f"{text}\n{' — '.join(words if k % 8 else words[20:29])}"
            rows.append(row(text, f"a{key}"))
        add_text(lake, snapshot, {"part-00000": rows[: n // 2], "part-1-00000": [row(None, "e"), *rows[n // 2 :]]})
        select_stage.run(lake, snapshot, None, SelectConfig())
        tokens_stage.run(lake, snapshot, CONFIG)
    return lake


def grams(text: str) -> list[str]:
    words = words_of(text)
    return [" ".join(words[n : n + GRAM_WORDS]) for n in range(len(words) - GRAM_WORDS + 1)]


def training_documents(lake: Lake, snapshots: Sequence[str]) -> dict[bytes, str]:
    found = {}
    for snapshot in snapshots:
        for name in ("part-00000", "part-1-00000"):
            texts = lake.dataset("text", snapshot).read(f"{name}.parquet").to_pylist()
            verdicts = lake.dataset("select", snapshot).read(f"{name}.parquet").to_pylist()
            for text, verdict in zip(texts, verdicts, strict=True):
                if verdict["status"] == "ok" and not is_val(text["doc_id"], CONFIG):
                    found[text["doc_id"]] = text["text"]
    return found


@pytest.mark.parametrize("snapshots", [SNAPSHOTS, SNAPSHOTS[:1]])
def test_the_shares_are_those_of_a_plain_search(tmp_path: Path, snapshots: tuple[str, ...]) -> None:
    sets = write_sets(tmp_path / "sets")
    lake = make_corpus(tmp_path)
    manifest = overlap.run(lake, snapshots, sets).manifest
    summary = {one["evalset"]: one for one in overlap.summary(lake, manifest)}
    documents = training_documents(lake, snapshots)
    texts = {
        "lambada": [json.loads(line)["text"] for line in (sets / "lambada_test.jsonl").read_text().splitlines()],
        "wikitext2_valid": ["\n".join((sets / "wiki.valid.tokens").read_text().splitlines())],
    }
    own = set(grams((sets / "wiki.train.tokens").read_text()))
    assert summary.keys() == texts.keys()
    for name, some in texts.items():
        every = [gram for text in some for gram in grams(text)]
        by_document = {doc_id: set(grams(text)) & set(every) for doc_id, text in documents.items()}
        in_corpus = set().union(*by_document.values())
        one = summary[name]
        assert one["n_grams"] == len(every)
        assert one["in_corpus"] == sum(gram in in_corpus for gram in every)
        assert 0 < one["in_corpus"] < one["n_grams"]
        assert one["documents"] == sum(bool(found) for found in by_document.values())
        assert one["in_training_set"] == (None if name == "lambada" else sum(gram in own for gram in every))
    assert manifest.counts == {"ok": len(documents)}
    assert manifest.extra["false_hits"] == 0


def test_a_document_has_the_length_of_its_longest_common_string(tmp_path: Path) -> None:
    sets = write_sets(tmp_path / "sets")
    lake = make_corpus(tmp_path, SNAPSHOTS[:1])
    manifest = overlap.run(lake, SNAPSHOTS[:1], sets).manifest
    dataset = lake.dataset("overlap", manifest.snapshot)
    names = [part.name for part in manifest.parts if part.name != "summary"]
    rows = [one for name in names for one in dataset.read(f"{name}.parquet").to_pylist()]
    longest = {(one["doc_id"], one["evalset"]): one["longest_words"] for one in rows}
    for doc_id, text in training_documents(lake, SNAPSHOTS[:1]).items():
        number = next(k for k in range(24) if prose(k)[:200] == text[:200])
        wanted = 40 if number % 3 == 0 and number % 40 < 30 else None
        assert longest.get((doc_id, "lambada")) == wanted
        line = None if number % 4 or number % 9 == 8 else 60 if number % 8 else 9
        assert longest.get((doc_id, "wikitext2_valid")) == line
    assert {40, 60, 9} <= set(longest.values())


def test_the_digest_depends_neither_on_threads_nor_on_a_kill(tmp_path: Path) -> None:
    sets = write_sets(tmp_path / "sets")
    one = make_corpus(tmp_path / "a")
    other = make_corpus(tmp_path / "b")

    class KilledError(Exception):
        pass

    def killed(make_part, names) -> None:
        make_part(names[1])
        raise KilledError

    def scrambled(make_part, names) -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(make_part, reversed(names)))

    with pytest.raises(KilledError):
        overlap.run(other, SNAPSHOTS, sets, killed)
    first = overlap.run(one, SNAPSHOTS, sets)
    second = overlap.run(other, SNAPSHOTS, sets, scrambled)
    assert first.manifest.digest == second.manifest.digest
    assert overlap.run(one, SNAPSHOTS, sets).skipped


def test_a_changed_set_is_searched_anew_beside_the_old_result(tmp_path: Path) -> None:
    sets = write_sets(tmp_path / "sets")
    lake = make_corpus(tmp_path, SNAPSHOTS[:1])
    old = overlap.run(lake, SNAPSHOTS[:1], sets).manifest
    (sets / "lambada_test.jsonl").write_text(json.dumps({"text": prose(0, 20)}) + "\n")
    new = overlap.run(lake, SNAPSHOTS[:1], sets).manifest
    assert old.snapshot != new.snapshot
    assert {one["evalset"]: one["n_grams"] for one in overlap.summary(lake, new)}["lambada"] == 13


def test_strings_decide_when_the_filter_finds_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a filter that finds everything, the numbers stay the same and the false hits are counted."""
    sets = write_sets(tmp_path / "sets")
    lake = make_corpus(tmp_path, SNAPSHOTS[:1])
    exact = overlap.summary(lake, overlap.run(lake, SNAPSHOTS[:1], sets).manifest)
    lake.remove("overlap")
    overlap._load.cache_clear()
    monkeypatch.setattr(BloomFilter, "find", lambda _, hashes: overlap.np.arange(len(hashes)))
    manifest = overlap.run(lake, SNAPSHOTS[:1], sets).manifest
    assert overlap.summary(lake, manifest) == exact
    assert manifest.extra["false_hits"] > 1_000
    overlap._load.cache_clear()


def test_bad_input_is_refused(tmp_path: Path) -> None:
    sets = write_sets(tmp_path / "sets")
    lake = make_corpus(tmp_path, SNAPSHOTS[:1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no evaluation set found; it needs a file such as lambada_test"):
        overlap.run(lake, SNAPSHOTS[:1], tmp_path / "empty")
    with pytest.raises(InputError, match=r"--eval-data .*none: no such directory"):
        overlap.run(lake, SNAPSHOTS[:1], tmp_path / "none")
    with pytest.raises(InputError, match="tokens/none: no such dataset"):
        overlap.run(lake, ["none"], sets)
    with pytest.raises(InputError, match="names a snapshot twice"):
        overlap.run(lake, ["2026-10", "2026-10"], sets)
    text = tmp_path / "lake/text/2026-10/part-00000.parquet"
    body = bytearray(text.read_bytes())
    body[len(body) // 2] ^= 1
    text.write_bytes(body)
    with pytest.raises(InputError, match=r"text/2026-10/part-00000.parquet: sha256 is"):
        overlap.run(lake, SNAPSHOTS[:1], sets)


def test_a_corpus_without_documents_has_no_overlap(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    add_text(lake, "s", {"part-00000": [row(None, "empty")]})
    select_stage.run(lake, "s", None, SelectConfig())
    tokens_stage.run(lake, "s", CONFIG)
    summary = overlap.summary(lake, overlap.run(lake, ["s"], write_sets(tmp_path / "sets")).manifest)
    assert [one["in_corpus"] for one in summary] == [0, 0]


def test_a_damaged_result_is_named_and_made_again(tmp_path: Path) -> None:
    sets = write_sets(tmp_path / "sets")
    lake = make_corpus(tmp_path, SNAPSHOTS[:1])
    manifest = overlap.run(lake, SNAPSHOTS[:1], sets).manifest
    file = tmp_path / "lake/overlap" / manifest.snapshot / "2026-10-part-00000.parquet"
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    with pytest.raises(InputError, match=rf"sha256 is .* remove it and overlap/{manifest.snapshot}/_manifest.json"):
        overlap.run(lake, SNAPSHOTS[:1], sets)
    file.unlink()
    (file.parent / "_manifest.json").unlink()
    assert overlap.run(lake, SNAPSHOTS[:1], sets).manifest.digest == manifest.digest
