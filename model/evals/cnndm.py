"""``paper/cnndm`` and ``paper/cnndm_no_hint``: summaries of news (CNN/DailyMail), as in the GPT-2 paper (section 3.6).

Known: the article is followed by ``TL;DR:``, 100 tokens are drawn with top-k of k = 2, and the first three sentences of
them are the summary. ROUGE F1 x 100 of the 1542M model is 29.34 / 8.27 / 26.58 (ROUGE-1, -2, -L), on average 21.40;
without the hint 21.58 / 4.03 / 19.47, 15.03. Baselines there: the first three sentences 40.38 / 17.66 / 36.62, three
random ones 28.78 / 8.63 / 25.52.

Not known, and our choice:

- Which copy of the articles, and whether it was de-tokenized: the text is taken as it stands in the file.
- What stands between article and hint: a line break. Without the hint the line break remains.
- What is cut if the context is too short for article, hint and 100 tokens: the end of the article, since news begins
  with what matters. ``truncated`` counts the articles.
- The temperature: 1. Each article has a seed of its own, made of its name.
- Where a sentence ends: model/evals/writing.py. The same rules find the sentences of the baselines.
- Random-3: three sentences chosen by hash, in the order of the article.
- The variant of ROUGE: model/evals/rouge.py.

Values are F1 in 0..1. ``limit`` counts articles.
"""

from __future__ import annotations

import functools

from data.bpe import encode
from data.evalsets.cnndm import Article, read_cnndm
from model.evals import rouge, stats
from model.evals.heldout import choose, hash_of
from model.evals.lambada import ALL
from model.evals.task import SCORES, Subject, Task, require_clusters, result
from model.evals.writing import has_more_sentences, sentences

SET = "cnndm"
NEW_TOKENS = 100
TOP_K = 2
SENTENCES = 3
EXCERPT = 300  # characters of an article that are kept with its score
HINT = "\nTL;DR:"
NO_HINT = "\n"


def prompt(article: Article, hint: str, room: int) -> tuple[list[int], int]:
    """The article and the hint in at most ``room`` tokens, and how many tokens of the article were left out."""
    ending = encode(hint).tolist()
    tokens = encode(article.text).tolist()
    kept = tokens[: room - len(ending)]
    return kept + ending, len(tokens) - len(kept)


def lead(article: Article) -> list[str]:
    return _sentences(article)[:SENTENCES]


def random(article: Article) -> list[str]:
    found = _sentences(article)
    return [found[i] for i in sorted(choose([f"cnndm/{article.name}/{i}" for i in range(len(found))], SENTENCES))]


def _sentences(article: Article) -> list[str]:
    return list(article.sentences or sentences(article.text))


def run(subject: Subject, hint: str) -> SCORES:
    rouge_of = rouge.scorer()
    every = read_cnndm(subject.files[SET])
    subject.check_count(SET, len(every))
    chosen = [every[i] for i in sorted(choose([f"cnndm/{one.name}" for one in every], subject.limit))]
    require_clusters(range(len(chosen)), "articles")
    prompts = [prompt(one, hint, subject.model.config.context - NEW_TOKENS) for one in chosen]
    subject.truncated += sum(n_dropped > 0 for _, n_dropped in prompts)
    seeds = [int.from_bytes(hash_of(f"cnndm/{one.name}")[:8], "little") for one in chosen]
    written = subject.write([ids for ids, _ in prompts], NEW_TOKENS, has_more_sentences(SENTENCES), TOP_K, seeds)
    summaries = [sentences(one.text)[:SENTENCES] for one in written]
    found = [rouge_of(one.highlights, summary) for one, summary in zip(chosen, summaries, strict=True)]
    for one, summary, scores, completion, (_, n_dropped) in zip(
        chosen, summaries, found, written, prompts, strict=True
    ):
        subject.keep(
            one.name,
            **scores,
            text=one.text[:EXCERPT],
            answer="\n".join(one.highlights),
            prediction="\n".join(summary),
            log_prob=sum(completion.log_probs),
            n_dropped=n_dropped,
        )
    names = (*rouge.METRICS, rouge.AVERAGE)
    clusters = range(len(chosen))
    by_baseline = {
        "lead_3": [rouge_of(one.highlights, lead(one)) for one in chosen],
        "random_3": [rouge_of(one.highlights, random(one)) for one in chosen],
    }
    return result(
        subject,
        rouge.AVERAGE,
        {name: stats.mean([scores[name] for scores in found], clusters) for name in names},
        len(chosen),
        {
            baseline: stats.mean([scores[rouge.AVERAGE] for scores in of_one], clusters)
            for baseline, of_one in by_baseline.items()
        },
        unit="article",
        available=len(every),
        baselines_by_metric={
            baseline: {name: sum(scores[name] for scores in of_one) / len(of_one) for name in names}
            for baseline, of_one in by_baseline.items()
        },
        empty=sum(not summary for summary in summaries),
        top_k=TOP_K,
    )


TASKS = (
    Task("paper/cnndm", 1, SET, ALL, 256, functools.partial(run, hint=HINT)),
    Task("paper/cnndm_no_hint", 1, SET, ALL, 256, functools.partial(run, hint=NO_HINT)),
)
