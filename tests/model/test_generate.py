"""Text from a model: seeds, caches, and the same results as transformers for the same logits and settings."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from data.errors import InputError
from model.config import ModelConfig
from model.generate import Sampling, draw, generate, probabilities
from model.gpt2 import GPT2
from tests.model.reference import pair


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=2, heads=2, width=32, context=16, vocab_size=40))
    with torch.no_grad():
        for weight in model.parameters():  # unlike new weights, with which a tied head mostly repeats its input
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model.double().eval()


def tokens(model: GPT2, sampling: Sampling, count: int = 12, prompt: tuple[int, ...] = (1, 2, 3)) -> list[int]:
    return list(generate(model, prompt, count, sampling))


def test_greedy_with_a_cache_equals_greedy_without(model: GPT2) -> None:
    ids = [1, 2, 3]
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert tokens(model, Sampling(temperature=0)) == ids[3:]


def test_sampling_depends_on_the_seed(model: GPT2) -> None:
    assert tokens(model, Sampling(seed=1)) == tokens(model, Sampling(seed=1)) != tokens(model, Sampling(seed=2))


def test_generation_continues_past_the_context(model: GPT2) -> None:
    """When the context of 16 is full, the newer half is read again. This loop does the same by hand."""
    ids = [1, 2, 3]
    window = list(ids)
    with torch.no_grad():
        for _ in range(40):
            window = window[-8:] if len(window) > 16 else window
            window.append(int(model(torch.tensor([window]))[0, -1].argmax()))
            ids.append(window[-1])
    assert tokens(model, Sampling(temperature=0), count=40) == ids[3:]


def test_only_the_end_of_a_long_prompt_is_read(model: GPT2) -> None:
    long = tuple(range(30))
    assert tokens(model, Sampling(temperature=0), prompt=long) == tokens(
        model, Sampling(temperature=0), prompt=long[-16:]
    )


def test_greedy_decoding_equals_transformers() -> None:
    """20 new tokens after prompts of several lengths, with both caches on, in fp32."""
    ours, theirs = pair(ModelConfig(layers=2, heads=4, width=64, context=32, vocab_size=101), torch.float32)
    ours.eval()
    theirs.eval().generation_config.pad_token_id = 0
    for prompt in ((7,), (1, 2, 3), tuple(range(40, 52))):
        ids = torch.tensor([prompt])
        whole = theirs.generate(ids, do_sample=False, max_new_tokens=20, eos_token_id=None, use_cache=True)
        assert tokens(ours, Sampling(temperature=0), 20, prompt) == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 1_000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.01])
def test_top_k_and_top_p_keep_the_tokens_that_transformers_keeps(temperature: float, top_k: int, top_p: float) -> None:
    torch.manual_seed(0)
    for spread in (0.1, 1.0, 3.0):
        logits = torch.randn(200) * spread
        ours = probabilities(logits, Sampling(temperature, top_k, top_p))
        scores = TemperatureLogitsWarper(temperature)(None, logits[None]) if temperature != 1 else logits[None]
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)
        assert torch.equal(ours > 0, scores[0].isfinite())
        assert torch.allclose(ours / ours.sum(), scores[0].softmax(0), atol=1e-6)


def test_equally_likely_tokens_are_kept_together() -> None:
    found = probabilities(torch.tensor([1.0, 3.0, 1.0, 0.0]), Sampling(top_k=2))
    assert (found > 0).tolist() == [True, True, True, False]


def test_generation_ends_at_the_stop_token(model: GPT2) -> None:
    whole = tokens(model, Sampling(temperature=0))
    cut = list(generate(model, [1, 2, 3], 12, Sampling(temperature=0), stop_token=whole[5]))
    assert cut == whole[: whole.index(whole[5])]


def frequencies(logits: list[float], sampling: Sampling) -> dict[int, float]:
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(draw(torch.tensor(logits), sampling, generator) for _ in range(4_000))
    return {token: count / 4_000 for token, count in drawn.items()}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), {0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}),
        (Sampling(temperature=0), {0: 1.0}),
        (Sampling(temperature=0.5), {0: 0.685, 1: 0.247, 2: 0.062, 3: 0.007}),
        (Sampling(top_k=2), {0: 0.625, 1: 0.375}),
        (Sampling(top_p=0.5), {0: 1.0}),
        (Sampling(top_p=0.81), {0: 0.526, 1: 0.316, 2: 0.158}),
        (Sampling(top_k=3, top_p=0.6), {0: 0.625, 1: 0.375}),
    ],
)
def test_samples_follow_the_expected_distribution(sampling: Sampling, expected: dict[int, float]) -> None:
    found = frequencies(torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist(), sampling)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=0.03)  # four standard errors of 4,000 draws


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-320])
def test_a_temperature_near_0_takes_the_likeliest_token(temperature: float) -> None:
    found = probabilities(torch.tensor([1.0, 3.0, -2.0, 3.0]), Sampling(temperature))
    assert found.tolist() == [0.0, 0.5, 0.0, 0.5]


def test_bad_input_is_refused(model: GPT2) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        tokens(model, Sampling(), prompt=())
    for token in (40, -1):
        with pytest.raises(InputError, match=f"token {token} of the prompt is not in the vocabulary of 40"):
            tokens(model, Sampling(), prompt=(1, token))
    nan = float("nan")
    cases = ({"temperature": -1.0}, {"temperature": nan}, {"top_p": 0.0}, {"top_p": nan}, {"top_k": -1})
    for bad in (*cases, {"seed": 2**63}):
        with pytest.raises(InputError, match=f"{next(iter(bad))} must be .*, got {next(iter(bad.values()))}"):
            Sampling(**bad)
