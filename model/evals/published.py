"""The zero-shot results that the GPT-2 paper prints: Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019, table 3 for four sizes, and the text of sections 3.4 to 3.8 for the largest.

Figure 1 of the paper draws CoQA, WMT-14 French to English, CNN/Daily Mail and Natural Questions by size. It prints no
numbers, so only the largest model's, which the text has, are here.
"""

from __future__ import annotations

from dataclasses import dataclass

SIZES = {"117M": 124_439_808, "345M": 354_823_168, "762M": 774_030_080, "1542M": 1_557_611_200}
"""The paper's names of its models, and how many parameters the released weights have."""


@dataclass(frozen=True)
class Published:
    """A result as the paper prints it; ``values`` are in the order of ``SIZES``, None where nothing is printed.

    ``metric`` is ours, None for the task's main one. Ours times ``scale`` compares with the paper's number.
    """

    title: str
    task: str
    values: tuple[float | None, float | None, float | None, float | None]
    unit: str
    where: str
    metric: str | None = None
    before: float | None = None  # the best result before the paper
    scale: float = 1.0
    lower_is_better: bool = False


Four = tuple[float, float, float, float]


def _percent(title: str, task: str, values: Four, before: float, metric: str | None = None) -> Published:
    return Published(title, task, values, "%", "table 3", metric, before, 100)


def _loss(
    title: str, task: str, values: Four, before: float, unit: str = "perplexity", metric: str | None = None
) -> Published:
    return Published(title, task, values, unit, "table 3", metric, before, lower_is_better=True)


def _largest(
    title: str, task: str, value: float, unit: str, where: str, metric: str | None = None, scale: float = 100
) -> Published:
    return Published(title, task, (None, None, None, value), unit, where, metric, scale=scale)


ROWS = (
    _loss("LAMBADA", "paper/lambada", (35.13, 15.60, 10.87, 8.63), 99.8, metric="perplexity"),
    # Section 3.3: the largest model has 52.66 % without and 63.24 % with the filter, so the table's are with it.
    _percent("LAMBADA, stop words excluded", "paper/lambada", (45.99, 55.48, 60.12, 63.24), 59.23, "accuracy_stopword"),
    _largest("LAMBADA", "paper/lambada", 52.66, "%", "section 3.3", "accuracy"),
    _percent("CBT common nouns", "paper/cbt_cn", (87.65, 92.35, 93.45, 93.30), 85.7),
    _percent("CBT named entities", "paper/cbt_ne", (83.4, 87.1, 88.0, 89.05), 82.3),
    _loss("WikiText-2", "paper/wikitext2", (29.41, 22.76, 19.93, 18.34), 39.14),
    _loss("Penn Treebank", "paper/ptb", (65.85, 47.33, 40.31, 35.76), 46.54),
    _loss("enwik8", "paper/enwik8", (1.16, 1.01, 0.97, 0.93), 0.99, "bits per byte"),
    _loss("text8", "paper/text8", (1.17, 1.06, 1.02, 0.98), 1.08, "bits per character"),
    _loss("WikiText-103", "paper/wikitext103", (37.50, 26.37, 22.05, 17.48), 18.3),
    _loss("One Billion Words", "paper/1bw", (75.20, 55.72, 44.575, 42.16), 21.8),
    _largest("Winograd Schema", "paper/winograd", 70.70, "%", "section 3.4"),
    _largest("CoQA", "paper/coqa", 55.0, "F1", "section 3.5"),
    _largest("CNN and Daily Mail", "paper/cnndm", 21.40, "mean ROUGE F1", "table 4"),
    _largest("CNN and Daily Mail, no hint", "paper/cnndm_no_hint", 15.03, "mean ROUGE F1", "table 4"),
    _largest("WMT-14 English to French", "paper/wmt14_en_fr", 5.0, "BLEU", "section 3.7", scale=1),
    _largest("WMT-14 French to English", "paper/wmt14_fr_en", 11.5, "BLEU", "section 3.7", scale=1),
    _largest("Natural Questions", "paper/nq", 4.1, "%", "section 3.8", "accuracy"),
    _largest("Natural Questions, surest 1 %", "paper/nq", 63.1, "%", "section 3.8", "accuracy_most_confident"),
)


def metrics_of(task: str) -> list[str]:
    """The metrics of a task that rows name: those of a task for which the paper prints several numbers."""
    return [row.metric for row in ROWS if row.task == task and row.metric]
