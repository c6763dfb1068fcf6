from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import bpe
from data.errors import InputError

CASES = Path(__file__).parents[2].parent / "shared" / "data" / "bpe"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no tokenization cases at {CASES}")


def llama_cases() -> list[tuple[str, list[int]]]:
    """llama.cpp's vocabulary test: texts between marker lines, and one line of tokens for each."""
    texts = (CASES / "llamacpp_ggml-vocab-gpt-2.gguf.inp").read_bytes().decode()
    tokens = (CASES / "llamacpp_ggml-vocab-gpt-2.gguf.out").read_text().removesuffix("\n").split("\n")
    *pieces, after_last = texts.split("\n__ggml_vocab_test__\n")
    assert after_last == ""
    return [(text, [int(t) for t in line.split()]) for text, line in zip(pieces, tokens, strict=True)]


def gpt_tokenizer_cases() -> list[tuple[str, list[int]]]:
    """gpt-tokenizer's test plans for r50k_base, which is GPT-2's table."""
    plans = (CASES / "gpt-tokenizer_TestPlans.txt").read_bytes().decode().split("EncodingName: ")
    cases = []
    for plan in plans:
        name, _, rest = plan.partition("\nSample: ")
        text, _, tokens = rest.rpartition("\nEncoded: ")
        if name == "r50k_base":
            cases.append((text, ast.literal_eval(tokens.strip())))
    return cases


@needs_cases
def test_llama_cpp_agrees() -> None:
    cases = llama_cases()
    assert len(cases) == 46
    for text, tokens in cases:
        assert bpe.encode(text).tolist() == tokens, text


@needs_cases
def test_gpt_tokenizer_agrees() -> None:
    cases = gpt_tokenizer_cases()
    assert len(cases) == 64
    for text, tokens in cases:
        assert bpe.encode(text).tolist() == tokens, text


@given(st.text())
def test_round_trip(text: str) -> None:
    tokens = bpe.encode(text)
    assert tokens.dtype == np.uint16
    assert bpe.decode(tokens) == text


@given(
    st.lists(st.sampled_from([" ", "\n", "\t", "\x1c", "\x85", "\u3000", "a", "'s", "é", "7", ".", " x"]), max_size=30)
)
def test_white_space_that_is_cut_out_gives_the_tokens_of_the_whole_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "LONG_SPACE", 2)
        assert bpe.encode(text).tolist() == bpe.encoding().encode_ordinary(text)


@pytest.mark.parametrize("space", [" ", "\n", " \n", "\u3000", "\t\r\n ", "\x85", "\u2028"])
@pytest.mark.parametrize("before", ["", "word"])
def test_a_million_white_space_characters_are_encoded(before: str, space: str) -> None:
    """tiktoken alone panics there, with an exception that is no Exception."""
    run = space * (1_200_000 // len(space))
    text = f"{before}{run}after"
    tokens = bpe.encode(text)
    rest = bpe.encode(space[-1] + "after").tolist()
    assert bpe.decode(tokens) == text
    assert tokens[-len(rest) :].tolist() == rest
    assert bpe.encode(before + run).tolist() == bpe.encoding().encode_ordinary(before + run)  # it ends without a word


def test_lone_surrogates_become_replacement_characters() -> None:
    for text in ("a\ud800b", "\udfff" * 3, " \ud83d "):
        tokens = bpe.encode(text)
        assert tokens.tolist() == bpe.encoding().encode_ordinary(text)
        assert bpe.decode(tokens) == re.sub("[\ud800-\udfff]", "\ufffd", text)


def test_ten_megabytes_with_nul_are_encoded() -> None:
    text = "NUL \x00 and some words, again. " * 320_000
    once = bpe.encode("NUL \x00 and some words, again. ").tolist()[:-1]  # the last space belongs to the next word
    tokens = bpe.encode(text)
    assert tokens[: len(once)].tolist() == once
    assert bpe.decode(tokens) == text


def test_end_of_text_in_a_document_is_ordinary_text() -> None:
    tokens = bpe.encode("a<|endoftext|>b")
    assert bpe.END_OF_TEXT not in tokens.tolist()
    assert bpe.decode(tokens) == "a<|endoftext|>b"
    assert bpe.decode([bpe.END_OF_TEXT]) == "<|endoftext|>"


def test_the_vocabulary_is_that_of_gpt2() -> None:
    assert bpe.encoding().n_vocab == bpe.VOCAB_SIZE == 50_257
    assert bpe.encoding().eot_token == bpe.END_OF_TEXT == 50_256
    assert bpe.encode("").shape == (0,)


def test_a_flipped_byte_is_refused_with_both_hashes(tmp_path: Path) -> None:
    content = bytearray(bpe.RANKS.read_bytes())
    content[1000] ^= 1
    damaged = tmp_path / "gpt2.tiktoken"
    damaged.write_bytes(content)
    with pytest.raises(InputError) as error:
        bpe.load(damaged)
    assert bpe.RANKS_SHA256 in str(error.value)
    assert str(damaged) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-file: No such file"):
        bpe.load(tmp_path / "no-such-file")
