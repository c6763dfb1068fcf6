"""The tasks in which the model writes: their metrics against references by others, and models with known answers."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU

from data.bpe import decode, encode
from data.errors import InputError
from data.evalsets.cnndm import Article, read_cnndm
from data.evalsets.coqa import read_coqa
from data.evalsets.files import find, sha256_of
from data.evalsets.nq_open import Question, read_nq_open
from data.evalsets.wmt import SentencePair, newstest2013, read_wmt
from data.lake.store import Lake
from model import hf
from model.evals import EvalSpec, cnndm, coqa, nq, rouge, stats, wmt
from model.evals.answers import coqa_credit, exact_match, exact_match_of, f1, normalize
from model.evals.bleu import bleu
from model.evals.task import NotScored, Subject
from model.evals.tasks import TASKS
from model.evals.writing import first_line, has_more_sentences, sentences
from model.evaluate import evaluate
from model.events import TaskProgress, to_json
from model.gpt2 import GPT2
from tests.model.corpora import Uniform, Writer, config

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/eval here")


def subject(model: GPT2, files: Path, limit: int = 1_000) -> Subject:
    found = {name: file.path for name, file in find(files).items()}
    return Subject(model, None, found, limit, lambda _done, _total: None)


def writer(texts: list[str], context: int = 1_024) -> Writer:
    return Writer(config(context), (encode(text).tolist() for text in texts))


# Answers and sentences


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("The U.S. Senate", "us senate", 1),
        ("a  cat, an ox", "cat ox", 1),
        ("with her mommy", "her mommy and sisters", 2 * 2 / (3 + 4)),
        ("to be or not to be", "to be", 2 * 2 / (6 + 2)),
        ("to be to be", "be to be", 2 * 3 / (4 + 3)),
        ("José", "jose", 0),
        ("the", "", 1),  # no word is left of either
        ("the", "x", 0),
        ("theatre", "the atre", 0),
        ("12,000 km!", "12000 KM", 1),
    ],
)
def test_answers_are_compared_by_their_words(ours: str, theirs: str, expected: float) -> None:
    """Worked by hand; the same as by the official scripts of SQuAD 2.0 and CoQA."""
    assert f1(ours, theirs) == f1(theirs, ours) == pytest.approx(expected)
    assert exact_match_of(ours, ["another", theirs]) == (expected == 1)


def test_each_reference_is_left_out_in_turn() -> None:
    # Worked by hand. F1 with the four: 1, 0, 2/3, 0. Left out in turn, the best of the others: 2/3, 1, 1, 1.
    assert coqa_credit("white", ["White.", "grey", "white fur", "a dog"]) == pytest.approx((2 / 3 + 3) / 4)
    # A person who agrees with nobody costs an answer that equals it, and only that one.
    assert coqa_credit("grey", ["white", "grey", "white", "white"]) == pytest.approx(3 / 4)
    assert coqa_credit("white", ["white", "grey"]) == 0.5
    assert coqa_credit("a white cat", ["white cat"]) == 1
    assert coqa_credit("", ["white", "white"]) == 0
    assert coqa_credit("white fur", ["white", "white fur", "white"], exact_match) == pytest.approx(2 / 3)


def test_sentences_end_where_people_end_them() -> None:
    text = 'Mr. Smith of the U.S. Army left. "He said so." Then J. K. Rowling left! 3 men e.g. he did. No. 5 is'
    assert sentences(text) == [
        "Mr. Smith of the U.S. Army left.",
        '"He said so."',
        "Then J. K. Rowling left!",
        "3 men e.g. he did.",
        "No. 5 is",
    ]
    assert sentences("No. Yes.\n\nA line\nAnother (one.) Il est là ! À Paris, « Bonjour. » Puis rien.") == [
        *["No.", "Yes.", "A line", "Another (one.)", "Il est là !", "À Paris, « Bonjour. »", "Puis rien."]
    ]
    over = has_more_sentences(2)
    cut = next(n for n in range(len(text)) if over(text[:n]))
    assert text[:cut].endswith(" T")  # not before the third begins
    assert first_line(" a b \nc") == "a b"


# CoQA


def conversation(name: str, domain: str, facts: dict[str, list[str]]) -> dict[str, Any]:
    """A conversation in the official file's form; ``facts`` are questions with the answers of several people."""
    turns = [
        [{"turn_id": i, "input_text": of_all[person]} for i, of_all in enumerate(facts.values(), start=1)]
        for person in range(len(next(iter(facts.values()))))
    ]
    return {
        "id": name,
        "source": domain,
        "story": f"This is the story of {name}. " + " ".join(f"{a[0]} is what {q}" for q, a in facts.items()),
        "questions": [{"turn_id": i, "input_text": q} for i, q in enumerate(facts, start=1)],
        "answers": turns[0],
        "additional_answers": {str(i): turn for i, turn in enumerate(turns[1:])},
    }


CONVERSATIONS = [
    conversation("one", "cnn", {"Who ran?": ["Anna", "Anna", "the girl"], "Where?": ["in a wood", "wood", "a wood"]}),
    conversation("two", "race", {"Was it late?": ["yes", "yes", "Yes"]}),
]


def test_coqa_of_a_writer_who_knows_the_answers(tmp_path: Path) -> None:
    (tmp_path / "coqa-dev-v1.0.json").write_text("\ufeff" + json.dumps({"version": "1.0", "data": CONVERSATIONS}))
    read = read_coqa(tmp_path / "coqa-dev-v1.0.json")
    assert read[0].answers == (("Anna", "Anna", "the girl"), ("in a wood", "wood", "a wood"))
    assert coqa.contexts(read[0])[1].endswith("\n\nQ: Who ran?\nA: Anna\nQ: Where?\nA:")
    model = writer([f"{coqa.contexts(one)[-1]} {one.answers[-1][0]}\n" for one in read])
    asked = subject(model, tmp_path)
    score = TASKS["paper/coqa"].run(asked)
    # in a wood: 1, 2/3, 2/3 with the three; left out in turn 2/3, 1, 1
    expected = [1, (2 / 3 + 2) / 3, 1]
    assert [row["prediction"] for row in asked.items] == ["Anna", "in a wood", "yes"]
    assert [row["f1"] for row in asked.items] == pytest.approx(expected)
    assert [row["document"] for row in asked.items] == ["one", "one", "two"]
    assert score["f1"] == pytest.approx(sum(expected) / 3)
    assert score["by_domain"]["cnn"] == {
        "f1": pytest.approx(sum(expected[:2]) / 2),
        "stderr": None,  # of one story
        "n": 2,
    }
    assert score["baselines"]["always_yes"]["value"] == pytest.approx(1 / 3)
    assert (score["n"], score["documents"]) == (3, 2)
    assert score["exact_match"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert 0 < score["stderr"] < 0.1


@needs_shared
def test_coqa_of_the_sample() -> None:
    read = read_coqa(SHARED / "coqa_dev.first50.jsonl")
    assert len(read) == 50
    assert {len(answers) for one in read for answers in one.answers} == {4}
    two = sorted(read, key=lambda one: len(one.story))[:2]
    model = writer([f"{coqa.contexts(one)[-1]} {one.answers[-1][0]}\n" for one in two])
    for one in two:
        completions = Subject(model, None, {}, 1, lambda _done, _total: None).write(
            coqa.prompts_of(coqa.contexts(one)), 48, lambda text: "\n" in text
        )
        assert [first_line(c.text) for c in completions] == [a[0].strip() for a in one.answers]
    silent = TASKS["paper/coqa"].run(subject(Uniform(config(context=1_024, width=4)), SHARED, limit=8))
    assert silent["f1"] == 0  # it writes "!!!"
    assert sum(of_one["n"] for of_one in silent["by_domain"].values()) == silent["n"]
    assert 0 in [of_one["stderr"] for of_one in silent["by_domain"].values()]  # two stories of one domain
    assert silent["ended_by_length"] == silent["n"] > 80
    assert silent["best_baseline"] in ("always_yes", "always_no")


def test_coqa_files_that_are_not_coqa_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "coqa-dev-v1.0.json"
    bad: list[tuple[Any, str]] = [
        ({"rows": []}, "not CoQA's JSON"),
        ({"data": []}, "has no conversation"),
        ({"data": [{**CONVERSATIONS[0], "answers": CONVERSATIONS[0]["answers"][:1]}]}, "conversation 1: not a conv"),
        ({"data": [CONVERSATIONS[0], {**CONVERSATIONS[1], "story": ""}]}, "conversation 2: a conversation needs story"),
    ]
    for value, message in bad:
        path.write_text(json.dumps(value))
        with pytest.raises(InputError, match=message):
            read_coqa(path)
    lines = tmp_path / "coqa_dev.jsonl"
    lines.write_bytes(b'{"id": "a"}\r\n\r\n{"id": "b"}')
    with pytest.raises(InputError, match="line 1: a conversation needs source"):
        read_coqa(lines)


# Natural Questions


def nq_lines(questions: list[Question]) -> str:
    return "".join(json.dumps({"question": q.question, "answer": list(q.answers)}) + "\r\n" for q in questions)


def questions_of(count: int) -> list[Question]:
    kinds = ("who", "when", "how many", "name the one that")
    return [Question(f"{kinds[i % 4]} did thing {i}", (f"Answer {i}", f"the {i}")) for i in range(count)]


def test_questions_are_answered_after_the_first_training_pairs(tmp_path: Path) -> None:
    dev, train = questions_of(4), [Question(f"what is {i}", (f"number {i}",)) for i in range(12)]
    (tmp_path / "NQ-open.dev.jsonl").write_text(nq_lines(dev) + "\n")
    (tmp_path / "NQ-open.train.jsonl").write_text(nq_lines(train))
    told = [nq.context(train[:10], q.question) for q in dev]
    assert told[0].startswith("Q: what is 0\nA: number 0\n\nQ: what is 1\n")
    assert told[0].endswith("A: number 9\n\nQ: who did thing 0\nA:")
    answers = ["answer 0", "The 1.", "two", "answer 3"]
    asked = subject(writer([f"{t} {a}\n" for t, a in zip(told, answers, strict=True)]), tmp_path)
    score = TASKS["paper/nq"].run(asked)
    assert [row["prediction"] for row in asked.items] == answers
    assert [row["accuracy"] for row in asked.items] == [1, 1, 0, 1]
    assert (score["accuracy"], score["n"], score["pairs_from"]) == (0.75, 4, "NQ-open.train.jsonl")
    assert TASKS["paper/nq"].also(asked.files) == [tmp_path / "NQ-open.train.jsonl"]


def test_pairs_of_the_scored_file_are_not_scored(tmp_path: Path) -> None:
    questions = questions_of(210)
    (tmp_path / "NQ-open.dev.jsonl").write_text(nq_lines(questions))
    told = [nq.context(questions[:10], q.question) for q in questions[10:]]
    asked = subject(writer([f"{t} {q.answers[0]}\n" for t, q in zip(told, questions[10:], strict=True)][:2]), tmp_path)
    score = TASKS["paper/nq"].run(asked)
    assert (score["n"], score["available"], score["pairs_from"]) == (200, 200, "NQ-open.dev.jsonl")
    assert asked.items[0]["item"] == "line 11"
    assert score["accuracy"] == 2 / 200
    # It is certain of everything that it writes.
    assert score["n_most_confident"] == 2
    ranked = sorted(asked.items, key=lambda row: -row["log_prob"])
    assert score["accuracy_most_confident"] == sum(row["accuracy"] for row in ranked[:2]) / 2
    assert TASKS["paper/nq"].also({nq.SET: tmp_path}) == []


def test_the_baseline_answers_by_the_type_of_question() -> None:
    assert [nq.question_type(q) for q in ("Who ran", "in which year", "how many ran", "how far", "name whoever")] == [
        *["who", "which", "how many", "how", "other"]
    ]
    train = [Question("who a", ("Ann", "ann")), Question("who b", ("the Bob",)), Question("who c", ("bob!",))]
    asked = [Question("who d", ("x",)), Question("when e", ("y",))]
    assert nq._commonest(asked, train) == ["bob", ""]
    # Without training questions, the others vote: of two as common ones the first by name.
    votes = [Question("who a", ("Ann",)), Question("who b", ("Bob",)), Question("who c", ("Bob",)), asked[0]]
    assert nq._commonest(votes, None) == ["bob", "ann", "ann", "bob"]


@needs_shared
def test_questions_of_the_sample() -> None:
    assert len(read_nq_open(SHARED / "NQ-open.dev.first500.jsonl")) == 500
    asked = subject(Uniform(config(context=512, width=4)), SHARED, limit=60)
    score = TASKS["paper/nq"].run(asked)
    empty = sum(not normalize(one) for row in asked.items for one in row["answer"].split(" | "))
    assert empty == 1  # the band The The, which the model's "!!!" equals by SQuAD's rule
    assert (score["n"], score["available"], score["accuracy"]) == (60, 490, empty / 60)
    assert score["pairs_from"] == "NQ-open.dev.first500.jsonl"
    assert score["truncated"] == 0


def test_questions_without_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "NQ-open.dev.jsonl"
    for line, message in (
        ('{"question": "who", "answer": []}', "line 2: answer must be a list of strings, got '\\[\\]'"),
        ('{"answer": ["a"]}', "line 2: a line needs"),
        ("[1]", "line 2: not a JSON object"),
        ('{"question"', "line 2: not JSON"),
        ("", "line 2: not JSON"),
    ):
        path.write_text(f'{{"question": "who", "answer": "a"}}\n{line}\n{{}}')
        with pytest.raises(InputError, match=message):
            read_nq_open(path)


# CNN/DailyMail


@needs_shared
def test_rouge_is_close_to_the_stored_scores_of_14_systems() -> None:
    """REALSumm's are by ROUGE-1.5.5 with stemming. Some references have sentences that run together, as ``a .b``."""
    score = rouge.scorer()
    apart: dict[str, list[float]] = {name: [] for name in rouge.METRICS}
    for line in (SHARED / "cnndm_realsumm_refs_with_rouge.first20.jsonl").read_text().splitlines():
        row = json.loads(line)
        reference = [part for s in _tagged(row["reference"]) for part in re.split(r"(?<= [.!?])\s*", s) if part]
        assert len(row["systems"]) == 14
        for system in row["systems"].values():
            found = score(reference, _tagged(system["summary"]))
            for name in apart:
                apart[name].append(found[name] - system["scores"][f"{name}_f_score"])
    for name, most, exact in (("rouge_1", 0.006, 0.6), ("rouge_2", 0.002, 0.75), ("rouge_l", 0.01, 0.55)):
        differences = np.abs(apart[name])
        assert len(differences) == 280
        assert differences.mean() < most
        assert (differences < 1e-5).mean() > exact  # they are rounded to five digits
        assert abs(np.mean(apart[name])) < 0.004


def _tagged(text: str) -> list[str]:
    return [sentence.strip() for sentence in re.findall("<t>(.*?)</t>", text, re.DOTALL)]


def test_rouge_equals_values_by_hand() -> None:
    found = rouge.scorer()(["the cats ran home"], ["a cat ran", "home late"])
    # cat, ran and home are common to 4 and 5 words
    assert found["rouge_1"] == pytest.approx(2 * 3 / (4 + 5))
    assert found["rouge_l"] == pytest.approx(2 * 3 / (4 + 5))
    assert found["rouge_average"] == pytest.approx((found["rouge_1"] + found["rouge_2"] + found["rouge_l"]) / 3)


def article(name: str) -> str:
    return " ".join(f"Sentence {i} of {name} tells of thing {i * i}." for i in range(8))


def test_summaries_of_a_writer_who_knows_the_highlights(tmp_path: Path) -> None:
    """It sees the beginning of a long article, and what it writes after three sentences does not count."""
    long = article("Rome") + " Then nothing happened." * 50
    lines = [
        {"id": "a", "article": article("Oslo"), "highlights": "Oslo has things .\nIt is far .\nThree ."},
        {"id": "b", "article": long, "highlights": "Rome is old .\nIt is large .\nFour ."},
    ]
    (tmp_path / "cnndm_test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_cnndm(tmp_path / "cnndm_test.jsonl")
    assert read[0].highlights == ("Oslo has things .", "It is far .", "Three .")
    prompts = [cnndm.prompt(one, cnndm.HINT, 156) for one in read]
    assert [n_dropped > 0 for _, n_dropped in prompts] == [False, True]
    assert decode(prompts[1][0]).startswith("Sentence 0 of Rome")
    assert decode(prompts[1][0]).endswith("happened\nTL;DR:")
    told = [" Oslo has things. It is far. Three. Oslo again and again.", " Rome is old. It is large. Four. More."]
    texts = [ids + encode(text).tolist() for (ids, _), text in zip(prompts, told, strict=True)]
    asked = subject(Writer(config(256), texts), tmp_path)
    score = TASKS["paper/cnndm"].run(asked)
    assert [row["prediction"] for row in asked.items] == [
        *["Oslo has things.\nIt is far.\nThree.", "Rome is old.\nIt is large.\nFour."]
    ]
    assert (score["rouge_1"], score["rouge_2"], score["rouge_l"], score["rouge_average"]) == (1, 1, 1, 1)
    assert (score["truncated"], score["n"], score["empty"]) == (1, 2, 0)
    without = subject(Writer(config(256), texts), tmp_path)
    TASKS["paper/cnndm_no_hint"].run(without)
    assert without.items[0]["prediction"] == "TL;DR: Oslo has things.\nIt is far.\nThree."  # it writes the hint itself


def test_baselines_choose_three_sentences_of_the_article() -> None:
    one = Article("a", article("Oslo"), None, ("x",))
    assert cnndm.lead(one) == [f"Sentence {i} of Oslo tells of thing {i * i}." for i in range(3)]
    chosen = [cnndm.random(Article(str(i), article("Oslo"), None, ("x",))) for i in range(200)]
    assert all(len(some) == 3 and some == sorted(some) for some in chosen)
    counts = Counter(sentence for some in chosen for sentence in some)
    assert len(counts) == 8
    assert 45 < min(counts.values()) < 75 < max(counts.values()) < 105  # 75 expected, standard deviation 6.8
    assert cnndm.lead(Article("a", "x", ("p", "q", "r", "s"), ("x",))) == ["p", "q", "r"]


@needs_shared
def test_summaries_of_the_sample() -> None:
    read = read_cnndm(SHARED / "cnndm_article_reference_6pairs.json")
    assert len(read) == 6
    assert read[0].highlights[2] == "smith has been juggling for 16 years"
    shape = dataclasses.replace(config(context=1_024, width=4), layers=1)
    torch.manual_seed(0)
    random = TASKS["paper/cnndm"].run(subject(GPT2(shape), SHARED))
    assert random["n"] == 6
    assert random["rouge_average"] < 0.02
    for baseline in random["baselines_by_metric"].values():  # the paper has 0.40 and 0.29 on the whole set
        assert 0.05 < baseline["rouge_2"] < baseline["rouge_1"] < 0.5
    assert random["truncated"] == sum(len(encode(one.text)) > 1_024 - 100 - 5 for one in read)


def test_articles_without_highlights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cnndm_test.jsonl"
    for line, message in (
        ('{"article": "a"}', "line 1: highlights must be a list of strings"),
        ('{"article": "a", "highlights": " "}', "line 1: an article needs a highlight"),
        ('{"article": " ", "highlights": "b"}', 'line 1: a line needs {"article"'),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=message):
            read_cnndm(path)
    pairs = tmp_path / "cnndm_article_reference.json"
    pairs.write_text('[{"src": [["a"]], "tgt": []}]')
    with pytest.raises(InputError, match="article 1: an article needs a sentence and a highlight"):
        read_cnndm(pairs)


# Translation

PAIRS = [
    SentencePair(
        document=f"doc-{i // 3}",
        english=f"The {i} small & old houses stand in the street of the town. They are red {i}.",
        french=f'Les {i} vieilles & petites maisons sont là. Elles sont "rouges {i}".',
    )
    for i in range(14)
]


def sgm(kind: str, sentences: list[tuple[str, str]]) -> str:
    lines = [f'<{kind}set setid="newstest2014" srclang="any">']
    for document in dict.fromkeys(name for name, _ in sentences):
        lines.append(f'<doc sysid="ref" docid="{document}" genre="news" origlang="en">\n<p>')
        of_one = [text for name, text in sentences if name == document]
        for i, text in enumerate(of_one, start=1):
            lines.append(f'<seg id="{i}">{text.replace("&", "&amp;").replace(chr(34), "&quot;")}</seg>')
        lines.append("</p>\n</doc>")
    return "\n".join([*lines, f"</{kind}set>\n"])


def publish_sgm(folder: Path) -> None:
    english, french = [(p.document, p.english) for p in PAIRS], [(p.document, p.french) for p in PAIRS]
    (folder / "newstest2014-fren-src.en.sgm").write_text(sgm("src", english))
    (folder / "newstest2014-fren-ref.fr.sgm").write_text(sgm("ref", french))


@pytest.mark.parametrize("into", ["french", "english"])
def test_translations_of_a_writer_who_knows_them(tmp_path: Path, into: str) -> None:
    publish_sgm(tmp_path)
    assert read_wmt(*(tmp_path / f"newstest2014-fren-{side}.sgm" for side in ("src.en", "ref.fr"))) == PAIRS
    task = TASKS["paper/wmt14_en_fr" if into == "french" else "paper/wmt14_fr_en"]
    sides = [(p.english, p.french) if into == "french" else (p.french, p.english) for p in PAIRS]
    told = [wmt.context(sides[:5], source) for source, _ in sides[5:]]
    assert told[0].startswith(f"{sides[0][0]} = {sides[0][1]}\n{sides[1][0]} = ")
    assert told[0].endswith(f"{sides[5][0]} =")
    model = writer([f"{text} {target}\n" for text, (_, target) in zip(told, sides[5:], strict=True)])
    asked = subject(model, tmp_path)
    score = task.run(asked)
    assert (score["n"], score["documents"], score["pairs_from"]) == (9, 4, "newstest2014-fren-src.en.sgm")
    assert score["bleu_line"] == pytest.approx(100)
    references = [target for _, target in sides[5:]]
    first = [sentences(reference)[0] for reference in references]
    assert [row["prediction"] for row in asked.items] == first
    assert [row["answer"] for row in asked.items] == references
    assert "bleu" not in asked.items[0]  # the score is not the mean of the sentences' scores
    assert score["bleu"] == pytest.approx(BLEU().corpus_score(first, [references]).score)
    assert 20 < score["bleu"] < 80
    assert score["baselines"]["source"]["value"] < 10
    assert score["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    assert task.also(asked.files) == [tmp_path / "newstest2014-fren-ref.fr.sgm"]


def test_example_pairs_come_from_the_development_set_if_it_is_there(tmp_path: Path) -> None:
    for name, lines in (
        ("newstest2014-fren-src.en", [p.english for p in PAIRS]),
        ("newstest2014-fren-src.fr", [p.french for p in PAIRS]),
        ("newstest2013.en", ["One .", "Two"]),
        ("newstest2013.fr", ["Un .", "Deux"]),
    ):
        (tmp_path / name).write_text("\r\n".join(lines) + "\n\n")
    pairs = [("One .", "Un ."), ("Two", "Deux")]
    target = PAIRS[3].french
    asked = subject(writer([f"{wmt.context(pairs, PAIRS[3].english)} {target}\n"]), tmp_path)
    score = TASKS["paper/wmt14_en_fr"].run(asked)
    assert (score["n"], score["documents"], score["pairs"], score["pairs_from"]) == (14, 14, 2, "newstest2013.en")
    assert asked.items[3]["prediction"] == sentences(target)[0]
    assert score["empty"] == 13
    known = newstest2013(tmp_path)
    assert known is not None
    assert TASKS["paper/wmt14_fr_en"].also(asked.files) == [tmp_path / "newstest2014-fren-src.fr", *known]


def test_files_that_are_not_a_translation_are_refused(tmp_path: Path) -> None:
    publish_sgm(tmp_path)
    english, french = tmp_path / "newstest2014-fren-src.en.sgm", tmp_path / "newstest2014-fren-ref.fr.sgm"
    whole = french.read_text()
    for text, message in (
        (whole[:-40], "does not end with </srcset> or </refset>; it was cut"),
        (re.sub("<seg id=.2.>.*</seg>", "", whole, count=1), "has 14 sentences, .* has 13"),
        (re.sub("(<seg id=.2.>).*(</seg>)", r"\1 \2", whole, count=1), "sentence 2 is empty"),
    ):
        french.write_text(text)
        with pytest.raises(InputError, match=message):
            read_wmt(english, french)
    french.unlink()
    with pytest.raises(NotScored, match="needs newstest2014-fren-ref"):
        TASKS["paper/wmt14_en_fr"].run(subject(Uniform(config(512)), tmp_path))


def test_bleu_is_that_of_sacrebleu() -> None:
    random = np.random.default_rng(0)
    words = "the a cat dog sat ran on in mat park , .".split()
    references = [" ".join(random.choice(words, n)) for n in random.integers(1, 30, 60)]
    ours = [" ".join(w if random.random() < 0.8 else "x" for w in text.split()) for text in references]
    ours[3] = ""
    found, by_sentence, signature = bleu(ours, references, range(60))
    theirs = BLEU()
    expected = theirs.corpus_score(ours, [references], n_bootstrap=1_000)
    assert found.value == pytest.approx(expected.score)
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(expected._ci, rel=0.1)
    assert signature.split("|")[2:] == str(theirs.get_signature()).split("|")[4:]  # theirs has the bootstrap, too
    assert by_sentence[3] == 0


def test_the_bootstrap_matches_the_closed_form() -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(5, 100, 200).astype(float)
    nats = sizes * random.normal(3, 0.5, 200)
    closed = stats.ratio(nats, sizes)
    drawn = stats.bootstrap(np.stack([nats, sizes], 1), range(200), lambda sums: float(sums[0] / sums[1]))
    assert drawn.value == pytest.approx(closed.value)
    assert drawn.stderr == pytest.approx(closed.stderr, rel=0.1)
    assert drawn.interval == pytest.approx(closed.interval, abs=0.2 * closed.stderr)
    twice = stats.bootstrap(
        np.repeat(np.stack([nats, sizes], 1), 2, axis=0),
        np.repeat(np.arange(200), 2).tolist(),
        lambda sums: float(sums[0] / sums[1]),
    )
    assert twice.stderr == drawn.stderr  # copies of an example in its cluster tell nothing new


# The program


def test_scores_are_kept_until_a_file_changes_that_the_task_reads(tmp_path: Path) -> None:
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "sets"
    folder.mkdir()
    hf.export(GPT2(config(context=512, width=8)), tmp_path / "hf")
    publish_sgm(folder)
    (folder / "coqa-dev-v1.0.json").write_text(json.dumps({"data": CONVERSATIONS}))
    (folder / "NQ-open.dev.jsonl").write_text(nq_lines(questions_of(14)))
    names = ("paper/coqa", "paper/wmt14_en_fr", "paper/nq")
    spec = EvalSpec(lake.root, hf=str(tmp_path / "hf"), tasks=names, eval_data=str(folder), limit=3, any_file=True)
    events: list[object] = []
    first = to_json(evaluate(spec, events.append))
    assert first["scores"].keys() == set(names)
    assert first["scores"]["paper/coqa"]["by_domain"]["race"]["n"] == 1
    french = folder / "newstest2014-fren-ref.fr.sgm"
    assert first["scores"]["paper/wmt14_en_fr"]["also_read"] == {french.name: sha256_of(french)}
    done = [(event.task, event.done, event.total) for event in events if isinstance(event, TaskProgress)]
    assert [task for task, n, total in done if n == total] == [name for name in TASKS if name in names]
    assert evaluate(spec, events.append).skipped
    (folder / "NQ-open.train.jsonl").write_text(nq_lines(questions_of(30)[20:]))
    french.write_text(french.read_text().replace("petites", "grandes"))
    again = to_json(evaluate(spec, events.append))
    changed = {name for name in names if again["scores"][name]["key"] != first["scores"][name]["key"]}
    assert changed == {"paper/nq", "paper/wmt14_en_fr"}
    assert again["scores"]["paper/nq"]["pairs_from"] == "NQ-open.train.jsonl"
