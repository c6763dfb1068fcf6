"""``paper/winograd``: the 273 examples of the Winograd Schema Challenge, as in the GPT-2 paper (section 3.4, figure 3).

A candidate takes the place of the pronoun. Partial scoring (Trinh and Le, 2018) compares the probability of what
follows the candidate, given the text up to and with it. Full scoring compares the probability of the whole text. What
stands before the pronoun is the same for both candidates, so it is left out of the sum.

- Known: both kinds of scoring, and 70.70 % for 1542M.
- Not known: which of the two has 70.70 %, and how candidates were written. Here ``accuracy`` is partial scoring, which
  Trinh and Le found better, and ``accuracy_full`` is full scoring; candidates: data/evalsets/winograd.py.

If both candidates are equally probable, each counts 1/2. The 2 or more examples of a schema share their beginning, so
schemas are the clusters of the standard error, and the control takes no context from the same schema. Baselines: the
first candidate, as the text names them; and the shorter one in tokens, which full scoring favours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.evalsets.winograd import WinogradExample, read_winograd, schemas
from model.evals import control, stats
from model.evals.cloze import credit
from model.evals.heldout import choose
from model.evals.lambada import ALL
from model.evals.task import SCORES, Subject, Task, require_clusters, result
from model.scoring import Request, Score

SET = "winograd"


@dataclass(frozen=True)
class Encoded:
    """An example as token ids; ``candidates`` are followed by ``after``."""

    example: WinogradExample
    before: list[int]
    candidates: list[list[int]]
    after: list[int]

    @property
    def requests(self) -> list[Request]:
        return [Request(self.before, [*candidate, *self.after]) for candidate in self.candidates]

    def partial(self, scores: Sequence[Score]) -> list[float]:
        """Nats of what follows each candidate."""
        pairs = zip(scores, self.candidates, strict=True)
        return [float(score.log_probs[len(candidate) :].sum()) for score, candidate in pairs]

    def full(self, scores: Sequence[Score]) -> list[float]:
        """Nats of each candidate and what follows it."""
        return [score.log_likelihood for score in scores]


def _encoded(example: WinogradExample, subject: Subject) -> Encoded:
    space = " " if example.before else ""
    candidates = [subject.encode(space + candidate) for candidate in example.candidates]
    before = subject.encode(example.before) or [subject.tokenizer.start]
    return Encoded(example, before, candidates, subject.encode(example.after))


def run(subject: Subject) -> SCORES:
    examples = read_winograd(subject.files[SET])
    subject.check_count(SET, len(examples))
    of_schema = schemas(examples)
    indices = sorted(choose([f"winograd/{i}" for i in range(len(examples))], subject.limit))
    chosen = [_encoded(examples[i], subject) for i in indices]
    clusters = [of_schema[i] for i in indices]
    require_clusters(clusters, "examples")
    truncated = subject.truncated
    found = iter(subject.score([request for one in chosen for request in one.requests]))
    scores = [[next(found) for _ in one.candidates] for one in chosen]
    subject.truncated = truncated + sum(any(score.n_dropped for score in of_one) for of_one in scores)
    partial = [credit(one.partial(s), one.example.answer) for one, s in zip(chosen, scores, strict=True)]
    full = [credit(one.full(s), one.example.answer) for one, s in zip(chosen, scores, strict=True)]
    names = [f"{SET}/{i}" for i in indices]
    for i, (one, of_one) in enumerate(zip(chosen, scores, strict=True)):
        nats = one.partial(of_one)
        subject.keep(
            names[i],
            document=str(clusters[i]),
            text=one.example.text,
            answer=one.example.candidates[one.example.answer],
            prediction=one.example.candidates[nats.index(max(nats))],
            credit=partial[i],
            credit_full=full[i],
            confidence=abs(nats[0] - nats[1]),
        )
    controlled, more = control.accuracy(
        subject,
        names,
        clusters,
        [one.requests for one in chosen],
        lambda i, of_one: credit(chosen[i].partial(of_one), chosen[i].example.answer),
    )
    shortest = [credit([-len(candidate) for candidate in one.candidates], one.example.answer) for one in chosen]
    first = [_named_first(one.example) for one in chosen]
    return result(
        subject,
        "accuracy",
        {"accuracy": stats.accuracy(partial, clusters), "accuracy_full": stats.accuracy(full, clusters)} | controlled,
        len(chosen),
        {"first_named": stats.accuracy(first, clusters), "shortest": stats.accuracy(shortest, clusters)},
        unit="example",
        documents=len(set(clusters)),
        available=len(examples),
        chance=0.5,
        **more,
    )


def _named_first(example: WinogradExample) -> float:
    """The credit of the candidate that the text names first; a candidate that it does not name is last."""
    text = example.before.lower()
    places = [text.find(candidate.lower()) for candidate in example.candidates]
    return credit([-place if place >= 0 else -len(text) for place in places], example.answer)


TASK = Task("paper/winograd", 1, SET, ALL, 32, run, has_control=True, any_tokenizer=True)
