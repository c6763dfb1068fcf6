"""LAMBADA from OpenAI's file, scored in two ways under two names, and from the authors' file likewise.

``harness/lambada_openai`` is the task ``lambada_openai`` of lm-evaluation-harness: the text is unchanged, the target
is what follows the last space, a passage counts as right if greedy decoding writes all of its tokens, and perplexity
is per whole word.

``paper/lambada`` is the GPT-2 paper's score (section 3.3), as far as it is known:

- Known: the file; how its text is changed (data/evalsets/lambada.py, from openai/gpt-2, issue 131); that
  perplexity and accuracy refer to the last word; that the 1542M model has 52.66 % without and 63.24 % with a
  "stop-word filter", since most wrong predictions are good continuations that cannot be a last word.
- Not known: the list of stop words, and how the filter decodes. Here ``accuracy_stopword`` forbids a space and a stop
  word as the first token (model/evals/words.py). Targets that are such a token, or begin with one, count as wrong.
- Disputed: whether the last word or the last token is scored. EleutherAI/gpt-neo pull request 29 says that OpenAI
  scored the last token; by words, lm-evaluation-harness finds 32.6 % for the 124M weights (issue 2159), where table 3
  has 45.99 %. So ``accuracy_last_token`` and ``perplexity_last_token`` are reported too.

``paper/lambada_plain`` scores the authors' file (lower case, tokenized) in the same way, after a de-tokenizer;
``harness/lambada_standard`` scores it as it stands, as the task of that name. ``webtext eval --ablate paper/lambada``
shows what each choice is worth.

Baselines: one guess per passage, as in ``heldout_lastword``, without the guess from the training documents.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.evalsets.lambada import (
    Passage,
    as_it_stands,
    on_a_new_line,
    openai_lambada_text,
    read_lambada,
    read_lambada_plain,
    straight_quotes,
    untokenized,
)
from model.evals import control, stats, words
from model.evals.heldout import choose
from model.evals.lastword import GUESSES
from model.evals.task import SCORES, Choices, Subject, Task, excerpt, require_clusters, result
from model.events import Variant
from model.scoring import Request, Score

SET = "lambada"
PLAIN = "lambada_plain"
READERS: dict[str, Callable[[Path], list[Passage]]] = {SET: read_lambada, PLAIN: read_lambada_plain}
Prepare = Callable[[Passage], Passage]
LAST = ("last word", "last token")
FILES: tuple[tuple[str, str, dict[str, Prepare]], ...] = (
    ("OpenAI's, on a new line", SET, {"no": on_a_new_line, "yes": openai_lambada_text}),
    ("OpenAI's, as it stands", SET, {"no": as_it_stands, "yes": straight_quotes}),
    ("the authors'", PLAIN, {"no": as_it_stands, "yes": untokenized}),
)
"""A file, its set, and its passages without and with a de-tokenizer, which makes OpenAI's quotes straight."""
PUBLISHED = {
    ("OpenAI's, on a new line", "yes", "last word", "yes"): "GPT-2 paper, table 3: 45.99 % (117M), 63.24 % (1542M)",
    ("OpenAI's, on a new line", "yes", "last word", "no"): "GPT-2 paper, section 3.3: 52.66 % (1542M)",
    ("OpenAI's, on a new line", "yes", "last token", "no"): (
        "transformers issue 13761: 46.67 % (117M); perhaps the paper's 45.99 % (gpt-neo pull request 29)"
    ),
    ("OpenAI's, as it stands", "no", "last word", "no"): "lm-evaluation-harness issue 2159: 32.56 % (117M)",
}


@dataclass(frozen=True)
class Predicted:
    """The passages of a file that were scored."""

    names: list[str]
    passages: list[Passage]
    requests: list[Request]
    scores: list[Score]
    available: int

    def accuracy(self, target: str, stop_words: str) -> stats.Estimate:
        earned = [credit(score, target, stop_words) for score in self.scores]
        return stats.accuracy(earned, range(len(earned)))


def credit(score: Score, target: str = "last word", stop_words: str = "no") -> float:
    """1 if greedy decoding writes the target: all tokens of the ``last word``, or its ``last token``.

    With ``stop_words`` "yes" the filter forbids a stop word as the first token of the word.
    """
    is_first_right = score.is_first_likeliest_allowed if stop_words == "yes" else bool(score.is_likeliest[0])
    if target == "last token":
        return float(is_first_right if len(score.is_likeliest) == 1 else score.is_likeliest[-1])
    return float(is_first_right and score.is_likeliest[1:].all())


def predict(subject: Subject, evalset: str, prepare: Prepare, exclude: Sequence[int] = ()) -> Predicted:
    """Score the last words of a file's passages, in the spelling that ``prepare`` gives to them."""
    passages = READERS[evalset](subject.files[evalset])
    subject.check_count(evalset, len(passages))
    indices = sorted(choose([f"lambada/{i}" for i in range(len(passages))], subject.limit))
    chosen = [prepare(passages[i]) for i in indices]
    require_clusters(range(len(chosen)), "passages")
    requests = [Request(subject.encode(p.context), subject.encode(p.target)) for p in chosen]
    names = [f"{evalset}/{i}" for i in indices]
    return Predicted(names, chosen, requests, subject.score(requests, exclude), len(passages))


def run(subject: Subject, prepare: Prepare, is_paper: bool, evalset: str = SET) -> SCORES:
    found = predict(subject, evalset, prepare, words.stop_tokens(subject.encode) if is_paper else ())
    chosen, scores = found.passages, found.scores
    clusters = range(len(chosen))
    metrics = {
        "accuracy": found.accuracy("last word", "no"),
        "perplexity": stats.mean([-score.log_likelihood for score in scores], clusters).exp(),
    }
    if is_paper:
        metrics |= {
            "accuracy_stopword": found.accuracy("last word", "yes"),
            "accuracy_last_token": found.accuracy("last token", "no"),
            "perplexity_last_token": stats.mean([-score.log_probs[-1] for score in scores], clusters).exp(),
        }
    for name, passage, score in zip(found.names, chosen, scores, strict=True):
        subject.keep(
            name,
            text=excerpt(passage.context),
            answer=passage.target.strip(),
            credit=float(score.is_greedy),
            nats=-score.log_likelihood,
            nats_last_token=-float(score.log_probs[-1]),
        )
    controlled, more = control.accuracy(
        subject, found.names, clusters, [[one] for one in found.requests], lambda _, one: credit(one[0])
    )
    content = [words.content_words(passage.context) for passage in chosen]
    baselines = {
        name: stats.accuracy(
            [float(guess(of_one) == passage.target.strip()) for of_one, passage in zip(content, chosen, strict=True)],
            clusters,
        )
        for name, guess in GUESSES.items()
    }
    return result(
        subject,
        "accuracy",
        metrics | controlled,
        len(chosen),
        baselines,
        unit="word",
        available=found.available,
        **more,
    )


def variants(subject: Subject) -> Iterator[Variant]:
    """The accuracy for each file, de-tokenizer, target and filter; one pass over the model per file and spelling."""
    for file, evalset, prepares in FILES:
        for detokenizer, prepare in prepares.items():
            missing = subject.lacks(evalset)
            found = None if missing else predict(subject, evalset, prepare, words.stop_tokens(subject.encode))
            for target, stop_words in itertools.product(LAST, ("no", "yes")):
                chosen = (file, detokenizer, target, stop_words)
                yield Variant.of(
                    dict(zip(("file", "de-tokenizer", "target", "stop-word filter"), chosen, strict=True)),
                    found.accuracy(target, stop_words) if found else None,
                    len(found.scores) if found else 0,
                    PUBLISHED.get(chosen, ""),
                    missing,
                )


ALL = 1_000_000  # the whole file
TASKS = tuple(
    Task(
        name,
        1,
        evalset,
        ALL,
        32,
        functools.partial(run, prepare=prepare, is_paper=is_paper, evalset=evalset),
        has_control=True,
        any_tokenizer=True,
        choices=Choices("accuracy", (SET, PLAIN), variants) if name == "paper/lambada" else None,
    )
    for name, evalset, prepare, is_paper in (
        ("harness/lambada_openai", SET, as_it_stands, False),
        ("paper/lambada", SET, openai_lambada_text, True),
        ("harness/lambada_standard", PLAIN, as_it_stands, False),
        ("paper/lambada_plain", PLAIN, untokenized, True),
    )
)
