"""The benchmark of extraction to shards, with tiny sizes: it runs, compares the same pages, and says what it made."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data import QUICK, Subjects, measure
from benchmarks.data_corpus import SNAPSHOT, RawPage, write_documents, write_pages
from data.config import SelectConfig
from data.lake.store import Lake
from data.select import stage as select
from data.warc import read_payload
from tests.data.select.test_stage import prose

ROOT = Path(__file__).parents[1]
DATATROVE = Path(os.environ.get("DATATROVE", ROOT / ".venv-datatrove")) / "bin" / "python"
HANDED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test that needs the local web builds it here."""
    return tmp_path_factory.mktemp("home")


def _bench(folder: Path, home: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.data", "--quick", "--folder", str(folder), "--cache", str(home)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []  # the lakes are removed
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "data"
    assert result.keys() >= {"ratios", "ours", "peers", "peak_rss_mb", "machine"}
    assert result["peak_rss_mb"] > 100
    return result


def test_shards_compares_the_same_pages(tmp_path: Path, home: Path) -> None:
    result = _bench(tmp_path, home, "--only", "shards")
    assert result["ratios"].keys() == {"vs_bare", "vs_bare_cpu"}
    ours = result["ours"]["shards"]
    assert sum(ours["counts"]["text"].values()) == QUICK.pages
    assert ours["seconds"].keys() == {"text", "select", "tokens"}
    assert 0 < ours["documents"] <= ours["counts"]["text"]["ok"] == result["peers"]["bare"]["documents"]
    assert ours["tokens"] > 50 * ours["documents"]


@pytest.mark.slow
@pytest.mark.skipif(not DATATROVE.exists(), reason="datatrove has no virtual environment (make bench-data makes it)")
@pytest.mark.skipif(not HANDED.is_dir(), reason="../shared/data is not there")
def test_datatrove_makes_shards_of_real_pages(tmp_path: Path, home: Path) -> None:
    pages = [f"--pages={HANDED / name}" for name in ("pages", "wcxb")]
    result = _bench(tmp_path, home, "--only", "shards", "--datatrove", str(DATATROVE), *pages)
    assert result["ratios"].keys() == {f"vs_{peer}{unit}" for peer in ("bare", "datatrove") for unit in ("", "_cpu")}
    theirs = result["peers"]["datatrove"]
    assert theirs["pages_read"] == QUICK.pages
    assert 0 < theirs["documents"] <= QUICK.pages
    assert theirs["tokens"] > 50 * theirs["documents"]


def test_documents_reports_the_time_of_each_stage(tmp_path: Path, home: Path) -> None:
    found = _bench(tmp_path, home, "--only", "documents")["ours"]["documents"]
    assert sum(found["counts"]["select"].values()) == QUICK.documents
    assert found["documents"] == found["counts"]["select"]["ok"] > QUICK.documents * 0.8
    assert found["seconds"].keys() == {"select", "tokens"}
    assert {"select_documents_per_s", "tokens_documents_per_s", "wall_s", "cpu_s", "peak_rss_mb"} <= found.keys()


def test_made_documents_hold_the_planted_copies_and_no_others(tmp_path: Path) -> None:
    texts = [prose(number, 200) for number in range(50)]
    assert write_documents(tmp_path, texts, 1_000, part_documents=400) > 200 * 1_000
    counts = select.run(Lake(tmp_path), SNAPSHOT, None, SelectConfig()).manifest.counts
    assert sum(counts.values()) == 1_000
    assert 20 <= counts["exact_duplicate"] <= 60
    assert 10 <= counts["near_duplicate"] <= 50
    assert counts["ok"] > 850


def test_pages_lie_in_warc_files_once_per_url(tmp_path: Path) -> None:
    pages = [RawPage(f"http://a.example/{k % 5}", "text/html", b"<p>%d</p>" % k) for k in range(7)]
    assert write_pages(tmp_path, pages, 2) == 5
    dataset = Lake(tmp_path).dataset("pages", SNAPSHOT)
    rows = [row for number in (0, 1) for row in dataset.read(f"part-{number:05d}.parquet").to_pylist()]
    assert [len(dataset.read(f"part-{number:05d}.parquet")) for number in (0, 1)] == [3, 2]
    for row in rows:
        with (tmp_path / "pages" / SNAPSHOT / row["warc_file"]).open("rb") as file:
            body = read_payload(file, row["warc_offset"])[1]
        number = int(row["canonical_url"][-1])
        assert body == b"<p>%d</p>" % (number + 5 if number < 2 else number)  # the last page of a URL


def test_the_cpu_time_of_a_fork_servers_children_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    code = (
        "import subprocess, sys, json\n"
        f"inner = 'import subprocess, sys; subprocess.Popen([sys.executable, \"-c\", sys.argv[1]])'\n"  # an orphan
        f"subprocess.run([sys.executable, '-c', inner, {burn!r}])\n"
        "print(json.dumps({'documents': 1}))"
    )
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", f"from benchmarks import data; data._adopt_orphans(); import json, sys;"
             f"print(json.dumps(data.measure([sys.executable, '-c', {code!r}])))"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    assert found["documents"] == 1
    assert found["cpu_s"] > 0.4


def test_a_subject_that_fails_ends_the_benchmark_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)failed with exit code 1:.*ZeroDivisionError"):
        measure([sys.executable, "-c", "1 / 0"])
    assert Subjects(tmp_path, tmp_path, None).names == ["bare", "ours"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "shards,weight"], "--only weight: no such scenario"),
        (["--pages", "nowhere"], "--pages nowhere: no ground-truth.json or gold.jsonl.gz there"),
        (["--datatrove", "nowhere"], "--datatrove nowhere: no such program"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "benchmarks.data", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
