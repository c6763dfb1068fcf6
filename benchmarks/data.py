"""From WARC files to token shards, beside bare trafilatura and datatrove; and select and tokens on many documents.

    python -m benchmarks.data [--only shards,documents] [--pages DIR]... [--datatrove PYTHON] [--documents N]
                              [--turns 3] [--quick] [--folder DIR] [--cache DIR]

    shards      The text, select and tokens stages with two workers, everything on, against two peers on the same WARC
                files, in turn: bare trafilatura in two processes, which writes nothing; and datatrove, which does the
                same work (reader, trafilatura, its Gopher filters, MinHash at our setting, its tokenizer). Trafilatura
                has the same options in all three. The pages are those of the demo's local web, or those of the folders
                that --pages names (each with html/*.html.gz and ground-truth.json or gold.jsonl.gz).
    documents   select and tokens on N made documents as long as the demo's, some of them copies.

Each subject runs in its own process. Seconds are from its start to its end, and CPU seconds are those of all its
processes. What it takes for a handful of pages is subtracted from both, because it vanishes in a month's crawl; the
table shows it. Ratios are taken within each turn, and their median is reported: above 1 ours is faster. Peak memory
is sampled over all processes, pages that they share counted once each.

``--quick`` runs everything in seconds to check that it works; its numbers mean nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.data_corpus import SNAPSHOT, local_articles, pages_of, write_documents, write_pages
from benchmarks.machine import machine

ROOT = Path(__file__).parents[1]
CACHE = Path(tempfile.gettempdir()) / "webtext-bench"
SCENARIOS = ("shards", "documents")
GOALS = {"bare": 0.9, "datatrove": 1.8}
N_PARTS = 2  # parts of the pages dataset, and WARC files; datatrove gives each worker a file
STARTUP_PAGES = 8

_SAMPLE_S = 0.2
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    turns: int = 3
    pages: int | None = None  # at most
    documents: int = 20_000
    part_documents: int = 20_000  # as LinksConfig.part_links


QUICK = Size(turns=1, pages=24, documents=300, part_documents=100)


def options() -> dict[str, Any]:
    """trafilatura's options as our text stage has them, as keyword arguments of ``bare_extraction``."""
    from data.text.extract import DATES

    return {
        "include_comments": False,
        "include_tables": True,
        "include_formatting": False,
        "deduplicate": False,
        "with_metadata": True,  # ours takes title and date only, by other means
        "date_extraction_params": DATES,
    }


def measure(command: list[str]) -> Result:
    """Run a program; returns the JSON of its last line, and wall_s, cpu_s and peak_rss_mb of all its processes."""
    with tempfile.TemporaryFile("w+") as errors:
        before = _children_cpu_s()
        others = _own_children()
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident_bytes(process.pid))
            time.sleep(_SAMPLE_S)
        wall_s = time.monotonic() - started
        for pid in _own_children() - others:
            os.waitpid(pid, 0)
        assert process.stdout is not None
        with process.stdout:
            output = process.stdout.read()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(
                f"{' '.join(command)} failed with exit code {process.returncode}:\n{errors.read()[-5000:]}"
            )
    result: Result = json.loads(output.splitlines()[-1])
    return result | {"wall_s": wall_s, "cpu_s": _children_cpu_s() - before, "peak_rss_mb": peak / 2**20}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt_orphans() -> None:
    """Make this process the parent of orphans below it, so that the CPU time of a fork server's children counts."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _own_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _resident_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


class Subjects:
    """The programs that make shards from one lake's WARC files, by name. ``run`` gives each a fresh output folder."""

    def __init__(self, lake: Path, scratch: Path, datatrove: str | None) -> None:
        self.lake = lake
        self.scratch = scratch
        self.datatrove = datatrove
        self.names = ["bare", *(["datatrove"] if datatrove else []), "ours"]

    def run(self, name: str) -> Result:
        out = self.scratch / "out"
        warcs = str(self.lake / "pages" / SNAPSHOT)
        python = sys.executable
        if name == "ours":
            shutil.copytree(self.lake, out)
            command = [python, "-m", "benchmarks.data_peers.ours", str(out), "text,select,tokens"]
        elif name == "bare":
            command = [python, "-m", "benchmarks.data_peers.bare", warcs, json.dumps(options())]
        else:
            assert self.datatrove is not None
            tokenizer = str(write_tokenizer(self.scratch / "tokenizer.json"))
            module = "benchmarks.data_peers.datatrove_pipeline"
            command = [self.datatrove, "-m", module, warcs, str(out), tokenizer, json.dumps(options())]
        print(f"{name}: {self.lake.name} pages", file=sys.stderr, flush=True)
        try:
            return measure(command)
        finally:
            shutil.rmtree(out, ignore_errors=True)


def write_tokenizer(path: Path) -> Path:
    """GPT-2's byte pairs as the ``tokenizers`` library reads them."""
    if not path.exists():
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        from model.hf import tokenizer_files

        tokenizer = Tokenizer(models.BPE(*tokenizer_files()))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|endoftext|>"])
        tokenizer.save(str(path))
    return path


def shards(size: Size, folders: list[Path], datatrove: str | None, cache: Path, scratch: Path) -> dict[str, Any]:
    """Results by subject, turn by turn, and what each takes for STARTUP_PAGES pages."""
    pages = list(pages_of(folders, cache))[: size.pages]
    n_pages = write_pages(scratch / "all", pages, N_PARTS)
    write_pages(scratch / "few", pages[:STARTUP_PAGES], N_PARTS)
    few = Subjects(scratch / "few", scratch, datatrove)
    startup = {name: few.run(name) for name in few.names}
    every = Subjects(scratch / "all", scratch, datatrove)
    turns: dict[str, list[Result]] = {name: [] for name in every.names}
    for _ in range(size.turns):
        for name in every.names:
            turns[name].append(every.run(name))
    return {"pages": n_pages, "bytes": sum(len(page.body) for page in pages), "startup": startup, "turns": turns}


def net(found: dict[str, Any], name: str, what: str) -> list[float]:
    """Seconds of each turn without the start-up; at least a thousandth, where --quick leaves nothing."""
    return [max(1e-3, turn[what] - found["startup"][name][what]) for turn in found["turns"][name]]


def report_shards(found: dict[str, Any], ratios: dict[str, float], ours: Result, peers: Result) -> float:
    """Print the table and fill in the results; returns the peak memory of our processes in MB."""
    n_pages = found["pages"]
    print(
        f"shards: {n_pages:,} pages, {found['bytes'] / 1e6:,.0f} MB of HTML, medians of {len(found['turns']['ours'])}"
    )
    print(
        f"  {'':10}{'pages/s':>9}{'pages/CPU s':>13}{'wall s':>9}{'CPU s':>8}{'start-up':>10}{'MB':>7}{'documents':>11}"
    )
    for name, turns in found["turns"].items():
        wall, cpu = median(net(found, name, "wall_s")), median(net(found, name, "cpu_s"))
        rss = max(turn["peak_rss_mb"] for turn in turns)
        middle = {
            "pages_per_s": round(n_pages / wall, 2),
            "pages_per_cpu_s": round(n_pages / cpu, 2),
            "wall_s": [round(turn["wall_s"], 2) for turn in turns],
            "cpu_s": [round(turn["cpu_s"], 2) for turn in turns],
            "startup_wall_s": round(found["startup"][name]["wall_s"], 2),
            "startup_cpu_s": round(found["startup"][name]["cpu_s"], 2),
            "peak_rss_mb": round(rss, 1),
            "pages_read": turns[0]["pages"],
            "documents": turns[0]["documents"],
        }
        print(
            f"  {name:10}{middle['pages_per_s']:9.1f}{middle['pages_per_cpu_s']:13.1f}{wall:9.1f}{cpu:8.1f}"
            f"{middle['startup_wall_s']:12.1f}{rss:7.0f}{middle['documents']:11,}"
        )
        if middle["pages_read"] != n_pages:
            print(f"  {name} read {middle['pages_read']:,} of the {n_pages:,} pages")
        if name == "ours":
            last = turns[-1]
            ours["shards"] = middle | {key: last[key] for key in ("seconds", "counts", "tokens", "digest")}
        else:
            peers[name] = middle | ({"tokens": turns[0]["tokens"]} if "tokens" in turns[0] else {})
    for peer in peers:
        for what, unit in (("wall_s", ""), ("cpu_s", "_cpu")):
            pairs = zip(net(found, peer, what), net(found, "ours", what), strict=True)
            ratios[f"vs_{peer}{unit}"] = round(median(theirs / own for theirs, own in pairs), 3)
        ratio, cpu_ratio = ratios[f"vs_{peer}"], ratios[f"vs_{peer}_cpu"]
        print(f"  ours / {peer}: {ratio:.2f} (CPU {cpu_ratio:.2f}; goal: at least {GOALS[peer]})")
    _print_shares(ours["shards"]["seconds"])
    return float(ours["shards"]["peak_rss_mb"])


def _print_shares(seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    print("  stages: " + ", ".join(f"{name} {s:.1f} s ({s / total:.0%})" for name, s in seconds.items()))


def documents(size: Size, cache: Path, scratch: Path) -> Result:
    """Run select and tokens on made documents."""
    n_words = write_documents(scratch / "lake", local_articles(cache), size.documents, size.part_documents)
    found = measure([sys.executable, "-m", "benchmarks.data_peers.ours", str(scratch / "lake"), "select,tokens"])
    rates = {f"{name}_documents_per_s": round(size.documents / s, 1) for name, s in found["seconds"].items() if s}
    return found | rates | {"n": size.documents, "words": n_words}


def report_documents(found: Result) -> None:
    print(f"documents: {found['n']:,} of {found['words'] / found['n']:,.0f} words on average, two workers")
    _print_shares(found["seconds"])
    print(f"  {found['wall_s']:.1f} s, {found['cpu_s']:.1f} CPU s, peak {found['peak_rss_mb']:,.0f} MB")
    print(f"  select: {found['counts']['select']}; {found['tokens']:,} tokens")


def report(only: list[str], size: Size, arguments: argparse.Namespace, folder: Path) -> Result:
    """Run the scenarios, print their tables, and return the JSON line."""
    ratios: dict[str, float] = {}
    ours: Result = {}
    peers: Result = {}
    peaks = []
    for name in only:
        scratch = folder / name
        scratch.mkdir()
        if name == "shards":
            found = shards(size, arguments.pages, arguments.datatrove, arguments.cache, scratch)
            peaks.append(report_shards(found, ratios, ours, peers))
            if arguments.datatrove is None:
                print("  not compared with datatrove: name the Python of its virtual environment with --datatrove")
        else:
            ours["documents"] = documents(size, arguments.cache, scratch)
            report_documents(ours["documents"])
            peaks.append(ours["documents"]["peak_rss_mb"])
        shutil.rmtree(scratch)
    return {
        "bench": "data",
        "ratios": ratios,
        "ours": ours,
        "peers": peers,
        "peak_rss_mb": round(max(peaks), 1),
        "machine": machine(),
        "size": dataclasses.asdict(size) | {"pages": [str(path) for path in arguments.pages] or "local web"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"scenarios to run, from {','.join(SCENARIOS)}")
    parser.add_argument(
        "--pages", type=Path, action="append", default=[], help="folder of real pages; repeatable [the local web]"
    )
    parser.add_argument("--datatrove", metavar="PYTHON", help="the Python of datatrove's virtual environment")
    parser.add_argument("--documents", type=int, default=Size.documents, help="documents of the scenario of that name")
    parser.add_argument("--turns", type=int, default=Size.turns)
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes to check that it works; the numbers mean nothing"
    )
    parser.add_argument("--folder", type=Path, help="directory for temporary lakes (6 kB per document)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory that keeps the local web")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    unknown = sorted(set(only) - set(SCENARIOS))
    if unknown:
        parser.error(f"--only {unknown[0]}: no such scenario; choose from {', '.join(SCENARIOS)}")
    for path in arguments.pages:
        if not any((path / name).is_file() for name in ("ground-truth.json", "gold.jsonl.gz")):
            parser.error(f"--pages {path}: no ground-truth.json or gold.jsonl.gz there; name a folder of pages")
    if arguments.datatrove and shutil.which(arguments.datatrove) is None:
        parser.error(f"--datatrove {arguments.datatrove}: no such program; make bench-data installs it")
    size = QUICK if arguments.quick else Size(turns=arguments.turns, documents=arguments.documents)
    _adopt_orphans()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="webtext-bench-") as folder:
        print(json.dumps(report(only, size, arguments, Path(folder))))


if __name__ == "__main__":
    main()
