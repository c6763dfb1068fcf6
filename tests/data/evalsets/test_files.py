"""Official files: finding them, reading them, and removing and restoring WikiText's artefacts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.evalsets.files import find
from data.evalsets.lambada import Passage, openai_lambada_text, read_lambada
from data.evalsets.wikitext import detokenize, read_wikitext, retokenize

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/eval here")


@pytest.mark.parametrize(
    ("original", "text"),
    [
        (" It weighs 0 @.@ 7 – 2 @,@ 000 kg ( 1 @.@ 5 lb ) . ", "It weighs 0.7–2,000 kg (1.5 lb)."),
        (" a red @-@ tipped claw , blue ; green : yes ! ", "a red-tipped claw, blue; green: yes!"),
        (' The " crusher " is rounded . " Yes . " ', 'The "crusher" is rounded. "Yes."'),
        (" It wasn 't the lobster 's claw . ", "It wasn't the lobster's claw."),
        (" H. americanus by Mr. Smith of the U.S. army . ", "H. americanus by Mr. Smith of the U.S. army."),
        (" the players ' $ 5 million in 1999 – 2001 , 10 % ", "the players' $5 million in 1999–2001, 10%"),
        (" 1 @,@ 000 @,@ 000 <unk> ", "1,000,000 <unk>"),
        (" ", ""),
    ],
)
def test_artefacts_are_removed_and_restored(original: str, text: str) -> None:
    assert detokenize(original) == text
    assert retokenize(text) == original


TOKEN = st.sampled_from(
    [*"""a s 9 . , ; : ! ? ( ) [ ] " ' - – $ %""", "@-@", "@,@", "@.@", "'s", "U.S.", "word", "..."]
)


@given(st.lists(TOKEN, max_size=12))
def test_any_line_of_tokens_is_restored(tokens: list[str]) -> None:
    line = f" {' '.join(tokens)} " if tokens else " "
    assert retokenize(detokenize(line)) == line


@needs_shared
def test_all_of_wikitext_is_restored() -> None:
    path = SHARED / "wikitext-2.valid.tokens.txt"
    wikitext = read_wikitext(path)
    assert wikitext.n_tokens == 217_646  # Merity et al., table 1
    original = path.read_text(encoding="utf-8")
    assert "".join(f"{retokenize(line)}\n" for line in wikitext.text.split("\n")[:-1]) == original
    assert wikitext.n_lines == 3_760
    assert wikitext.lines_kept <= 1
    assert wikitext.text.count("@-@") < 0.02 * original.count("@-@")


def test_a_file_that_is_not_wikitext_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wiki.test.tokens"
    path.write_text(" = A = \nplain text\n")
    with pytest.raises(InputError, match="line 2: not WikiText"):
        read_wikitext(path)
    path.write_text("")
    with pytest.raises(InputError, match="empty"):
        read_wikitext(path)
    path.write_bytes(b" \xff \n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_wikitext(path)


@needs_shared
def test_lambada_is_read_as_openai_publishes_it() -> None:
    passages = read_lambada(SHARED / "lambada" / "lambada_test.first500.jsonl")
    assert len(passages) == 500
    assert [passage.target for passage in passages[:4]] == [" signs", " Shane", " insurance", " Helen"]
    assert passages[1].context.endswith('"I can make it there on my own,')
    assert all(" " not in passage.target[1:] for passage in passages)


def test_lambada_text_is_prepared_as_for_gpt2() -> None:
    assert openai_lambada_text(Passage(" “Yes,” said", " ”Ann ")) == Passage('\n"Yes," said', ' "Ann')


@pytest.mark.parametrize("line", ["{", '{"txt": "a b"}', '{"text": "word"}', '{"text": "a b "}', "[]", '{"text": 3}'])
def test_an_error_names_the_bad_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lambada_test.jsonl"
    path.write_text('{"text": "a good line"}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_lambada(path)


def test_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("lambada/lambada_test.jsonl", "wikitext-2/wiki.test.tokens", "wikitext-103/wiki.test.tokens"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    found = find(tmp_path)
    assert {name: file.path.relative_to(tmp_path).as_posix() for name, file in found.items()} == {
        "lambada": "lambada/lambada_test.jsonl",
        "wikitext2_test": "wikitext-2/wiki.test.tokens",
        "wikitext103_test": "wikitext-103/wiki.test.tokens",
    }
    assert len({file.sha256 for file in found.values()}) == 3
    (tmp_path / "lambada_test_copy.jsonl").write_text("")
    with pytest.raises(InputError, match="are both lambada"):
        find(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        find(tmp_path / "nowhere")
