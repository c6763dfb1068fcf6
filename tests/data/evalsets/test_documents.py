"""What ``webtext overlap`` looks for: the texts of every set that can be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.evalsets import texts
from data.evalsets.files import EvalFile, find

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "eval"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/eval here")
def test_every_set_with_generated_answers_has_texts_with_its_answers() -> None:
    found = find(SHARED)
    for name, count, part in (
        ("coqa", 50, "with her mommy and 5 sisters"),
        ("nq_open", 500, "14 December 1972 UTC"),
        ("cnndm", 6, "smith has been juggling for 16 years"),
    ):
        documents = texts.documents(found[name])
        assert len(documents) == count
        assert part in documents[0]


def test_translations_have_both_sides(tmp_path: Path) -> None:
    english = tmp_path / "newstest2014-fren-src.en"
    english.write_text("One .\nTwo .\n")
    assert texts.documents(EvalFile("wmt14", english, "")) == []  # the other side is not there
    english.with_name("newstest2014-fren-ref.fr").write_text("Un .\nDeux .\n")
    assert texts.documents(EvalFile("wmt14", english, "")) == ["One .\nUn .", "Two .\nDeux ."]
