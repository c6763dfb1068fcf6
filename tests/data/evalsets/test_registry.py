"""The registry of benchmarks, the rule for other files and cut-off ones, and the rule for traces of text editors."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from pathlib import Path

import pytest

from data.errors import InputError
from data.evalsets import lambada, lines, official, ptb, wikitext
from data.evalsets.files import PATTERNS, EvalFile, find
from data.evalsets.official import NOT_KNOWN, OFFICIAL, OTHER
from data.evalsets.registry import SETS
from tests.data.evalsets.test_files import SHARED, needs_shared


def of(evalset: str, path: Path) -> EvalFile:
    return EvalFile(evalset, path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_every_set_that_is_found_by_name_is_in_the_registry() -> None:
    assert set(PATTERNS) <= set(SETS)
    assert all(name == one.name for name, one in SETS.items())


@pytest.mark.parametrize("evalset", PATTERNS)
def test_a_fetched_file_is_found_under_the_name_of_its_set_alone(evalset: str, tmp_path: Path) -> None:
    for file in SETS[evalset].files:
        path = tmp_path / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert list(find(tmp_path)) == [evalset]


def test_digests_are_digests_and_archives_name_their_member() -> None:
    for one in SETS.values():
        assert one.licence
        assert one.split
        assert one.checked_by
        for file in one.files:
            assert file.downloads or one.note, f"{one.name}: how does a person get it?"
            for download in file.downloads:
                is_archive = download.url.endswith((".zip", ".tgz", ".tar.gz"))
                assert is_archive == (download.member is not None), download.url
            digests = [file.sha256, *(download.sha256 for download in file.downloads)]
            assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests if digest is not None)
            assert file.sha1 is None or re.fullmatch("[0-9a-f]{40}", file.sha1)


def test_official_counts() -> None:
    expected = {"lambada": 5_153, "winograd": 273, "hellaswag": 10_042, "nq_open": 3_610, "wikitext2_test": 245_569}
    expected |= {"ptb_test": 82_430, "cbt_cn_valid": 2_000, "cbt_ne_valid": 2_000, "cbt_cn_test": 2_500}
    assert {name: SETS[name].n for name in expected} == expected
    assert SETS["wikitext2_test"].n == SETS["wikitext103_test"].n  # the same articles
    assert "share their test" in SETS["wikitext103_test"].note


@needs_shared
def test_whole_files_are_official_and_samples_are_not() -> None:
    found = find(SHARED)
    assert official.verdict(found["wikitext2_valid"]) == OFFICIAL
    assert official.verdict(found["lambada"]) == OTHER  # 500 lines of it
    assert official.verdict(found["1bw"]) == NOT_KNOWN


def test_another_file_is_refused_unless_any_file_will_do(tmp_path: Path) -> None:
    path = tmp_path / "lambada_test.jsonl"
    path.write_text('{"text": "a b"}\n')
    with pytest.raises(InputError, match=r"lambada_test.jsonl is not the official file .* sha256 4aa8d02.*--any-file"):
        official.check_file(of("lambada", path), any_file=False)
    assert official.check_file(of("lambada", path), any_file=True) == OTHER
    assert official.check_file(of("1bw", path), any_file=False) == NOT_KNOWN


def test_sha1_decides_where_no_sha256_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wiki.test.tokens"
    path.write_text(" = A = \n")
    with pytest.raises(InputError, match="has SHA-1 8a5befc5"):
        official.check_file(of("wikitext103_test", path), any_file=False)
    (known,) = SETS["wikitext103_test"].files
    monkeypatch.setitem(known.__dict__, "sha1", hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest())
    assert official.verdict(of("wikitext103_test", path)) == OFFICIAL


def test_a_wrong_count_names_both_numbers() -> None:
    official.check_count("1bw", 159_658, any_file=False)
    official.check_count("1bw", 500, any_file=True)
    with pytest.raises(InputError, match=r"has 500 tokens, the official one 159,658 .*cut off or is another split"):
        official.check_count("1bw", 500, any_file=False)


def test_a_missing_set_says_how_to_get_it() -> None:
    assert official.how_to_get("lambada") == "`webtext eval --fetch` downloads lambada_test.jsonl"
    assert "https://github.com/abisee/cnn-dailymail" in official.how_to_get("cnndm")


@pytest.mark.parametrize(
    "traces",
    [b"\xef\xbb\xbf%s\n", b"%s\n\n\n", b"%s", b"\xef\xbb\xbf%s\r\n\r\n"],
    ids=["bom", "blank lines at the end", "no line feed at the end", "bom and Windows"],
)
def test_traces_of_editors_are_removed(tmp_path: Path, traces: bytes) -> None:
    path = tmp_path / "file"
    end = b"\r\n" if b"\r" in traces else b"\n"
    for read, original in (
        (wikitext.read_wikitext, [b" = A = ", b" ", b" A word . "]),
        (ptb.read_ptb, [b" no it was n't ", b" the $ N "]),
        (lambada.read_lambada, [b'{"text": "a b"}', b'{"text": "c\xe2\x80\xa8 d"}']),  # a line separator of Unicode
    ):
        path.write_bytes(b"\n".join(original) + b"\n")
        expected = read(path)
        path.write_bytes(traces % end.join(original))
        assert read(path) == expected


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a\rb\n", "line 1: a carriage return inside a line"),
        (b"a\r\nb\r\r\nc", "line 2: a carriage return inside a line"),
        (b"good\n\xff\n", "line 2: not UTF-8"),
        (b"\xef\xbb\xbf\r\n\n", "empty"),
        (b"", "empty"),
    ],
)
def test_other_damage_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        lines.read_lines(path)


def test_blank_lines_elsewhere_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\na\n\nb\n \n\n")
    assert lines.read_lines(path) == ["", "a", "", "b", " "]


def test_patterns_match_the_samples_that_people_cut() -> None:
    assert fnmatch.fnmatch("1bw_heldout.first500.txt", PATTERNS["1bw"][1])
