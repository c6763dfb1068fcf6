"""``paper/nq``: short answers to questions without a document, as in the GPT-2 paper (section 3.8).

Known: the context is seeded with example pairs of questions and answers, so that the model infers the style of short
answers. An answer is right if it equals a reference by SQuAD's exact match. The 1542M model answers 4.1 % rightly, and
63.1 % of the 1 % of questions that it is most sure of, by the probability that it gives its own answer. The smallest
model stays below 1.0 %, the result of a baseline that returns the most common answer for each type of question (who,
what, where ...).

Not known, and our choice:

- The questions. The paper came before the open split; here they are ``NQ-open.dev.jsonl``, as in later papers.
- Which pairs, and how many: the first ``PAIRS`` lines of ``NQ-open.train.jsonl``, with their first answers. If
  that file is not there, the first lines of the development file, which are then not scored. ``pairs_from`` says which.
- How they are written: ``Q: question``, ``A: answer``, a blank line. Questions stay in lower case, without a mark.
- Where an answer ends: at the first line break, at end-of-text, or after ``MAX_NEW_TOKENS`` tokens. Greedy decoding.
- The model's probability of its answer: that of all tokens it wrote, with the line break or end-of-text.
- The 1 %: rounded up, at least two questions; in a tie the earlier ones in the file.
- The baseline's types: the first of ``TYPES`` in the question. It counts the answers of the training file, by SQuAD's
  normal form; without that file those of the other questions that are scored. Of equally common answers the first in
  alphabetical order.

``limit`` counts questions.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.evalsets.nq_open import Question, read_nq_open
from model.evals import stats
from model.evals.answers import exact_match_of, normalize
from model.evals.heldout import choose
from model.evals.lambada import ALL
from model.evals.task import MIN_CLUSTERS, SCORES, Subject, Task, require_clusters, result
from model.evals.writing import first_line, has_line, prompts_of

SET = "nq_open"
TRAIN = "nq_open_train"
PAIRS = 10
MAX_NEW_TOKENS = 32
TYPES = ("who", "whom", "whose", "what", "when", "where", "which", "why", "how many", "how much", "how")
_TYPE = re.compile(rf"\b({'|'.join(TYPES)})\b")
_Counts = dict[str, Counter[str]]


def context(pairs: Sequence[Question], question: str) -> str:
    return "".join(f"Q: {pair.question}\nA: {pair.answers[0]}\n\n" for pair in pairs) + f"Q: {question}\nA:"


def question_type(question: str) -> str:
    match = _TYPE.search(question.lower())
    return match[0] if match else "other"


def run(subject: Subject) -> SCORES:
    every = read_nq_open(subject.files[SET])
    subject.check_count(SET, len(every))
    train = read_nq_open(subject.files[TRAIN]) if TRAIN in subject.files else None
    pairs = (train or every)[:PAIRS]
    first = 0 if train else len(pairs)  # a pair in the context is not scored
    lines = sorted(first + i for i in choose([f"nq/{one.question}" for one in every[first:]], subject.limit))
    chosen = [every[i] for i in lines]
    require_clusters(lines, "questions")
    written = subject.write(prompts_of([context(pairs, one.question) for one in chosen]), MAX_NEW_TOKENS, has_line)
    answers = [first_line(one.text) for one in written]
    right = [exact_match_of(answer, one.answers) for answer, one in zip(answers, chosen, strict=True)]
    log_probs = [sum(one.log_probs) for one in written]
    by_confidence = sorted(range(len(chosen)), key=lambda i: -log_probs[i])
    surest = by_confidence[: max(MIN_CLUSTERS, -(-len(chosen) // 100))]
    guesses = _commonest(chosen, train)
    for i, one in enumerate(chosen):
        subject.keep(
            f"line {lines[i] + 1}",
            accuracy=right[i],
            text=one.question,
            answer=" | ".join(one.answers),
            prediction=answers[i],
            type=question_type(one.question),
            log_prob=log_probs[i],
            n_dropped=written[i].n_dropped,
        )
    return result(
        subject,
        "accuracy",
        {
            "accuracy": stats.accuracy(right, lines),
            "accuracy_most_confident": stats.accuracy([right[i] for i in surest], surest),
        },
        len(chosen),
        {
            "commonest_of_type": stats.accuracy(
                [exact_match_of(guess, one.answers) for guess, one in zip(guesses, chosen, strict=True)], lines
            )
        },
        unit="question",
        available=len(every) - first,
        n_most_confident=len(surest),
        pairs=len(pairs),
        pairs_from=subject.files[TRAIN if train else SET].name,
        ended_by_length=sum(one.end == "length" for one in written),
    )


def _commonest(questions: Sequence[Question], train: Sequence[Question] | None) -> list[str]:
    """The baseline's answers, in SQuAD's normal form; see the module."""
    counts: _Counts = defaultdict(Counter)
    for one in questions if train is None else train:
        counts[question_type(one.question)].update(_forms(one))
    found = []
    for one in questions:
        of_type = counts[question_type(one.question)]
        own = _forms(one) if train is None else set()  # a question does not vote for its own answers
        votes = {answer: n - (answer in own) for answer, n in of_type.items()}
        most = max(votes.values(), default=0)
        found.append(min((answer for answer, n in votes.items() if n == most), default=""))
    return found


def _forms(question: Question) -> set[str]:
    return {normalize(answer) for answer in question.answers}


def _also(files: Mapping[str, Path]) -> list[Path]:
    return [files[TRAIN]] if TRAIN in files else []


TASK = Task("paper/nq", 1, SET, ALL, 384, run, also=_also)
