"""Export to transformers and back, to the bit; the tokenizer gives the same ids."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

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


def test_transformers_loads_an_export_with_the_same_logits_and_loss(exported: tuple[GPT2, Path]) -> None:
    model, folder = exported
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(bpe.VOCAB_SIZE, (2, 20))
    with torch.no_grad():
        found = theirs(ids, labels=ids)
        assert (found.logits - model(ids)).abs().max() <= 1e-5
        assert abs(found.loss - model.loss(ids[:, :-1], ids[:, 1:])) <= 1e-5
    assert theirs.config.vocab_size == found.logits.shape[-1] == 50_257
    assert theirs.generation_config.eos_token_id == bpe.END_OF_TEXT


def test_round_trip_is_bit_equal(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    model, folder = exported
    back = load_hf(folder)
    assert back.config == CONFIG
    here = model.state_dict()
    there = back.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())
    # and from transformers' own writing
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    from_theirs = load_hf(tmp_path / "theirs").state_dict()
    assert all(torch.equal(tensor, from_theirs[name]) for name, tensor in here.items())
    export(load_hf(tmp_path / "theirs"), tmp_path / "again")
    again, first = (load_file(path / "model.safetensors") for path in (tmp_path / "again", folder))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize("max_shard_size", ["1GB", "500KB"])
def test_round_trip_from_transformers_is_bit_equal(tmp_path: Path, max_shard_size: str) -> None:
    """Random weights, none at its initial constant, in one file or in several with an index."""
    torch.manual_seed(1)
    theirs = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=32)).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_size)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) == (1 if max_shard_size == "1GB" else 2)
    ours = load_hf(tmp_path / "theirs")
    ids = torch.randint(bpe.VOCAB_SIZE, (2, 20))
    with torch.no_grad():
        assert (theirs(ids).logits - ours(ids)).abs().max() <= 1e-5
    export(ours, tmp_path / "ours")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, back[name]) for name, tensor in theirs.state_dict().items())


def test_matrices_are_transposed(exported: tuple[GPT2, Path]) -> None:
    """Conv1D keeps inputs x outputs, Linear outputs x inputs."""
    model, folder = exported
    tensors = load_file(folder / "model.safetensors")
    block = model.blocks[1]
    assert torch.equal(tensors["transformer.h.1.attn.c_attn.weight"], block.attention.qkv.weight.T)
    assert torch.equal(tensors["transformer.h.1.attn.c_proj.weight"], block.attention.proj.weight.T)
    assert torch.equal(tensors["transformer.h.1.mlp.c_fc.weight"], block.feed_forward.up.weight.T)
    assert torch.equal(tensors["transformer.h.1.mlp.c_proj.weight"], block.feed_forward.proj.weight.T)
    assert torch.equal(tensors["transformer.wte.weight"], model.tokens.weight)


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_files_with_older_names_are_read(
    exported: tuple[GPT2, Path], tmp_path: Path, prefix: str, masks: bool, head: bool
) -> None:
    """OpenAI's weights use GPT2Model's names. Older files also hold the causal mask and a second copy of the head."""
    model, folder = exported
    tensors = {prefix + n.removeprefix("transformer."): t for n, t in load_file(folder / "model.safetensors").items()}
    if masks:
        tensors |= {f"{prefix}h.{layer}.attn.bias": torch.ones(1, 1, 32, 32).tril() for layer in range(2)}
        tensors |= {f"{prefix}h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(2)}
    if head:
        tensors["lm_head.weight"] = tensors[f"{prefix}wte.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
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


def test_models_that_cannot_be_exported_are_refused(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    model, folder = exported
    with pytest.raises(InputError, match="not an empty directory"):
        export(model, folder)
    other = GPT2(ModelConfig(layers=1, heads=1, width=8, context=8, vocab_size=64, tokenizer="chars"))
    with pytest.raises(InputError, match="has tokenizer chars with 64 tokens"):
        export(other, tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/below: cannot be written"):
        export(model, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type='llama', but GPT-2 has 'gpt2'"),
        ({"activation_function": "relu"}, "activation_function='relu', but GPT-2 has 'gelu_new'"),
        ({"activation_function": "gelu"}, "activation_function='gelu', but GPT-2 has 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06, but GPT-2 has 1e-05"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False, but GPT-2 has True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True, but GPT-2 has False"),
        ({"add_cross_attention": True}, "add_cross_attention=True, but GPT-2 has False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False, but GPT-2 has True"),
        ({"n_inner": 24}, "n_inner=24, but GPT-2 has None"),
        ({"vocab_size": 50_304}, "has a vocabulary of 50304 tokens, but GPT-2 has 50257"),
        ({"n_head": 3}, r"config.json: width must be divisible by heads=3, got 8"),
        ({"n_layer": None}, r"config.json: layers must be a valid integer, got None"),
        ({"n_layer": 2.0}, "layers must be a valid integer, got 2.0"),
        ({"n_layer": True}, "layers must be a valid integer, got True"),
        ({"resid_pdrop": None}, "dropout must be a valid number, got None"),
        ({"n_layer": 3}, r"not a GPT-2 of 3 layers: transformer.h.2\..* is missing"),
        ({"n_layer": 1}, r"not a GPT-2 of 1 layers: transformer.h.1\..* is unknown"),
        ({"n_positions": 16}, r"positions.weight is \(32, 8\), expected \(16, 8\)"),
    ],
)
def test_configurations_of_other_models_are_refused(
    exported: tuple[GPT2, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "model.safetensors").symlink_to(exported[1] / "model.safetensors")
    config = json.loads((exported[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=message) as refused:
        load_hf(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_n_inner_may_be_explicit(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(exported[1] / "model.safetensors")
    config = json.loads((exported[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_inner": 32}))
    assert load_hf(tmp_path).config == CONFIG


def test_weights_of_other_models_are_refused(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    tensors = load_file(exported[1] / "model.safetensors")
    (tmp_path / "config.json").write_bytes((exported[1] / "config.json").read_bytes())
    bias = "transformer.h.1.ln_2.bias"
    for changes, message in (
        ({"lm_head.weight": tensors["transformer.wte.weight"] + 1}, "the head differs from the token embedding"),
        ({"transformer.h.0.crossattention.c_attn.bias": torch.zeros(8)}, "transformer.h.0.crossattention.* is unknown"),
        ({bias: torch.zeros(8, dtype=torch.int8)}, rf"{bias} is torch.int8; quantised weights are not supported"),
        ({bias: torch.zeros(9)}, r"blocks.1.ln_2.bias is \(9,\), expected \(8,\)"),
    ):
        save_file({**tensors, **changes}, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=message):
            load_hf(tmp_path)
    save_file({name: tensor for name, tensor in tensors.items() if name != bias}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"{bias} is missing"):
        load_hf(tmp_path)


def test_directories_without_readable_weights_are_refused(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config.json there"):
        load_hf(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: not the configuration of a GPT-2"):
        load_hf(tmp_path)
    (tmp_path / "config.json").write_bytes((exported[1] / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"no model.safetensors$"):
        load_hf(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("[]")
    with pytest.raises(InputError, match="not an index of safetensors files"):
        load_hf(tmp_path)
    index.write_text(json.dumps({"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(InputError, match=r"model-00001-of-00002.safetensors: not readable as safetensors"):
        load_hf(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model.safetensors: not readable as safetensors"):
        load_hf(tmp_path)


class _Trap:
    """Unpickling it raises an error that no test expects."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was read",)


def test_pickled_weights_are_never_read(exported: tuple[GPT2, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((exported[1] / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(
        InputError, match=r"no model.safetensors \(a pickled pytorch_model.bin is not read; save it again"
    ):
        load_hf(tmp_path)
