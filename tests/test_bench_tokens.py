"""The benchmarks of the tokens stage and of the overlap run and report a ratio with their peers."""

import numpy as np
import pyarrow as pa

from benchmarks import overlap, tokens
from data.overlap.grams import BloomFilter, grams


def test_the_stage_is_compared_with_tiktoken_on_the_same_texts() -> None:
    result = tokens.measure(n_documents=40, n_words=50, repeats=1, threads=2)
    assert result["bench"] == "tokens"
    assert result["ratios"].keys() == {"wall", "cpu"}
    for one in (result["ours"], result["peers"]["tiktoken"]):
        assert one["tokens_per_s"] > 0
    assert all(len(text.split(" ")) == 50 for text in tokens.documents(40, 50))


def test_the_overlap_is_compared_with_a_loop_that_finds_the_same() -> None:
    result = overlap.measure(n_documents=40, n_words=50, n_grams=100, repeats=1)
    assert result["ratios"]["loop"] == round(
        result["peers"]["loop"]["us_per_document"] / result["ours"]["us_per_document"], 1
    )
    texts = tokens.documents(4, 50)
    found = grams(pa.array(texts))
    inside = np.flatnonzero(found.documents(np.arange(len(found.hashes))) >= 0)
    known = {found.string(gram).decode() for gram in inside[::2].tolist()}
    bloom = BloomFilter(found.hashes[inside[::2]])
    assert overlap.ours(pa.array(texts), bloom) == overlap.plain(texts, known) >= len(inside) // 2
