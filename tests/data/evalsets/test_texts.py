"""Penn Treebank, One Billion Words, enwik8 and text8: reading them, removing artefacts and restoring them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.evalsets import one_billion_words, ptb, texts
from data.evalsets.enwik8 import read_enwik8, read_text8
from data.evalsets.files import EvalFile
from tests.data.evalsets.test_files import SHARED, needs_shared


@pytest.mark.parametrize(
    ("original", "text"),
    [
        (" no it was n't black monday ", "No it wasn't black Monday"),
        (" mr. smith 's u.s. unit lost $ N million or N N ", "Mr. smith's U.S. unit lost $N million or N N"),
        (" the <unk> said i 'm sure ", "The <unk> said I'm sure"),
        (" <unk> rose c$ N on oct. N at N a.m. ", "<unk> rose c$N on Oct. N at N a.m."),
        (" N stocks ca n't fall ", "N stocks can't fall"),
        (" traders ' fears at capital cities\\/abc ", "Traders' fears at capital cities/abc"),
        (" n stocks ", " n stocks "),  # would be taken for a number
        (" a/b is one word ", " a/b is one word "),  # a slash has a backslash before it
    ],
)
def test_penn_treebank_is_restored(original: str, text: str) -> None:
    assert ptb.detokenize(original) == text
    assert ptb.retokenize(text) == original


PTB_TOKEN = st.sampled_from([*"a i s N $ # '".split(), "n't", "'s", "<unk>", "u.s.", "mr.", "can", "x\\/y", "p.m."])


@given(st.lists(PTB_TOKEN, min_size=1, max_size=10))
def test_any_sentence_of_penn_treebank_is_restored(tokens: list[str]) -> None:
    line = f" {' '.join(tokens)} "
    assert ptb.retokenize(ptb.detokenize(line)) == line


@pytest.mark.parametrize(
    ("original", "text"),
    [
        ("He said : \" I 'm sorry , but it doesn 't fit .", "He said: \"I'm sorry, but it doesn't fit."),
        ("That 's it , \" said Ann ( 42 ) .", "That's it,\" said Ann (42)."),
        ('" Go ! " he said , " and why ? "', '"Go!" he said, "and why?"'),
        ("Investors ' fears cost $ 5 or 30 % at 7 : 49 .", "Investors' fears cost $5 or 30% at 7:49."),
        ("It left the U.S. .", "It left the U.S."),
        ("It left at 1 p.m.", " It left at 1 p.m."),  # kept: the full stop of the sentence is not there
    ],
)
def test_one_billion_words_are_restored(original: str, text: str) -> None:
    assert one_billion_words.detokenize(original) == text
    assert one_billion_words.retokenize(text) == original


TOKEN = st.sampled_from(
    [*"""a s 9 . , ; : ! ? ( ) [ ] " ' - -- $ %""".split(), "'s", "'t", "U.S.", "word", "...", "it's"]
)


@given(st.lists(TOKEN, min_size=1, max_size=12))
def test_any_sentence_of_one_billion_words_is_restored(tokens: list[str]) -> None:
    line = " ".join(tokens)
    assert one_billion_words.retokenize(one_billion_words.detokenize(line)) == line


@needs_shared
def test_the_sample_of_one_billion_words_is_restored() -> None:
    path = SHARED / "1bw_heldout.first500.txt"
    found = one_billion_words.read_1bw(path)
    original = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert [one_billion_words.retokenize(line) for line in found.lines] == original
    assert (found.n_lines, found.n_tokens) == (500, sum(len(line.split()) + 1 for line in original))
    assert found.lines_kept == 4
    assert found.text.count(" ,") < 0.02 * "\n".join(original).count(" ,")


def test_words_and_ends_of_line_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "ptb.test.txt"
    path.write_text(" no it was n't \n a/b \n the $ N \n")
    found = ptb.read_ptb(path)
    assert found.words == (4, 1, 3)
    assert (found.n_tokens, found.n_lines, found.lines_kept) == (11, 3, 1)
    assert found.text == "No it wasn't\n a/b \nThe $N\n"


@pytest.mark.parametrize("line", ["no spaces around", " A Capital ", " ", "  "])
def test_a_file_that_is_not_penn_treebank_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ptb.test.txt"
    path.write_text(f" a good line \n{line}\n a good line \n")
    with pytest.raises(InputError, match="line 2: not Mikolov's Penn Treebank"):
        ptb.read_ptb(path)


@pytest.mark.parametrize("line", ["two  spaces", " before", ""])
def test_a_file_that_is_not_one_billion_words_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "news"
    path.write_text(f"A good line .\n{line}\nA good line .\n")
    with pytest.raises(InputError, match="line 2: not the One Billion Word Benchmark"):
        one_billion_words.read_1bw(path)


def test_the_last_twentieth_of_enwik8_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "enwik8"
    end = "<page>é</page>\r\n  \n"  # bytes stay as they are
    path.write_bytes(b"x" * 19 * len(end.encode()) + end.encode())
    part = read_enwik8(path)
    assert part.text == end
    assert (part.file_bytes, part.left_out_bytes) == (20 * len(end.encode()), 0)


@pytest.mark.parametrize(
    ("end", "text", "left_out"),
    [
        ("\N{GRINNING FACE}".encode()[1:] + b"yz", "yz", 3),
        (b"abc" + "\N{GRINNING FACE}".encode()[:2], "abc", 2),
        ("é".encode()[1:] + b"ab" + "\N{GRINNING FACE}".encode()[:2], "ab", 3),
    ],
    ids=["at the beginning", "at the end", "both"],
)
def test_characters_that_are_cut_are_left_out_and_counted(tmp_path: Path, end: bytes, text: str, left_out: int) -> None:
    path = tmp_path / "enwik8"
    path.write_bytes(b"x" * 95 + end)
    part = read_enwik8(path)
    assert (part.text, part.left_out_bytes) == (text, left_out)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "enwik8"
    path.write_bytes(b"x" * 95 + b"a\xffbcd")
    with pytest.raises(InputError, match="byte 96: not UTF-8"):
        read_enwik8(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes, too few"):
        read_enwik8(path)
    path.write_bytes(b"X" * 95 + b"a bCd")
    with pytest.raises(InputError, match="'C' is not one of text8's 27 characters"):
        read_text8(path)
    assert read_enwik8(path).text == "a bCd"


def test_overlap_reads_every_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("A word .\nAn end .\n")
    assert texts.documents(EvalFile("1bw", path, "")) == ["A word.", "An end."]
    path.write_text(" a word \n an end \n")
    assert texts.documents(EvalFile("ptb_test", path, "")) == ["A word\nAn end\n"]
    path.write_text("a" * 100)
    assert texts.documents(EvalFile("text8", path, "")) == ["aaaaa"]
