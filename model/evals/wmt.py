"""``paper/wmt14_en_fr`` and ``paper/wmt14_fr_en``: translation (newstest2014), as in the GPT-2 paper (section 3.7).

Known: the context has example pairs ``english sentence = french sentence``, then ``english sentence =``. Decoding is
greedy, and the first generated sentence is the translation. The 1542M model has 5 BLEU into French and 11.5 into
English.

Not known, and our choice:

- Where the example pairs come from, and how many: the first ``PAIRS`` of newstest2013 (that year's development set) if
  its files lie beside the test files. Otherwise the first ones of the test file, which are then not scored.
  ``pairs_from`` says which.
- How they are separated: by line breaks. Into English, each pair is the other way round.
- What a sentence is: writing ends at a line break, since each example is a line, or after ``MAX_NEW_TOKENS`` tokens.
  ``bleu`` scores the first sentence of that line, by the rules of model/evals/writing.py. ``bleu_line`` scores the
  whole line, because some references are two sentences.
- What is cut if the context is too short: its beginning, which is in the examples. Counted in ``truncated``.
- The tokenization of BLEU: sacrebleu's default; ``signature`` names it. Values are in 0..100.

Standard errors are by the bootstrap over documents (sentences, if the files are plain text). Baseline: the source
sentence itself, as it stands. ``limit`` counts sentences.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.evalsets.wmt import SentencePair, french_of, newstest2013, read_wmt
from model.evals.bleu import bleu
from model.evals.heldout import choose
from model.evals.lambada import ALL
from model.evals.task import SCORES, NotScored, Subject, Task, require_clusters, result
from model.evals.writing import first_line, has_line, prompts_of, sentences

SET = "wmt14"
PAIRS = 5
MAX_NEW_TOKENS = 192


def context(pairs: Sequence[tuple[str, str]], source: str) -> str:
    return "".join(f"{theirs} = {ours}\n" for theirs, ours in pairs) + f"{source} ="


def run(subject: Subject, into: str) -> SCORES:
    if importlib.util.find_spec("sacrebleu") is None:  # said before hours of writing
        raise NotScored("needs the package sacrebleu; install webtext[eval]")
    english = subject.files[SET]
    french = french_of(english)
    if french is None:
        raise NotScored(f"needs newstest2014-fren-ref.fr or its .sgm file beside {english}")
    every = read_wmt(english, french)
    subject.check_count(SET, len(every))
    known = newstest2013(english.parent)
    examples = (read_wmt(*known) if known else every)[:PAIRS]
    first = 0 if known else len(examples)  # a pair in the context is not scored
    lines = sorted(first + i for i in choose([f"wmt14/{i}" for i in range(first, len(every))], subject.limit))
    chosen = [every[i] for i in lines]
    documents = [one.document for one in chosen]
    require_clusters(documents, "sentences")
    sources, references = zip(*(_sides(one, into) for one in chosen), strict=True)
    pairs = [_sides(one, into) for one in examples]
    written = subject.write(prompts_of([context(pairs, source) for source in sources]), MAX_NEW_TOKENS, has_line)
    whole = [first_line(one.text) for one in written]
    translations = [next(iter(sentences(line)), "") for line in whole]
    score, by_sentence, signature = bleu(translations, references, documents)
    of_line, _, _ = bleu(whole, references, documents)
    copied, _, _ = bleu(sources, references, documents)
    for i, line in enumerate(lines):
        subject.keep(
            f"sentence {line + 1}",
            sentence_bleu=by_sentence[i],  # BLEU of the corpus is not their mean
            document=documents[i],
            text=sources[i],
            answer=references[i],
            prediction=translations[i],
            log_prob=sum(written[i].log_probs),
            n_dropped=written[i].n_dropped,
        )
    return result(
        subject,
        "bleu",
        {"bleu": score, "bleu_line": of_line},
        len(chosen),
        {"source": copied},
        unit="sentence",
        documents=len(set(documents)),
        available=len(every) - first,
        signature=signature,
        pairs=len(pairs),
        pairs_from=known[0].name if known else english.name,
        empty=sum(not one for one in translations),
        ended_by_length=sum(one.end == "length" for one in written),
    )


def _sides(pair: SentencePair, into: str) -> tuple[str, str]:
    """The source and the reference."""
    return (pair.english, pair.french) if into == "french" else (pair.french, pair.english)


def _also(files: Mapping[str, Path]) -> list[Path]:
    if SET not in files:
        return []
    french = french_of(files[SET])
    return [*([french] if french else []), *(newstest2013(files[SET].parent) or ())]


TASKS = (
    Task("paper/wmt14_en_fr", 1, SET, ALL, 512, functools.partial(run, into="french"), also=_also),
    Task("paper/wmt14_fr_en", 1, SET, ALL, 512, functools.partial(run, into="english"), also=_also),
)
