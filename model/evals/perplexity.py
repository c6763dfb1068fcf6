"""``heldout_ppl``: how well the model predicts the held-out documents, token by token.

Each document is scored by itself. As in training, its first token is conditioned on end-of-text, and its last token is
end-of-text. The window slides by half the model's context, or by ``--stride`` (model/scoring.py). Nats, tokens and
bytes are summed over documents: nats per token = all nats / all tokens; bits per byte = all nats / ln 2 / bytes of the
documents' texts.
Documents are the clusters of the standard error.

Baseline: the unigram model of the training tokens with add-one smoothing, on the same tokens.
"""

from __future__ import annotations

import numpy as np

from model.evals.stats import bits_per_byte, ratio
from model.evals.task import HELDOUT, SCORES, Subject, Task, excerpt, require_clusters, result
from model.scoring import rolling


def run(subject: Subject) -> SCORES:
    held_out = subject.documents()
    documents = [document for document in held_out.documents if len(document.tokens)][: subject.limit]
    require_clusters(range(len(documents)), "non-empty documents")
    context = subject.model.config.context
    stride = subject.stride_for(context)
    windows = [rolling(document.tokens.tolist(), context, stride) for document in documents]
    scores = iter(subject.score([window for of_one in windows for window in of_one]))
    nats = [-sum(next(scores).log_likelihood for _ in of_one) for of_one in windows]
    n_tokens = [float(len(document.tokens)) for document in documents]
    n_bytes = [float(len(document.text.encode())) for document in documents]
    for document, lost, per, size in zip(documents, nats, n_tokens, n_bytes, strict=True):
        name = document.doc_id.hex()
        subject.keep(name, document=name, text=excerpt(document.text, of="start"), nats=lost, per=per, n_bytes=size)
    unigram = held_out.log_probs()
    unigram_nats = [-float(unigram[document.tokens].sum()) for document in documents]
    per_token = ratio(nats, n_tokens)
    baseline = ratio(unigram_nats, n_tokens)
    shares = held_out.counts[held_out.counts > 0] / max(1, held_out.counts.sum())
    return result(
        subject,
        "perplexity",
        {
            "perplexity": per_token.exp(),
            "nats_per_token": per_token,
            "bits_per_byte": bits_per_byte(nats, n_bytes),
        },
        int(sum(n_tokens)),
        {"unigram": baseline.exp()},
        lower_is_better=True,
        unit="token",
        documents=len(documents),
        available=held_out.available,
        n_bytes=int(sum(n_bytes)),
        stride=stride,
        unigram_nats_per_token=baseline.value,
        train_unigram_entropy=float(-(shares * np.log(shares)).sum()),
    )


TASK = Task("heldout_ppl", 1, HELDOUT, 40, 2, run, slides=True)
