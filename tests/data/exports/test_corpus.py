"""Each format is read back by the reader of the program that it is for, or by one that follows its description."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data import bpe
from data.config import SelectConfig, TokensConfig
from data.errors import InputError
from data.exports import streams
from data.exports.corpus import FORMATS, ExportedCorpus, export_corpus
from data.lake.store import Lake
from data.select import stage as select_stage
from data.tokens import stage as tokens_stage
from tests.data.select.test_stage import add_text, prose, row

SNAPSHOTS = ("2026-10", "2026-11")
CONFIG = TokensConfig(val_share=0.2, shard_documents=6)
SPLITS = ("train", "val")
ROOT = Path(__file__).parents[3]


def make_corpus(folder: Path, n: int = 20) -> Lake:
    """Two snapshots with ``n`` documents in two parts each, in several shards."""
    lake = Lake(folder / "lake")
    for number, snapshot in enumerate(SNAPSHOTS):
        rows = [
            row(
                f"{prose(number * n + k)} Naïve № {k} <|endoftext|>",
                f"a{number}-{k}",
                karma=k,
                title=f'Title "{k}"' if k % 2 else None,
                date="2026-10-01",
            )
            for k in range(n)
        ]
        add_text(
            lake, snapshot, {"part-00000": [*rows[: n // 2], row(None, f"e{number}")], "part-1-00000": rows[n // 2 :]}
        )
        select_stage.run(lake, snapshot, None, SelectConfig())
        tokens_stage.run(lake, snapshot, CONFIG)
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def documents(lake: Lake, split: str) -> list[tuple[bytes, list[int]]]:
    """Ids and tokens of a split in corpus order, read from the shards."""
    found = []
    for snapshot in SNAPSHOTS:
        dataset = lake.dataset("tokens", snapshot)
        for file in dataset.require().files_in(split):
            table = dataset.read(file.path)
            found += list(zip(table["doc_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    assert len(found) >= 5
    return found


def export(lake: Lake, form: str, to: Path) -> ExportedCorpus:
    steps = []
    result = export_corpus(lake, SNAPSHOTS, form, to, lambda done, total: steps.append((done, total)))
    assert steps == [(n + 1, len(steps)) for n in range(len(steps))]
    for split in SPLITS:
        wanted = documents(lake, split)
        assert result.documents[split] == len(wanted)
        assert result.tokens[split] == sum(len(tokens) for _, tokens in wanted)
    assert result.files == {str(p.relative_to(to)): p.stat().st_size for p in to.rglob("*") if p.is_file()}
    assert sorted(path.name for path in to.parent.iterdir() if path.name.startswith(".")) == []
    return result


def test_nanogpt_reads_the_tokens(lake: Lake, tmp_path: Path) -> None:
    export(lake, "nanogpt", tmp_path / "out")
    for split in SPLITS:
        read = np.memmap(tmp_path / "out" / f"{split}.bin", dtype=np.uint16, mode="r")  # as nanoGPT's train.py
        assert read.tolist() == [token for _, tokens in documents(lake, split) for token in tokens]


def read_llmc(path: Path) -> list[int]:
    """As dataloader.h of llm.c: header, version, count and file size are checked, tokens follow."""
    content = path.read_bytes()
    header = np.frombuffer(content[:1024], dtype=np.int32)
    assert header[:2].tolist() == [20240520, 1]
    assert len(content) == 1024 + 2 * header[2]
    assert not header[3:].any()
    return np.frombuffer(content[1024:], dtype=np.uint16).tolist()


@pytest.mark.parametrize("per_file", [streams.LLMC_FILE_TOKENS, 1_000])
def test_llmc_reads_the_tokens(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_file: int) -> None:
    monkeypatch.setattr(streams, "LLMC_FILE_TOKENS", per_file)
    export(lake, "llmc", tmp_path / "out")
    for split in SPLITS:
        files = sorted((tmp_path / "out").glob(f"webtext_{split}_*.bin"))  # the pattern that llm.c takes
        assert files[0].stem.endswith("000001" if split == "train" else "000000")
        read = [read_llmc(path) for path in files]
        assert {len(tokens) for tokens in read[:-1]} <= {per_file}
        assert (len(files) == 1) == (per_file > 1_000)
        wanted = [bpe.END_OF_TEXT, *(token for _, tokens in documents(lake, split) for token in tokens)][:-1]
        assert [token for tokens in read for token in tokens] == wanted


def read_datatrove(folder: Path) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens and document ends of each file, as datatrove's utils/dataset.py reads them."""
    for path in sorted(folder.glob("*.ds")):
        tokens = np.frombuffer(path.read_bytes(), dtype=np.uint16).tolist()
        yield tokens, np.frombuffer(path.with_name(f"{path.name}.index").read_bytes(), dtype=np.uint64).tolist()


def test_datatrove_files_hold_the_documents_and_their_ends(lake: Lake, tmp_path: Path) -> None:
    export(lake, "datatrove", tmp_path / "out")
    for split in SPLITS:
        found = []
        for tokens, ends in read_datatrove(tmp_path / "out" / split):
            assert ends[-1] == len(tokens)
            found += [tokens[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        assert found == [tokens for _, tokens in documents(lake, split)]


def test_datatrove_itself_reads_the_files(lake: Lake, tmp_path: Path) -> None:
    dataset = pytest.importorskip("datatrove.utils.dataset", reason="datatrove is not installed")
    export(lake, "datatrove", tmp_path / "out")
    read = dataset.DatatroveFolderDataset(str(tmp_path / "out" / "train"), seq_len=31, return_positions=True)
    wanted: list[int] = []
    positions: list[int] = []
    for tokens, ends in read_datatrove(tmp_path / "out" / "train"):
        whole = len(tokens) - len(tokens) % 32
        place = [k for start, end in zip([0, *ends[:-1]], ends, strict=True) for k in range(end - start)]
        wanted += tokens[:whole]
        positions += [min(k, n % 32) for n, k in enumerate(place[:whole])]  # a window begins at 0
    windows = [read[n] for n in range(len(read))]
    assert [int(token) for window in windows for token in window["input_ids"]] == wanted
    assert [int(place) for window in windows for place in window["positions"]] == positions


def wanted_rows(lake: Lake, split: str) -> list[dict[str, object]]:
    """What a document has in the formats with texts, from the text stage."""
    texts = {}
    for snapshot in SNAPSHOTS:
        for name in ("part-00000", "part-1-00000"):
            for one in lake.dataset("text", snapshot).read(f"{name}.parquet").to_pylist():
                texts[one["doc_id"]] = {**one, "snapshot": snapshot}
    names = ("snapshot", "url", "domain", "karma", "title", "date", "language", "text")
    rows = []
    for doc_id, tokens in documents(lake, split):
        assert bpe.decode(tokens[:-1]) == texts[doc_id]["text"]
        rows.append({"doc_id": doc_id.hex(), "n_tokens": len(tokens), **{name: texts[doc_id][name] for name in names}})
    return rows


def test_jsonl_has_one_document_per_line(lake: Lake, tmp_path: Path) -> None:
    export(lake, "jsonl", tmp_path / "out")
    for split in SPLITS:
        files = sorted((tmp_path / "out").glob(f"{split}-*.jsonl"))
        rows = [json.loads(line) for path in files for line in path.read_text().split("\n")[:-1]]
        assert rows == wanted_rows(lake, split)


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_reads_the_documents(lake: Lake, tmp_path: Path, streaming: bool) -> None:
    from datasets import load_dataset

    export(lake, "hf", tmp_path / "out")
    read = load_dataset(str(tmp_path / "out"), streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert set(read) == {"train", "validation"}
    for split, name in (("train", "train"), ("val", "validation")):
        assert list(read[name]) == wanted_rows(lake, split)


# ---- bad input and accidents


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_ends_the_export_and_leaves_nothing(tmp_path: Path, form: str) -> None:
    lake = make_corpus(tmp_path, n=4)
    kind = "text/2026-11/part-00000" if form in ("hf", "jsonl") else "tokens/2026-11/train/part-00000"
    path = tmp_path / "lake" / f"{kind}.parquet"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(InputError, match=rf"{kind}.parquet: sha256 is"):
        export_corpus(lake, SNAPSHOTS, form, tmp_path / "out", lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


def test_what_cannot_be_exported_is_refused(lake: Lake, tmp_path: Path) -> None:
    def refused(message: str, form: str = "jsonl", names: tuple[str, ...] = SNAPSHOTS, to: str = "out") -> None:
        with pytest.raises(InputError, match=message):
            export_corpus(lake, names, form, tmp_path / to, lambda *_: None)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    refused("--format mds: no such format; choose from nanogpt, llmc, datatrove, hf, jsonl", form="mds")
    refused("tokens/none: no such dataset", names=("none",))
    refused("names a snapshot twice", names=("2026-10", "2026-10"))
    refused("full: exists and is not an empty directory", to="full")
    refused("file: exists and is not an empty directory", to="file")
    refused("cannot be written", to="file/below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_a_corpus_without_documents_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    add_text(lake, "s", {"part-00000": [row(None, "empty")]})
    select_stage.run(lake, "s", None, SelectConfig())
    tokens_stage.run(lake, "s", CONFIG)
    for form in FORMATS:
        with pytest.raises(InputError, match="--corpus s: has no document"):
            export_corpus(lake, ("s",), form, tmp_path / "out", lambda *_: None)


def test_an_empty_split_is_left_out(tmp_path: Path) -> None:
    from datasets import load_dataset

    lake = Lake(tmp_path / "lake")
    add_text(lake, "s", {"part-00000": [row(prose(k), f"a{k}") for k in range(3)]})
    select_stage.run(lake, "s", None, SelectConfig())
    tokens_stage.run(lake, "s", TokensConfig(val_share=0.0))
    for form in FORMATS:
        export_corpus(lake, ("s",), form, tmp_path / form, lambda *_: None)
    assert set(load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))) == {"train"}
    assert (tmp_path / "nanogpt" / "val.bin").stat().st_size == 0  # nanoGPT opens both files
    assert [path.name for path in (tmp_path / "llmc").iterdir()] == ["webtext_train_000001.bin"]
    assert [path.name for path in (tmp_path / "datatrove").iterdir()] == ["train"]


def test_texts_of_another_select_are_refused(tmp_path: Path) -> None:
    lake = make_corpus(tmp_path, n=4)
    lake.remove("select", "2026-11")
    select_stage.run(lake, "2026-11", None, SelectConfig(min_language_score=0.5))
    with pytest.raises(InputError, match="tokens/2026-11 was made from another select/2026-11"):
        export_corpus(lake, SNAPSHOTS, "jsonl", tmp_path / "out", lambda *_: None)


def test_a_full_disk_names_the_target_and_leaves_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streams, "_flat", full)
    with pytest.raises(OSError, match="out") as caught:
        export_corpus(lake, SNAPSHOTS, "nanogpt", tmp_path / "out", lambda *_: None)
    assert caught.value.filename == str(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_nothing_that_looks_finished(lake: Lake, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from data.exports.corpus import export_corpus; from data.lake.store import Lake\n"
        "kill = lambda done, total: done < total - 1 or os.kill(os.getpid(), signal.SIGKILL)\n"
        f"export_corpus(Lake(sys.argv[1]), {SNAPSHOTS}, sys.argv[2], Path(sys.argv[3]), kill)\n"
    )
    for form in ("llmc", "jsonl"):
        to = tmp_path / form
        command = [sys.executable, "-c", program, lake.root, form, str(to)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        assert not to.exists()
        assert [path.name for path in tmp_path.iterdir() if form in path.name] == [f".{form}.partial"]
        export(lake, form, to)  # removes what the killed one left


def test_an_empty_target_is_used_with_its_usual_permissions(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(lake, "nanogpt", tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert os.listdir(tmp_path / "out")  # noqa: PTH208
