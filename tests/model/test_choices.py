"""The Children's Book Test, Winograd's schemas and LAMBADA's own file, on models with known answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.bpe import encode
from data.evalsets.files import find
from data.evalsets.lambada import as_it_stands, read_lambada_plain, untokenized
from model.evals import cbt
from model.evals.task import NotScored, Subject
from model.evals.tasks import TASKS
from model.gpt2 import GPT2, Cache
from tests.model.corpora import UNIFORM_NATS, Liking, Oracle, Uniform, config
from tests.model.test_evals import SHARED

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/eval here")


def subject(model: GPT2, files: Path, limit: int = 100, *, control: bool = False) -> Subject:
    found = {name: file.path for name, file in find(files).items()}
    return Subject(model, None, found, limit, lambda _done, _total: None, control=control)


def token(word: str) -> int:
    return int(encode(word).item())


class Bigram(GPT2):
    """After the token ``a``, ``b`` is e^gain times as likely as any other token; elsewhere all are equally likely."""

    def __init__(self, pairs: dict[tuple[int, int], float], context: int = 256) -> None:
        super().__init__(config(context=context))
        self.pairs = pairs
        with torch.no_grad():
            self.tokens.weight.zero_()
            for column, (_, b) in enumerate(pairs):
                self.tokens.weight[b, column] = 1

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, **how: object) -> Tensor:
        x_BTC = torch.zeros(*ids_BT.shape, self.config.width)
        for column, ((a, _), gain) in enumerate(self.pairs.items()):
            x_BTC[..., column] = (ids_BT == a) * gain
        return x_BTC


# The Children's Book Test

CHOICES = "cat|dog|lumber|lumber-room|hen|cow|pig|fox|owl|bee"


def question(
    query: str, answer: str, choices: str = CHOICES, sentence: str = "A dog saw the cat . The dog ran ."
) -> str:
    return "".join(f"{n} {sentence}\n" for n in range(1, 21)) + f"21 {query}\t{answer}\t\t{choices}\n\n"


def cbt_file(folder: Path, *questions: str) -> Path:
    (folder / "cbtest_CN_valid_2000ex.txt").write_text("".join(questions))
    return folder


def test_the_rest_of_the_sentence_decides(tmp_path: Path) -> None:
    """The model expects a dog, but only a cat climbs."""
    files = cbt_file(tmp_path, *[question("Then the XXXXX climbed .", answer) for answer in ("cat", "dog")])
    model = Bigram({(token(" the"), token(" dog")): 2.0, (token(" cat"), token(" climbed")): 5.0})
    score = TASKS["paper/cbt_cn"].run(subject(model, files))
    assert (score["accuracy"], score["accuracy_choice"], score["n"]) == (0.5, 0.5, 2)
    both = subject(model, files)
    TASKS["paper/cbt_cn"].run(both)
    cat, dog = both.items
    assert (cat["prediction"], cat["credit"], cat["credit_choice"]) == ("cat", 1, 0)
    assert (dog["prediction"], dog["credit"], dog["credit_choice"]) == ("cat", 0, 1)
    total = 50_256 + math.exp(2)
    gained = math.log(total) - 2
    assert dog["nats_answer"] == pytest.approx(gained + 2 * UNIFORM_NATS, rel=1e-4)  # " dog", " climbed", "."
    assert score["baselines"]["most_frequent_in_context"]["value"] == 0.5  # the dog, twice a sentence
    assert score["baselines"]["latest_in_context"]["value"] == 0.5


def test_a_tie_is_shared_and_a_longer_choice_is_not_favoured(tmp_path: Path) -> None:
    files = cbt_file(tmp_path, *[question("Then the XXXXX ran .", "hen") for _ in range(2)])
    score = TASKS["paper/cbt_cn"].run(subject(Uniform(config(context=512)), files))
    shortest = sum(len(encode(f" {choice}")) == 1 for choice in CHOICES.split("|"))
    assert len(encode(" lumber-room")) > 1
    assert score["accuracy"] == pytest.approx(1 / shortest)
    assert score["accuracy_choice"] == pytest.approx(1 / shortest)
    assert score["chance"] == pytest.approx(0.1)
    assert score["n_prefixes"] == 2  # lumber, lumber-room


def test_a_prefix_wins_without_the_rest_only(tmp_path: Path) -> None:
    files = cbt_file(tmp_path, *[question("Near the XXXXX burned .", "lumber-room") for _ in range(2)])
    lumber, dash, room = encode(" lumber-room").tolist()
    model = Bigram(
        {(token(" the"), lumber): 9.0, (lumber, dash): 9.0, (dash, room): 9.0, (room, token(" burned")): 30.0}
    )
    score = TASKS["paper/cbt_cn"].run(subject(model, files))
    assert (score["accuracy"], score["accuracy_choice"]) == (1, 0)


def test_a_choice_after_an_opening_quote_has_no_space(tmp_path: Path) -> None:
    files = cbt_file(tmp_path, question("He said , `` XXXXX 's here ! ''", "dog"), question("The XXXXX !", "cat"))
    found = cbt.answer(subject(Uniform(config(context=512)), files), "cbt_cn_valid", cbt.DETOKENIZERS["yes"])
    quoted, plain = found.examples
    assert quoted.choices[1] == encode("dog").tolist()
    assert quoted.rest == encode("'s here!\"").tolist()
    assert plain.choices[1] == encode(" dog").tolist()
    whole = [*plain.before, *plain.choices[1], *plain.rest]
    assert whole == encode("A dog saw the cat. The dog ran. " * 20 + "The dog!").tolist()
    raw = cbt.answer(subject(Uniform(config(context=512)), files), "cbt_cn_valid", cbt.DETOKENIZERS["no"])
    assert raw.examples[0].rest == encode(" 's here ! ''").tolist()


def test_long_contexts_are_cut_and_long_answers_left_out(tmp_path: Path) -> None:
    long = question("The XXXXX " + "ran and " * 80 + ".", "dog")
    files = cbt_file(tmp_path, long, *[question("The XXXXX ran .", "dog") for _ in range(3)])
    score = TASKS["paper/cbt_cn"].run(subject(Uniform(config(context=128)), files))
    assert (score["n"], score["available"], score["too_long"], score["truncated"]) == (3, 4, 1, 3)
    fits = TASKS["paper/cbt_cn"].run(subject(Uniform(config(context=512)), files))
    assert (fits["n"], fits["too_long"], fits["truncated"]) == (4, 0, 0)
    with pytest.raises(NotScored, match="at least 2 clusters"):
        TASKS["paper/cbt_cn"].run(subject(Uniform(config(context=128)), files, limit=1))


def test_names_are_asked_for_in_their_own_file(tmp_path: Path) -> None:
    (tmp_path / "cbtest_NE_valid_2000ex.txt").write_text(question("The XXXXX ran .", "dog") * 2)
    assert TASKS["paper/cbt_ne"].run(subject(Uniform(config(context=512)), tmp_path))["n"] == 2


def test_the_control_of_a_question_keeps_choice_and_rest(tmp_path: Path) -> None:
    """The oracle then writes the answer that belongs to the other context."""
    answers = ("dog", "cat", "pig")
    sentences = ("A dog saw the cat .", "We like the old pig .", "All is lost .")
    pairs = list(zip(answers, sentences, strict=True))
    files = cbt_file(tmp_path, *[question("Then the XXXXX ran .", answer, sentence=s) for answer, s in pairs])
    liking = Liking(config(context=512), [token(" dog")])
    liked = TASKS["paper/cbt_cn"].run(subject(liking, files, control=True))
    assert liked["control_accuracy"] == liked["accuracy"] == pytest.approx(1 / 3)
    texts = [" ".join([s.replace(" .", ".")] * 20) + f" Then the {answer} ran." for answer, s in pairs]
    oracle = Oracle(config(context=512), [encode(text).tolist() for text in texts])
    score = TASKS["paper/cbt_cn"].run(subject(oracle, files, control=True))
    assert (score["accuracy"], score["control_accuracy"]) == (1, 0)


# Winograd's schemas


def winograd_file(folder: Path, *examples: tuple[str, str, str]) -> Path:
    lines = [f"{text}\n[MASK]\n{right} ,{wrong}\n{right}\n\n" for text, right, wrong in examples]
    (folder / "wsc273.txt").write_text("".join(lines))
    return folder


FIRED = ("Anna fired Jane because  [MASK]  was late.", "Jane", "Anna")
PAID = ("Anna paid Jane because  [MASK]  was rich.", "Anna", "Jane")
TROPHY = ("The trophy is in the case because  [MASK]  fits.", "the trophy", "the case")


def test_partial_and_full_scoring_differ(tmp_path: Path) -> None:
    """Anna is likelier in front; after Jane, "was" is likelier."""
    files = winograd_file(tmp_path, FIRED, TROPHY)
    model = Bigram({(token(" because"), token(" Anna")): 5.0, (token(" Jane"), token(" was")): 2.0})
    one = subject(model, files)
    score = TASKS["paper/winograd"].run(one)
    fired, trophy = one.items
    assert (fired["credit"], fired["credit_full"]) == (1, 0)
    assert (trophy["credit"], trophy["credit_full"]) == (0.5, 0.5)  # ties
    assert (score["accuracy"], score["accuracy_full"]) == (0.75, 0.25)
    total = 50_256 + math.exp(2)
    assert fired["confidence"] == pytest.approx(UNIFORM_NATS - math.log(total) + 2, rel=1e-3)
    assert score["chance"] == 0.5


def test_schemas_are_clusters_and_give_each_other_no_context(tmp_path: Path) -> None:
    files = winograd_file(tmp_path, FIRED, PAID, TROPHY, TROPHY)
    liking = Liking(config(), [token(" Anna"), token(" Jane")])
    one = subject(liking, files, control=True)
    score = TASKS["paper/winograd"].run(one)
    assert score["documents"] == 2
    assert [item["document"] for item in one.items] == ["0", "0", "1", "1"]
    assert score["control_n"] == 4
    assert score["control_accuracy"] == score["accuracy"] == 0.5  # what follows is the same for both
    assert score["baselines"]["first_named"]["value"] == 0.75
    with pytest.raises(NotScored, match="at least 2 clusters"):
        TASKS["paper/winograd"].run(subject(liking, winograd_file(tmp_path, FIRED, PAID)))


def test_a_pronoun_may_be_the_first_word(tmp_path: Path) -> None:
    files = winograd_file(tmp_path, ("[MASK] was late, said Jane.", "Anna", "Jane"), TROPHY)
    model = Bigram({(encode("Anna").tolist()[-1], token(" was")): 5.0})
    one = subject(model, files)
    TASKS["paper/winograd"].run(one)
    assert one.items[0]["credit"] == 1


@needs_shared
def test_official_choices_are_scored_at_chance_by_a_uniform_model() -> None:
    uniform = Uniform(config(context=1024, width=4))
    found = {"winograd": SHARED / "wsc273.first500lines.txt"}
    score = TASKS["paper/winograd"].run(Subject(uniform, None, found, 1_000, lambda _done, _total: None))
    assert (score["n"], score["available"], score["accuracy"]) == (100, 100, 0.5)
    assert score["documents"] == 48


# LAMBADA's own file


def test_lambadas_own_file_is_scored_in_both_variants(tmp_path: Path) -> None:
    path = tmp_path / "lambada_test_plain_text.txt"
    path.write_text("i do n't see the dog\n`` we , '' he said , saw the cat\nshe said , `` yes\n")
    the, dog, cat = (token(word) for word in (" the", " dog", " cat"))
    plain = TASKS["harness/lambada_standard"].run(subject(Liking(config(), [dog, cat]), tmp_path))
    assert plain["accuracy"] == pytest.approx(1 / 3)
    paper = TASKS["paper/lambada_plain"].run(subject(Liking(config(), [the, dog, cat]), tmp_path))
    assert paper["accuracy"] == 0
    assert paper["accuracy_stopword"] == pytest.approx(1 / 3)
    passages = read_lambada_plain(path)
    assert [untokenized(p).context for p in passages] == ["i don't see the", '"we," he said, saw the', 'she said, "']
    assert untokenized(passages[2]).target == "yes"
    assert as_it_stands(passages[2]).target == " yes"
