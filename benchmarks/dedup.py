"""Near-duplicates: the speed of signatures, what is found by similarity, shared boilerplate, the judgement at scale.

    python -m benchmarks.dedup [--only signatures,curve,boilerplate,scale] [--kept 200000] [--new 200000]
                               [--copies 16000] [--workers 2] [--folder DIR] [--full]

signatures    documents/CPU s of our signatures and of datasketch, one document per call, on the same 730-word texts
curve         by Jaccard index, 0.50 to 1.00: the share of pairs that the stage drops
boilerplate   40,000 unlike documents with 300 of 400 words in common: CPU seconds, documents dropped (none may be)
scale         the judgement of ``new`` made-up documents against ``kept`` ones (benchmarks/dedup_lake.py), by rounds.
              There are no texts, so the two rounds of exact comparison are left out: what the signatures say is taken
              for granted. ``--full`` is 10 million against 1, 3 and 10 million: 25 GB of disk, an hour.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import dedup_lake as made
from benchmarks.machine import machine, peak_rss_mb
from data.config import SelectConfig, TextConfig, content_settings
from data.lake.store import Lake
from data.schema import TEXT, SelectStatus
from data.select import judgement, minhash
from data.select import stage as select
from data.select.plan import COMPARE, SHINGLES, VERIFY, Plan, seal
from data.select.shingles import shingles

CONFIG = SelectConfig()
SCENARIOS = ("signatures", "curve", "boilerplate", "scale")


def vocabulary(rng: np.random.Generator, n: int) -> list[str]:
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(n)]


# ---------------------------------------------------------------------------------------------------- signatures


def signatures(n: int = 2_000, n_words: int = 730) -> dict[str, Any]:
    """Documents per CPU second of ours and of datasketch; and that they are the same numbers."""
    from datasketch import MinHash

    rng = np.random.default_rng(1)
    words = np.array(vocabulary(rng, 30_000), dtype=object)
    weights = 1 / np.arange(1, len(words) + 1)
    texts = [" ".join(rng.choice(words, n_words, p=weights / weights.sum())) for _ in range(n)]

    def ours() -> Any:
        documents = (shingles(text, "en", CONFIG) for text in texts)
        return minhash.signatures(documents, permutations=CONFIG.permutations, seed=CONFIG.minhash_seed)

    def theirs() -> Any:
        one = MinHash(CONFIG.permutations, seed=CONFIG.minhash_seed, hashfunc=int, scheme="affine32")
        rows = []
        for text in texts:
            one.clear()
            one.update_batch((shingles(text, "en", CONFIG) >> np.uint64(32)).astype(np.uint32))
            rows.append(one.digest())
        return np.stack(rows)

    assert np.array_equal(ours(), theirs())
    found = {"ours": [], "datasketch": []}  # type: dict[str, list[float]]
    for _ in range(3):
        for name, sign in (("ours", ours), ("datasketch", theirs)):
            started = time.process_time()
            sign()
            found[name].append(n / (time.process_time() - started))
    medians = {name: round(sorted(values)[1]) for name, values in found.items()}
    print(f"signatures, {n_words} words: {medians['ours']:,} documents/CPU s, datasketch {medians['datasketch']:,}")
    return medians


# ---------------------------------------------------------------------------------------------------- texts


def text_row(text: str, name: str, karma: int, language: str = "en") -> dict[str, Any]:
    known = {"doc_id": name.encode().ljust(16), "url": f"http://{name}.example/", "domain": f"{name}.example"}
    measured = {"n_words": len(text.split()), "n_chars": len(text), "n_gpt2_tokens": 1_000}  # past the filters
    values = {"status": "ok", "language": language, "language_score": 1.0, "karma": karma, "text": text}
    return {**dict.fromkeys(TEXT.names), **known, **measured, **values}


def judge_texts(folder: Path, rows: list[dict[str, Any]], n_parts: int = 4) -> tuple[dict[str, Any], dict[str, float]]:
    """The verdicts by document, and the CPU seconds by kind of part, of the select stage."""
    lake = Lake(folder)
    dataset = lake.dataset("text", "s")
    dataset.begin(content_settings(TextConfig()), {})
    names = [f"part-{k:05d}" for k in range(n_parts)]
    for k, name in enumerate(names):
        table = pa.Table.from_pylist(rows[k::n_parts], schema=TEXT)
        seal(dataset, name, {f"{name}.parquet": table}, counts={"ok": len(table)})
    dataset.finish(names, {}, 0.0)
    spent: Counter[str] = Counter()

    def timed(make_part: Callable[[str], Any], some: Any) -> None:
        for name in some:
            started = time.process_time()
            make_part(name)
            spent[name.partition("-")[0]] += time.process_time() - started

    select.run(lake, "s", None, SelectConfig(), timed)
    judged = [row for name in names for row in lake.dataset("select", "s").read(f"{name}.parquet").to_pylist()]
    return {row["doc_id"].decode().strip(): row for row in judged}, dict(spent)


def pair_at(rng: np.random.Generator, words: list[str], similarity: float, n_words: int = 600) -> tuple[str, str]:
    """Two texts of word 5-grams with nearly this Jaccard index: the second ends with words of its own."""
    n = n_words - 4
    shared = round(2 * n * similarity / (1 + similarity))
    a = rng.choice(words, n_words).tolist()
    b = [*a[: shared + 4], *(f"own{k}" for k in range(n - shared))]
    return " ".join(a), " ".join(b)


def jaccard(a: str, b: str) -> float:
    sets = [{tuple(words[k : k + 5]) for k in range(len(words) - 4)} for words in (a.split(), b.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def curve(folder: Path, pairs_per_point: int) -> dict[str, Any]:
    """The share of pairs dropped, by Jaccard index."""
    rng = np.random.default_rng(4)
    words = vocabulary(rng, 30_000)
    points = [round(0.5 + 0.05 * k, 2) for k in range(11)]
    rows = []
    exact: dict[str, float] = {}
    for point in points:
        for k in range(pairs_per_point):
            a, b = pair_at(rng, words, point)
            exact[f"p{point:.2f}x{k}"] = jaccard(a, b)
            rows += [text_row(a, f"p{point:.2f}x{k}a", 9), text_row(b, f"p{point:.2f}x{k}b", 3)]
    verdicts, _ = judge_texts(folder, rows)
    dropped = {name for name in exact if verdicts[f"{name}b"]["status"] != SelectStatus.OK}
    false = sum(exact[name] < CONFIG.threshold for name in dropped)
    found = {}
    for point in points:
        mine = [f"p{point:.2f}x{k}" for k in range(pairs_per_point)]
        found[f"{point:.2f}"] = round(sum(name in dropped for name in mine) / len(mine), 3)
    wanted = [name for name in exact if exact[name] >= CONFIG.threshold]
    print(f"found by Jaccard index, {pairs_per_point} pairs each:")
    print("  " + "  ".join(f"{point} {share:.3f}" for point, share in found.items()))
    print(f"  dropped below {CONFIG.threshold}: {false} of {len(dropped)}")
    return {
        "by_jaccard": found,
        "precision": 1 - false / len(dropped),
        "recall": round(sum(name in dropped for name in wanted) / len(wanted), 4),
    }


def boilerplate(folder: Path, n: int, shared: int = 300, own: int = 100) -> dict[str, Any]:
    """CPU seconds to judge unlike documents with most of their words in common."""
    rng = np.random.default_rng(5)
    words = np.array(vocabulary(rng, 30_000), dtype=object)
    frame = " ".join(rng.choice(words, shared))
    rows = [text_row(f"{frame} {' '.join(rng.choice(words, own))}", f"b{k}", 3) for k in range(n)]
    verdicts, spent = judge_texts(folder, rows)
    false = sum(row["status"] != SelectStatus.OK for row in verdicts.values())
    judging = sum(seconds for name, seconds in spent.items() if name not in ("sig", "part"))
    by_round = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    print(f"boilerplate, {n:,} documents, {shared} of {shared + own} words: {judging:.1f} CPU s to judge ({by_round})")
    print(f"  dropped: {false}")
    return {"documents": n, "judging_cpu_s": round(judging, 1), "dropped": false}


# ---------------------------------------------------------------------------------------------------- scale


def make_without_texts(plan: Plan, name: str) -> tuple[float, float]:
    """Make a part; the exact comparison takes the signatures' word. Returns CPU seconds and this process's peak MB."""
    started = time.process_time()
    if name.startswith(SHINGLES):
        number = name.removeprefix(SHINGLES)
        empty = pa.table({"rank": pa.array([], pa.uint32()), "length": pa.array([], pa.int64())})
        plan.seal(name, {f"shingles/{number}.parquet": empty})
    elif name.startswith(VERIFY):
        part = name.removeprefix(VERIFY)
        ranks = next(source for source in plan.new if source.part == part).columns("rank")[0]
        wanted = np.sort(ranks)
        tables = []
        for file in plan.parts(COMPARE):
            table = plan.dataset.read(f"edges/{file}.parquet")
            later = table.column("later").to_numpy()
            at = np.minimum(np.searchsorted(wanted, later), len(wanted) - 1)
            alike = table.column("rows").to_numpy() >= CONFIG.threshold * CONFIG.permutations
            tables.append(table.filter(pa.array((wanted[at] == later) & alike)))
        table = pa.concat_tables(tables)
        share = pa.array(table.column("rows").to_numpy() / CONFIG.permutations)
        columns = {"later": table.column("later"), "earlier": table.column("earlier"), "jaccard": share}
        columns["is_cut"] = pa.array(np.zeros(len(table), dtype=np.bool_))
        plan.seal(name, {f"proofs/{part}.parquet": pa.table(columns)}, extra={"unsettled": 0})
    else:
        judgement.make_part(plan, name)
    return time.process_time() - started, peak_rss_mb()


def _make(arguments: tuple[str, str, list[str], str]) -> tuple[float, float]:
    root, snapshot, history, name = arguments
    return make_without_texts(Plan(Lake(root), snapshot, CONFIG, history), name)


def judge_made(folder: Path, size: made.Size, workers: int) -> dict[str, Any]:
    """Judge made-up documents; wall seconds, CPU seconds by round, peak memory of all processes, what was found."""
    lake = Lake(folder)
    history = []
    if size.kept:
        made.write_history(lake, size.kept)
        history = ["history"]
    made.write_candidates(lake, "new", size, history)
    plan = Plan(lake, "new", CONFIG, history)
    spent: dict[str, float] = {}
    walls: dict[str, float] = {}
    peaks: dict[int, float] = {}
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for names in judgement.rounds(plan):
            kind = names[0].partition("-")[0]
            begun = time.monotonic()
            done = _run_round(pool, [(lake.root, "new", history, name) for name in names])
            walls[kind] = round(time.monotonic() - begun, 1)
            spent[kind] = round(sum(cpu for cpu, _ in done), 1)
            peaks[len(peaks)] = max(rss for _, rss in done)
    seconds = time.monotonic() - started
    peak = max(peaks.values())
    print(f"scale, {size.new:,} new against {size.kept:,} kept, {workers} workers: {seconds:.0f} s,")
    print("  CPU s by round: " + ", ".join(f"{name} {cpu}" for name, cpu in spent.items()))
    print(f"  peak memory: {peak:.0f} MB in a worker, {peak_rss_mb():.0f} MB in the program")
    found = _found(lake, size)
    print("  dropped: " + ", ".join(f"{kind} {share}" for kind, share in found.items()))
    return {
        "seconds": round(seconds, 1),
        "cpu_s": round(sum(spent.values()), 1),
        "cpu_s_by_round": spent,
        "seconds_by_round": walls,
        "worker_peak_rss_mb": peak,
        "dropped": found,
    }


def _run_round(pool: Pool, arguments: list[tuple[str, str, list[str], str]]) -> list[tuple[float, float]]:
    return list(pool.imap_unordered(_make, arguments, chunksize=1))


def _found(lake: Lake, size: made.Size) -> dict[str, float]:
    """The share of each planted kind that was dropped, one of two for pairs and exact copies."""
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for number, start in enumerate(range(0, size.new, made.FILE)):
        kinds = made.planted(np.arange(start, min(start + made.FILE, size.new)), size)
        rows = lake.dataset("select", "new").read(f"judged/part-{number:05d}.parquet", ["row"]).column("row").to_numpy()
        is_dropped = np.zeros(len(kinds), dtype=np.bool_)
        is_dropped[rows] = True
        for kind in (made.PAIR, made.EXACT):  # the other one may be the one of lower rank
            mine = np.flatnonzero(kinds == kind)
            is_dropped[mine], is_dropped[mine - 1] = is_dropped[mine] | is_dropped[mine - 1], False
        counts.update(kinds.tolist())
        dropped.update(kinds[is_dropped].tolist())
    return {kind: round(dropped[kind] / counts[kind], 5) for kind in sorted(counts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, separated by commas")
    parser.add_argument("--pairs", type=int, default=300, help="pairs for each point of the curve")
    parser.add_argument("--boilerplate", type=int, default=40_000, help="documents that share boilerplate")
    parser.add_argument("--kept", type=int, default=200_000, help="documents of the history, a multiple of 50,000")
    parser.add_argument("--new", type=int, default=200_000, help="new documents, a multiple of 50,000")
    parser.add_argument("--copies", type=int, default=16_000, help="near-copies of one document among the new ones")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the lakes are made")
    parser.add_argument("--full", action="store_true", help="10 million new documents against 1, 3 and 10 million")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if not set(chosen) <= set(SCENARIOS):
        parser.error(f"--only {arguments.only}: choose from {', '.join(SCENARIOS)}")
    if arguments.kept % made.FILE or arguments.new % made.FILE:
        parser.error(f"--kept {arguments.kept} --new {arguments.new}: must be multiples of {made.FILE}")
    ours: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    folder = Path(tempfile.mkdtemp(prefix="webtext-dedup-", dir=arguments.folder))
    try:
        if "signatures" in chosen:
            speeds = signatures()
            ours["signatures_per_cpu_s"], peers["datasketch_per_cpu_s"] = speeds["ours"], speeds["datasketch"]
            ratios["signatures"] = round(speeds["ours"] / speeds["datasketch"], 2)
        if "curve" in chosen:
            ours["curve"] = curve(folder / "curve", arguments.pairs)
        if "boilerplate" in chosen:
            ours["boilerplate"] = boilerplate(folder / "boilerplate", arguments.boilerplate)
        if "scale" in chosen:
            sizes = [(arguments.kept, arguments.new, arguments.copies)]
            if arguments.full:
                sizes = [(million * 1_000_000, 10_000_000, 800_000) for million in (1, 3, 10)]
            for kept, new, copies in sizes:
                size = made.Size(kept, new, copies, boilerplate=new // 20)
                lake = folder / f"scale-{kept}"
                ours[f"scale_{new}_against_{kept}"] = judge_made(lake, size, arguments.workers)
                shutil.rmtree(lake)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    result = {
        "bench": "dedup",
        "ratios": ratios,
        "ours": ours,
        "peers": peers,
        "peak_rss_mb": max(peak_rss_mb(), round(children, 1)),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
