"""The model against the paper's sizes and against transformers' implementation with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from data.errors import InputError
from model import loss as head
from model.config import ALIASES, ModelConfig, resolve
from model.gpt2 import GPT2, Cache, count_parameters
from model.hf import to_hf
from tests.model.reference import pair

SIZES = {"117M": 124_439_808, "345M": 354_823_168, "762M": 774_030_080, "1542M": 1_557_611_200}


@pytest.mark.parametrize(("alias", "parameters"), SIZES.items())
def test_models_have_the_sizes_of_the_paper(alias: str, parameters: int) -> None:
    """Counted on the meta device, by the paper's name and by the correct one."""
    assert resolve(alias, {}) == resolve(ALIASES[alias], {})
    config = resolve(ALIASES[alias], {}).model
    assert count_parameters(config) == parameters
    with torch.device("meta"):
        assert sum(weight.numel() for weight in GPT2(config).parameters()) == parameters
    assert ALIASES[alias] == f"{round(parameters / 1e6)}M"


def test_models_have_the_settings_of_the_paper() -> None:
    for alias in SIZES:
        model = resolve(alias, {}).model
        assert (model.context, model.vocab_size, model.width // model.heads) == (1_024, 50_257, 64)
        assert (model.dropout, model.position_std) == (0.0, 0.01)


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_model_equals_transformers(preset: str, dtype: torch.dtype, tolerance: float) -> None:
    """Logits, loss and every gradient, for all widths and head counts, with fewer layers and a small vocabulary."""
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


@pytest.mark.parametrize("position_std", [0.01, 0.02])
def test_initial_weights_have_the_expected_spread(position_std: float) -> None:
    """Standard deviations. Those of positions are OpenAI's or, as an option, transformers'."""
    shape = {"layers": "4", "heads": "4", "width": "256", "context": "512", "vocab_size": "4000"}
    chosen = {} if position_std == 0.01 else {"position_std": str(position_std)}
    config = resolve("124M", {**shape, **chosen}).model
    torch.manual_seed(0)
    weights = dict(GPT2(config).named_parameters())
    expected = {
        "tokens.weight": 0.02,
        "positions.weight": position_std,
        "blocks.3.attention.qkv.weight": 0.02,
        "blocks.3.feed_forward.up.weight": 0.02,
        "blocks.3.attention.proj.weight": 0.02 / math.sqrt(8),
        "blocks.3.feed_forward.proj.weight": 0.02 / math.sqrt(8),
    }
    for name, std in expected.items():
        assert weights[name].std().item() == pytest.approx(std, rel=0.02), name
    assert all(weight.eq(0).all() for name, weight in weights.items() if name.endswith("bias"))
    assert all(weights[f"blocks.0.ln_{i}.weight"].eq(1).all() for i in (1, 2))


@pytest.mark.parametrize("width", [128, 768])
def test_initial_loss_equals_a_uniform_guess(width: int) -> None:
    """A tied head with standard deviation 0.02 adds width x 0.02^2 / 2 to ln(vocabulary)."""
    config = ModelConfig(layers=2, heads=width // 64, width=width, context=64)
    torch.manual_seed(0)
    ids, targets = torch.randint(config.vocab_size, (2, 4, 64))
    with torch.no_grad():
        loss = GPT2(config).loss(ids, targets).item()
    assert loss == pytest.approx(math.log(config.vocab_size) + width * 0.02**2 / 2, abs=0.05)


def test_dropout_is_off_by_default() -> None:
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        model = GPT2(ModelConfig(layers=1, heads=2, width=16, context=16, vocab_size=50, dropout=dropout)).train()
        ids = torch.randint(50, (1, 16))
        assert torch.equal(model(ids), model(ids)) == (dropout == 0)
        assert torch.equal(model.eval()(ids), model(ids))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("multiple", [64, 1_000])
def test_padding_of_the_vocabulary_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, multiple: int
) -> None:
    """As on a GPU, where the loss is computed over 50,304 rows: same loss, same gradients, same weights to save."""
    torch.manual_seed(0)
    network = GPT2(ModelConfig(layers=2, heads=2, width=16, context=16, vocab_size=101)).to(dtype)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ids, targets = torch.randint(101, (2, 3, 16))
    found = []
    for rows in (1, multiple):
        monkeypatch.setattr(head, "CPU_MULTIPLE", rows)
        network.zero_grad()
        loss = network.loss(ids, targets)
        loss.backward()
        with torch.no_grad():
            assert abs(network.loss(ids, targets).item() - loss.item()) <= tolerance
        found.append([loss.detach(), *(weight.grad for weight in network.parameters())])
    for without, padded in zip(*found, strict=True):
        assert without.shape == padded.shape
        assert (without - padded).abs().max() <= tolerance
    assert network(ids).shape[-1] == 101  # sampling ignores padding
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_padding_has_no_probability_and_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits are far below 0, the logit that a row of zeros would have without its mask."""
    monkeypatch.setattr(head, "CPU_MULTIPLE", 64)
    hidden = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.full((65, 4), -10.0, dtype=torch.float64, requires_grad=True)
    loss = head.head_loss(hidden, weight, torch.tensor([0, 1, 64]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(65), abs=1e-12)
    assert weight.grad.sum().abs() < 1e-12  # softmax minus one at the target: other rows get nothing
    assert hidden.grad.abs().max() < 1e-12


def test_a_position_sees_nothing_after_it() -> None:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=2, heads=2, width=16, context=16, vocab_size=50)).double().eval()
    ids = torch.randint(50, (1, 16))
    changed = ids.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 50
    before = model(ids)
    after = model(changed)
    assert torch.allclose(before[0, :9], after[0, :9], atol=1e-14)
    assert not torch.allclose(before[0, 9:], after[0, 9:], atol=1e-3)


@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 7, 3]])
@pytest.mark.parametrize("alias", SIZES)
def test_cached_logits_equal_uncached(alias: str, pieces: list[int]) -> None:
    """One position at a time and several at a time, for all four numbers of heads."""
    heads = resolve(alias, {}).model.heads
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=3, heads=heads, width=heads * 8, context=16, vocab_size=50)).double().eval()
    ids = torch.randint(50, (2, 16))
    cache = Cache()
    with torch.no_grad():
        logits = torch.cat([model(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
        assert (logits - model(ids)).abs().max() <= 1e-12
    assert cache.length == 16


def test_cached_logits_equal_transformers_cached_logits() -> None:
    ours, theirs = pair(ModelConfig(layers=2, heads=4, width=64, context=32, vocab_size=101), torch.float64)
    cache = Cache()
    past = None
    with torch.no_grad():
        for piece in torch.randint(101, (2, 20)).split([6, 1, 1, 4, 8], dim=1):
            there = theirs(piece, past_key_values=past, use_cache=True)
            past = there.past_key_values
            assert (ours(piece, cache) - there.logits).abs().max() <= 1e-10


def test_too_many_positions_are_refused() -> None:
    model = GPT2(ModelConfig(layers=1, heads=1, width=8, context=4, vocab_size=50))
    cache = Cache()
    model(torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(InputError, match="5 positions do not fit into the model's context of 4"):
        model(torch.zeros(1, 2, dtype=torch.long), cache)
