"""Extract pages whose main text people have marked, and compare the texts and the time with those of other extractors.

    make bench-extraction    scores by kind of page, ours and the peers', and the CPU time of a page
    make check-quality       fail if ours has fallen below benchmarks/quality.json

The figures are mean F1 of words over the pages (benchmarks/gold.py), so long and short pages count the same. The model
that the package ships was trained on these pages: docs/corpus.md has its scores on pages that it has not seen
(benchmarks/blocks.py). CPU time is that of one process, each extractor in turn on each page. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from trafilatura.settings import Document

from benchmarks import gold
from benchmarks.machine import machine
from data.text.charset import decode
from data.text.extract import extract

FLOORS = Path(__file__).with_name("quality.json")
SLACK = 0.001  # by which a score may lie below its floor: more than rounding, less than a page of a small kind
SAMPLE = 8  # make test scores each 8th page


def _trafilatura(**options: Any) -> Callable[[gold.Page, bytes], str]:
    def run(page: gold.Page, body: bytes) -> str:
        document = trafilatura.bare_extraction(decode(body, None)[0], url=page.url, with_metadata=True, **options)
        if not isinstance(document, Document):
            return ""
        return f"{document.text or ''}\n{document.comments or ''}"

    return run


def _ours(page: gold.Page, body: bytes) -> str:
    return extract(body, None, page.url).text or ""


def _resiliparse(_: gold.Page, body: bytes) -> str:
    return str(extract_plain_text(decode(body, None)[0] or "", main_content=True, alt_texts=False))


EXTRACTORS: dict[str, Callable[[gold.Page, bytes], str]] = {
    "ours": _ours,
    "trafilatura": _trafilatura(),
    "trafilatura without comments": _trafilatura(include_comments=False),
    "trafilatura, precision, without comments": _trafilatura(favor_precision=True, include_comments=False),
    "trafilatura, recall, without comments": _trafilatura(favor_recall=True, include_comments=False),
    "resiliparse": _resiliparse,
}
BARE = "trafilatura"  # as it comes, with metadata


def run(pages: Sequence[gold.Page], names: Sequence[str], processes: int) -> dict[str, dict[str, float]]:
    """Per extractor the mean F1 by kind, over all of WCXB, and the mean CPU time of a page in milliseconds."""
    f1: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    jobs = [(page, tuple(names)) for page in pages]
    with multiprocessing.Pool(processes, initializer=_quiet) as pool:
        for page, results in zip(pages, pool.imap(_score, jobs, chunksize=4), strict=True):
            for name, (score, used) in results.items():
                f1[name][page.kind].append(score)
                seconds[name].append(used)
    return {name: {**_means(f1[name]), "ms": round(1e3 * statistics.fmean(seconds[name]), 2)} for name in names}


def _quiet() -> None:
    for name in ("trafilatura", "htmldate", "charset_normalizer"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _score(job: tuple[gold.Page, tuple[str, ...]]) -> dict[str, tuple[float, float]]:
    page, names = job
    body = page.body()
    results = {}
    for name in names:
        started = time.process_time()
        text = EXTRACTORS[name](page, body)
        results[name] = gold.score(text, page.gold)[2], time.process_time() - started
    return results


def _means(f1: dict[str, list[float]]) -> dict[str, float]:
    means = {kind: round(statistics.fmean(f1[kind]), 4) for kind in gold.KINDS if f1.get(kind)}
    wcxb = [score for kind, scores in f1.items() if kind != "news" for score in scores]
    return {**means, "wcxb": round(statistics.fmean(wcxb), 4)} if wcxb else means


def sample(pages: Sequence[gold.Page]) -> list[gold.Page]:
    """Each ``SAMPLE``-th page."""
    return list(pages[::SAMPLE])


def fallen(found: dict[str, float], floors: dict[str, float]) -> list[str]:
    """What has fallen: ``forum 0.7101, at least 0.7400``."""
    return [
        f"{kind} {found.get(kind, 0.0):.4f}, at least {floor:.4f}"
        for kind, floor in floors.items()
        if found.get(kind, 0.0) < floor - SLACK
    ]


def check(pages: Sequence[gold.Page], name: str) -> tuple[dict[str, float], list[str]]:
    """Our scores, and what is wrong with them: ``name`` is the entry of quality.json, ``all`` or ``sample``."""
    floors = json.loads(FLOORS.read_text())[name]
    found = run(pages, ["ours"], processes=2)["ours"]
    digest = gold.digest(list(pages))
    wrong = [] if digest == floors["gold"] else [f"the marked pages are others: digest {digest}, not {floors['gold']}"]
    return found, wrong or fallen(found, floors["f1"])


def write_floors(pages: Sequence[gold.Page]) -> None:
    """Make today's scores the floors. A lower one needs a reason in docs/adr/."""
    floors = {}
    for name, chosen in (("all", list(pages)), ("sample", sample(pages))):
        scores = run(chosen, ["ours"], processes=2)["ours"]
        floors[name] = {"gold": gold.digest(chosen), "f1": {k: v for k, v in scores.items() if k != "ms"}}
    FLOORS.write_text(json.dumps(floors, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=gold.SHARED, help="folder with wcxb/ and pages/")
    parser.add_argument("--sample", action="store_true", help=f"each {SAMPLE}th page only")
    parser.add_argument("--check", action="store_true", help="score ours only, and fail below benchmarks/quality.json")
    parser.add_argument("--write-floors", action="store_true", help="make today's scores the floors")
    arguments = parser.parse_args()
    if not (arguments.shared / "wcxb" / "gold.jsonl.gz").is_file():
        parser.error(f"--shared {arguments.shared}: no wcxb/gold.jsonl.gz there; name the folder of the marked pages")
    pages = gold.pages(arguments.shared)
    if arguments.write_floors:
        write_floors(pages)
        return
    chosen = sample(pages) if arguments.sample else pages
    wrong: list[str] = []
    if arguments.check:
        ours, wrong = check(chosen, "sample" if arguments.sample else "all")
        found = {"ours": ours}
    else:
        found = run(chosen, list(EXTRACTORS), processes=1)
    columns = [*gold.KINDS, "wcxb", "ms"]
    print(f"{'F1 of words, ' + str(len(chosen)) + ' pages':42}", *(f"{column[:8]:>8}" for column in columns))
    for name, scores in found.items():
        print(f"{name:42}", *(f"{scores.get(column, 0):8.{1 if column == 'ms' else 3}f}" for column in columns))
    peers = {name: scores for name, scores in found.items() if name != "ours"}
    ratios = {"cpu_of_bare_trafilatura": round(found["ours"]["ms"] / peers[BARE]["ms"], 3)} if BARE in peers else {}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    result = {
        "bench": "extraction",
        "ratios": ratios,
        "ours": found["ours"],
        "peers": peers,
        "peak_rss_mb": round(peak, 1),
        "gold": gold.digest(chosen),
        "machine": machine(),
    }
    print(json.dumps(result))
    if wrong:
        parser.exit(1, f"quality has fallen: {'; '.join(wrong)}\n")


if __name__ == "__main__":
    main()
