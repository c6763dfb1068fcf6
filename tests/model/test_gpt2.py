"""The model against the paper's sizes and against transformers' implementation with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from model.config import ModelConfig, resolve
from model.gpt2 import GPT2, Cache, count_parameters
from model.hf import to_hf

SIZES = {"117M": 124_439_808, "345M": 354_823_168, "762M": 774_030_080, "1542M": 1_557_611_200}


@pytest.mark.parametrize(("preset", "parameters"), SIZES.items())
def test_sizes_of_the_paper(preset: str, parameters: int) -> None:
    assert count_parameters(resolve(preset, {}).model) == parameters


def pair(config: ModelConfig, dtype: torch.dtype) -> tuple[GPT2, GPT2LMHeadModel]:
    """Our model and transformers', with the same random weights, all of them away from their initial constants."""
    torch.manual_seed(0)
    ours = GPT2(config).to(dtype)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    shape = {"n_embd": config.width, "n_layer": config.layers, "n_head": config.heads, "n_positions": config.context}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    with torch.device("meta"):
        reference = GPT2LMHeadModel(GPT2Config(vocab_size=config.vocab_size, **shape, **dropouts))
    weights = {name: weight.clone() for name, weight in to_hf(ours.state_dict(), config).items()}
    missing, unexpected = reference.load_state_dict(weights, strict=False, assign=True)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    reference.tie_weights()
    return ours, reference


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equals_transformers(preset: str, dtype: torch.dtype, tolerance: float) -> None:
    """Logits, loss and every gradient, at the four widths and head counts, with fewer layers and a small vocabulary."""
    full = resolve(preset, {}).model
    config = ModelConfig(
        layers=2 if preset == "117M" else 1, heads=full.heads, width=full.width, context=32, vocab_size=101
    )
    ours, reference = pair(config, dtype)
    ids, targets = torch.randint(101, (2, 2, 12))
    logits = ours(ids)
    loss = ours.loss(ids, targets)
    loss.backward()
    logits_there = reference(ids).logits
    loss_there = functional.cross_entropy(logits_there.flatten(0, 1), targets.flatten())
    loss_there.backward()
    assert (logits - logits_there).abs().max() <= tolerance
    assert abs(loss.item() - loss_there.item()) <= tolerance
    here = to_hf({name: weight.grad for name, weight in ours.named_parameters()}, config)
    there = {name: weight.grad for name, weight in reference.named_parameters()}
    assert here.keys() == there.keys()
    for name, gradient in there.items():
        assert (here[name] - gradient).abs().max() <= tolerance, name


def test_first_weights() -> None:
    config = ModelConfig(layers=4, heads=4, width=256, context=512, vocab_size=4_000)
    torch.manual_seed(0)
    weights = dict(GPT2(config).named_parameters())
    expected = {
        "tokens.weight": 0.02,
        "positions.weight": 0.01,
        "blocks.3.attention.qkv.weight": 0.02,
        "blocks.3.feed_forward.up.weight": 0.02,
        "blocks.3.attention.proj.weight": 0.02 / math.sqrt(8),
        "blocks.3.feed_forward.proj.weight": 0.02 / math.sqrt(8),
    }
    for name, std in expected.items():
        assert weights[name].std().item() == pytest.approx(std, rel=0.02), name
    assert all(weight.eq(0).all() for name, weight in weights.items() if name.endswith("bias"))
    assert all(weights[f"blocks.0.ln_{i}.weight"].eq(1).all() for i in (1, 2))


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    """A tied head with standard deviation 0.02 adds width x 0.02^2 / 2 to ln(vocabulary)."""
    config = ModelConfig(layers=2, heads=4, width=128, context=64)
    torch.manual_seed(0)
    ids, targets = torch.randint(config.vocab_size, (2, 4, 64))
    with torch.no_grad():
        loss = GPT2(config).loss(ids, targets).item()
    assert loss == pytest.approx(math.log(config.vocab_size) + 128 * 0.02**2 / 2, abs=0.05)


def test_a_position_sees_nothing_after_it() -> None:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=2, heads=2, width=16, context=16, vocab_size=50)).double().eval()
    ids = torch.randint(50, (1, 16))
    changed = ids.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.allclose(before[0, :9], after[0, :9], atol=1e-14)
    assert not torch.allclose(before[0, 9:], after[0, 9:], atol=1e-3)


@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 7, 3]])
def test_cached_logits_equal_uncached(pieces: list[int]) -> None:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=3, heads=2, width=16, context=16, vocab_size=50)).double().eval()
    ids = torch.randint(50, (2, 16))
    cache = Cache()
    logits = torch.cat([model(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    assert torch.allclose(logits, model(ids), atol=1e-12)


def test_too_many_positions() -> None:
    model = GPT2(ModelConfig(layers=1, heads=1, width=8, context=4, vocab_size=50))
    cache = Cache()
    model(torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="5 positions, but the model's context is 4"):
        model(torch.zeros(1, 2, dtype=torch.long), cache)
