"""The texts of the paper's table 3: closed forms, brute force, and files that are not the official ones."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.bpe import END_OF_TEXT, encode
from data.errors import InputError
from data.evalsets import files, ptb
from data.evalsets.wikitext import detokenize
from data.lake.store import Lake
from model import evaluate, scores
from model.config import ModelConfig
from model.evals import EvalSpec
from model.evals.task import NotScored, Subject
from model.evals.tasks import TASKS
from model.events import EvalResult
from model.gpt2 import GPT2
from model.hf import export
from tests.model.corpora import UNIFORM_NATS, Oracle, Uniform, config
from tests.model.test_evals import SHARED

WIKI = " \n = A lobster = \n \n" + " The lobster 's claw is red @-@ tipped . \n" * 5
PTB = " no it was n't black monday \n the <unk> rose $ N to N N on friday \n" * 3
BILLION = 'He said : " It doesn \'t fit . "\nIt costs $ 5 , or 30 % .\nIt ends at 1 p.m.\n'
PAGES = "<page>\n  <title>Lobster</title>\n</page>\n" * 100


def subject(model: GPT2, evalset: str, path: Path, limit: int = 1_000_000, **settings: Any) -> Subject:
    return Subject(model, None, {evalset: path}, limit, lambda _done, _total: None, **settings)


def score(model: GPT2, name: str, path: Path, **settings: Any) -> dict[str, Any]:
    return TASKS[name].run(subject(model, TASKS[name].source, path, **settings))


def zero() -> GPT2:
    model = GPT2(config(context=16, width=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def random_model(context: int = 8) -> GPT2:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=2, heads=2, width=16, context=context))
    with torch.no_grad():
        model.tokens.weight.mul_(20)  # so that the context matters
    return model


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    for name, text in {
        "wikitext-2/wiki.test.tokens": WIKI,
        "wikitext-2/wiki.valid.tokens": WIKI,
        "wikitext-103/wiki.test.tokens": WIKI.replace("claw", "pincer"),
        "ptb.test.txt": PTB,
        "news.en.heldout-00000-of-00050": BILLION,
        "enwik8": PAGES,
        "text8": "a lobster is red " * 400,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


NAMES = [f"paper/{name}" for name in "wikitext2 wikitext2_valid wikitext103 ptb 1bw enwik8 text8".split()]


@pytest.mark.parametrize("name", NAMES)
def test_zero_weights_match_the_closed_form(name: str, sets: Path) -> None:
    found = files.find(sets)
    scored = score(zero(), name, found[TASKS[name].source].path)
    assert math.exp(scored["nats_per_token"]) == pytest.approx(50_257, rel=1e-5)
    n = int(scored["bpe_tokens"])
    per_token = math.log2(50_257)
    if name in ("paper/enwik8", "paper/text8"):
        path = found[TASKS[name].source].path
        n_bytes = path.stat().st_size // 20
        assert n == len(encode(path.read_bytes()[-n_bytes:].decode()))
        assert scored["n"] == n_bytes
        assert scored[str(scored["metric"])] == pytest.approx(per_token * n / n_bytes, rel=1e-6)
    else:
        assert scored["perplexity"] == pytest.approx(50_257 ** (n / int(scored["n"])), rel=1e-4)
        assert scored["baselines"]["unigram_of_this_text"]["value"] < scored["perplexity"]
    assert scored["is_whole"]


def test_an_oracle_has_perplexity_1_and_needs_no_bits(sets: Path) -> None:
    numbers = " ".join(f"{i} {i * i}" for i in range(150))  # no 24 tokens occur twice
    (sets / "ptb.test.txt").write_text(f" {numbers} \n")
    (sets / "enwik8").write_text("x" * 19 * len(numbers) + numbers)
    for name, text in (("paper/ptb", f"{numbers}\n"), ("paper/enwik8", numbers)):
        oracle = Oracle(config(context=64), [[END_OF_TEXT, *encode(text).tolist()]])
        scored = score(oracle, name, files.find(sets)[TASKS[name].source].path)
        assert math.exp(scored["nats_per_token"]) == pytest.approx(1, abs=1e-6), name
        assert scored[scored["metric"]] == pytest.approx(1 if name == "paper/ptb" else 0, abs=1e-5), name


class Bigram(GPT2):
    """P(next | token) by a table over the tokens ``known``; others never occur."""

    def __init__(self, known: list[int], log_probs: torch.Tensor) -> None:
        super().__init__(config(context=16, width=len(known)))
        with torch.no_grad():
            self.tokens.weight.fill_(-1e4)
            self.tokens.weight[known] = log_probs.T
        self.place = {token: i for i, token in enumerate(known)}

    def hidden(self, ids_BT: torch.Tensor, cache: object = None, packing: object = None) -> torch.Tensor:
        places = [[self.place[token] for token in row] for row in ids_BT.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(places), len(self.place)).float()


def test_a_bigram_model_matches_its_closed_form(sets: Path) -> None:
    ids = [END_OF_TEXT, *encode("No it wasn't black Monday\nThe <unk> rose $N to N N on Friday\n" * 3).tolist()]
    known = sorted({*ids, 0})  # padding is 0
    table = torch.log_softmax(torch.randn(len(known), len(known), generator=torch.Generator().manual_seed(0)), 1)
    scored = score(Bigram(known, table), "paper/ptb", sets / "ptb.test.txt")
    nats = -sum(float(table[known.index(a), known.index(b)]) for a, b in itertools.pairwise(ids))
    assert scored["perplexity"] == pytest.approx(math.exp(nats / (len(PTB.split()) + PTB.count("\n"))), rel=1e-5)
    assert scored["nats_per_token"] == pytest.approx(nats / (len(ids) - 1), rel=1e-6)


def test_penn_treebank_is_normalised_by_its_words_and_ends_of_line(sets: Path) -> None:
    scored = score(zero(), "paper/ptb", sets / "ptb.test.txt")
    assert scored["n"] == len(PTB.split()) + PTB.count("\n")
    text = "No it wasn't black Monday\nThe <unk> rose $N to N N on Friday\n" * 3
    assert scored["bpe_tokens"] == len(encode(text))
    assert scored["bits_per_byte"] == pytest.approx(math.log2(50_257) * len(encode(text)) / len(text), rel=1e-5)
    assert scored["unknown_words"] == 3
    assert scored["lines_kept"] == 0


@pytest.mark.parametrize("name", ["paper/wikitext2", "paper/ptb", "paper/enwik8"])
def test_stride_1_equals_brute_force(name: str, sets: Path) -> None:
    """Each token by itself, given the tokens before it that the model can hold."""
    model = random_model()
    path = files.find(sets)[TASKS[name].source].path
    one = subject(model, TASKS[name].source, path, stride=1)
    scored = TASKS[name].run(one)
    if name == "paper/enwik8":
        text = path.read_bytes()[-(path.stat().st_size // 20) :].decode()
    else:
        detok = {"paper/wikitext2": detokenize, "paper/ptb": ptb.detokenize}[name]
        text = "".join(f"{detok(line)}\n" for line in path.read_text().split("\n")[:-1])
    ids = [END_OF_TEXT, *encode(text).tolist()]
    nats = []
    with torch.inference_mode():
        for i in range(1, len(ids)):
            x_BTC = model.hidden(torch.tensor([ids[max(0, i - 8) : i]]))
            logits = x_BTC[0, -1] @ model.tokens.weight.T
            nats.append(-float(torch.log_softmax(logits.double(), 0)[ids[i]]))
    assert scored["stride"] == 1
    assert scored["nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-5)
    default = score(model, name, path)
    assert default["stride"] == 4
    assert default["bpe_tokens"] == scored["bpe_tokens"]
    assert default["nats_per_token"] != pytest.approx(scored["nats_per_token"], rel=1e-5)


def test_sentences_are_scored_by_themselves_after_end_of_text(sets: Path) -> None:
    model = random_model(context=64)
    path = sets / "news.en.heldout-00000-of-00050"
    one = subject(model, "1bw", path)
    scored = TASKS["paper/1bw"].run(one)
    texts = ['He said: "It doesn\'t fit."', "It costs $5, or 30%.", " It ends at 1 p.m."]
    nats, ends = [], []
    with torch.inference_mode():
        for text in texts:
            ids = [*encode(text).tolist(), *encode("\n").tolist()]
            x_BTC = model.hidden(torch.tensor([[END_OF_TEXT, *ids[:-1]]]))
            log_probs = torch.log_softmax((x_BTC[0] @ model.tokens.weight.T).double(), 1)
            each = -log_probs[range(len(ids)), ids]
            nats.append(float(each.sum()))
            ends.append(float(each[-1]))
    words = [10, 9, 5]
    assert BILLION.split("\n")[2].split() == ["It", "ends", "at", "1", "p.m."]
    assert scored["n"] == sum(words) + 3 == len(BILLION.split()) + 3
    assert scored["perplexity"] == pytest.approx(math.exp(sum(nats) / (sum(words) + 3)), rel=1e-4)
    without = math.exp((sum(nats) - sum(ends)) / sum(words))
    assert scored["perplexity_without_line_ends"] == pytest.approx(without, rel=1e-4)
    assert scored["lines_kept"] == 1
    assert [row["item"] for row in one.items] == ["1bw/0", "1bw/1", "1bw/2"]
    assert [row["nats"] for row in one.items] == pytest.approx(nats, rel=1e-5)
    assert [row["per"] for row in one.items] == [11, 10, 6]


def test_a_sentence_longer_than_the_context_is_scored_in_windows(sets: Path) -> None:
    model = random_model()
    long = "It costs $ 5 , or 30 % , or " + "so much more , " * 20 + "in all .\n"
    path = sets / "news.en.heldout-00000-of-00050"
    path.write_text(long + BILLION)
    scored = score(model, "paper/1bw", path)
    assert scored["lines"] == 4
    assert scored["n"] == len(path.read_text().split()) + 4


def test_a_limited_score_says_so(sets: Path) -> None:
    scored = score(zero(), "paper/1bw", sets / "news.en.heldout-00000-of-00050", limit=2)
    assert (scored["lines"], scored["available"], scored["is_whole"]) == (2, 3, False)
    windows = score(zero(), "paper/enwik8", sets / "enwik8", limit=3)
    assert (windows["windows"], windows["is_whole"], windows["bpe_tokens"]) == (3, False, 16 + 2 * 8)


def test_windows_and_their_numbers_are_kept(sets: Path) -> None:
    one = subject(zero(), "ptb_test", sets / "ptb.test.txt")
    scored = TASKS["paper/ptb"].run(one)
    assert len(one.items) == scored["windows"]
    assert sum(row["per"] for row in one.items) == pytest.approx(scored["n"])
    assert sum(row["nats"] for row in one.items) == pytest.approx(math.log(50_257) * scored["bpe_tokens"], rel=1e-5)


def test_a_stride_beyond_the_context_would_leave_tokens_out(sets: Path) -> None:
    with pytest.raises(NotScored, match="--stride 17 would leave tokens out: the model's context has 16 tokens"):
        score(zero(), "paper/ptb", sets / "ptb.test.txt", stride=17)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_cut_off_is_not_scored(name: str, sets: Path) -> None:
    path = files.find(sets)[TASKS[name].source].path
    with pytest.raises(NotScored, match=r"the file has [\d,]+ (tokens|bytes), the official one [\d,]+ .*--any-file"):
        score(zero(), name, path, any_file=False)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/eval here")
def test_samples_of_the_official_files_are_scored() -> None:
    model = Uniform(config(context=256, width=4))
    billion = score(model, "paper/1bw", SHARED / "1bw_heldout.first500.txt")
    assert (billion["n"], billion["lines"], billion["lines_kept"]) == (13_338, 500, 4)
    per_original = math.log(float(billion["perplexity"])) / UNIFORM_NATS
    assert 1.0 < per_original < 1.11  # BPE tokens per original token; 1.119 with artefacts
    whole = subject(model, "wikitext2_valid", SHARED / "wikitext-2.valid.tokens.txt", limit=4, any_file=False)
    assert TASKS["paper/wikitext2_valid"].run(whole)["lines_kept"] == 1


# The program


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export(random_model(context=16), tmp_path / "model")
    return tmp_path / "model"


def run(lake: Path, exported: Path, sets: Path, *tasks: str, **settings: Any) -> EvalResult:
    spec = EvalSpec(str(lake), hf=str(exported), tasks=tasks, eval_data=str(sets), device="cpu", **settings)
    return evaluate.evaluate(spec, lambda _event: None)


def test_other_files_are_missing_with_the_reason_unless_any_file(exported: Path, sets: Path, tmp_path: Path) -> None:
    (sets / "lambada_test.jsonl").write_text('{"text": "a word"}\n{"text": "an end"}\n')
    names = ("paper/lambada", "paper/wikitext103", "paper/1bw")
    with pytest.raises(InputError) as caught:
        run(tmp_path / "lake", exported, sets, *names)
    reasons = str(caught.value)
    assert "lambada_test.jsonl is not the official file of LAMBADA, OpenAI's file, which has sha256 4aa8" in reasons
    assert "not the official file of WikiText-103, which has SHA-1 8a5b" in reasons
    assert "One Billion Word Benchmark: the file has 27 tokens, the official one 159,658" in reasons
    told = run(tmp_path / "lake", exported, sets, "paper/wikitext103", "paper/1bw", any_file=True)
    checks = {name: one.details["file_check"] for name, one in told.scores.items()}
    assert checks == {"paper/wikitext103": "not the official file", "paper/1bw": "hash not known"}
    assert run(tmp_path / "lake", exported, sets, "paper/1bw", any_file=True).skipped
    with pytest.raises(InputError, match="159,658"):  # a score of any file does not stand for the official one
        run(tmp_path / "lake", exported, sets, "paper/1bw")


def test_a_missing_file_says_how_to_get_it(exported: Path, sets: Path, tmp_path: Path) -> None:
    (sets / "ptb.test.txt").unlink()
    missing = run(tmp_path / "lake", exported, sets, "paper/ptb", "paper/text8", any_file=True).missing
    assert missing.keys() == {"paper/ptb"}
    assert "needs a file ptb.test.txt" in missing["paper/ptb"]
    assert "`webtext eval --fetch` downloads ptb.test.txt" in missing["paper/ptb"]


def test_a_score_with_another_stride_is_shown_and_not_kept(exported: Path, sets: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    usual = run(lake, exported, sets, "paper/ptb", any_file=True).scores["paper/ptb"]
    other = run(lake, exported, sets, "paper/ptb", any_file=True, stride=1)
    assert other.scores["paper/ptb"].details["stride"] == 1
    assert other.scores["paper/ptb"].value != usual.value
    assert any("not kept; the lake keeps scores with the default stride" in one for one in other.warnings)
    assert scores.newest(Lake(lake), other.model)["paper/ptb"].value == usual.value
