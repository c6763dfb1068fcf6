"""Official files with choices, and LAMBADA's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import InputError
from data.evalsets.cbt import CbtQuestion, read_cbt
from data.evalsets.files import EvalFile, find
from data.evalsets.lambada import Passage, read_lambada_plain, untokenized
from data.evalsets.texts import documents
from data.evalsets.winograd import read_winograd, schemas
from tests.data.evalsets.test_files import SHARED, needs_shared

CONTEXT = "".join(f"{n} Sentence {n} .\n" for n in range(1, 21))
QUESTION = CONTEXT + "21 The XXXXX ran .\tdog\t\tcat|dog|lumber|lumber-room|a|b|c|d|e|f\n\n"

# The Children's Book Test


@needs_shared
def test_cbt_is_read_as_published() -> None:
    (question,) = read_cbt(SHARED / "cbt" / "CN" / "cbtest_CN_valid_2000ex.txt")
    assert (question.line, len(question.context)) == (1, 20)
    assert question.context[:2] == ("` What is it ? '", "answered he .")
    assert question.query.endswith("and very soon he and the XXXXX were on the other side .")
    assert question.choices == tuple("Cousin cloak dog maiden mountain needle path pin side steps".split())
    assert question.choices[question.answer] == "dog"
    (name,) = read_cbt(SHARED / "cbt" / "NE" / "cbtest_NE_valid_2000ex.txt")
    assert (name.choices[name.answer], len(name.choices)) == ("Chuck", 10)


@needs_shared
@pytest.mark.parametrize("kind", ["CN", "NE"])
def test_all_files_of_cbt_have_the_same_form(kind: str) -> None:
    for path in sorted((SHARED / "cbt" / kind).iterdir()):
        (question,) = read_cbt(path)
        assert len(question.choices) == 10, path


def test_cbt_survives_other_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "cbt.txt"
    path.write_text(QUESTION * 2)
    expected = read_cbt(path)
    assert [question.line for question in expected] == [1, 23]
    path.write_bytes(b"\xef\xbb\xbf" + (QUESTION * 2 + "\n\n").replace("\n", "\r\n").encode())
    assert read_cbt(path) == expected
    path.write_text((QUESTION * 2).rstrip())
    assert read_cbt(path) == expected


def test_empty_and_repeated_choices_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cbt.txt"
    path.write_text(QUESTION.replace("cat|dog", "|dog|dog"))
    (question,) = read_cbt(path)
    assert question.choices[:2] == ("dog", "lumber")
    assert (len(question.choices), question.answer) == (9, 0)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("3 Sentence", "4 Sentence", "line 25: expected sentence 3"),
        ("XXXXX", "dog", "line 43: needs XXXXX once"),
        ("\tdog\t", "\tsheep\t", "line 43: the answer 'sheep' must be one of the choices"),
        ("cat|dog|lumber|lumber-room|a|b|c|d|e|f", "dog", "line 43: needs 2 to 10 different choices"),
        ("|f\n", "|f|g\n", "line 43: needs 2 to 10 different choices"),
        ("15 Sentence 15 .\n", "15 Sentence 15 .\n\n", "line 38: expected sentence 16 of a question, got ''"),
        (
            "21 The XXXXX ran .\tdog\t\tcat|dog|lumber|lumber-room|a|b|c|d|e|f\n\n",
            "",
            "ends in the middle of a question",
        ),
    ],
)
def test_an_error_names_the_bad_question(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "cbt.txt"
    assert old in QUESTION
    path.write_text(QUESTION + QUESTION.replace(old, new))
    with pytest.raises(InputError, match=complaint):
        read_cbt(path)


def test_a_question_is_text_with_a_blank() -> None:
    question = CbtQuestion(1, ("One .", "Two ."), "The XXXXX .", ("a", "b"), 0)
    assert question.text == "One . Two . The XXXXX ."


# Winograd's schemas


@needs_shared
def test_winograd_is_read_as_published() -> None:
    examples = read_winograd(SHARED / "wsc273.first500lines.txt")
    assert len(examples) == 100
    first, second, trophy = examples[:3]
    assert (
        first.text
        == "The city councilmen refused the demonstrators a permit because the city councilmen feared violence."
    )
    assert second.candidates == ("the demonstrators", "the city councilmen")
    assert trophy.before == "The trophy doesn't fit into the brown suitcase because"
    assert (trophy.after, trophy.answer) == (" is too large.", 0)
    groups = schemas(examples)
    assert groups[:5] == [0, 0, 1, 1, 2]
    assert all(example.text == " ".join(example.text.split()) for example in examples)
    by_text = {example.text: example for example in examples}
    assert "I don't know why Jim was, but he looked very unhappy." in next(t for t in by_text if "know why" in t)
    assert any(text.endswith("so we punished the older students.") for text in by_text)
    assert any(". The painting is to the right" in text for text in by_text)
    joe = next(e for e in examples if "even though" in e.before and "30 years older" in e.after)
    assert (joe.candidates, joe.answer) == (("Joe's uncle", "Joe"), 0)


def winograd(text: str, joined: str, answer: str) -> str:
    return f"{text}\n[MASK]\n{joined}\n{answer}\n\n"


def test_candidates_may_have_commas_and_capitals(tmp_path: Path) -> None:
    path = tmp_path / "wsc273.txt"
    path.write_text(
        winograd("We left. [MASK]  was hot.", "the dog, a big one ,The Times", "the dog, a big one")
        + winograd("We left the [MASK]!", "Anna ,Joe, her son", "Joe, her son").replace("\n", "\r\n")
    )
    one, two = read_winograd(path)
    assert (one.candidates, one.answer, one.after) == (("The dog, a big one", "The Times"), 0, " was hot.")
    assert (two.candidates, two.answer, two.after) == (("Anna", "Joe, her son"), 1, "!")


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (winograd("No blank.", "a ,b", "a"), r"line 6: needs \[MASK\] once"),
        (winograd("[MASK] and [MASK].", "a ,b", "a"), r"line 6: needs \[MASK\] once"),
        (winograd("The [MASK] .", "a ,b", "c"), "line 8: expected two candidates, one of them 'c', got 'a ,b'"),
        (winograd("The [MASK] .", "a ,a", "a"), "line 8: expected two candidates"),
        ("The [MASK] .\n[MASK]\na ,b\n", "line 6: an example is 4 lines and a blank one; the file is truncated"),
    ],
)
def test_an_error_names_the_bad_example(tmp_path: Path, bad: str, complaint: str) -> None:
    path = tmp_path / "wsc273.txt"
    path.write_text(winograd("The [MASK] .", "a ,b", "b") + bad)
    with pytest.raises(InputError, match=complaint):
        read_winograd(path)


# LAMBADA's own file


@needs_shared
def test_the_authors_lambada_is_read() -> None:
    passages = read_lambada_plain(SHARED / "lambada" / "lambada_development_plain_text.first500.txt")
    assert len(passages) == 500
    assert [passage.target for passage in passages[:3]] == [" cake", " rowan", " mat"]
    assert passages[1].context.startswith("`` nineteen , '' she said")
    text = untokenized(passages[1])
    assert text.context.startswith('"nineteen," she said, and he loosed')
    assert text.context.endswith('gavriel murmured, "good luck,')
    assert text.target == " rowan"
    assert all(untokenized(p).target.strip() == p.target.strip() for p in passages)


def test_a_target_after_an_opening_quote_has_no_space() -> None:
    assert untokenized(Passage("she said , ``", " yes")) == Passage('she said, "', "yes")


def test_a_line_without_a_last_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lambada_test_plain_text.txt"
    for bad in ("word", "", " word"):
        path.write_text(f"a good line\n{bad}\nanother line\n")
        with pytest.raises(InputError, match="line 2: a passage needs a last word"):
            read_lambada_plain(path)


# What a corpus is searched for


def test_the_texts_of_every_set_are_ordinary(tmp_path: Path) -> None:
    (tmp_path / "cbtest_CN_valid_2000ex.txt").write_text(QUESTION)
    (tmp_path / "wsc273.txt").write_text(winograd("We left the [MASK] .", "a ,b", "b"))
    (tmp_path / "lambada_test_plain_text.txt").write_text("i do n't see the dog\n")
    texts = {name: documents(file) for name, file in find(tmp_path).items()}
    assert texts["winograd"] == ["We left the b."]
    assert texts["lambada_plain"] == ["i don't see the dog"]
    assert texts["cbt_cn_valid"][0].endswith("Sentence 20. The dog ran.")


@needs_shared
def test_cbt_files_are_found_by_name() -> None:
    found = find(SHARED / "cbt")
    assert set(found) == {f"cbt_{kind}_{split}" for kind in ("cn", "ne") for split in ("valid", "test")}
    assert isinstance(found["cbt_cn_valid"], EvalFile)
