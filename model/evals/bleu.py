"""BLEU (Papineni et al., 2002) by the package sacrebleu (Post, 2018), with its standard error by the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.evals import stats
from model.evals.stats import Estimate, Floats
from model.evals.task import NotScored


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], clusters: Sequence[object]
) -> tuple[Estimate, list[float], str]:
    """BLEU of a corpus in 0..100, that of each sentence, and sacrebleu's signature.

    A sentence's BLEU stops at the longest n-grams that it has (``effective_order``). Raises NotScored.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise NotScored(f"needs the package sacrebleu ({error}); install webtext[eval]") from error
    of_sentence = BLEU(effective_order=True)
    found = [of_sentence.sentence_score(ours, [theirs]) for ours, theirs in zip(hypotheses, references, strict=True)]
    # Corpus BLEU is a function of these sums: matches and n-grams for n = 1..4, and the two lengths.
    rows = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], dtype=np.float64)

    def of_sums(sums: Floats) -> float:
        matches, totals, lengths = np.split(sums.round().astype(int), [4, 8])
        return float(BLEU.compute_bleu(matches.tolist(), totals.tolist(), *lengths.tolist()).score)

    corpus = BLEU()
    corpus.corpus_score(list(hypotheses), [list(references)])  # the signature has the number of references
    return stats.bootstrap(rows, clusters, of_sums), [one.score for one in found], str(corpus.get_signature())
