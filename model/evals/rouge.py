"""ROUGE (Lin, 2004) by the package rouge-score, as summaries of CNN/DailyMail are usually scored.

That is F1 with Porter's stemmer; ROUGE-L is the summary-level one, which takes the longest common subsequences sentence
by sentence (``rougeLsum``). It is close to the Perl script ROUGE-1.5.5 with ``-m``: compared with the stored scores of
14 systems on 20 articles (REALSumm, Bhandari et al., 2020), F1 differs by 0.005 (ROUGE-1), 0.002 (ROUGE-2) and 0.009
(ROUGE-L) on average. Tokenization and exceptions of the stemmer differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.evals.task import NotScored

METRICS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeLsum"}
AVERAGE = "rouge_average"  # of the three, the paper's R-AVG
Scorer = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def scorer() -> Scorer:
    """A function of the sentences of a reference and of a summary; F1 in 0..1 by name. Raises NotScored."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise NotScored(f"needs the package rouge-score ({error}); install webtext[eval]") from error
    scorer = RougeScorer(list(METRICS.values()), use_stemmer=True)

    def score(reference: Sequence[str], summary: Sequence[str]) -> dict[str, float]:
        found = scorer.score("\n".join(reference), "\n".join(summary))
        values = {name: float(found[theirs].fmeasure) for name, theirs in METRICS.items()}
        return {**values, AVERAGE: sum(values.values()) / len(values)}

    return score
