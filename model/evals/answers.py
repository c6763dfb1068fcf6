"""Short answers compared with those of people, as SQuAD (Rajpurkar et al., 2016) and CoQA (Reddy et al., 2019) do it.

Both lower the text, then remove ASCII punctuation, the articles a, an and the, and surplus white space. The F1 of two
answers is that of their words as bags: 2 x common / (words of both). If one of them has no word left, it is 1 if both
have none, otherwise 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    return float(normalize(answer) == normalize(reference))


def exact_match_of(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals one of the references: SQuAD's rule."""
    return max(exact_match(answer, reference) for reference in references)


def f1(answer: str, reference: str) -> float:
    ours, theirs = normalize(answer).split(), normalize(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def coqa_credit(answer: str, references: Sequence[str], compare: Callable[[str, str], float] = f1) -> float:
    """CoQA's score: the mean, over the references, of the best score with the others when this one is left out.

    So a person's own answers can be scored in the same way, against the others'. A single reference is not left out.
    """
    found = [compare(answer, reference) for reference in references]
    if len(found) == 1:
        return found[0]
    return sum(max(found[:i] + found[i + 1 :]) for i in range(len(found))) / len(found)
