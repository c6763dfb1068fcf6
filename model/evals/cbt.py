"""``paper/cbt_cn`` and ``paper/cbt_ne``: the Children's Book Test the GPT-2 paper's way (section 3.2).

A choice counts by the probability of the choice and the rest of its sentence, given the 20 sentences and the beginning
of the sentence. The paper reports the validation files, because a book of the test files, The Jungle Book, is in
WebText: 87.65 % and 83.4 % for 117M, 93.30 % and 89.05 % for 1542M.

- Known: the probability that decides, the files, and that a de-tokenizer removed "PTB style tokenization artifacts".
- Not known: its rules (ours: data/evalsets/treebank.py), and whether sentences were joined by spaces or line breaks.
  Here by spaces. A reproduction with 84.35 % and 73.65 % is transformers issue 13761; it does not say how.

``accuracy_choice`` is another measure: the probability of the choice without the rest.

- A choice of several tokens counts with the product of their probabilities, not by its length.
- A choice whose tokens begin another choice ("lumber", "lumber-room") cannot be less probable without the rest, but
  can with it. ``n_prefixes`` counts the questions that have such a pair.
- A tie of t choices counts 1/t if the answer is among them.
- A context that is too long loses tokens at its left, and is counted as ``truncated``. A question whose choice and rest
  alone are longer than the model's context is left out, and counted as ``too_long``.

Every question is a cluster of its own, because the files do not name the books. Baselines as in ``heldout_cloze``: the
choice that occurs most often or last in the 20 sentences; and the longest choice.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.evalsets.cbt import BLANK, CbtQuestion, read_cbt
from data.evalsets.treebank import detokenize
from model.evals import control, stats
from model.evals.cloze import credit
from model.evals.heldout import choose
from model.evals.lambada import ALL
from model.evals.task import SCORES, Choices, Subject, Task, require_clusters, result
from model.events import Variant
from model.scoring import Request, Score

KEPT_CHARS = 300  # of a context, in the rows of the examples
DETOKENIZERS: dict[str, Callable[[str], str]] = {"no": lambda text: text, "yes": detokenize}
MEASURES = ("choice and rest", "choice only")
PUBLISHED = {
    ("cn", "valid", "yes", "choice and rest"): "GPT-2 paper, table 3: 87.65 % (117M), 93.30 % (1542M)",
    ("cn", "valid", "no", "choice and rest"): "perhaps transformers issue 13761: 84.35 % (117M), method not given",
    ("ne", "valid", "yes", "choice and rest"): "GPT-2 paper, table 3: 83.4 % (117M), 89.05 % (1542M)",
    ("ne", "valid", "no", "choice and rest"): "perhaps transformers issue 13761: 73.65 % (117M), method not given",
}


@dataclass(frozen=True)
class CbtExample:
    """A question as the model reads it: token ids, none of them empty but ``rest``."""

    name: str
    text: str  # the end of it, with the blank
    question: CbtQuestion
    before: list[int]
    choices: list[list[int]]
    rest: list[int]

    @property
    def requests(self) -> list[Request]:
        return [Request(self.before, [*choice, *self.rest]) for choice in self.choices]

    def credit(self, scores: Sequence[Score], measure: str) -> float:
        return credit(self.likelihoods(scores, measure), self.question.answer)

    def likelihoods(self, scores: Sequence[Score], measure: str) -> list[float]:
        """The log-probability of each choice, with the rest of the sentence or alone; nats."""
        if measure == "choice and rest":
            return [score.log_likelihood for score in scores]
        return [float(score.log_probs[: len(choice)].sum()) for score, choice in zip(scores, self.choices, strict=True)]

    @property
    def has_prefix(self) -> bool:
        """Whether the tokens of a choice begin another one."""
        return any(one is not two and two[: len(one)] == one for one in self.choices for two in self.choices)

    def baselines(self) -> Iterator[tuple[str, float]]:
        question = self.question
        words = [word for sentence in question.context for word in sentence.split()]
        last = {word: index for index, word in enumerate(words)}
        yield "most_frequent_in_context", credit([words.count(choice) for choice in question.choices], question.answer)
        yield "latest_in_context", credit([last.get(choice, -1) for choice in question.choices], question.answer)
        yield "longest", credit([len(choice) for choice in question.choices], question.answer)


@dataclass(frozen=True)
class Answered:
    """The examples of a file that were scored, with the scores of their choices."""

    examples: list[CbtExample]
    scores: list[list[Score]]
    available: int
    too_long: int

    def accuracy(self, measure: str) -> stats.Estimate:
        earned = [one.credit(scores, measure) for one, scores in zip(self.examples, self.scores, strict=True)]
        return stats.accuracy(earned, range(len(earned)))


def answer(subject: Subject, evalset: str, spell: Callable[[str], str]) -> Answered:
    """Score the choices of all questions of a file, in the spelling that ``spell`` gives to them."""
    questions = read_cbt(subject.files[evalset])
    subject.check_count(evalset, len(questions))
    indices = sorted(choose([f"cbt/{i}" for i in range(len(questions))], subject.limit))
    every = [_example(questions[i], f"{evalset}/{i}", spell, subject.encode) for i in indices]
    context = subject.model.config.context
    examples = [one for one in every if max(map(len, one.choices)) + len(one.rest) <= context]
    require_clusters(range(len(examples)), "questions")
    truncated = subject.truncated
    scores = iter(subject.score([request for one in examples for request in one.requests]))
    answers = [[next(scores) for _ in one.choices] for one in examples]
    subject.truncated = truncated + sum(any(score.n_dropped for score in of_one) for of_one in answers)
    return Answered(examples, answers, len(questions), len(every) - len(examples))


def _example(
    question: CbtQuestion, name: str, spell: Callable[[str], str], encode: Callable[[str], list[int]]
) -> CbtExample:
    text = spell(question.text)
    before, _, rest = text.rpartition(BLANK)
    space = " " if before.endswith(" ") else ""
    before = before.removesuffix(" ")
    choices = [encode(space + spell(choice)) for choice in question.choices]
    return CbtExample(name, text[-KEPT_CHARS:], question, encode(before), choices, encode(rest))


def run(subject: Subject, evalset: str) -> SCORES:
    found = answer(subject, evalset, detokenize)
    for one, scores in zip(found.examples, found.scores, strict=True):
        likelihoods = np.array(one.likelihoods(scores, "choice and rest"))
        best = int(likelihoods.argmax())
        subject.keep(
            one.name,
            text=one.text,
            answer=one.question.choices[one.question.answer],
            prediction=one.question.choices[best],
            credit=one.credit(scores, "choice and rest"),
            credit_choice=one.credit(scores, "choice only"),
            confidence=float(1 / np.exp(likelihoods - likelihoods[best]).sum()),
            nats_answer=-float(likelihoods[one.question.answer]),
        )
    examples = found.examples
    metrics = {"accuracy": found.accuracy("choice and rest"), "accuracy_choice": found.accuracy("choice only")}
    controlled, more = control.accuracy(
        subject,
        [one.name for one in examples],
        range(len(examples)),
        [one.requests for one in examples],
        lambda i, scores: examples[i].credit(scores, "choice and rest"),
    )
    guesses = [dict(one.baselines()) for one in examples]
    baselines = {name: stats.accuracy([guess[name] for guess in guesses], range(len(examples))) for name in guesses[0]}
    return result(
        subject,
        "accuracy",
        metrics | controlled,
        len(examples),
        baselines,
        unit="sentence",
        available=found.available,
        too_long=found.too_long,
        n_prefixes=sum(one.has_prefix for one in examples),
        chance=float(np.mean([1 / len(one.choices) for one in examples])),
        **more,
    )


def variants(subject: Subject, kind: str) -> Iterator[Variant]:
    """The accuracy for each split, de-tokenizer and measure; one pass over the model per split and de-tokenizer."""
    for split, (detokenizer, spell) in itertools.product(("valid", "test"), DETOKENIZERS.items()):
        evalset = f"cbt_{kind}_{split}"
        missing = subject.lacks(evalset)
        found = None if missing else answer(subject, evalset, spell)
        for measure in MEASURES:
            yield Variant.of(
                {"split": split, "de-tokenizer": detokenizer, "probability of": measure},
                found.accuracy(measure) if found else None,
                len(found.examples) if found else 0,
                PUBLISHED.get((kind, split, detokenizer, measure), ""),
                missing,
            )


TASKS = tuple(
    Task(
        f"paper/cbt_{kind}",
        1,
        f"cbt_{kind}_valid",
        ALL,
        32,
        functools.partial(run, evalset=f"cbt_{kind}_valid"),
        has_control=True,
        any_tokenizer=True,
        choices=Choices(
            "accuracy",
            (f"cbt_{kind}_valid", f"cbt_{kind}_test"),
            functools.partial(variants, kind=kind),
        ),
    )
    for kind in ("cn", "ne")
)
