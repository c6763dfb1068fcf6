"""A model that others trained: gpt-nano of llm-viz (MIT), which sorts digits, with every activation published there.

Its blocks, embeddings and normalisations are GPT-2's, in three layers. Its head is not tied, so this test adds the
head. Matrices are stored outputs x inputs, like ours.
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.gpt2 import GPT2, Cache

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "reference" / "gpt-nano"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared/data/reference/gpt-nano here")

NAMES = {
    "ln_1": "ln_1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.proj",
    "ln_2": "ln_2",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.proj",
}
OUTER = {"transformer.wte": "tokens", "transformer.wpe": "positions", "transformer.ln_f": "ln"}


def read(name: str) -> dict[str, Tensor]:
    known = json.loads((FOLDER / name).read_text())
    return {
        key: torch.from_numpy(np.frombuffer(base64.b64decode(value["data"]), "<f4").reshape(value["shape"]).copy())
        for key, value in known.items()
        if key != "config"
    }


@pytest.fixture(scope="module")
def trained() -> tuple[GPT2, nn.Linear]:
    """Our model with the reference's weights, and the head."""
    tensors = {name: t for name, t in read("gpt-nano-sort-model.json").items() if not name.endswith(".attn.bias")}
    assert sum(tensor.numel() for tensor in tensors.values()) == 85_728
    head = nn.Linear(48, 3, bias=False)
    head.load_state_dict({"weight": tensors.pop("lm_head.weight")})
    model = GPT2(ModelConfig(layers=3, heads=3, width=48, context=11, vocab_size=3, tokenizer="digits"))
    model.load_state_dict({ours(name): tensor for name, tensor in tensors.items()})
    return model.eval(), head


def ours(name: str) -> str:
    module, kind = name.rsplit(".", 1)
    if module in OUTER:
        return f"{OUTER[module]}.{kind}"
    layer, inner = module.removeprefix("transformer.h.").split(".", 1)
    return f"blocks.{layer}.{NAMES[inner]}.{kind}"


@torch.no_grad()
def activations(model: GPT2, head: nn.Linear, ids_BT: Tensor) -> dict[str, Tensor]:
    """Under the reference's names. Names inside a block refer to the first block."""
    found: dict[str, Tensor] = {"idx": ids_BT.float()}
    block = model.blocks[0]
    inputs = {"y": block.attention.proj, "attnResid": block.ln_2, "gelu": block.feed_forward.proj}
    outputs = {
        "tok_emb": model.tokens,
        "pos_emb": model.positions,
        "x": model.dropout,
        "ln1": block.ln_1,
        "qkv": block.attention.qkv,
        "yProj": block.attention.proj,
        "ln2": block.ln_2,
        "fc": block.feed_forward.up,
        "mlp": block.feed_forward,
        "mlpResid": block,
        **{f"block{layer}": module for layer, module in enumerate(model.blocks)},
        "ln_f": model.ln,
    }
    hooks = [
        module.register_forward_hook(lambda _module, args, _out, name=name: found.update({name: args[0]}))
        for name, module in inputs.items()
    ]
    hooks += [
        module.register_forward_hook(lambda _module, _args, out, name=name: found.update({name: out}))
        for name, module in outputs.items()
    ]
    found["lm_head"] = head(model.hidden(ids_BT))
    found["probs"] = found["lm_head"].softmax(-1)
    for hook in hooks:
        hook.remove()
    B, T, _ = found["qkv"].shape
    q_BNTH, k_BNTH, v_BNTH = (x.view(B, T, 3, 16).transpose(1, 2) for x in found["qkv"].split(48, dim=-1))
    later_TT = torch.ones(T, T, dtype=torch.bool).triu(1)
    # Fused attention hides its scores. Compute them here from its inputs, and check that they give its output.
    scores = (q_BNTH @ k_BNTH.mT / 4).masked_fill(later_TT, float("-inf"))
    found |= {"q": q_BNTH, "k": k_BNTH, "v": v_BNTH, "att": scores, "attSm": scores.softmax(-1)}
    assert torch.allclose((found["attSm"] @ v_BNTH).transpose(1, 2).reshape(B, T, 48), found["y"], atol=1e-6)
    found["pos_emb"] = found["pos_emb"][None]
    return found


def test_every_activation_equals_the_reference(trained: tuple[GPT2, nn.Linear]) -> None:
    expected = read("gpt-nano-sort-t0-partials.json")
    found = activations(*trained, expected["idx"].long())
    assert found.keys() == expected.keys()
    for name, there in expected.items():
        here = found[name]
        assert here.shape == there.shape, name
        assert torch.equal(here.isinf(), there.isinf()), name
        assert (here - there)[there.isfinite()].abs().max() <= 1e-5, name


def test_the_reference_weights_sort_every_input(trained: tuple[GPT2, nn.Linear]) -> None:
    """All 729 inputs of six digits, decoded with the cache."""
    model, head = trained
    given = torch.tensor(list(itertools.product(range(3), repeat=6)))
    cache = Cache()
    unread = given
    written = []
    with torch.no_grad():
        for _ in range(6):
            unread = head(model.hidden(unread, cache)[:, -1:]).argmax(-1)
            written.append(unread)
    assert torch.equal(torch.cat(written, dim=1), given.sort(dim=1).values)
