"""Token corpora built from texts, and models with known answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.bpe import END_OF_TEXT, VOCAB_SIZE, encode
from data.lake.store import Lake, write_parquet
from data.schema import TOKENS
from model.attention import Packing, Segment
from model.config import ModelConfig
from model.evals.words import single_tokens
from model.gpt2 import GPT2, Cache


def doc_id(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def tokens_of(text: str) -> list[int]:
    return [*encode(text).tolist(), END_OF_TEXT]


def publish_texts(lake: Lake, snapshot: str, train: list[str], val: list[str], tokenizer: str = "gpt2") -> None:
    """Publish ``tokens/<snapshot>`` with one part."""
    dataset = lake.dataset("tokens", snapshot)
    assert dataset.begin({"tokenizer": tokenizer}, {"select": snapshot}) is None
    tables = {"train/part-00000.parquet": _table(train), "val/part-00000.parquet": _table(val)}
    with lake.scratch() as folder:
        files = {path: folder / path.replace("/", "-") for path in tables}
        for path, table in tables.items():
            write_parquet(table, files[path])
        rows = {path: len(table) for path, table in tables.items()}
        dataset.seal("part-00000", files, list(tables.values()), counts={"ok": len(train) + len(val)}, rows=rows)
    dataset.finish(["part-00000"], {}, 0.0)


def publish_prose(lake: Lake) -> None:
    """The snapshot ``a``: 24 documents of prose, 8 of them held out."""
    every = prose(24, seed=5, n_sentences=40)
    publish_texts(lake, "a", every[:16], every[16:])


def _table(texts: list[str]) -> pa.Table:
    tokens = [tokens_of(text) for text in texts]
    columns = [[doc_id(text) for text in texts], tokens, [len(one) for one in tokens]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, TOKENS, strict=True)], schema=TOKENS)


def prose(count: int, seed: int, n_sentences: int = 60) -> list[str]:
    """Texts of content words with very different frequencies; frequent words recur at short range.

    As in real prose, the words of a sentence are frequent in training and in the text before. A model that only counts
    could guess them if the wrong choices were not matched.
    """
    words = sorted(word for word in single_tokens() if word.islower() and 4 <= len(word) <= 9)
    random = np.random.default_rng(seed)
    words = [words[i] for i in np.random.default_rng(99).permutation(len(words))[:3_000]]
    texts = []
    for _ in range(count):
        topic = random.choice(len(words), 200, replace=False)
        share = 1 / (1 + np.sort(topic)) ** 0.7  # a word's frequency in training falls with its index
        share /= share.sum()
        lines = []
        for _ in range(n_sentences):
            drawn = [words[np.sort(topic)[i]] for i in random.choice(200, 8, replace=False, p=share)]
            lines.append(f"The {drawn[0]} " + " of the ".join(drawn[1:]) + ".")
        texts.append(" ".join(lines))
    return texts


def config(context: int = 128, width: int = 64) -> ModelConfig:
    return ModelConfig(layers=1, heads=1, width=width, context=context)


class Uniform(GPT2):
    """All tokens are equally likely."""

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, **how: object) -> Tensor:
        return torch.zeros(*ids_BT.shape, self.config.width)


class Oracle(GPT2):
    """Knows these texts by heart: given the last tokens of a text, it is certain of the next token."""

    MEMORY = 24  # tokens; fewer are not unique

    def __init__(self, config: ModelConfig, texts: Iterable[list[int]]) -> None:
        super().__init__(config)
        with torch.no_grad():
            weight = torch.randn(self.tokens.weight.shape, generator=torch.Generator().manual_seed(0))
            self.tokens.weight.copy_(weight / weight.norm(dim=1, keepdim=True))
        self.following: dict[tuple[int, ...], int] = {}
        for tokens in texts:
            for i in range(1, len(tokens)):
                self.following[tuple(tokens[max(0, i - self.MEMORY) : i])] = tokens[i]

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, packing: Packing | None = None) -> Tensor:
        segments = packing.segments if packing else [Segment(0, *ids_BT.shape, None)]
        ids_M = ids_BT.numpy().flatten()
        next_M = np.zeros_like(ids_M)
        for one in segments:
            causal_1TT = np.tri(one.length, dtype=bool)[None]
            sees_BTT = causal_1TT.repeat(one.rows, 0) if one.mask is None else one.mask[:, 0].numpy() == 0
            for m, sees_T in enumerate(sees_BTT.reshape(-1, one.length), start=one.start):
                first = one.start + (m - one.start) // one.length * one.length
                row = ids_M[first + np.flatnonzero(sees_T)[-self.MEMORY :]]
                next_M[m] = self.following.get(tuple(row.tolist()), 0)
        next_BT = torch.from_numpy(next_M).view_as(ids_BT)
        # The embeddings are of length 1 and far from parallel: 100 times one of them gives the others e^-20 or less.
        return 100 * self.tokens.weight[next_BT]


class Writer(Oracle):
    """An oracle that finds the earlier tokens in the cache, and sees only what the cache's mask shows.

    It ends the text where it does not know how to go on.
    """

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, packing: Packing | None = None) -> Tensor:
        if cache is None:
            return super().hidden(ids_BT, None, packing)
        T = ids_BT.shape[1]
        cache.begin(T, ids_BT.device)
        k_B1T1 = ids_BT[:, None, :, None].float()
        ids_BS = cache.extend(0, k_B1T1, k_B1T1)[0][:, 0, :, 0].long()
        B, S = ids_BS.shape
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if cache.mask is None else cache.mask
        mask_BTS = mask.expand(B, 1, T, S)[:, 0]
        next_BT = torch.zeros_like(ids_BT)
        for b in range(B):
            for t in range(T):
                seen = ids_BS[b][mask_BTS[b, t]][-self.MEMORY :].tolist()
                next_BT[b, t] = self.following.get(tuple(seen), END_OF_TEXT)
        return 100 * self.tokens.weight[next_BT]


class Liking(GPT2):
    """Ranks these tokens in this order after any context, each ``ratio`` times as likely as the next."""

    def __init__(self, config: ModelConfig, order: list[int], ratio: float = 2.0) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.tokens.weight.zero_()
            for rank, token in enumerate(order):
                self.tokens.weight[token, 0] = (len(order) - rank) * float(np.log(ratio))

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, **how: object) -> Tensor:
        x_BTC = torch.zeros(*ids_BT.shape, self.config.width)
        x_BTC[..., 0] = 1.0
        return x_BTC


UNIFORM_NATS = float(np.log(VOCAB_SIZE))
