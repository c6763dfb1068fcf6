"""Which language identifier to use: accuracy and CPU time of several on short, mixed, noisy and whole texts.

    python -m benchmarks.language --peers PYTHON [--data DIR] [--names a,b]

The samples come from texts whose language is known:

- *short*: messages of 20 to 200 characters from Django's catalogues, as many of each of 35 languages, placeholders and
  all; English ones are cut from the articles of ``--data``
- *noisy*: the same in capitals, or without spaces around a URL and a number, or with every tenth letter lost
- *mixed*: 400 characters of one language followed by 150 of another; the longer part counts
- *pages*: the article texts of ``--data``, nearly all English; every other answer is listed for a reader to judge

Every library answers in a process of its own. ``webtext`` is what the text stage does. ``PYTHON`` has the peers and
Django (benchmarks/language_peers/requirements.txt).
``wrong_drop`` is the share of English samples that ``select`` would drop at ``min_language_score``, ``wrong_keep`` the
share of the others that it would keep as English. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gettext
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from data.config import SelectConfig

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
IDENTIFY = ROOT / "benchmarks" / "language_peers" / "identify.py"
OURS = "webtext"
NAMES = (OURS, "py3langid", "fasttext", "pycld2", "whatlang", "eld", "heliport", "lingua_low", "lingua")
LANGUAGES = (
    "ar bg ca cs da de el es et fa fi fr he hi hr hu id it ja ko lt lv nb nl pl pt ro ru sk sl sv th tr uk vi zh_Hans"
).split()
SAME = {"nb": "no", "nn": "no", "zh_Hans": "zh", "iw": "he", "in": "id"}
SHORT = (20, 200)  # characters
N_SHORT = 60  # per language; ten times as many of English
N_MIXED = 300

Sample = tuple[str, str, str]  # kind, language, text


def short_texts(catalogues: Path, articles: list[str], rng: random.Random) -> dict[str, list[str]]:
    """``N_SHORT`` texts of ``SHORT`` characters per language; ten times as many of English."""
    found: dict[str, list[str]] = {}
    for language in LANGUAGES:
        messages: set[str] = set()
        for file in sorted(catalogues.glob(f"**/locale/{language}/LC_MESSAGES/django.mo")):
            with file.open("rb") as opened:
                catalogue: dict[Any, str] = vars(gettext.GNUTranslations(opened))["_catalog"]
            for original, message in catalogue.items():
                if SHORT[0] <= len(message) <= SHORT[1] and message != original and original:
                    messages.add(" ".join(message.split()))
        found[SAME.get(language, language)] = rng.sample(sorted(messages), min(N_SHORT, len(messages)))
    found["en"] = []
    while len(found["en"]) < 10 * N_SHORT:
        words = rng.choice(articles).split()
        text = " ".join(words[rng.randrange(len(words)) :])[: rng.randint(*SHORT)]
        if len(text) >= SHORT[0]:
            found["en"].append(text)
    return found


def noisy(text: str, rng: random.Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        return text.upper()
    if kind == 1:
        middle = len(text) // 2
        url = f"http://a.example/index.php?id={rng.randrange(10**6)}"
        return f"{text[:middle]} {url} {rng.randrange(10**9)}{text[middle:]}"
    return "".join(character for character in text if rng.random() > 0.1)


def samples(catalogues: Path, articles: list[str]) -> Iterator[Sample]:
    rng = random.Random(12)
    short = short_texts(catalogues, articles, rng)
    for language, texts in short.items():
        yield from (("short", language, text) for text in texts)
        yield from (("noisy", language, noisy(text, rng)) for text in texts)
    others = sorted(short.keys() - {"en"})
    for number in range(N_MIXED):
        pair = ["en", rng.choice(others)]
        longer, shorter = pair if number % 2 else reversed(pair)
        body = " ".join(rng.sample(short[longer], 20))[:400] + "\n" + " ".join(rng.sample(short[shorter], 10))[:150]
        yield "mixed", longer, body
    yield from (("pages", "en", text) for text in articles)


def articles_of(data: Path) -> list[str]:
    """The gold texts of both sets of pages that are long enough for the corpus."""
    with gzip.open(data / "wcxb" / "gold.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line)["text"] for line in lines]
    news = json.loads((data / "pages" / "ground-truth.json").read_text(encoding="utf-8"))
    found += [page["articleBody"] for page in news.values()]
    return [text for text in found if len(text) >= 600]


def measure(python: Path, name: str, cases: list[Sample]) -> dict[str, Any]:
    """The answers of one library and its figures."""
    done = subprocess.run(
        [sys.executable if name == OURS else python, IDENTIFY, name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps([text for _, _, text in cases]),
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode:
        return {"missing": done.stderr.strip().splitlines()[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    limit = SelectConfig().min_language_score
    right: dict[str, list[bool]] = {}
    seconds: dict[bool, list[float]] = {True: [], False: []}  # of pages, of the others
    wrong_drop, wrong_keep, odd = [], [], []
    for (kind, language, text), (answer, score), cpu_s in zip(cases, found["answers"], found["cpu_s"], strict=True):
        seconds[kind == "pages"].append(cpu_s)
        answer = SAME.get(answer, answer)
        right.setdefault(kind, []).append(answer == language)
        is_kept = answer == "en" and score >= limit
        if kind != "pages":
            (wrong_drop if language == "en" else wrong_keep).append(is_kept != (language == "en"))
        elif not is_kept:
            odd.append(f"{answer} {score:.2f} {text[:60]!r}")
    return {
        "accuracy": {kind: _mean(values) for kind, values in right.items()},
        "wrong_drop": _mean(wrong_drop),
        "wrong_keep": _mean(wrong_keep),
        "pages_not_english": odd,
        "short_per_cpu_s": round(len(seconds[False]) / sum(seconds[False])),
        "pages_per_cpu_s": round(len(seconds[True]) / sum(seconds[True])),
        "load_s": round(found["load_s"], 2),
        "rss_mb": found["rss_mb"],
    }


def _mean(values: list[bool]) -> float:
    return round(sum(values) / len(values), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, metavar="PYTHON", help="has the peers and Django")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="directory with wcxb/ and pages/")
    parser.add_argument("--names", default=",".join(NAMES), help="measure these libraries only")
    arguments = parser.parse_args()
    where = "import django; print(django.__path__[0])"
    django = subprocess.run([arguments.peers, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    cases = list(samples(Path(django), articles_of(arguments.data)))
    results = {}
    columns = ("short", "noisy", "mixed", "pages", "drop", "keep", "short/s", "pages/s", "load s", "MB")
    print(" " * 11, *(f"{column:>7}" for column in columns))
    for name in arguments.names.split(","):
        found = results[name] = measure(arguments.peers, name, cases)
        if "missing" in found:
            print(f"{name:11} {found['missing']}")
            continue
        shares = [*found["accuracy"].values(), found["wrong_drop"], found["wrong_keep"]]
        print(
            f"{name:11} {' '.join(f'{share:7.3f}' for share in shares)} {found['short_per_cpu_s']:7,} "
            f"{found['pages_per_cpu_s']:7,} {found['load_s']:7.2f} {found['rss_mb']:7.0f}"
        )
    ours = results.pop(OURS)
    for line in ours["pages_not_english"]:
        print(f"not English: {line}")
    ratios = {
        name: round(ours["pages_per_cpu_s"] / peer["pages_per_cpu_s"], 2)
        for name, peer in results.items()
        if "missing" not in peer
    }
    print(
        json.dumps(
            {
                "bench": "language",
                "ratios": ratios,
                "ours": ours,
                "peers": results,
                "peak_rss_mb": ours["rss_mb"],
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
