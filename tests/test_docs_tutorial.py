"""The tutorial's blocks run, without WebText, on a corpus that WebText's own stages made."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from data import bpe
from data.config import LinksConfig, SelectConfig, TextConfig, TokensConfig, content_settings
from data.lake.store import Lake, write_parquet
from data.links import stage as links
from data.schema import TEXT
from data.select import stage as select
from data.text import signals
from data.text import stage as text
from data.tokens import stage as tokens
from flows.cli import main as cli
from tests import documents

BLOCKS = documents.blocks("docs/tutorial.md", "python")
RANKS_URL = b"https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
N_DOCUMENTS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``lake/`` as the demo leaves it: many documents in one part, an empty shard in another."""
    folder = tmp_path_factory.mktemp("tutorial")
    lake = Lake(folder / "lake")
    posts = [
        {
            "id": f"id{n}",
            "created_utc": 1_500_000_000 + n,
            "subreddit": "science",
            "url": f"http://site{n}.example/story",
            "score": 3 + n,
        }
        for n in range(N_DOCUMENTS + 1)
    ]
    (folder / "RS_demo.ndjson").write_bytes(b"".join(orjson.dumps(post) + b"\n" for post in posts))
    links.run(lake, "demo", [str(folder / "RS_demo.ndjson")], LinksConfig())
    words = np.random.default_rng(0)
    frequency = 1 / np.arange(1, len(WORDS) + 1)
    texts = [" ".join(words.choice(WORDS, 300, p=frequency / frequency.sum()).tolist()) for _ in range(N_DOCUMENTS)]
    publish_texts(lake, {"part-00000": texts, "part-1-00000": ["too short"]})
    select.run(lake, "demo", None, SelectConfig())
    tokens.run(lake, "demo", TokensConfig(val_share=0.2))
    cache = folder / "ranks"  # where tiktoken would keep its download
    cache.mkdir()
    (cache / hashlib.sha1(RANKS_URL, usedforsecurity=False).hexdigest()).write_bytes(bpe.RANKS.read_bytes())
    return folder


def publish_texts(lake: Lake, parts: dict[str, list[str]]) -> None:
    dataset = lake.dataset("text", "demo")
    dataset.begin(content_settings(TextConfig()), {})
    number = 0
    for name, texts in parts.items():
        rows = []
        for body in texts:
            url = f"http://site{number}.example/story"
            known = {"doc_id": text.document_id(url, body), "url": url, "domain": f"site{number}.example", "text": body}
            english = {"language": "en", "language_score": 0.99, "status": "ok", "karma": 3 + number}
            rows.append({**dict.fromkeys(TEXT.names), **known, **english, **signals.measure(body)._asdict()})
            number += 1
        table = pa.Table.from_pylist(rows, schema=TEXT)
        with lake.scratch() as scratch:
            write_parquet(table, scratch / "text")
            dataset.seal(name, {f"{name}.parquet": scratch / "text"}, table, counts={"ok": len(rows)})
    dataset.finish(list(parts), {}, 0.0)


def run(block: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "TIKTOKEN_CACHE_DIR": str(folder / "ranks"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # threads of tests that run side by side would wait for each other
    }
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def block_with(words: str) -> str:
    (found,) = [block for block in BLOCKS if words in block]
    return found


def test_no_block_needs_webtext() -> None:
    imported = {name for block in BLOCKS for name in re.findall(r"^\s*(?:import|from) (\w+)", block, re.MULTILINE)}
    assert not imported & {"data", "model", "flows"}
    assert {"duckdb", "datasets", "torch", "tiktoken"} <= imported


def test_duckdb_counts_documents_by_split_and_domain(folder: Path) -> None:
    output = run(block_with("split_part"), folder)
    assert "train" in output
    assert "val" in output
    assert ".example" in output


def test_duckdb_joins_documents_to_their_votes(folder: Path) -> None:
    output = run(block_with("links.karma"), folder)
    assert "too_short" in output
    assert re.search(r"\b62\b.*science", output)  # the highest karma


def test_tiktoken_decodes_a_document(folder: Path) -> None:
    output = run(block_with("tiktoken"), folder)
    assert set(output.splitlines()[1].split()[:-1]) <= set(WORDS)


def test_datasets_loads_the_shards_although_one_is_empty(folder: Path) -> None:
    output = run(block_with("load_dataset"), folder)
    train, val = (
        sum(part.extra[f"{split}_docs"] for part in Lake(folder / "lake").dataset("tokens", "demo").require().parts)
        for split in ("train", "val")
    )
    assert train + val == N_DOCUMENTS
    assert f"num_rows: {train}" in output
    assert f"num_rows: {val}" in output
    assert "torch.Size([64])" in output


def test_torch_learns_from_the_shards(folder: Path) -> None:
    losses = [float(value) for value in re.findall(r"([\d.]+) nats/token", run(block_with("AdamW"), folder))]
    assert 10.5 < losses[0] < 11.5  # ln 50257 = 10.8
    assert losses[-1] < losses[0] - 1  # the validation loss


def test_the_check_finds_a_damaged_file(folder: Path) -> None:
    block = block_with("sha256")
    digest = Lake(folder / "lake").dataset("tokens", "demo").require().digest
    assert digest in run(block, folder)
    path = folder / "lake" / "tokens" / "demo" / "val" / "part-00000.parquet"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + b"!")
        with pytest.raises(AssertionError, match=r"val/part-00000\.parquet"):
            run(block, folder)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("webtext status", "demo"),
        ("webtext report --snapshot demo", "1 snapshots"),
        ("webtext refresh --links RS_demo.ndjson --dry-run", f"{N_DOCUMENTS + 1} domains"),
        ("webtext why http://site0.example/story", "ok"),
        ("webtext train --corpus demo --preset 124M --dry-run", "124,439,808"),
    ],
)
def test_what_the_guides_run_first_runs_on_this_lake(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WEBTEXT_LAKE", "lake")
    monkeypatch.setenv("WEBTEXT_HOME", str(folder / "home"))
    result = CliRunner().invoke(cli.app, shlex.split(line)[1:], catch_exceptions=False)
    assert result.exit_code == 0
    assert expected in result.output
