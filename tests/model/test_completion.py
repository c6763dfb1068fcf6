"""Many prompts in batches: the same texts as one at a time, whatever the batch, and when an item ends."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from data.bpe import END_OF_TEXT, encode
from data.errors import InputError
from model import completion
from model.completion import capacity_for, complete
from model.config import ModelConfig
from model.generate import Sampling, generate
from model.gpt2 import GPT2
from tests.model.halving import hold

SHAPE = ModelConfig(layers=2, heads=2, width=32, context=128, vocab_size=40)


def lively(shape: ModelConfig) -> GPT2:
    """Random weights with which the next token depends on all the others, unlike new ones."""
    torch.manual_seed(0)
    model = GPT2(shape)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GPT2:
    return lively(SHAPE)


def prompts(count: int, shared: int = 0) -> list[list[int]]:
    random = np.random.default_rng(1)
    common = random.integers(0, 40, shared).tolist()
    return [common + random.integers(0, 40, n).tolist() for n in random.integers(1, 30, count)]


@pytest.mark.parametrize("shared", [0, 70])
def test_greedy_batches_write_what_one_at_a_time_writes(model: GPT2, shared: int) -> None:
    asked = [*prompts(30, shared), *prompts(5)]
    found = complete(model, asked, 20, capacity=capacity_for(model, 1_000))
    alone = [list(generate(model, prompt, 20, Sampling(temperature=0))) for prompt in asked]
    assert [one.tokens for one in found] == alone
    assert len({tuple(one) for one in alone}) > 25
    assert {one.end for one in found} == {"length"}


def test_log_probabilities_are_those_of_the_whole_distribution(model: GPT2) -> None:
    asked = prompts(6)
    for prompt, found in zip(asked, complete(model, asked, 8), strict=True):
        logits = model(torch.tensor([[*prompt, *found.tokens[:-1]]]))[0, len(prompt) - 1 :]
        expected = logits.log_softmax(1)[range(8), found.tokens].tolist()
        assert found.log_probs == pytest.approx(expected, abs=1e-4)


def test_draws_depend_on_the_seed_of_the_item_only(model: GPT2) -> None:
    asked = prompts(20)
    together = complete(model, asked, 12, top_k=2, seeds=range(20))
    alone = [complete(model, [prompt], 12, top_k=2, seeds=[i])[0] for i, prompt in enumerate(asked)]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    repeated = complete(model, [asked[0]] * 20, 12, top_k=2, seeds=range(20))
    assert len({tuple(one.tokens) for one in repeated}) > 5


def test_draws_follow_the_probabilities_of_the_two_likeliest() -> None:
    model = lively(dataclasses.replace(SHAPE, context=8))
    p = model(torch.tensor([[1, 2, 3]]))[0, -1].detach().softmax(0)
    two = p.topk(2)
    drawn = [one.tokens[0] for one in complete(model, [[1, 2, 3]] * 3_000, 1, top_k=2)]
    assert set(drawn) == set(two.indices.tolist())
    share = drawn.count(int(two.indices[0])) / 3_000
    assert share == pytest.approx(float(two.values[0] / two.values.sum()), abs=0.03)


def test_equally_likely_tokens_are_taken_by_their_ids() -> None:
    ids, log_probs = completion._likeliest(torch.tensor([[1.0, 3.0, 1.0, 3.0, 3.0]]), 3)
    assert ids == [[1, 3, 4]]
    assert log_probs[0][0] == log_probs[0][2]


def test_a_batch_that_does_not_fit_is_written_in_smaller_ones() -> None:
    model = lively(SHAPE)
    asked = prompts(30)
    expected = complete(model, asked, 20)
    messages: list[str] = []
    done: list[int] = []
    hold(model, 100)
    found = complete(model, asked, 20, on_done=done.append, capacity=capacity_for(model, 1_000, messages.append))
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert messages
    assert messages[0].startswith("writing ran out of memory")
    assert done == sorted(set(done))
    assert done[-1] == 30


def test_what_all_prompts_share_is_read_once() -> None:
    model = lively(SHAPE)
    asked = prompts(10, shared=70)
    passes = hold(model, 10_000)
    complete(model, asked, 2)
    longest = max(len(prompt) for prompt in asked)
    n_shared = completion._shared(asked)
    assert n_shared >= 70
    assert passes == [n_shared, 10 * (longest - n_shared), 10]
    assert completion._shared([[1] * 80, [1] * 80]) == 79
    assert completion._shared([[1] * 80]) == 0


def test_a_batch_on_a_cpu_takes_a_limited_number_of_bytes(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    assert capacity_for(model).tokens == completion.BATCH_TOKENS
    # per position: 3 streams and 9 products of 32 numbers, keys and values of two layers, in fp32
    monkeypatch.setattr(completion, "CPU_BYTES", 10 * 4 * 32 * (12 + 2 * 2))
    assert capacity_for(model).tokens == 10
    assert capacity_for(model, 77).tokens == 77


def test_a_long_prompt_keeps_its_end(model: GPT2) -> None:
    long = prompts(1, shared=200)[0]
    found = complete(model, [long, [1]], 28)
    assert found[0].n_dropped == len(long) - 100
    assert found[0].tokens == list(generate(model, long[-100:], 28, Sampling(temperature=0)))
    assert found[1].n_dropped == 0


def test_each_item_ends_by_itself() -> None:
    """A model that writes its prompt's last token plus one."""

    class Counting(GPT2):
        def hidden(self, ids_BT: torch.Tensor, cache: object = None) -> torch.Tensor:
            return self.tokens.weight[(ids_BT + 1).clamp(max=END_OF_TEXT)] * 100

    model = Counting(ModelConfig(layers=1, heads=1, width=64, context=64))
    with torch.no_grad():
        weight = torch.randn(model.tokens.weight.shape, generator=torch.Generator().manual_seed(0))
        model.tokens.weight.copy_(weight / weight.norm(dim=1, keepdim=True))
    assert encode("\n").item() == 198
    found = complete(model, [[190], [END_OF_TEXT - 3], [300], [196]], 12, lambda text: "\n" in text)
    assert [one.end for one in found] == ["over", "end_of_text", "length", "over"]
    assert found[0].tokens == list(range(191, 199))
    assert found[1].tokens == [END_OF_TEXT - 2, END_OF_TEXT - 1]
    assert len(found[1].log_probs) == 3  # end-of-text too
    assert found[2].tokens == list(range(301, 313))
    assert found[3].tokens == [197, 198]


def test_bad_input_is_refused(model: GPT2) -> None:
    with pytest.raises(InputError, match="prompt 1 is empty"):
        complete(model, [[1], []], 3)
    with pytest.raises(InputError, match="token 40 of prompt 0 is not in the vocabulary of 40"):
        complete(model, [[1, 40]], 3)
    with pytest.raises(InputError, match="max_new_tokens 128: must be at least 1 and less than the model's context"):
        complete(model, [[1]], 128)
    with pytest.raises(InputError, match="top_k 41: must be from 1 to 40"):
        complete(model, [[1]], 3, top_k=41)
