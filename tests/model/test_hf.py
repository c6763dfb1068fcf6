"""Export to transformers and back, to the bit; the tokenizer gives the same ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import bpe
from data.errors import InputError
from model.config import ModelConfig
from model.gpt2 import GPT2
from model.hf import export, load_hf

CONFIG = ModelConfig(layers=2, heads=2, width=8, context=32)
TEXTS = [
    "GPT-2 doesn't mind: it's 1,024 tokens  wide.\n\n\tTabs   and spaces  \n",
    "naïve café – “quotes” … 東京は日本の首都です。 🙂🙃 \u00a0 nbsp",
    "x = {'a': [1, 2.5], \"b\": None}  # code\r\n    return self.__class__",
    "\x00\x01\x7f control, \u0130stanbul, ﬁne, Ⅷ, ½, ١٢٣",
    "",
    "a" * 300 + " " * 50 + "!?" * 20,
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT2, Path]:
    torch.manual_seed(0)
    model = GPT2(CONFIG).eval()
    folder = tmp_path_factory.mktemp("hf") / "out"
    export(model, folder)
    return model, folder


def test_transformers_loads_it_with_the_same_logits(exported: tuple[GPT2, Path]) -> None:
    model, folder = exported
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(bpe.VOCAB_SIZE, (2, 20))
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() <= 1e-5
    assert theirs.generation_config.eos_token_id == bpe.END_OF_TEXT


def test_round_trip_is_bit_equal(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    model, folder = exported
    back = load_hf(folder)
    assert back.config == CONFIG
    here, there = model.state_dict(), back.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())
    # and from transformers' own writing
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    from_theirs = load_hf(tmp_path / "theirs").state_dict()
    assert all(torch.equal(tensor, from_theirs[name]) for name, tensor in here.items())
    export(load_hf(tmp_path / "theirs"), tmp_path / "again")
    again, first = (load_file(path / "model.safetensors") for path in (tmp_path / "again", folder))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_weights_without_prefix_are_read(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    """As OpenAI's weights are published: GPT2Model's names, with the causal mask among the tensors."""
    model, folder = exported
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 32, 32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    back = load_hf(tmp_path).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_tokenizer_gives_the_same_ids(exported: tuple[GPT2, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported[1])
    random = np.random.default_rng(0)
    samples = [bpe.decode(random.integers(0, bpe.END_OF_TEXT, 40)) for _ in range(200)]
    for text in [*TEXTS, *samples]:
        assert tokenizer.encode(text) == bpe.encode(text).tolist(), text
    assert len(tokenizer) == bpe.VOCAB_SIZE
    assert tokenizer.eos_token_id == bpe.END_OF_TEXT


def test_what_is_refused(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    model, folder = exported
    with pytest.raises(InputError, match="not an empty directory"):
        export(model, folder)
    other = GPT2(ModelConfig(layers=1, heads=1, width=8, context=8, vocab_size=64, tokenizer="chars"))
    with pytest.raises(InputError, match="vocabulary is chars of 64"):
        export(other, tmp_path / "x")
    with pytest.raises(InputError, match=r"no config.json there"):
        load_hf(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"model_type": "llama"}, "model_type='llama', but GPT-2 has 'gpt2'"),
        ({"activation_function": "relu"}, "activation_function='relu'"),
        ({"vocab_size": 50_304}, "vocabulary of 50304 tokens"),
        ({"n_layer": None}, "not the configuration of a GPT-2"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(InputError, match=message):
            load_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match=r"no model.safetensors \(a pickled pytorch_model.bin is not read"):
        load_hf(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="head differs from its token embedding"):
        load_hf(tmp_path)
    del tensors["transformer.h.1.ln_2.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"h.1.ln_2.bias is missing"):
        load_hf(tmp_path)
