"""``heldout_order``: a sentence of a held-out document, and the same with two neighbouring words exchanged.

The model picks the one to which it gives the higher probability, given the two sentences before it. Both consist of the
same tokens, so counting cannot help: the unigram baseline is a tie in every example, which counts one half. What is
left is the order of words, which a small model learns early: the score shows the progress of models that guess no last
word yet.

Both words are in lower case and unlike, with words on either side. One pair of a sentence is chosen by its hash. The
probability is that of everything from the first of the two words to the end of the sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.bpe import encode
from model.evals import stats, words
from model.evals.cloze import credit
from model.evals.heldout import HeldOutDocument, choose, hash_of
from model.evals.task import HELDOUT, SCORES, Subject, Task, excerpt, require_clusters, result
from model.scoring import Request

CONTEXT_SENTENCES = 2
MIN_WORDS = 6
MAX_WORDS = 40  # of the sentence
MAX_REST_TOKENS = 60  # from the first of the two words on
_PAIR = re.compile(r"(?<=[A-Za-z,] )(?=([a-z]{2,}) ([a-z]{2,}) [A-Za-z])")  # overlapping pairs are found too


@dataclass(frozen=True)
class OrderExample:
    """``before`` + space + ``first`` + space + ``second`` + ``rest`` is in the document, at ``position``."""

    doc_id: str
    position: int
    before: str
    first: str
    second: str
    rest: str

    @property
    def endings(self) -> tuple[str, str]:
        """As it stands, and exchanged."""
        return f" {self.first} {self.second}{self.rest}", f" {self.second} {self.first}{self.rest}"


def examples(document: HeldOutDocument) -> Iterator[OrderExample]:
    """At most one example per sentence."""
    text = document.text
    name = document.doc_id.hex()
    found = words.sentences(text)
    for i in range(CONTEXT_SENTENCES, len(found)):
        sentence = found[i]
        if not MIN_WORDS <= sentence.n_words <= MAX_WORDS or text[sentence.end - 1] not in ".!?":
            continue
        pairs = [pair for pair in _PAIR.finditer(text, sentence.start, sentence.end) if pair[1] != pair[2]]
        if not pairs:
            continue
        pair = min(pairs, key=lambda pair: hash_of(f"order/{name}/{pair.start()}"))
        start = found[i - CONTEXT_SENTENCES].start
        yield OrderExample(
            doc_id=name,
            position=pair.start(),
            before=text[start : pair.start() - 1],
            first=pair[1],
            second=pair[2],
            rest=text[pair.end(2) : sentence.end],
        )


def run(subject: Subject) -> SCORES:
    held_out = subject.documents()
    every = [example for document in held_out.documents for example in examples(document)]
    every = [example for example in every if len(encode(example.endings[0])) <= MAX_REST_TOKENS]
    chosen = [every[i] for i in choose([f"order/{e.doc_id}/{e.position}" for e in every], subject.limit)]
    clusters = [example.doc_id for example in chosen]
    require_clusters(clusters, "sentences")
    requests = [
        Request(encode(example.before).tolist(), encode(ending).tolist())
        for example in chosen
        for ending in example.endings
    ]
    likelihoods = [score.log_likelihood for score in subject.score(requests)]
    subject.truncated //= 2  # contexts, not requests
    pairs = list(zip(likelihoods[::2], likelihoods[1::2], strict=True))
    unigram = held_out.log_probs()
    counted = [math.fsum(unigram[list(request.continuation)]) for request in requests]  # in any order the same sum
    for example, (as_it_stands, exchanged) in zip(chosen, pairs, strict=True):
        subject.keep(
            f"{example.doc_id}/{example.position}",
            document=example.doc_id,
            text=excerpt(example.before),
            answer=example.endings[0],
            prediction=example.endings[as_it_stands < exchanged],
            credit=credit((as_it_stands, exchanged), 0),
            confidence=abs(as_it_stands - exchanged),
            nats=-as_it_stands,
            nats_exchanged=-exchanged,
        )
    return result(
        subject,
        "accuracy",
        {"accuracy": stats.accuracy([credit(pair, 0) for pair in pairs], clusters)},
        len(chosen),
        {
            "unigram": stats.accuracy(
                [credit(pair, 0) for pair in zip(counted[::2], counted[1::2], strict=True)], clusters
            )
        },
        unit="sentence",
        documents=len(set(clusters)),
        available=len(every),
        chance=0.5,
    )


TASK = Task("heldout_order", 1, HELDOUT, 500, MAX_REST_TOKENS + 4, run)
