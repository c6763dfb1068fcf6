"""The texts of a benchmark file, whatever its set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.evalsets import questions
from data.evalsets.cbt import BLANK, read_cbt
from data.evalsets.cnndm import read_cnndm
from data.evalsets.coqa import read_coqa
from data.evalsets.detokenizers import TokenText
from data.evalsets.enwik8 import read_enwik8, read_text8
from data.evalsets.files import EvalFile
from data.evalsets.lambada import read_lambada, read_lambada_plain, untokenized
from data.evalsets.nq_open import read_nq_open
from data.evalsets.one_billion_words import read_1bw
from data.evalsets.ptb import read_ptb
from data.evalsets.treebank import detokenize
from data.evalsets.wikitext import read_wikitext
from data.evalsets.winograd import read_winograd
from data.evalsets.wmt import french_of, read_wmt

TOKEN_TEXTS: dict[str, Callable[[Path], TokenText]] = {
    "wikitext2_test": read_wikitext,
    "wikitext2_valid": read_wikitext,
    "wikitext103_test": read_wikitext,
    "ptb_test": read_ptb,
    "1bw": read_1bw,
}
"""The readers of language-model sets that their authors split into tokens."""


def documents(file: EvalFile) -> list[str]:
    """The texts of a file, each as a whole, without artefacts. Raises InputError as the readers do."""
    if file.evalset == "lambada":
        return [passage.context + passage.target for passage in read_lambada(file.path)]
    if file.evalset == "lambada_plain":
        plain = (untokenized(passage) for passage in read_lambada_plain(file.path))
        return [passage.context + passage.target for passage in plain]
    if file.evalset.startswith("cbt_"):
        return [
            detokenize(question.text.replace(BLANK, question.choices[question.answer]))
            for question in read_cbt(file.path)
        ]
    if file.evalset == "winograd":
        return [example.text for example in read_winograd(file.path)]
    if file.evalset == "coqa":
        return [
            "\n".join([one.story, *(f"{q}\n{a[0]}" for q, a in zip(one.questions, one.answers, strict=True))])
            for one in read_coqa(file.path)
        ]
    if file.evalset == "cnndm":
        return ["\n".join([one.text, *one.highlights]) for one in read_cnndm(file.path)]
    if file.evalset == "wmt14":
        french = french_of(file.path)
        return [f"{one.english}\n{one.french}" for one in read_wmt(file.path, french)] if french else []
    if file.evalset in ("nq_open", "nq_open_train"):
        return [f"{one.question}\n{' '.join(one.answers)}" for one in read_nq_open(file.path)]
    if file.evalset in ("enwik8", "text8"):
        return [(read_enwik8 if file.evalset == "enwik8" else read_text8)(file.path).text]
    if file.evalset in questions.COLUMNS:
        return [question.text for question in questions.read_questions(file.evalset, file.path)]
    if file.evalset == "1bw":  # shuffled sentences
        return list(read_1bw(file.path).lines)
    return [TOKEN_TEXTS.get(file.evalset, read_wikitext)(file.path).text]  # the others are training parts
