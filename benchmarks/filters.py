"""What each profile of select drops of pages marked by hand, and how far its rules agree with datatrove's filters.

    python -m benchmarks.filters [--data DIR] [--datatrove PYTHON]

The documents are the texts of ``--data``, as people marked them: 181 news pages and 736 pages of seven kinds. So a drop
is the rule's doing, not the extractor's, and nearly all drops of articles are wrong. Printed are the counts per kind
and status, every drop with its rule, value and limit, and the CPU time of signals, language and verdicts.

With an interpreter that has datatrove (benchmarks/data_peers/datatrove.txt), its filters judge the same documents, the
English ones among them. For each filter: how many both keep, both drop, only we drop, only datatrove drops, and which
rules disagree. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.machine import machine, peak_rss_mb
from data import bpe
from data.config import FilterProfile, SelectConfig
from data.schema import TEXT, SelectStatus
from data.select import filters
from data.text import language, signals

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
DATATROVE = ROOT / ".venv-datatrove" / "bin" / "python"
PEER = ROOT / "benchmarks" / "filters_peers" / "datatrove_filters.py"
PROFILES = get_args(FilterProfile)
GROUPS = {
    "GopherQualityFilter": filters.GOPHER_QUALITY,
    "GopherRepetitionFilter": filters.GOPHER_REPETITION,
    "C4QualityFilter": filters.C4,
    "FineWebQualityFilter": filters.FINEWEB,
    "FineWebQualityFilter, paper's limit": filters.FINEWEB,
}

# Why datatrove decides otherwise, by its reason, or by our rule where only we drop. Elsewhere a value is near a limit.
WHY = {
    "gopher_below_alpha_threshold": "it counts each punctuation mark as a word, which white space does not",
    "char_dup_ratio": "its limit is 0.01, the paper's is 0.1",
    "line_punct_ratio": "to us a quotation mark ends a line, too, as in C4; it trims no white space",
    "n_curly_brackets": "it looks only at lines that C4 keeps",
}

Row = dict[str, Any]


def documents(data: Path) -> list[Row]:
    """``id``, ``kind``, ``url`` and ``text`` of every marked page that has a text."""
    with gzip.open(data / "wcxb" / "gold.jsonl.gz", "rt", encoding="utf-8") as lines:
        pages = [json.loads(line) for line in lines]
    found = [{"id": page["id"], "kind": page["type"], "url": page["url"], "text": page["text"]} for page in pages]
    news = json.loads((data / "pages" / "ground-truth.json").read_text(encoding="utf-8"))
    found += [
        {"id": k[:12], "kind": "news", "url": page["url"], "text": page["articleBody"]} for k, page in news.items()
    ]
    for page in found:
        url = page["url"] or "unknown.example"
        page["url"] = url if "://" in url else f"http://{url}"
    return [page for page in found if page["text"].strip()]


def measured(pages: list[Row]) -> tuple[list[Row], dict[str, float]]:
    """The rows of text, and milliseconds of CPU time per page."""
    language.identify("")
    bpe.encoding()
    answers, of_language = _timed(lambda page: language.identify(page["text"]), pages)
    values, of_signals = _timed(lambda page: signals.measure(page["text"]), pages)
    rows = [
        {
            **dict.fromkeys(TEXT.names),
            **page,
            **value._asdict(),
            "domain": "",
            "status": "ok",
            "language": answer[0],
            "language_score": answer[1],
        }
        for page, answer, value in zip(pages, answers, values, strict=True)
    ]
    return rows, {"language_ms": of_language, "signals_ms": of_signals}


def _timed(work: Any, pages: list[Row]) -> tuple[list[Any], float]:
    started = time.process_time()
    found = [work(page) for page in pages]
    return found, round(1000 * (time.process_time() - started) / len(pages), 3)


def judge(rows: list[Row], profile: FilterProfile) -> list[tuple[SelectStatus, str | None]]:
    config = SelectConfig(profile=profile)
    return [filters.verdict(row, config) for row in rows]


def is_english_article(row: Row) -> bool:
    """An article that the webtext profile must keep: English, whatever the probability, and long enough."""
    return row["kind"] in ("news", "article") and row["language"] == "en" and row["n_gpt2_tokens"] >= 128


def show_profile(rows: list[Row], profile: FilterProfile) -> dict[str, Any]:
    verdicts = judge(rows, profile)
    statuses = list(dict.fromkeys(status for status in SelectStatus if any(status == v for v, _ in verdicts)))
    print(f"\n{profile:10} {'pages':>6} " + " ".join(f"{status:>12}" for status in statuses))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        counts = Counter(status for row, (status, _) in zip(rows, verdicts, strict=True) if row["kind"] == kind)
        print(f"{kind:10} {counts.total():6} " + " ".join(f"{counts[status]:12}" for status in statuses))
    for row, (status, reason) in zip(rows, verdicts, strict=True):
        if status not in (SelectStatus.OK, SelectStatus.TOO_SHORT, SelectStatus.NOT_ENGLISH):
            print(f"  {row['kind']:10} {row['id']} {status}: {reason}   {' '.join(row['text'][:60].split())!r}")
    for status in (SelectStatus.TOO_SHORT, SelectStatus.NOT_ENGLISH):
        reasons = Counter((reason or "").split()[0] for found, reason in verdicts if found == status)
        print(f"  {status}: {', '.join(f'{name} {count}' for name, count in reasons.most_common())}")
    articles = [status for row, (status, _) in zip(rows, verdicts, strict=True) if is_english_article(row)]
    n_dropped = sum(status != SelectStatus.OK for status in articles)
    print(f"  English articles of at least 128 tokens: {n_dropped} of {len(articles)} dropped")
    return {
        "by_status": Counter(map(str, (status for status, _ in verdicts))),
        "articles": len(articles),
        "articles_dropped": n_dropped,
    }


def show_agreement(rows: list[Row], python: Path) -> dict[str, Any]:
    """Compare each group of rules with datatrove's filter."""
    english = [row for row in rows if row["language"] == "en"]
    started = time.process_time()
    ours = {name: [broken(row, rules) for row in english] for name, rules in GROUPS.items()}
    ms = round(1000 * (time.process_time() - started) / len(english) / len(GROUPS), 3)
    done = subprocess.run(
        [python, PEER], input=json.dumps([row["text"] for row in english]), capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    result: dict[str, Any] = {
        "verdict_ms": ms,
        "datatrove_ms": round(1000 * theirs.pop("cpu_s") / len(english), 3),
        "filters": {},
    }
    print(
        f"\n{'English documents':36} {'both keep':>10} {'both drop':>10} {'only we':>10} {'only they':>10} {'agree':>7}"
    )
    for name in GROUPS:
        pairs = list(zip(ours[name], theirs[name], strict=True))
        counts = Counter((mine is not None, other is not None) for mine, other in pairs)
        agree = (counts[False, False] + counts[True, True]) / len(pairs)
        order = ((False, False), (True, True), (True, False), (False, True))
        print(f"{name:36} " + " ".join(f"{counts[key]:10}" for key in order) + f" {agree:7.3f}")
        odd = Counter((str(mine).split()[0], str(other)) for mine, other in pairs if (mine is None) != (other is None))
        for (mine, other), count in odd.most_common():
            print(f"    ours {mine}, datatrove {other}: {count}  {WHY.get(other if mine == 'None' else mine, '')}")
        result["filters"][name] = {"agreement": round(agree, 4), "only_ours": counts[True, False]}
        result["filters"][name] |= {"only_theirs": counts[False, True], "both_drop": counts[True, True]}
    return result


def broken(row: Row, rules: Sequence[filters.Rule]) -> str | None:
    return next((reason for rule in rules if (reason := rule.broken(row))), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="directory with wcxb/ and pages/")
    parser.add_argument("--datatrove", type=Path, default=DATATROVE, metavar="PYTHON", help="has datatrove")
    arguments = parser.parse_args()
    rows, times = measured(documents(arguments.data))
    n_words = sum(row["n_words"] for row in rows) / len(rows)
    print(f"{len(rows)} texts of {n_words:.0f} words on average; CPU time per text: {times}")
    ours: dict[str, Any] = {"texts": len(rows), "words": round(n_words), **times}
    for profile in PROFILES:
        ours[profile] = show_profile(rows, profile)
    peers = {}
    if arguments.datatrove.is_file():
        peers["datatrove"] = show_agreement(rows, arguments.datatrove)
    else:
        print(f"\n--datatrove {arguments.datatrove}: no such file; datatrove is not compared")
    agreements = {name: found["agreement"] for name, found in peers.get("datatrove", {}).get("filters", {}).items()}
    print(
        json.dumps(
            {
                "bench": "filters",
                "ratios": agreements,
                "ours": ours,
                "peers": peers,
                "peak_rss_mb": peak_rss_mb(),
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
