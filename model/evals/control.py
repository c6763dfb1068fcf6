"""The control of a task: the same answers after another example's context, so that nothing can be read.

What the model still gets right is what the answers alone give away: their frequency, their length, how they fit the
words after them. The whole context is exchanged, everything before the answer, the beginning of its sentence included.

Which context an example gets is fixed. Documents are ordered by hash, and so are the examples of each document; in this
circle every example gets the context of the one that is as many places ahead as the largest document has examples. So
no context is used twice, none stays with its own document, and nothing depends on the model. If one document has more
than half of all examples, some cannot leave it; they are left out and counted as ``control_left_out``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from model.evals import stats
from model.evals.heldout import hash_of
from model.evals.stats import Estimate
from model.evals.task import Subject
from model.scoring import Request, Score

Credit = Callable[[int, Sequence[Score]], float]
"""The credit of the i-th example for the scores of its requests."""


def partners(names: Sequence[str], documents: Sequence[object]) -> list[int | None]:
    """For each example the index of the one whose context it gets; None if only its own document's are left."""
    order = sorted(
        range(len(names)), key=lambda i: (hash_of(f"control/{documents[i]}"), str(documents[i]), hash_of(names[i]))
    )
    ahead = max(Counter(documents).values(), default=0)
    given: list[int | None] = [None] * len(names)
    for place, i in enumerate(order):
        other = order[(place + ahead) % len(order)]
        given[i] = other if documents[other] != documents[i] else None
    return given


def accuracy(
    subject: Subject,
    names: Sequence[str],
    documents: Sequence[object],
    requests: Sequence[Sequence[Request]],
    credit: Credit,
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """``control_accuracy``, and how many examples it is of; both empty unless the subject asks for a control.

    ``requests[i]`` are those of the i-th example. Costs one more pass over the model.
    """
    if not subject.control:
        return {}, {}
    pairs = [(i, other) for i, other in enumerate(partners(names, documents)) if other is not None]
    exchanged = [Request(requests[other][0].context, one.continuation) for i, other in pairs for one in requests[i]]
    truncated = subject.truncated
    scores = iter(subject.score(exchanged))
    subject.truncated = truncated
    earned = [credit(i, [next(scores) for _ in requests[i]]) for i, _ in pairs]
    left_out = len(names) - len(pairs)
    estimate = stats.accuracy(earned, [documents[i] for i, _ in pairs])
    return {"control_accuracy": estimate}, {"control_n": len(pairs), "control_left_out": left_out}
