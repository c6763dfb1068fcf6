"""Tokenized text back in ordinary spelling."""

from __future__ import annotations

import pytest

from data.evalsets.treebank import detokenize


@pytest.mark.parametrize(
    ("tokenized", "text"),
    [
        ("`` Yes , '' he said ; `` come in ! ''", '"Yes," he said; "come in!"'),
        ("I do n't know , we 'll see Kala Nag 's ear .", "I don't know, we'll see Kala Nag's ear."),
        ("He can not go ; they 're gon na stay :", "He cannot go; they're gonna stay:"),
        ("'T is late , 't was dark", "'Tis late, 'twas dark"),
        ("-LRB- 3 -RRB- -lcb- Picture : p9.jpg -RCB- $ 5 , 10 %", "(3) {Picture: p9.jpg} $5, 10%"),
        ("a very fine child -- a child ...", "a very fine child -- a child..."),
        # a lone ' opens, closes, or is an apostrophe
        ("` Where is he ? ' said the bird . ' I do not know . '", "'Where is he?' said the bird. 'I do not know.'"),
        ("He replied : ' So the birds ' nest is here . ' Good .", "He replied: 'So the birds' nest is here.' Good."),
        ("` It is the birds ' nest , ' he said , ` a nest . '", "'It is the birds' nest,' he said, 'a nest.'"),
        ("I saw him . ' ` But where ? '", "I saw him.' 'But where?'"),  # opened before the text begins
        ('He said " so " , and went .', 'He said "so", and went.'),
        ("", ""),
    ],
)  # fmt: skip
def test_artefacts_of_the_tokenizer_are_removed(tokenized: str, text: str) -> None:
    assert detokenize(tokenized) == text


def test_ordinary_text_is_not_changed() -> None:
    text = "He's 'here', isn't he? \"Yes,\" she said (twice) -- and left."
    assert detokenize(text) == text
