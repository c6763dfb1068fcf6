"""``paper/wikitext2`` (test split) and ``paper/wikitext2_valid``: WikiText-2 the GPT-2 paper's way (section 3.1).

The text is de-tokenized invertibly (data/evalsets/wikitext.py) and scored as one stream. The nats are divided by the
number of *original* tokens: perplexity = exp(nats / (words + ends of line)). So scores compare across vocabularies,
and with the paper's 29.41 (117M) to 18.34 (1542M) on the test split, with two reservations: the paper publishes
neither its de-tokenizer nor the stride of its window. Our window moves by half the model's context. The first token is
conditioned on end-of-text.

Windows are the clusters of the standard error. ``bits_per_byte`` refers to the de-tokenized text. Baseline: the unigram
model of this text's own tokens, which no other unigram model can beat.

``limit`` counts windows from the beginning of the text. A limited score is for trying things out: it is not a
WikiText-2 score, and ``is_whole`` is false.
"""

from __future__ import annotations

import functools

import numpy as np

from data.bpe import decode, encode
from data.evalsets.wikitext import read_wikitext
from model.evals.lambada import ALL
from model.evals.stats import bits_per_byte, ratio
from model.evals.task import SCORES, Subject, Task, excerpt, require_clusters, result
from model.scoring import rolling


def run(subject: Subject, evalset: str) -> SCORES:
    wikitext = read_wikitext(subject.files[evalset])
    tokens = encode(wikitext.text)
    context = subject.model.config.context
    stride = max(1, context // 2)
    every = rolling(tokens.tolist(), context, stride)
    windows = every[: subject.limit]
    require_clusters(range(len(windows)), "windows")
    n_tokens = np.array([len(window.continuation) for window in windows], dtype=np.float64)
    scored = tokens[: int(n_tokens.sum())]
    scores = subject.score(windows)
    nats = np.array([-score.log_likelihood for score in scores])
    originals = wikitext.n_tokens * n_tokens / len(tokens)  # original tokens per window, by its share of the text
    for i, (window, lost, per) in enumerate(zip(windows, nats, originals, strict=True)):
        text = decode(window.continuation)
        subject.keep(f"{evalset}/{i}", text=excerpt(text, of="start"), nats=float(lost), per=float(per))
    n_bytes = len(wikitext.text.encode()) * n_tokens / len(tokens)
    frequency = np.bincount(scored) / len(scored)
    unigram = [-np.log(frequency[list(window.continuation)]).sum() for window in windows]
    return result(
        subject,
        "perplexity",
        {
            "perplexity": ratio(nats, originals).exp(),
            "nats_per_token": ratio(nats, n_tokens),
            "bits_per_byte": bits_per_byte(nats, n_bytes),
        },
        int(originals.sum().round()),
        {"unigram_of_this_text": ratio(unigram, originals).exp()},
        lower_is_better=True,
        unit="original token",
        available=len(every),
        windows=len(windows),
        is_whole=len(windows) == len(every),
        stride=stride,
        bpe_tokens=len(scored),
        lines_kept=wikitext.lines_kept,
    )


TASKS = (
    Task("paper/wikitext2", 1, "wikitext2_test", ALL, 2, functools.partial(run, evalset="wikitext2_test")),
    Task("paper/wikitext2_valid", 1, "wikitext2_valid", ALL, 2, functools.partial(run, evalset="wikitext2_valid")),
)
