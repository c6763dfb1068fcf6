"""``heldout_cloze``: which of ten words was removed from a sentence of a held-out document (CBT, Hill et al., 2015).

An example is a sentence, the 20 sentences before it (as in CBT), and a content word of the sentence that also occurs in
these 20. It is scored as in the GPT-2 paper (section 3.2): the model picks the choice for which the choice and the rest
of the sentence together have the highest log-probability, given everything before. Every choice is one token, so none
is favoured by its length.

Counting must not help, so that a score above 10 % means reading:

- All ten choices occur equally often in the 20 sentences, so "copy the most frequent" is a ten-way tie.
- Either all ten are capitalised or none is. The answer occurs once in the sentence, the other choices do not.
- The nine wrong choices are neighbours of the answer among such words, sorted by their frequency in the training
  documents: r of them are rarer and 9 - r more frequent, with r drawn uniformly. Only words with nine neighbours on
  either side become answers. So the rank of the answer is uniform: a tenth of the answers are the most frequent of
  their ten, a tenth the rarest, and so on.

Baselines, on the same examples: the choice that is most frequent in training, most frequent in the context, and most
recent in the context. A tie of t choices counts 1/t if the answer is among them.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.bpe import encode
from model.evals import control, stats, words
from model.evals.heldout import Counts, HeldOutDocument, choose, hash_of
from model.evals.task import HELDOUT, SCORES, Subject, Task, excerpt, require_clusters, result
from model.scoring import Request

CHOICES = 10
CONTEXT_SENTENCES = 20
MIN_WORDS = 5
MAX_WORDS = 40  # of the sentence
MAX_REST_TOKENS = 60  # after the blank
_WORD_AFTER_SPACE = re.compile(r"(?<=\S) ([A-Za-z]+)(?![\w'’-])")


@dataclass(frozen=True)
class ClozeExample:
    """``before`` + space + one of ``choices`` + ``rest``; ``before`` ends inside the sentence, at ``position``.

    ``recency[i]`` is the position in the context at which choice i occurs last, ``occurrences[i]`` how often it does.
    """

    doc_id: str
    position: int
    before: str
    rest: str
    choices: tuple[str, ...]
    answer: int
    occurrences: tuple[int, ...]
    recency: tuple[int, ...]


def examples(document: HeldOutDocument, tokens: Mapping[str, int], counts: Counts) -> Iterator[ClozeExample]:
    """At most one example per sentence. ``tokens`` are the words that may be choices, ``counts`` those of training."""
    text = document.text
    found = words.sentences(document.text)
    for i in range(CONTEXT_SENTENCES, len(found)):
        sentence = found[i]
        if not MIN_WORDS <= sentence.n_words <= MAX_WORDS or text[sentence.end - 1] not in ".!?":
            continue
        start = found[i - CONTEXT_SENTENCES].start
        in_sentence = Counter(words.WORD.findall(text, sentence.start, sentence.end))
        in_context = list(words.WORD.finditer(text, start, found[i - 1].end))
        occurrences = Counter(match[0] for match in in_context)
        blanks = [
            match
            for match in _WORD_AFTER_SPACE.finditer(text, sentence.start, sentence.end)
            if match[1] in tokens and occurrences[match[1]] and in_sentence[match[1]] == 1
        ]
        blanks.sort(key=lambda match: hash_of(f"cloze/{document.doc_id.hex()}/{match.start()}"))
        for blank in blanks:
            answer = blank[1]
            pool = [
                word
                for word, count in occurrences.items()
                if count == occurrences[answer]
                and word in tokens
                and word[0].isupper() == answer[0].isupper()
                and (word == answer or word not in in_sentence)
            ]
            name = f"{document.doc_id.hex()}/{blank.start()}"
            choices = _neighbours(answer, pool, {word: int(counts[tokens[word]]) for word in pool}, name)
            if choices:
                last = {match[0]: match.start() for match in in_context}
                yield ClozeExample(
                    doc_id=document.doc_id.hex(),
                    position=blank.start(),
                    before=text[start : blank.start()],
                    rest=text[blank.end() : sentence.end],
                    choices=choices,
                    answer=choices.index(answer),
                    occurrences=tuple(occurrences[word] for word in choices),
                    recency=tuple(last[word] for word in choices),
                )
                break


def _neighbours(answer: str, pool: Sequence[str], frequency: Mapping[str, int], name: str) -> tuple[str, ...] | None:
    """Ten words of the pool around the answer, ordered by hash; None unless it has nine neighbours on either side."""
    order = sorted(pool, key=lambda word: (frequency[word], hash_of(f"cloze/tie/{name}/{word}")))
    at = order.index(answer)
    others = CHOICES - 1
    if at < others or len(order) - 1 - at < others:
        return None
    rarer = int.from_bytes(hash_of(f"cloze/rank/{name}")[:8], "little") % CHOICES
    chosen = order[at - rarer : at - rarer + CHOICES]
    return tuple(sorted(chosen, key=lambda word: hash_of(f"cloze/order/{name}/{word}")))


def credit(values: Sequence[float], answer: int) -> float:
    """1 if only the answer has the highest value, 1/t if t choices share it with the answer, otherwise 0."""
    best = max(values)
    return 1 / sum(value == best for value in values) if values[answer] == best else 0.0


def run(subject: Subject) -> SCORES:
    held_out = subject.documents()
    tokens = words.single_tokens()
    every = [example for document in held_out.documents for example in examples(document, tokens, held_out.counts)]
    rests = {id(example): encode(example.rest).tolist() for example in every}
    every = [example for example in every if len(rests[id(example)]) <= MAX_REST_TOKENS]
    chosen = [every[i] for i in choose([f"cloze/{e.doc_id}/{e.position}" for e in every], subject.limit)]
    clusters = [example.doc_id for example in chosen]
    require_clusters(clusters, "examples")
    requests = []
    for example in chosen:
        before = encode(example.before).tolist()
        rest = rests[id(example)]
        requests += [Request(before, [tokens[choice], *rest]) for choice in example.choices]
    scores = subject.score(requests)
    likelihoods = np.array([score.log_likelihood for score in scores]).reshape(-1, CHOICES)
    subject.truncated //= CHOICES  # contexts, not requests
    right = [credit(row.tolist(), e.answer) for row, e in zip(likelihoods, chosen, strict=True)]
    for example, row, earned in zip(chosen, likelihoods, right, strict=True):
        best = int(row.argmax())
        subject.keep(
            f"{example.doc_id}/{example.position}",
            document=example.doc_id,
            text=f"{excerpt(example.before)} ____{example.rest}",
            answer=example.choices[example.answer],
            prediction=example.choices[best],
            credit=earned,
            confidence=float(1 / np.exp(row - row[best]).sum()),
            nats=-float(row[example.answer]),
        )
    controlled, more = control.accuracy(
        subject,
        [f"{example.doc_id}/{example.position}" for example in chosen],
        clusters,
        [requests[at : at + CHOICES] for at in range(0, len(requests), CHOICES)],
        lambda i, of_one: credit([score.log_likelihood for score in of_one], chosen[i].answer),
    )
    frequencies = [[float(held_out.counts[tokens[choice]]) for choice in example.choices] for example in chosen]
    ways = {
        "unigram": frequencies,
        "most_frequent_in_context": [[float(count) for count in example.occurrences] for example in chosen],
        "latest_in_context": [[float(position) for position in example.recency] for example in chosen],
    }
    accuracy = functools.partial(stats.accuracy, clusters=clusters)
    return result(
        subject,
        "accuracy",
        {"accuracy": accuracy(right)} | controlled,
        len(chosen),
        {
            name: accuracy([credit(row, e.answer) for row, e in zip(values, chosen, strict=True)])
            for name, values in ways.items()
        },
        unit="sentence",
        documents=len(set(clusters)),
        available=len(every),
        chance=1 / CHOICES,
        **more,
    )


TASK = Task("heldout_cloze", 1, HELDOUT, 300, MAX_REST_TOKENS + 4, run, has_control=True)
