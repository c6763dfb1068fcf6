"""LAMBADA from OpenAI's file, scored in two ways under two names.

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

Baselines: one guess per passage, as in ``heldout_lastword``, without the guess from the training documents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from data.bpe import encode
from data.evalsets.lambada import Passage, openai_lambada_text, read_lambada
from model.evals import stats, words
from model.evals.heldout import choose
from model.evals.lastword import GUESSES
from model.evals.task import SCORES, Subject, Task, excerpt, require_clusters, result
from model.scoring import Request

SET = "lambada"


def run(subject: Subject, prepare: Callable[[Passage], Passage], is_paper: bool) -> SCORES:
    passages = [prepare(passage) for passage in read_lambada(subject.files[SET])]
    indices = choose([f"lambada/{i}" for i in range(len(passages))], subject.limit)
    chosen = [passages[i] for i in sorted(indices)]
    require_clusters(range(len(chosen)), "passages")
    requests = [Request(encode(p.context).tolist(), encode(p.target).tolist()) for p in chosen]
    scores = subject.score(requests, words.stop_tokens() if is_paper else ())
    clusters = range(len(chosen))
    right = [float(score.is_greedy) for score in scores]
    metrics = {
        "accuracy": stats.accuracy(right, clusters),
        "perplexity": stats.mean([-score.log_likelihood for score in scores], clusters).exp(),
    }
    if is_paper:
        filtered = [float(s.is_first_likeliest_allowed and s.is_likeliest[1:].all()) for s in scores]
        last = [float(score.is_likeliest[-1]) for score in scores]
        metrics |= {
            "accuracy_stopword": stats.accuracy(filtered, clusters),
            "accuracy_last_token": stats.accuracy(last, clusters),
            "perplexity_last_token": stats.mean([-score.log_probs[-1] for score in scores], clusters).exp(),
        }
    for index, passage, score in zip(sorted(indices), chosen, scores, strict=True):
        subject.keep(
            f"{SET}/{index}",
            text=excerpt(passage.context),
            answer=passage.target.strip(),
            credit=float(score.is_greedy),
            nats=-score.log_likelihood,
            nats_last_token=-float(score.log_probs[-1]),
        )
    found = [words.content_words(passage.context) for passage in chosen]
    baselines = {
        name: stats.accuracy(
            [float(guess(of_one) == passage.target.strip()) for of_one, passage in zip(found, chosen, strict=True)],
            clusters,
        )
        for name, guess in GUESSES.items()
    }
    return result(subject, "accuracy", metrics, len(chosen), baselines, unit="word", available=len(passages))


def _as_it_stands(passage: Passage) -> Passage:
    return passage


ALL = 1_000_000  # the whole file
TASKS = (
    Task("harness/lambada_openai", 1, SET, ALL, 32, functools.partial(run, prepare=_as_it_stands, is_paper=False)),
    Task("paper/lambada", 1, SET, ALL, 32, functools.partial(run, prepare=openai_lambada_text, is_paper=True)),
)
