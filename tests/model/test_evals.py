"""The tasks on models whose answers are known, and the program that runs them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data.bpe import decode, encode
from data.errors import InputError
from data.evalsets.files import find
from data.lake.store import Lake
from model.evals import cloze, heldout, lastword, order, stats, words
from model.evals.heldout import HeldOut, HeldOutDocument
from model.evals.task import NotScored, Subject
from model.evals.tasks import TASKS
from model.gpt2 import GPT2
from tests.model.corpora import (
    UNIFORM_NATS,
    Liking,
    Oracle,
    Uniform,
    config,
    doc_id,
    prose,
    publish_texts,
    tokens_of,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval"


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    every = prose(60, seed=1)
    return every[:30], every[30:]


@pytest.fixture(scope="module")
def held_out(texts: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    publish_texts(lake, "a", *texts)
    return heldout.load(lake, ["a"])


def subject(model: GPT2, held_out: HeldOut | None, limit: int = 40, files: Path | None = None) -> Subject:
    found = {name: file.path for name, file in find(files).items()} if files else {}
    return Subject(model, held_out, found, limit, lambda _done, _total: None)


# Statistics


def test_wilson_intervals_match_published_values() -> None:
    assert stats.wilson(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=5e-5)
    assert stats.wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert stats.wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)


def test_copies_of_an_example_do_not_narrow_the_interval() -> None:
    earned = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    alone = stats.accuracy(earned, range(50))
    copied = stats.accuracy(np.repeat(earned, 20), np.repeat(np.arange(50), 20).tolist())
    pretended = stats.accuracy(np.repeat(earned, 20), range(1_000))
    assert copied.value == alone.value
    assert copied.interval == pytest.approx(
        alone.interval, abs=3e-3
    )  # they differ by the factor n / (n - 1) of clusters
    assert pretended.interval[1] - pretended.interval[0] < 0.3 * (alone.interval[1] - alone.interval[0])


def test_standard_error_of_a_ratio_matches_the_bootstrap() -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(5, 100, 200).astype(float)
    nats = sizes * random.normal(3, 0.5, 200)
    estimate = stats.ratio(nats, sizes)
    draws = random.integers(0, 200, (4_000, 200))
    resampled = nats[draws].sum(1) / sizes[draws].sum(1)
    assert estimate.value == pytest.approx(nats.sum() / sizes.sum())
    assert estimate.stderr == pytest.approx(resampled.std(), rel=0.1)
    assert estimate.exp().interval == pytest.approx(np.exp(estimate.interval))


# Words and documents


def test_sentences_are_spans_of_the_text() -> None:
    text = 'A title\n\n"It runs," he said. "Why not?" Version 2.5 of it.\n- an item, e.g. this\nx = f(1)  '
    found = [text[s.start : s.end] for s in words.sentences(text)]
    assert found == [
        "A title",
        '"It runs," he said.',
        '"Why not?"',
        "Version 2.5 of it.",
        "- an item, e.g. this",
        "x = f(1)",
    ]


def test_only_suitable_words_are_choices() -> None:
    tokens = words.single_tokens()
    assert tokens["lobster"] == encode(" lobster").item()
    assert not {"the", "The", "however", "of", "ax"} & tokens.keys()
    assert all(decode([token]) == f" {word}" for word, token in list(tokens.items())[::500])
    assert encode(" the").item() in words.stop_tokens()
    assert words.most_frequent(["b", "a", "a", "b", "c"]) == "b"  # as often as a, but later


def test_only_held_out_documents_are_read(held_out: HeldOut, texts: tuple[list[str], list[str]]) -> None:
    in_train, in_val = texts
    assert sorted(d.text for d in held_out.documents) == sorted(in_val)
    assert held_out.available == 30
    assert held_out.counts.sum() == sum(len(tokens_of(text)) for text in in_train)
    of_first = np.bincount(tokens_of(in_train[0]), minlength=len(held_out.counts))
    assert (held_out.counts >= of_first).all()
    assert np.exp(held_out.log_probs()).sum() == pytest.approx(1)


def test_a_leak_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    every = prose(6, seed=2, n_sentences=2)
    publish_texts(lake, "leaky", every[:4], every[3:])
    with pytest.raises(InputError, match=f"{doc_id(every[3]).hex()} is held out and in the training split"):
        heldout.load(lake, ["leaky"])
    publish_texts(lake, "a", every[:2], every[4:])
    publish_texts(lake, "b", every[4:5], every[2:3])
    heldout.load(lake, ["a"])
    with pytest.raises(InputError, match="tokens/b"):  # the model was trained on documents that a holds out
        heldout.load(lake, ["a"], trained_on=["b"])


def test_damaged_data_and_other_tokenizers_are_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    every = prose(3, seed=2, n_sentences=2)
    publish_texts(lake, "other", every[:1], every[1:], tokenizer="bytes")
    with pytest.raises(InputError, match="tokenizer 'bytes'"):
        heldout.load(lake, ["other"])
    publish_texts(lake, "none", every, [])
    with pytest.raises(InputError, match="no held-out document"):
        heldout.load(lake, ["none"])
    publish_texts(lake, "a", every[:1], every[1:])
    path = tmp_path / "tokens" / "a" / "val" / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        heldout.load(lake, ["a"])


def test_documents_are_chosen_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    every = prose(20, seed=3, n_sentences=2)
    publish_texts(lake, "a", every[:2], every[2:])
    publish_texts(lake, "b", every[:2], every[:1:-1])  # the same, in another order
    whole = heldout.load(lake, ["a"])
    assert [d.doc_id for d in heldout.load(lake, ["b"]).documents] == [d.doc_id for d in whole.documents]
    monkeypatch.setattr(heldout, "MAX_DOCUMENTS", 5)
    some = heldout.load(lake, ["a"])
    assert (len(some.documents), some.available) == (5, 18)
    assert [d.doc_id for d in some.documents] == [d.doc_id for d in whole.documents[:5]]


# Held-out tasks on planted models


def test_a_uniform_model_scores_at_chance(held_out: HeldOut) -> None:
    uniform = Uniform(config())
    ppl = TASKS["heldout_ppl"].run(subject(uniform, held_out, limit=4))
    assert ppl["nats_per_token"] == pytest.approx(UNIFORM_NATS, rel=1e-6)
    assert ppl["perplexity"] == pytest.approx(50_257, rel=1e-5)
    chosen = held_out.documents[:4]
    n_tokens = sum(len(d.tokens) for d in chosen)
    assert ppl["n"] == n_tokens
    assert ppl["bits_per_byte"] == pytest.approx(
        math.log2(50_257) * n_tokens / sum(len(d.text.encode()) for d in chosen), rel=1e-6
    )
    assert ppl["baselines"]["unigram"]["value"] < 50_257
    guess = TASKS["heldout_cloze"].run(subject(uniform, held_out))
    assert guess["accuracy"] == pytest.approx(0.1)
    order = TASKS["heldout_order"].run(subject(uniform, held_out))
    assert order["accuracy"] == order["baselines"]["unigram"]["value"] == 0.5
    last = TASKS["heldout_lastword"].run(subject(uniform, held_out))
    assert last["accuracy"] == 0
    assert last["perplexity"] >= 50_257 * 0.99  # one or more tokens per word


def test_an_oracle_is_always_right(held_out: HeldOut) -> None:
    oracle = Oracle(config(), ([50_256, *d.tokens.tolist()] for d in held_out.documents))
    ppl = TASKS["heldout_ppl"].run(subject(oracle, held_out, limit=2))
    assert ppl["perplexity"] < 1.2  # at the start of a text it cannot know which one it is
    for name in ("heldout_lastword", "heldout_cloze", "heldout_order"):
        score = TASKS[name].run(subject(oracle, held_out, limit=10))
        assert score["accuracy"] == 1, name
        assert score["interval"][1] == 1
        assert 0.7 < score["interval"][0] < 1
        assert score["n"] == 10
        assert score["available"] > 20


def test_a_unigram_model_matches_the_unigram_baseline(held_out: HeldOut) -> None:
    """The same distribution, as a model and as counts."""

    class Unigram(Uniform):
        def hidden(self, ids_BT: torch.Tensor, cache: object = None, **how: object) -> torch.Tensor:
            x_BTC = torch.zeros(*ids_BT.shape, self.config.width)
            x_BTC[..., 0] = 1
            return x_BTC

    model = Unigram(config())
    with torch.no_grad():
        model.tokens.weight.zero_()
        model.tokens.weight[:, 0] = torch.from_numpy(held_out.log_probs())
    ppl = TASKS["heldout_ppl"].run(subject(model, held_out, limit=3))
    assert ppl["perplexity"] == pytest.approx(ppl["baselines"]["unigram"]["value"], rel=1e-4)
    guess = TASKS["heldout_cloze"].run(subject(model, held_out, limit=100))
    assert guess["accuracy"] == pytest.approx(guess["baselines"]["unigram"]["value"], abs=0.011)  # ties of counts


@pytest.fixture(scope="module")
def many() -> tuple[HeldOut, list[cloze.ClozeExample]]:
    """A large sample of cloze examples."""
    train_texts = prose(60, seed=11)
    val_texts = prose(60, seed=12)
    counts = np.bincount([token for text in train_texts for token in tokens_of(text)], minlength=50_257)
    documents = tuple(HeldOutDocument(doc_id(t), np.array(tokens_of(t), dtype=np.uint16), t) for t in val_texts)
    tokens = words.single_tokens()
    return HeldOut(documents, 60, counts), [e for d in documents for e in cloze.examples(d, tokens, counts)]


def test_counting_does_not_solve_the_cloze(many: tuple[HeldOut, list[cloze.ClozeExample]]) -> None:
    held_out, examples = many
    tokens = words.single_tokens()
    clusters = [example.doc_id for example in examples]
    assert len(examples) > 1_000
    frequency = [[int(held_out.counts[tokens[choice]]) for choice in e.choices] for e in examples]
    for sign in (1, -1):  # the most frequent, the rarest
        estimate = stats.accuracy(
            [cloze.credit([sign * f for f in row], e.answer) for row, e in zip(frequency, examples, strict=True)],
            clusters,
        )
        assert estimate.interval[0] < 0.1 < estimate.interval[1]
        assert estimate.interval[1] - estimate.interval[0] < 0.06
    in_context = [cloze.credit([float(k) for k in e.occurrences], e.answer) for e in examples]
    assert in_context == pytest.approx([0.1] * len(examples))


def test_the_rank_of_the_answer_is_random() -> None:
    """Thirty words, each once in the context, from the rarest to the most frequent in training."""
    pool = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(30)]
    frequency = {word: i for i, word in enumerate(pool)}
    lines = [f"The {pool[i]} and the {pool[(i + 20) % 30]} were there." for i in range(20)]
    lines = [f"The {pool[i]} was there with us." if i >= 10 else line for i, line in enumerate(lines)]

    def choices_for(answer: str, number: int) -> tuple[str, ...] | None:
        text = " ".join([*lines, f"At last we saw the {answer} again."])
        document = HeldOutDocument(number.to_bytes(16, "little"), np.array([], dtype=np.uint16), text)
        found = list(cloze.examples(document, frequency, np.arange(30)))
        assert all(example.choices[example.answer] == answer for example in found)
        return found[0].choices if found else None

    ranks = np.zeros(10)
    for i in range(2_000):
        choices = choices_for(pool[12], i)
        assert choices is not None
        in_order = sorted(choices, key=frequency.__getitem__)
        first = frequency[in_order[0]]
        assert in_order == pool[first : first + 10]
        ranks[in_order.index(pool[12])] += 1
    assert ((ranks - 200) ** 2 / 200).sum() < 27.9  # chi-square of 9 degrees of freedom, 0.1 %
    for edge in (pool[8], pool[21]):  # eight on one side
        assert choices_for(edge, 0) is None
    assert choices_for(pool[9], 0) is not None


def test_cloze_examples_are_well_formed(many: tuple[HeldOut, list[cloze.ClozeExample]]) -> None:
    held_out, examples = many
    texts = {d.doc_id.hex(): d.text for d in held_out.documents}
    places = set()
    for e in examples:
        assert len(set(e.choices)) == 10
        answer = e.choices[e.answer]
        text = texts[e.doc_id]
        assert f"{e.before} {answer}{e.rest}" in text
        assert text[: e.position].endswith(e.before)
        context, _, begun = e.before.rpartition(". ")
        assert len(words.sentences(context + ".")) == cloze.CONTEXT_SENTENCES
        for choice, occurrences in zip(e.choices, e.occurrences, strict=True):
            assert words.WORD.findall(context).count(choice) == occurrences >= 1
            assert choice not in words.WORD.findall(f"{begun} {e.rest}")
        places.add((e.doc_id, e.position))
    assert len(places) == len(examples)
    assert len({e.answer for e in examples}) == 10  # the order reveals nothing


def test_lastword_passages_are_well_formed(held_out: HeldOut) -> None:
    text = "One two three of. " * 14 + "Then we saw the big lobster. " + "A short end of the.\n" + "No end " * 9
    passage, *more = lastword.examples(HeldOutDocument(b"x", np.array([1], dtype=np.uint16), text))
    assert not more
    assert passage.target == "lobster"
    assert passage.context.endswith("Then we saw the big")
    assert text[passage.position :].startswith(" lobster.")
    n_words = len(words.WORD.findall(passage.context))
    assert 50 <= n_words - 5 < 54  # sentences of four words, until there are 50
    for document in held_out.documents[:5]:
        end = 0
        for example in lastword.examples(document):
            assert document.text[: example.position].endswith(example.context)
            assert example.position - len(example.context) >= end  # no overlap
            end = example.position + len(example.target)
            assert words.is_content(example.target)


def test_lastword_baselines_match_values_by_hand() -> None:
    found = "Anna saw lobster Anna fishing fishing lobster lobster boats".split()
    guesses = {name: guess(found) for name, guess in lastword.GUESSES.items()}
    assert guesses == {
        "most_frequent": "lobster",
        "most_frequent_capitalised": "Anna",
        "most_frequent_long": "lobster",
        "latest": "boats",
    }
    assert lastword.GUESSES["most_frequent_capitalised"](["boats"]) is None


def test_lastword_counts_baselines_on_the_same_examples() -> None:
    sentence = "We talked about the lobster and about the lobster again with him for a while. "
    texts = [
        f"{i} {sentence * 4}At the end we ate the {word}." for i, word in enumerate(("lobster", "lobster", "boat"))
    ]
    counts = np.bincount(encode(" boat boat the the the the").tolist(), minlength=50_257)
    documents = tuple(HeldOutDocument(doc_id(t), np.array(tokens_of(t), dtype=np.uint16), t) for t in texts)
    score = TASKS["heldout_lastword"].run(subject(Uniform(config()), HeldOut(documents, 3, counts)))
    assert score["n"] == 3
    assert score["baselines"]["most_frequent"]["value"] == pytest.approx(2 / 3)
    assert score["baselines"]["unigram"]["value"] == pytest.approx(1 / 3)
    assert score["best_baseline"] == "most_frequent"
    assert score["share_in_passage"] == pytest.approx(2 / 3)


def test_pairs_of_words_are_exchanged_inside_of_sentences() -> None:
    text = "Nothing here. Nor there. The old lobster of the north eats small fish, and it sleeps. It it it it it it it."
    document = HeldOutDocument(b"x" * 16, np.array(tokens_of(text), dtype=np.uint16), text)
    (example,) = order.examples(document)
    as_it_stands, exchanged = example.endings
    assert example.before + as_it_stands == text[: text.index(" It it")]
    assert example.before.startswith("Nothing here. Nor there. The")
    assert sorted(encode(as_it_stands).tolist()) == sorted(encode(exchanged).tolist())
    assert f"{example.second} {example.first}" not in text
    assert (example.first + example.second).islower()


def test_too_few_documents_give_no_score() -> None:
    short = HeldOutDocument(b"x" * 16, np.array(tokens_of("Too short."), dtype=np.uint16), "Too short.")
    lonely = HeldOut((short,), 1, np.zeros(50_257, dtype=np.int64))
    for name in ("heldout_ppl", "heldout_lastword", "heldout_cloze", "heldout_order"):
        with pytest.raises(NotScored, match="at least 2 clusters"):
            TASKS[name].run(subject(Uniform(config()), lonely))


# Official files


def test_lambada_is_scored_in_both_variants(tmp_path: Path) -> None:
    lines = ["I saw the dog", "you saw the cat", "we saw “the the", "we saw Dschemila"]
    (tmp_path / "lambada_test.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    the, dog, cat = (encode(word).item() for word in (" the", " dog", " cat"))
    model = Liking(config(), [the, dog, cat])
    plain = TASKS["harness/lambada_openai"].run(subject(model, None, files=tmp_path))
    paper = TASKS["paper/lambada"].run(subject(model, None, files=tmp_path))
    assert plain["accuracy"] == 0.25  # the third: it predicts "the" everywhere
    assert (paper["accuracy"], paper["accuracy_stopword"]) == (0.25, 0.25)  # dog, when "the" is excluded
    assert "accuracy_stopword" not in plain
    total = 8 + 4 + 2 + 50_254
    name = encode(" Dschemila").tolist()
    assert len(name) > 1
    nats = [math.log(total / 4), math.log(total / 2), math.log(total / 8), len(name) * math.log(total)]
    assert plain["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    nats[3] = math.log(total)
    assert paper["perplexity_last_token"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)


def test_the_stopword_filter_decides_a_lambada_answer(tmp_path: Path) -> None:
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "I saw the dog"}\n{"text": "I saw the dog"}\n')
    model = Liking(config(), [encode(word).item() for word in (" the", " Of", " dog")])
    paper = TASKS["paper/lambada"].run(subject(model, None, files=tmp_path))
    assert (paper["accuracy"], paper["accuracy_stopword"]) == (0, 1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/eval here")
def test_official_files_are_scored() -> None:
    score = TASKS["paper/wikitext2_valid"].run(subject(Uniform(config(context=1024, width=4)), None, 6, SHARED))
    assert score["bpe_tokens"] == 1_024 + 5 * 512
    assert not score["is_whole"]
    per_original = math.log(score["perplexity"]) / UNIFORM_NATS  # BPE tokens per original token
    assert 1.0 < per_original < 1.3
    assert score["n"] == pytest.approx(score["bpe_tokens"] / per_original, rel=1e-3)
    copying = TASKS["harness/lambada_openai"].run(subject(Uniform(config(width=4)), None, 100, SHARED))
    assert copying["available"] == 500
    assert copying["best_baseline"] == "most_frequent_capitalised"
    assert copying["baselines"]["most_frequent_capitalised"]["value"] > 0.1


def test_wikitext_is_normalised_by_original_tokens(tmp_path: Path) -> None:
    original = " \n = A lobster = \n \n" + " The lobster 's claw is red @-@ tipped , and weighs 0 @.@ 7 kg . \n" * 20
    (tmp_path / "wiki.test.tokens").write_text(original)
    score = TASKS["paper/wikitext2"].run(subject(Uniform(config(width=4)), None, 1_000, tmp_path))
    text = "\n= A lobster =\n\n" + "The lobster's claw is red-tipped, and weighs 0.7 kg.\n" * 20
    n_original = len(original.split()) + original.count("\n")
    assert score["is_whole"]
    assert score["n"] == n_original
    assert score["bpe_tokens"] == len(encode(text))
    assert math.log(score["perplexity"]) == pytest.approx(UNIFORM_NATS * len(encode(text)) / n_original, rel=1e-6)
    assert score["bits_per_byte"] == pytest.approx(math.log2(50_257) * len(encode(text)) / len(text.encode()), rel=1e-6)
