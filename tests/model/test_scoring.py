"""Log-probabilities, compared with values by hand, with one request at a time, and with transformers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
import transformers

from data.errors import InputError
from model import hf, scoring, trees
from model.config import ModelConfig
from model.evals.stats import bits_per_byte
from model.generate import Sampling, generate
from model.gpt2 import GPT2
from model.scoring import Request, capacity_for, rolling, score
from tests.model.corpora import Liking, Uniform
from tests.model.halving import hold

SMALL = ModelConfig(layers=2, heads=2, width=16, context=12, vocab_size=31, position_std=0.5)


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(3)
    made = GPT2(SMALL)
    with torch.no_grad():
        made.tokens.weight.mul_(40)  # so that probabilities differ by orders of magnitude
    return made


def requests(count: int, seed: int = 0, longest: int = 20) -> list[Request]:
    random = np.random.default_rng(seed)
    return [
        Request(random.integers(0, 31, random.integers(1, longest)).tolist(), random.integers(0, 31, n).tolist())
        for n in random.integers(1, 8, count)
    ]


def by_hand(model: GPT2, request: Request) -> np.ndarray:
    """From the whole distribution, in fp64, one request at a time."""
    ids = [*request.context, *request.continuation][:-1][-model.config.context :]
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids]))[0].double().numpy()
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    n = len(request.continuation)
    return log_probs[-n:][np.arange(n), request.continuation]


def test_batched_scores_equal_scores_one_at_a_time(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(60)
    expected = [by_hand(model, request) for request in asked]
    assert min(e.min() for e in expected) < -5  # the model prefers some tokens strongly
    for batch_tokens, head_rows in ((1, 1), (50, 7), (100_000, 100_000)):
        monkeypatch.setattr(scoring, "CPU_BATCH_TOKENS", batch_tokens)
        monkeypatch.setattr(scoring, "CPU_HEAD_ROWS", head_rows)
        scores = score(model, asked)
        for one, hand in zip(scores, expected, strict=True):
            np.testing.assert_allclose(one.log_probs, hand, atol=2e-5)
        assert scores[5].log_likelihood == pytest.approx(expected[5].sum(), abs=1e-4)


def test_long_contexts_are_truncated_on_the_left_and_counted(model: GPT2) -> None:
    request = Request(list(range(20)), [3, 4, 5])
    (cut,) = score(model, [request])
    (fits,) = score(model, [Request(list(range(10, 20)), [3, 4, 5])])
    assert (cut.n_dropped, fits.n_dropped) == (10, 0)  # 12 inputs: 10 of the context, 2 of the continuation
    np.testing.assert_allclose(cut.log_probs, fits.log_probs, atol=1e-6)


def alike(count: int, seed: int) -> list[Request]:
    """Requests that begin alike and others, in random order; a continuation may begin another, or be another."""
    random = np.random.default_rng(seed)
    asked = requests(count, seed)
    while len(asked) < 3 * count:
        context = random.integers(0, 31, random.integers(1, 20)).tolist()  # the model's context is 12
        longest = random.integers(0, 31, 6).tolist()
        choices = [random.integers(0, 31, n).tolist() for n in random.integers(1, 7, 3)]
        asked += [Request(context, choice) for choice in (longest, longest[:1], longest[:4], longest, *choices)]
    return [asked[i] for i in random.permutation(len(asked))]


@pytest.mark.parametrize("is_padded", [False, True])
def test_shared_prefixes_are_computed_once_and_change_no_score(
    model: GPT2, is_padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_is_padded", lambda _: is_padded)
    passes = hold(model, 1 << 30)
    for seed in range(2):
        asked = alike(20, seed)
        alone = [score(model, [request], [3])[0] for request in asked]
        expected = sum(passes)
        passes.clear()
        for batch_tokens in (1_000_000, 60):
            found = score(model, asked, [3], capacity=capacity_for(model, batch_tokens))
            for one, other in zip(found, alone, strict=True):
                np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
                np.testing.assert_array_equal(one.is_likeliest, other.is_likeliest)
                assert one.is_first_likeliest_allowed == other.is_first_likeliest_allowed
                assert one.n_dropped == other.n_dropped
            if not is_padded:
                assert sum(passes) < 0.85 * expected
            passes.clear()


def test_what_is_shared_does_not_depend_on_the_order_of_the_requests(model: GPT2) -> None:
    passes = hold(model, 1 << 30)
    asked = alike(20, 1)
    first = score(model, asked)
    expected = sorted(passes)
    passes.clear()
    backwards = score(model, asked[::-1])[::-1]
    assert sorted(passes) == expected
    for one, other in zip(first, backwards, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


@pytest.mark.parametrize(
    ("context", "continuations", "computed"),
    [
        (9, ([1, 2], [1, 3], [2, 2, 3]), 9 + 1 + 2),  # [1, 2] and [1, 3] have the same inputs
        (9, ([1], [2], [3]), 9),
        (12, ([1], [2], [3]), 12),  # the context fills the window
        (20, ([1, 2], [1, 3], [4, 5]), 12 + 1),  # cut at the same token
        (20, ([1, 2], [1, 2, 3]), 12 + 12),  # cut at different tokens, so nothing is shared
    ],
)
def test_positions_that_are_computed(
    model: GPT2, context: int, continuations: tuple[list[int], ...], computed: int
) -> None:
    passes = hold(model, 1 << 30)
    score(model, [Request(list(range(context)), continuation) for continuation in continuations])
    assert sum(passes) == computed


def test_a_short_prefix_is_not_shared_if_attention_would_cost_more() -> None:
    sequences = [(n, np.array([7, *range(100 * n, 100 * n + 99)])) for n in range(1, 4)]
    assert [tree.length for tree in trees.plan(sequences, 1_000, width=16)] == [100, 100, 100]
    (packed,) = trees.plan(sequences, 1_000, width=10_000)
    assert packed.length == 1 + 3 * 99


def test_a_uniform_model_scores_ln_v() -> None:
    uniform = Uniform(ModelConfig(layers=1, heads=1, width=4, context=8, vocab_size=50))
    scores = score(uniform, [Request([1, 2], [3, 0]), Request([5], [0])])
    np.testing.assert_allclose(np.concatenate([s.log_probs for s in scores]), -math.log(50), rtol=1e-6)
    # All are equally likely: greedy decoding takes the first token, and no other counts as predicted.
    assert [s.is_likeliest.tolist() for s in scores] == [[False, True], [True]]


def test_probabilities_match_values_by_hand() -> None:
    liking = Liking(ModelConfig(layers=1, heads=1, width=4, context=8, vocab_size=5), order=[2, 4], ratio=3.0)
    (one,) = score(liking, [Request([0], [2, 4, 1])])
    total = 9 + 3 + 1 + 1 + 1
    np.testing.assert_allclose(np.exp(one.log_probs), [9 / total, 3 / total, 1 / total], rtol=1e-6)
    assert one.is_likeliest.tolist() == [True, False, False]
    assert not one.is_greedy


def test_excluded_tokens_are_never_the_answer() -> None:
    liking = Liking(ModelConfig(layers=1, heads=1, width=4, context=8, vocab_size=5), order=[2, 4])
    asked = [Request([0], [2, 2]), Request([0], [4, 2]), Request([0], [1, 2])]
    assert [s.is_first_likeliest_allowed for s in score(liking, asked)] == [True, False, False]
    assert [s.is_first_likeliest_allowed for s in score(liking, asked, exclude_first=[2])] == [False, True, False]
    assert [s.is_greedy for s in score(liking, asked, exclude_first=[2])] == [True, False, False]


def test_both_ways_to_find_the_likeliest_token_agree() -> None:
    """On a CPU the one that computes less, on a GPU the one that does not wait; few values, so there are ties."""
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.integers(0, 9, (200, 31)).astype(np.float32))
    logits[::2, random.integers(0, 31, 5)] = float("-inf")
    logits[0] = float("-inf")
    targets = torch.from_numpy(np.where(np.arange(200) % 3, logits.numpy().argmax(1), random.integers(0, 31, 200)))
    first = [row.tolist().index(max(row.tolist())) for row in logits]
    for find in (scoring._sparing, scoring._in_one_pass):
        maxima, found = find(logits, logits.gather(1, targets[:, None])[:, 0], targets)
        assert torch.equal(maxima, logits.amax(1))
        assert found.tolist() == [int(target) == at for target, at in zip(targets, first, strict=True)]


def test_greedy_scores_agree_with_generate(model: GPT2) -> None:
    context = [4, 9, 1]
    written = list(generate(model.eval(), context, 6, Sampling(temperature=0)))
    other = [*written[:-1], (written[-1] + 1) % 31]
    right, wrong = score(model, [Request(context, written), Request(context, other)])
    assert right.is_greedy
    assert wrong.is_likeliest.tolist() == [True] * 5 + [False]


def test_scoring_disables_dropout_and_restores_the_training_mode() -> None:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=1, heads=1, width=8, context=8, vocab_size=31, dropout=0.5)).train()
    first, second = (score(model, [Request([1, 2, 3], [4, 5])])[0] for _ in range(2))
    assert model.training
    np.testing.assert_array_equal(first.log_probs, second.log_probs)


def test_bad_requests_are_refused(model: GPT2) -> None:
    with pytest.raises(InputError, match="13 tokens does not fit into the model's context of 12"):
        score(model, [Request([1], [2] * 13)])
    for request in (Request([], [1]), Request([1], [])):
        with pytest.raises(ValueError, match="request 0"):
            score(model, [request])
    with pytest.raises(ValueError, match=r"stride must be in 1\.\.8, got 9"):
        rolling([1, 2], 8, 9)


@pytest.mark.parametrize(("n", "context", "stride"), [(1, 8, 4), (8, 8, 4), (9, 8, 8), (50, 8, 3), (51, 8, 1)])
def test_a_window_scores_every_token_once(n: int, context: int, stride: int) -> None:
    tokens = list(range(100, 100 + n))
    windows = rolling(tokens, context, stride, before=7)
    assert [token for window in windows for token in window.continuation] == tokens
    whole = [7, *tokens]
    at = 1
    for index, window in enumerate(windows):
        assert whole[at - len(window.context) : at] == list(window.context)
        assert len(window.context) + len(window.continuation) - 1 <= context  # nothing is cut
        assert len(window.context) >= (context - stride + 1 if index else 1)
        at += len(window.continuation)


def test_many_windows_are_scored_in_blocks(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows share one array, and a block's copies of them are all that is added to it."""
    tokens = np.random.default_rng(0).integers(0, 31, 200)
    windows = rolling(tokens.tolist(), 12, 1, before=7)
    assert len({id(np.asarray(window.context).base) for window in windows}) == 1
    whole = score(model, windows)
    held: list[int] = []
    plan = trees.plan
    monkeypatch.setattr(scoring, "BLOCK_TOKENS", 100)
    monkeypatch.setattr(trees, "plan", lambda rows, *rest: plan(held_by(rows, held), *rest))
    done: list[int] = []
    parts = score(model, windows, on_done=done.append)
    assert len(held) > 20
    assert max(held) < 100 + 12
    assert done == sorted(done)
    assert done[-1] == len(windows)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def held_by(rows: Iterable[tuple[int, trees.Ids]], held: list[int]) -> list[tuple[int, trees.Ids]]:
    block = list(rows)
    held.append(sum(len(ids) for _, ids in block))
    return block


def test_perplexity_equals_transformers() -> None:
    torch.manual_seed(1)
    reference = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=16, n_embd=24, n_layer=2, n_head=2, initializer_range=0.4)
    ).eval()
    config = ModelConfig(layers=2, heads=2, width=24, context=16, vocab_size=97)
    model = GPT2(config)
    model.load_state_dict(hf.from_hf(reference.state_dict(), config, "reference"))
    tokens = np.random.default_rng(0).integers(0, 97, 61).tolist()
    whole = torch.tensor([[96, *tokens]])
    stride = 5
    nats = 0.0
    done = 1
    for end in [17, *range(17 + stride, 62 + stride, stride)]:  # the window of transformers' documentation
        ids = whole[:, max(0, min(end, 62) - 17) : min(end, 62)]
        labels = ids.clone()
        labels[:, : ids.shape[1] - (min(end, 62) - done)] = -100
        with torch.no_grad():
            logits = reference(ids[:, :-1]).logits
        nats += float(torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], reduction="sum"))
        done = min(end, 62)
    ours = -sum(one.log_likelihood for one in score(model, rolling(tokens, 16, stride, before=96)))
    assert math.exp(ours / 61) == pytest.approx(math.exp(nats / 61), rel=1e-5)
    assert nats / 61 > math.log(97)  # weights this large give a distribution far from uniform


def test_bits_per_byte_match_the_definition() -> None:
    nats = [math.log(2) * 24, math.log(2) * 16]
    assert bits_per_byte(nats, [3, 2]).value == pytest.approx(8)


@pytest.mark.parametrize("token", [-1, 64])
def test_a_token_that_is_not_in_the_vocabulary_is_named(token: int) -> None:
    model = GPT2(ModelConfig(layers=1, heads=1, width=8, context=16, vocab_size=64))
    for request in (Request([1, token], [2]), Request([1], [2, token])):
        with pytest.raises(InputError, match=f"request 0: token {token} is not in the vocabulary of 64 tokens"):
            score(model, [request])
