"""Small models of other architectures, with a tokenizer of their own, beside what transformers computes itself."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from data.errors import InputError
from data.lake.store import Lake
from model import causal, hf
from model.causal import Causal
from model.config import ModelConfig
from model.evals import EvalSpec, harness, source
from model.evals.task import Subject
from model.evals.tasks import TASKS
from model.evaluate import evaluate
from model.events import to_json
from model.gpt2 import GPT2
from model.scoring import Request, score
from tests.model.corpora import prose, publish_texts
from tests.model.running import ignore

VOCAB = 400
SIZE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(
        **SIZE, intermediate_size=64, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3
    ),
    "opt": lambda: transformers.OPTConfig(
        **SIZE, ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32, init_std=0.3, dropout=0.0
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZE, intermediate_size=64, num_key_value_heads=1, head_dim=16, max_position_embeddings=64, sliding_window=8,
        initializer_range=0.3, final_logit_softcapping=5.0,
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3, hidden_dropout=0.0
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, initializer_range=0.3
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3
    ),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=2, max_position_embeddings=64, window_size=8,
        attention_types=[[["global", "local"], 1]], initializer_range=0.3,
    ),
}  # fmt: skip
SHARING = ("llama", "opt", "gpt2")


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>"], initial_alphabet=alphabet)
    made.train_from_iterator(prose(5, seed=1), trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>")


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where: Path = tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def save(where: Path, name: str, tokenizer: Any) -> Path:
    transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(where)
    if tokenizer is not None:
        tokenizer.save_pretrained(where)
    return where


def by_hand(theirs: Any, request: Request) -> float:
    ids = torch.tensor([[*request.context, *request.continuation]])
    with torch.no_grad():
        log_probs = torch.log_softmax(theirs(input_ids=ids).logits[0].double(), dim=1)
    n = len(request.continuation)
    return float(log_probs[-n - 1 : -1].gather(1, torch.tensor(request.continuation)[:, None]).sum())


def test_scores_equal_those_of_transformers(folder: Path) -> None:
    model = causal.load(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.shares == (folder.name in SHARING)
    random = np.random.default_rng(0)
    asked = []
    for length in (5, 20, 40):
        context = random.integers(0, VOCAB, length).tolist()
        asked += [Request(context, random.integers(0, VOCAB, n).tolist()) for n in (1, 4, 9, 2)]
    found = [one.log_likelihood for one in score(model, asked)]
    expected = [by_hand(theirs, request) for request in asked]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.std(expected) > 5  # the model prefers some tokens strongly


def test_what_requests_share_is_computed_once(tokenizer: Any, tmp_path: Path) -> None:
    model = causal.load(save(tmp_path / "model", "llama", tokenizer))
    computed = []
    model.theirs.base_model.layers[0].register_forward_pre_hook(lambda _, given: computed.append(given[0].shape[1]))
    score(model, [Request(list(range(30)), [choice, 1, 2]) for choice in range(40, 44)])
    assert computed == [30 + 4 * 2]


def test_another_model_is_scored_with_its_own_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    """Its perplexity is that of transformers; a task that needs GPT-2's tokens says so."""
    lake = Lake(tmp_path / "lake")
    every = prose(6, seed=2, n_sentences=3)
    publish_texts(lake, "a", every[:3], every[3:])
    texts = [" ".join(text.split()[:12]) for text in every]
    (tmp_path / "lambada_test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    where = save(tmp_path / "other", "llama", tokenizer)
    names = ("harness/lambada_openai", "paper/lambada", "heldout_ppl")
    spec = EvalSpec(
        lake.root, hf=str(where), corpus=("a",), tasks=names, eval_data=str(tmp_path), any_file=True, device="cpu"
    )
    result = to_json(evaluate(spec, ignore))
    assert result["missing"] == {"heldout_ppl": "needs GPT-2's tokenizer, the model has the one of other"}
    assert result["scores"].keys() == {"harness/lambada_openai", "paper/lambada"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(where).eval()

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    nats = []
    for text in texts:
        context, _, word = text.rpartition(" ")
        nats.append(-by_hand(theirs, Request(ids(context), ids(f" {word}"))))
    expected = math.exp(sum(nats) / len(nats))
    assert result["scores"]["harness/lambada_openai"]["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_lambada_is_ablated_with_the_models_own_stop_words(tokenizer: Any, tmp_path: Path) -> None:
    model = causal.load(save(tmp_path / "model", "llama", tokenizer))
    path = tmp_path / "lambada_test.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(text.split()[:12])}) + "\n" for text in prose(4, seed=3)))
    task = TASKS["paper/lambada"]
    assert task.choices is not None
    rows = list(task.choices.measure(Subject(model, None, {"lambada": path}, 4, lambda _done, _total: None)))
    assert sum(row.value is not None for row in rows) == 16  # of OpenAI's file, in two spellings of its beginning


def test_the_harness_gets_the_special_tokens_that_are_usual(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = template
    model = causal.load(save(tmp_path / "model", "llama", tokenizer))
    lm = harness.as_lm(Subject(model, None, {}, 4, lambda _done, _total: None))
    plain = model.tokenizer.encode("lobster").tolist()
    assert lm.tok_encode("lobster") == [tokenizer.bos_token_id, *plain]
    assert lm.tok_encode("<s>lobster") == lm.tok_encode("lobster")
    assert lm.tok_encode("lobster", add_special_tokens=False) == plain


def test_the_tokenizer_decides_whether_a_score_is_known(tokenizer: Any, tmp_path: Path) -> None:
    where = save(tmp_path / "other", "llama", tokenizer)
    spec = EvalSpec(str(tmp_path / "lake"), hf=str(where))
    before = source.find(spec, Lake(spec.lake)).digest
    file = where / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert source.find(spec, Lake(spec.lake)).digest != before


def test_a_gpt2_is_our_model_unless_its_tokens_are_others(tokenizer: Any, tmp_path: Path) -> None:
    hf.export(GPT2(ModelConfig(layers=1, heads=1, width=4, context=16)), tmp_path / "ours")
    spec = EvalSpec(str(tmp_path / "lake"), hf=str(tmp_path / "ours"))
    assert isinstance(source.find(spec, Lake(spec.lake)).load("cpu"), GPT2)
    other = save(tmp_path / "other", "gpt2", tokenizer)
    spec = EvalSpec(str(tmp_path / "lake"), hf=str(other))
    assert isinstance(source.find(spec, Lake(spec.lake)).load("cpu"), Causal)
    vocabulary = json.loads((tmp_path / "ours" / "vocab.json").read_bytes())
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]
    assert hf.is_gpt2(tmp_path / "ours")
    (tmp_path / "ours" / "vocab.json").write_text(json.dumps(vocabulary))
    assert not hf.is_gpt2(tmp_path / "ours")


def test_a_model_without_its_tokenizer_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot load a tokenizer .*; put the model's tokenizer\.json there"):
        causal.load(save(tmp_path / "none", "llama", None))
    where = save(tmp_path / "small", "llama", tokenizer)
    small = CONFIGS["llama"]()
    small.vocab_size = VOCAB - 1
    transformers.AutoModelForCausalLM.from_config(small).save_pretrained(where)
    with pytest.raises(InputError, match="the tokenizer has 400 tokens and the model 399, so they do not match"):
        causal.load(where)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(InputError, match="transformers cannot load the model"):
        causal.load(tmp_path / "broken")


def test_a_model_that_looks_ahead_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = causal.load(save(tmp_path / "model", "llama", tokenizer))
    for layer in model.theirs.base_model.layers:
        layer.self_attn.is_causal = False
    model.theirs.config._attn_implementation = "sdpa"
    model.theirs.base_model.register_forward_pre_hook(
        lambda _, given, named: (given, {**named, "attention_mask": torch.zeros(1, 1, 1, 1)}), with_kwargs=True
    )
    with pytest.raises(InputError, match="so it is not causal"):
        Causal(model.theirs, model.tokenizer, "--hf x")
