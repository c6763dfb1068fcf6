"""The texts of the GPT-2 paper's table 3, scored its way (section 3.1).

    paper/wikitext2, paper/wikitext2_valid, paper/wikitext103, paper/ptb     one stream of lines
    paper/1bw                                                                shuffled sentences, each by itself
    paper/enwik8 (bits per byte), paper/text8 (bits per character)           one stream of bytes

Known: the sets; that WikiText, PTB and 1BW go through invertible de-tokenizers (ours: data/evalsets/); that the loss is
divided by the number of *original* tokens before the exponential, so perplexity = exp(nats / (words + ends of line)),
which compares across vocabularies (openai/gpt-2 issue 78). Not known: the de-tokenizers, the stride of the window, what
stands at the end of a line, which part of 1BW, enwik8 and text8 was scored. Our choices:

- The window moves by half the model's context, or by ``--stride``. The first token follows end-of-text.
- A line ends with a line feed, which is scored, as the end of a line is an original token. A sentence of 1BW follows
  end-of-text and ends with a line feed too; ``perplexity_without_line_ends`` leaves the line feeds out of both sums.
- WikiText-2 and WikiText-103 have the same test articles with other ``<unk>``; each score is of its own file. The
  paper's 37.50 for WikiText-103 is near the perplexity per word that lm-evaluation-harness finds on the articles
  without ``<unk>``, 37.37, and its 29.41 for WikiText-2 near the one per BPE token, 29.94 (huggingface/transformers
  issue 13761).
- enwik8 and text8: the last 5,000,000 bytes, unchanged.

Windows are the clusters of the standard error, and for 1BW sentences are. ``bits_per_byte`` refers to the text that the
model reads. Baseline: the unigram model of this text's own tokens, which no other unigram model can beat.

``limit`` counts windows from the beginning of the text, and sentences of 1BW chosen by hash. A limited score is for
trying things out: it is not a score of the set, and ``is_whole`` is false.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.bpe import encode
from data.evalsets.enwik8 import TestPart, read_enwik8, read_text8
from data.evalsets.texts import TOKEN_TEXTS
from data.evalsets.wikitext import read_wikitext
from model.evals.heldout import choose
from model.evals.lambada import ALL
from model.evals.stats import Estimate, Floats, bits_per_byte, ratio
from model.evals.task import SCORES, Choices, Subject, Task, excerpt, require_clusters, result
from model.events import Variant
from model.scoring import Request, rolling

BYTE_TEXTS: dict[str, tuple[Callable[[Path], TestPart], str]] = {
    "enwik8": (read_enwik8, "byte"),
    "text8": (read_text8, "character"),
}
"""Reader and unit."""

STRIDES = {"half the context": 2, "the whole context": 1}
UNITS = ("original token", "BPE token", "word")
PUBLISHED = {
    ("original token", "yes", "half the context"): "GPT-2 paper, table 3: 29.41 (117M), 18.34 (1542M)",
    ("BPE token", "no", "the whole context"): "transformers issue 13761: 29.94 (117M)",
    ("word", "yes", "the whole context"): (
        "lm-evaluation-harness: 37.37 (117M, transformers issue 13761); WikiText-103 in the paper: 37.50"
    ),
}
"""Numbers by unit, de-tokenizer and stride, for ``webtext eval --ablate paper/wikitext2``."""


@dataclass(frozen=True)
class _Stream:
    """Scored windows of one stream of tokens; arrays have an entry per window."""

    windows: list[Request]
    nats: Floats
    n_tokens: Floats
    n_text: int  # tokens of the whole text
    available: int  # windows of the whole text
    stride: int

    @property
    def share(self) -> Floats:
        """Of the text's tokens, per window."""
        return self.n_tokens / self.n_text

    def unigram_nats(self) -> Floats:
        scored = [np.asarray(window.continuation) for window in self.windows]
        return _unigram_nats(np.concatenate(scored), scored)


def run_stream(subject: Subject, evalset: str) -> SCORES:
    """One stream of lines, per original token."""
    text = TOKEN_TEXTS[evalset](subject.files[evalset])
    subject.check_count(evalset, text.n_tokens)
    stream = _score_stream(subject, text.text)
    originals = text.n_tokens * stream.share
    _keep_windows(subject, evalset, stream, originals)
    return result(
        subject,
        "perplexity",
        {
            "perplexity": ratio(stream.nats, originals).exp(),
            "nats_per_token": ratio(stream.nats, stream.n_tokens),
            "bits_per_byte": bits_per_byte(stream.nats, len(text.text.encode()) * stream.share),
        },
        int(originals.sum().round()),
        {"unigram_of_this_text": ratio(stream.unigram_nats(), originals).exp()},
        lower_is_better=True,
        unit="original token",
        **_facts(stream),
        lines_kept=text.lines_kept,
        unknown_words=text.text.count("<unk>"),
    )


def run_lines(subject: Subject, evalset: str) -> SCORES:
    """Sentences that have nothing to do with each other, per original token."""
    text = TOKEN_TEXTS[evalset](subject.files[evalset])
    subject.check_count(evalset, text.n_tokens)
    chosen = sorted(choose([f"{evalset}/{i}" for i in range(text.n_lines)], subject.limit))
    require_clusters(chosen, "sentences")
    context = subject.model.config.context
    stride = subject.stride_for(context)
    (line_feed,) = encode("\n").tolist()
    ids = [[*encode(text.lines[i]).tolist(), line_feed] for i in chosen]
    windows = [rolling(of_one, context, stride) for of_one in ids]
    scores = iter(subject.score([window for of_one in windows for window in of_one]))
    log_probs = [np.concatenate([next(scores).log_probs for _ in of_one]) for of_one in windows]
    nats = np.array([-one.sum() for one in log_probs])
    ends = np.array([-one[-1] for one in log_probs])
    words = np.array([text.words[i] for i in chosen], dtype=np.float64)
    n_tokens = np.array([len(of_one) for of_one in ids], dtype=np.float64)
    n_bytes = np.array([len(text.lines[i].encode()) + 1 for i in chosen], dtype=np.float64)
    for i, lost, end, n_words in zip(chosen, nats, ends, words, strict=True):
        numbers = {"nats": float(lost), "per": float(n_words + 1), "line_end_nats": float(end)}
        subject.keep(f"{evalset}/{i}", text=excerpt(text.lines[i], of="start"), **numbers)
    unigram = _unigram_nats(np.concatenate([np.asarray(of_one) for of_one in ids]), ids)
    return result(
        subject,
        "perplexity",
        {
            "perplexity": ratio(nats, words + 1).exp(),
            "perplexity_without_line_ends": ratio(nats - ends, words).exp(),
            "nats_per_token": ratio(nats, n_tokens),
            "bits_per_byte": bits_per_byte(nats, n_bytes),
        },
        int(words.sum()) + len(chosen),
        {"unigram_of_this_text": ratio(unigram, words + 1).exp()},
        lower_is_better=True,
        unit="original token",
        available=text.n_lines,
        lines=len(chosen),
        is_whole=len(chosen) == text.n_lines,
        stride=stride,
        bpe_tokens=int(n_tokens.sum()),
        lines_kept=sum(text.lines[i].startswith(" ") for i in chosen),
    )


def run_bytes(subject: Subject, evalset: str) -> SCORES:
    """One stream of bytes, in bits per byte; text8 has one byte per character."""
    read, unit = BYTE_TEXTS[evalset]
    part = read(subject.files[evalset])
    subject.check_count(evalset, part.file_bytes)
    stream = _score_stream(subject, part.text)
    n_bytes = len(part.text.encode()) * stream.share
    _keep_windows(subject, evalset, stream, n_bytes)
    metrics: dict[str, Estimate] = {
        f"bits_per_{unit}": bits_per_byte(stream.nats, n_bytes),
        "nats_per_token": ratio(stream.nats, stream.n_tokens),
    }
    return result(
        subject,
        f"bits_per_{unit}",
        metrics,
        int(n_bytes.sum().round()),
        {"unigram_of_this_text": bits_per_byte(stream.unigram_nats(), n_bytes)},
        lower_is_better=True,
        unit=unit,
        **_facts(stream),
        left_out_bytes=part.left_out_bytes,
    )


def variants(subject: Subject, evalset: str) -> Iterator[Variant]:
    """WikiText's perplexity for each unit, de-tokenizer and stride; one pass per de-tokenizer and stride.

    A "word" is an original token that is not the end of a line.
    """
    context = subject.model.config.context
    for detokenizer, (stride, per_context) in itertools.product(("no", "yes"), STRIDES.items()):
        missing = subject.lacks(evalset)
        units: dict[str, Floats] = {}
        if not missing:
            text = read_wikitext(subject.files[evalset], as_it_stands=detokenizer == "no")
            subject.check_count(evalset, text.n_tokens)
            strided = dataclasses.replace(subject, stride=max(1, context // per_context))
            stream = _score_stream(strided, text.text)
            numbers = (text.n_tokens * stream.share, stream.n_tokens, sum(text.words) * stream.share)
            units = dict(zip(UNITS, numbers, strict=True))
        for unit in UNITS:
            yield Variant.of(
                {"unit": unit, "de-tokenizer": detokenizer, "stride": stride},
                ratio(stream.nats, units[unit]).exp() if units else None,
                int(units[unit].sum().round()) if units else 0,
                PUBLISHED.get((unit, detokenizer, stride), ""),
                missing,
            )


def _score_stream(subject: Subject, text: str) -> _Stream:
    tokens = subject.encode(text)
    context = subject.model.config.context
    stride = subject.stride_for(context)
    every = rolling(tokens, context, stride, subject.tokenizer.start)
    windows = every[: subject.limit]
    require_clusters(range(len(windows)), "windows")
    scores = subject.score(windows)
    nats = np.array([-score.log_likelihood for score in scores])
    n_tokens = np.array([len(window.continuation) for window in windows], dtype=np.float64)
    return _Stream(windows, nats, n_tokens, len(tokens), len(every), stride)


def _keep_windows(subject: Subject, evalset: str, stream: _Stream, per: Floats) -> None:
    for i, (window, lost, of) in enumerate(zip(stream.windows, stream.nats, per, strict=True)):
        text = subject.tokenizer.decode(np.asarray(window.continuation).tolist())
        subject.keep(f"{evalset}/{i}", text=excerpt(text, of="start"), nats=float(lost), per=float(of))


def _facts(stream: _Stream) -> dict[str, int | bool]:
    return {
        "available": stream.available,
        "windows": len(stream.windows),
        "is_whole": len(stream.windows) == stream.available,
        "stride": stream.stride,
        "bpe_tokens": int(stream.n_tokens.sum()),
    }


def _unigram_nats(tokens: npt.NDArray[np.integer], pieces: Sequence[Sequence[int] | npt.NDArray[np.integer]]) -> Floats:
    """The nats of each piece under the unigram model of all ``tokens``."""
    frequency = np.bincount(tokens) / len(tokens)
    return np.array([-np.log(frequency[list(piece)]).sum() for piece in pieces])


def _task(name: str, evalset: str, run: Callable[..., SCORES]) -> Task:
    choices = None
    if name == "wikitext2":
        choices = Choices("perplexity", (evalset,), functools.partial(variants, evalset=evalset))
    of_set = functools.partial(run, evalset=evalset)
    return Task(
        f"paper/{name}", 1, evalset, ALL, 2, of_set, slides=True, choices=choices, any_tokenizer=run is not run_lines
    )


TASKS = (
    _task("wikitext2", "wikitext2_test", run_stream),
    _task("wikitext2_valid", "wikitext2_valid", run_stream),
    _task("wikitext103", "wikitext103_test", run_stream),
    _task("ptb", "ptb_test", run_stream),
    _task("1bw", "1bw", run_lines),
    _task("enwik8", "enwik8", run_bytes),
    _task("text8", "text8", run_bytes),
)
