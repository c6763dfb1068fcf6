"""``heldout_lastword``: the last word of a passage of a held-out document, as in LAMBADA (Paperno et al., 2016).

A passage is a sentence that ends in a content word, with enough sentences before it to make 50 words, LAMBADA's
minimum. No two passages overlap. LAMBADA's passages were chosen so that people can guess the word; these
were not, so scores are lower and cannot be compared. The share of targets that occur earlier in their passage is
reported; in the first 500 passages of LAMBADA's test file it is 77 %, counted in the same way.

A prediction is right if greedy decoding writes the target: the likeliest token is the true one at each position. The
perplexity is per whole word. Baselines, on the same examples, are one guess each: the most frequent content word of the
passage, the same among capitalised words and among words of seven letters or more, the last content word before the
blank, and the most frequent content word of the training documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.bpe import encode
from model.evals import control, stats, words
from model.evals.heldout import HeldOutDocument, choose
from model.evals.task import HELDOUT, SCORES, Subject, Task, excerpt, require_clusters, result
from model.scoring import Request

MIN_CONTEXT_WORDS = 50
MAX_CONTEXT_WORDS = 200  # a longer "sentence" is a table or a list
LONG_LETTERS = 7
_TARGET = re.compile(r"""(?<=\S) ([A-Za-z]+)[.!?]["'”’)\]]*$""")

Guess = Callable[[list[str]], str | None]
GUESSES: dict[str, Guess] = {
    "most_frequent": words.most_frequent,
    "most_frequent_capitalised": lambda found: words.most_frequent([w for w in found if w[0].isupper()]),
    "most_frequent_long": lambda found: words.most_frequent([w for w in found if len(w) >= LONG_LETTERS]),
    "latest": lambda found: found[-1] if found else None,
}
"""The word that each baseline guesses from a passage's content words, in their order."""


@dataclass(frozen=True)
class LastWordExample:
    """``target`` follows ``context`` and a space, at ``position`` in the document."""

    doc_id: str
    position: int
    context: str
    target: str


def examples(document: HeldOutDocument) -> Iterator[LastWordExample]:
    """The document's passages."""
    text = document.text
    found = words.sentences(document.text)
    first = 0  # the sentence at which the next passage may begin
    for i, sentence in enumerate(found):
        match = _TARGET.search(text, sentence.start, sentence.end)
        if match is None or not words.is_content(match[1]):
            continue
        start = i
        n_words = 0
        while start > first and n_words < MIN_CONTEXT_WORDS:
            start -= 1
            n_words += found[start].n_words
        if n_words < MIN_CONTEXT_WORDS or n_words + sentence.n_words > MAX_CONTEXT_WORDS:
            continue
        context = text[found[start].start : match.start()]
        yield LastWordExample(document.doc_id.hex(), match.start(), context, match[1])
        first = i + 1


def run(subject: Subject) -> SCORES:
    held_out = subject.documents()
    every = [example for document in held_out.documents for example in examples(document)]
    chosen = [every[i] for i in choose([f"lastword/{e.doc_id}/{e.position}" for e in every], subject.limit)]
    clusters = [example.doc_id for example in chosen]
    require_clusters(clusters, "passages")
    requests = [Request(encode(e.context).tolist(), encode(f" {e.target}").tolist()) for e in chosen]
    scores = subject.score(requests)
    is_right = [float(score.is_greedy) for score in scores]
    names = [f"{example.doc_id}/{example.position}" for example in chosen]
    controlled, more = control.accuracy(
        subject, names, clusters, [[one] for one in requests], lambda _, one: float(one[0].is_greedy)
    )
    nats = [-score.log_likelihood for score in scores]
    for example, earned, lost in zip(chosen, is_right, nats, strict=True):
        subject.keep(
            f"{example.doc_id}/{example.position}",
            document=example.doc_id,
            text=excerpt(example.context),
            answer=example.target,
            credit=earned,
            nats=lost,
        )
    unigram = held_out.log_probs()
    unigram_nats = [-float(unigram[request.continuation].sum()) for request in requests]
    passages = [words.content_words(example.context) for example in chosen]
    commonest = words.commonest(held_out.counts)
    guesses = {name: [guess(found) for found in passages] for name, guess in GUESSES.items()}
    guesses["unigram"] = [commonest] * len(chosen)
    baselines = {
        name: stats.accuracy([float(g == e.target) for g, e in zip(made, chosen, strict=True)], clusters)
        for name, made in guesses.items()
    }
    occurs = [float(example.target in found) for example, found in zip(chosen, passages, strict=True)]
    return result(
        subject,
        "accuracy",
        {"accuracy": stats.accuracy(is_right, clusters), "perplexity": stats.mean(nats, clusters).exp()} | controlled,
        len(chosen),
        baselines,
        unit="word",
        documents=len(set(clusters)),
        available=len(every),
        share_in_passage=sum(occurs) / len(occurs),
        unigram_perplexity=stats.mean(unigram_nats, clusters).exp().value,
        **more,
    )


TASK = Task("heldout_lastword", 1, HELDOUT, 500, 32, run, has_control=True)
