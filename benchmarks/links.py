"""The speed of reading a submission dump: rows/s of our stage and of a script with json.loads, in turn.

    python -m benchmarks.links [--rows 1000000] [--repeats 3] [--workers N] [--cache DIR]

benchmarks/links_dump.py makes the dump once, in the cache directory. Each subject runs ``repeats`` times, in turn, each
time in its own process:

    peer    benchmarks/links_peers/pushshift.py: decompress, json.loads, pick fields, drop low scores and text posts
    parse   the same work with our reader, processes and decoder: the cost of parsing alone
    judge   decompress, give every line its status and every link its canonical URL and domain
    stage   the whole links stage: judge, then sort by domain, merge by URL, write, hash, publish

The table compares medians of wall seconds, from opening the file to the last record, and of CPU seconds of the process
and its children, including their start. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.links_dump import write_dump
from benchmarks.machine import machine

ROOT = Path(__file__).parents[1]
LINKS = ROOT.parent / "shared" / "data" / "links"
PEER = ROOT / "benchmarks" / "links_peers" / "pushshift.py"
CACHE = Path(tempfile.gettempdir()) / "webtext-bench"


def parse(path: Path, workers: int) -> dict[str, Any]:
    """Do the work of the peer; returns lines, kept submissions and seconds."""
    from data.links.blocks import BlockReader
    from data.links.workers import map_blocks

    started = _now()
    n_lines, kept = 0, []
    with tempfile.TemporaryDirectory() as scratch, path.open("rb") as file:
        reader = BlockReader(path, file)  # freed after the measurement, like the peer's: its window is 2 GiB
        for n_block, several in map_blocks(reader, _pick, Path(scratch), workers):
            n_lines += n_block
            kept += several
    return _measured(started, lines=n_lines, kept=len(kept))


def _pick(lines: bytes | None) -> tuple[int, list[tuple[Any, ...]]]:
    from data.links.records import decode_rows

    rows = decode_rows(lines or b"")[0]
    kept = [
        (row.id, row.url, row.score, row.subreddit, row.created_utc)
        for row in rows
        if row is not None and not row.is_self and row.score >= 3
    ]
    return len(rows), kept


def judge(path: Path, workers: int) -> dict[str, Any]:
    """Decompress and judge a dump; returns lines, outbound links and seconds."""
    from data.links.blocks import BlockReader
    from data.links.workers import classify_blocks

    started = _now()
    n_lines = n_links = 0
    with tempfile.TemporaryDirectory() as scratch, path.open("rb") as file:
        blocks = BlockReader(path, file)
        for records in classify_blocks(
            blocks, is_url_list=False, label=path.name, scratch=Path(scratch), workers=workers
        ):
            n_lines += records.n_read
            n_links += records.outbound
    return _measured(started, lines=n_lines, links=n_links)


def run_stage(path: Path, workers: int) -> dict[str, Any]:
    """Run the whole links stage; returns lines, kept links and seconds."""
    from data.config import LinksConfig
    from data.lake.store import Lake
    from data.links import stage as links

    started = _now()
    with tempfile.TemporaryDirectory(dir=path.parent) as lake:
        manifest = links.run(Lake(lake), "bench", [str(path)], LinksConfig(workers=workers)).manifest
        return _measured(started, lines=manifest.rows_in, links=manifest.rows_out)


def _now() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)


def _measured(started: tuple[float, float], **counts: int) -> dict[str, Any]:
    seconds, cpu_s = (now - then for now, then in zip(_now(), started, strict=True))
    rss_kb = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {**counts, "seconds": seconds, "cpu_s": cpu_s, "rss_mb": rss_kb / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that judge; 0: one per core, at most 4")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory that keeps the dump")
    parser.add_argument(
        "--run", choices=["parse", "judge", "stage"], help=argparse.SUPPRESS
    )  # one measurement, in a child
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure = {"parse": parse, "judge": judge, "stage": run_stage}[arguments.run]
        print(json.dumps(measure(arguments.dump, arguments.workers)))
        return
    if not LINKS.is_dir():
        parser.error(f"{LINKS}: no such directory; the dump is made from the real dumps in it")
    arguments.cache.mkdir(parents=True, exist_ok=True)
    dump = arguments.cache / f"submissions-{arguments.rows}.zst"
    if not dump.exists():
        n_bytes = write_dump(dump, arguments.rows, LINKS)
        print(f"made {dump}: {n_bytes / 1e6:,.0f} MB, {dump.stat().st_size / 1e6:,.0f} MB compressed")
    ours = [sys.executable, "-m", "benchmarks.links", "--workers", str(arguments.workers), "--dump", str(dump), "--run"]
    commands = {name: [*ours, name] for name in ("parse", "judge", "stage")}
    commands = {"peer": [sys.executable, str(PEER), str(dump)], **commands}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    assert {run["lines"] for several in runs.values() for run in several} == {arguments.rows}
    assert len({run["kept"] for name in ("peer", "parse") for run in runs[name]}) == 1, "the same work"
    print(json.dumps(_report(runs, arguments.rows)))


def _report(runs: dict[str, list[dict[str, Any]]], rows: int) -> dict[str, Any]:
    """Print the table; returns the JSON of the last line."""
    rates = {name: rows / statistics.median(run["seconds"] for run in several) for name, several in runs.items()}
    cpu = {name: rows / statistics.median(run["cpu_s"] for run in several) for name, several in runs.items()}
    print(f"{rows:,} submissions, medians of {len(runs['peer'])} runs in turn")
    print(f"{'':8}{'rows/s':>12}{'x peer':>9}{'rows/CPU s':>13}{'x peer':>9}{'MB':>8}")
    for name, several in runs.items():
        rss_mb = max(run["rss_mb"] for run in several)
        ratios = rates[name] / rates["peer"], cpu[name] / cpu["peer"]
        print(f"{name:8}{rates[name]:12,.0f}{ratios[0]:9.2f}{cpu[name]:13,.0f}{ratios[1]:9.2f}{rss_mb:8,.0f}")
    return {
        "bench": "links",
        "ratios": {
            **{name: round(rates[name] / rates["peer"], 2) for name in ("parse", "judge", "stage")},
            **{f"{name}_cpu": round(cpu[name] / cpu["peer"], 2) for name in ("parse", "judge", "stage")},
        },
        "ours": {f"{name}_rows_per_s": round(rates[name]) for name in ("parse", "judge", "stage")},
        "peers": {"pushshift_rows_per_s": round(rates["peer"])},
        "peak_rss_mb": round(max(run["rss_mb"] for name in ("parse", "judge", "stage") for run in runs[name]), 1),
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
