"""Whether the GPU computes what it should: against transformers, against fp64, and against itself after a resume."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu import losses, ours
from benchmarks.gpu.child import one_line
from benchmarks.gpu.compare import deviation, differing_bits, furthest, largest_deviation
from benchmarks.gpu.corpus import make as make_corpus
from benchmarks.gpu.job import Job
from data.lake.store import Lake
from model import checkpoint, compiling, world
from model.config import ModelConfig
from model.gpt2 import GPT2
from model.hf import to_hf
from model.loss import head_loss
from model.trainer import Trainer

FP32_LIMIT = 1e-4  # of the norm; kernels add in another order. Wrong mathematics is off by percents
TIMES_PEER = 1.5  # in bf16: our deviation from fp32, at most so many times transformers'
BF16_FLOOR = 2e-3  # of the norm: half the step of a bf16 number
TRANSFER_LIMIT = 1e-3  # nats, after 50 steps
TRANSFER_STEPS = (17, 17, 16)


def model(job: Job) -> None:
    """Logits, loss and gradients of GPT-2 124M with random weights: fp32, and bf16 (autocast) if the device has it."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    config = job.model("124M")
    own = GPT2(config)
    with torch.no_grad():
        for weight in own.parameters():
            weight += 0.02 * torch.randn(weight.shape)  # biases and gains too: at 0 and 1 they would prove little
    theirs = transformers_model(config, own).to(job.device)
    own = own.to(job.device)
    rows, positions = job.pick((2, 512), (2, 16))
    ids = torch.randint(0, config.vocab_size, (rows, positions + 1)).to(job.device)
    reference = _outputs(theirs, ids, _their_logits, _their_loss, config)
    found = _outputs(own, ids, _own_logits, _own_loss, config)
    for name, apart in _compare(found, reference).items():
        job.check(f"fp32 {name}", apart, FP32_LIMIT)
    if world.precision_for("auto", job.device) == "float32":
        job.put(bf16="not checked: the device has no instructions for it")
        return
    own_bf16 = _compare(_outputs(own, ids, _own_logits, _own_loss, config, is_bf16=True), reference)
    their_bf16 = _compare(_outputs(theirs, ids, _their_logits, _their_loss, config, is_bf16=True), reference)
    job.put(bf16_transformers=their_bf16)
    for name, apart in own_bf16.items():
        job.check(f"bf16 {name}", apart, TIMES_PEER * their_bf16[name] + BF16_FLOOR)
    if _compiles(job) and job.has(15, "compiled"):
        compiling.compile_model(own)
        compiled = _compare(_outputs(own, ids, _own_logits, _own_loss, config, is_bf16=True), reference)
        for name, apart in compiled.items():
            job.check(f"bf16 compiled {name}", apart, TIMES_PEER * their_bf16[name] + BF16_FLOOR)


def _compiles(job: Job) -> bool:
    return job.is_cuda and compiling.why_not(job.device) is None


def transformers_model(config: ModelConfig, own: GPT2) -> nn.Module:
    """transformers' GPT-2 with our weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": config.layers, "n_head": config.heads, "n_embd": config.width, "n_positions": config.context}
    ends = {"bos_token_id": config.vocab_size - 1, "eos_token_id": config.vocab_size - 1}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=config.vocab_size, **sizes, **ends, **off))
    missing = peer.load_state_dict(to_hf(own.state_dict(), config), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.weight"}, missing.missing_keys
    peer.tie_weights()
    return peer.train()


def _own_logits(own: Any, ids: Tensor) -> Tensor:
    return own(ids)  # type: ignore[no-any-return]


def _own_loss(own: Any, ids: Tensor, targets: Tensor) -> Tensor:
    return own.loss(ids, targets)  # type: ignore[no-any-return]


def _their_logits(peer: Any, ids: Tensor) -> Tensor:
    return peer(ids, use_cache=False).logits  # type: ignore[no-any-return]


def _their_loss(peer: Any, ids: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(peer(ids, use_cache=False).logits.float().flatten(0, 1), targets.flatten())


def _outputs(
    net: nn.Module, ids: Tensor, logits_of: Any, loss_of: Any, config: ModelConfig, *, is_bf16: bool = False
) -> dict[str, Any]:
    """Logits, loss, and the gradients under transformers' names; ``is_bf16``: under autocast."""
    kind = ids.device.type
    with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=is_bf16):
        logits = logits_of(net, ids[:, :-1]).float()
    net.zero_grad(set_to_none=True)
    with torch.autocast(kind, torch.bfloat16, enabled=is_bf16):  # anew: it keeps casts that have no gradient
        loss = loss_of(net, ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    loss.backward()
    gradients = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
    if isinstance(net, GPT2):
        gradients = to_hf(gradients, config)
    copies = {name: gradient.detach().float().clone() for name, gradient in gradients.items()}
    return {"logits": logits, "loss": loss.detach(), "gradients": copies}


def _compare(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """The deviations of two ``_outputs``; of the gradients, that of the weight that deviates most."""
    return {
        "logits": deviation(found["logits"], reference["logits"]),
        "loss": deviation(found["loss"], reference["loss"]),
        "gradients": largest_deviation(found["gradients"], reference["gradients"])[1],
    }


def loss(job: Job) -> None:
    """Loss and gradients of the head's loss against fp64, and how far torch's own cross entropy is from it."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    rows, width, vocabulary = job.pick((4_099, 768, 50_257), (67, 16, 301))
    hidden = torch.randn(rows, width, device=job.device)
    weight = 0.05 * torch.randn(vocabulary, width, device=job.device)
    targets = torch.randint(0, vocabulary, (rows,), device=job.device)
    has_bf16 = world.precision_for("auto", job.device) != "float32"
    for dtype in (torch.float32, torch.bfloat16)[: 1 + has_bf16]:
        inputs = (hidden.to(dtype), weight.to(dtype))
        reference = _head(_plain, *(x.double() for x in inputs), targets)
        peer = _head_apart(_head(_plain, *inputs, targets), reference)
        kind = str(dtype).removeprefix("torch.")
        job.put(**{f"cross_entropy_{kind}": peer})
        for way, loss_of in _ways(job).items():
            for name, measured in _head_apart(_head(loss_of, *inputs, targets), reference).items():
                limit = BF16_FLOOR + (0 if name == "loss" else TIMES_PEER * peer[name])  # the loss is summed in fp32
                limit = FP32_LIMIT if dtype == torch.float32 else limit
                job.check(f"{kind}{way} {name}", measured, limit)
    del inputs, reference
    if has_bf16:
        job.put(rows_ms=losses.rows_ms(job))
        _many_logits(job)


def _ways(job: Job) -> dict[str, Any]:
    """The loss by rows, and by our kernel where Triton compiles."""
    ways = {"": head_loss}
    if _compiles(job):
        ways[" kernel"] = functools.partial(head_loss, has_kernel=True)
    return ways


def _many_logits(job: Job) -> None:
    """The loss of more than 2^31 logits against that of the same rows in eighths: kernels that count in 32 bits would
    be far off. A run has fewer (model/memory.py).
    """
    rows, width, vocabulary = job.pick((45_056, 768, 50_257), (64, 16, 301))
    hidden = torch.randn(rows, width, device=job.device).bfloat16()
    weight = (0.05 * torch.randn(vocabulary, width, device=job.device)).bfloat16()
    targets = torch.randint(0, vocabulary, (rows,), device=job.device)
    eighths = zip(hidden.chunk(8), targets.chunk(8), strict=True)
    parts = [_head(head_loss, some_hidden, weight, some_targets) for some_hidden, some_targets in eighths]
    reference = {
        "loss": torch.stack([part["loss"] for part in parts]).mean(),
        "of hidden": torch.cat([part["of hidden"].float() / 8 for part in parts]),
        "of weight": torch.stack([part["of weight"].float() / 8 for part in parts]).sum(0),
    }
    for way, loss_of in _ways(job).items():
        try:
            found = _head_apart(_head(loss_of, hidden, weight, targets), reference)
        except torch.OutOfMemoryError as error:  # a small card, whose runs have fewer
            job.put(**{f"many logits{way}": one_line(error)})
            continue
        for name, measured in found.items():
            job.check(f"many logits{way} {name}", measured, 2 * BF16_FLOOR)


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets)


def _head(loss_of: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, weight)]
    found = loss_of(*leaves, targets)
    found.backward()
    return {"loss": found.detach(), "of hidden": _gradient(leaves[0]), "of weight": _gradient(leaves[1])}


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _head_apart(found: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    return {name: deviation(found[name], reference[name]) for name in reference}


def steps(job: Job) -> None:
    """Batches that a thread prepared are the sampler's; a refused step leaves weights and optimizer as they were, and
    the one after it trains.
    """
    trainer = _small(job, compile=False)
    ours.run(trainer, 3)
    apart = 0
    for batch in trainer.batches.of_step(trainer.step):
        expected = trainer.sampler.batch(trainer.corpus.train, batch.samples)
        found = (batch.ids, batch.targets)
        apart += sum(not torch.equal(x, torch.from_numpy(y.copy())) for x, y in zip(found, expected, strict=True))
        if job.is_cuda:
            apart += sum(not x.is_pinned() for x in found)
    job.check("prepared batches that differ or are not pinned", apart, 0)
    before = ours.tensors(trainer)
    result = trainer.train_step(loss_limit=0.0).read()
    job.check("refused step that was not reported", float(not result.is_refused), 0)
    job.check("tensors that a refused step changed", len(differing_bits(ours.tensors(trainer), before)), 0)
    ours.run(trainer, 1)
    equal = before.keys() - set(differing_bits(ours.tensors(trainer), before))
    job.check("tensors that the step after it did not change", len(equal), 0)


def resume(job: Job) -> None:
    """Straight through against saved, restored into a new trainer and continued: equal bits under deterministic
    algorithms; without them the deviation.
    """
    count = job.pick(8, 3)
    torch.use_deterministic_algorithms(True)
    try:
        straight, stopped = _straight_and_resumed(job, count)
        job.put(deterministic=True)
        job.check("losses that differ", float(straight[0] != stopped[0]), 0)
        job.check("tensors that differ", len(differing_bits(stopped[1], straight[1])), 0)
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        job.put(deterministic=str(error).splitlines()[0][:300])
    finally:
        torch.use_deterministic_algorithms(False)
    straight, stopped = _straight_and_resumed(job, count)
    name, apart = largest_deviation(stopped[1], straight[1])
    job.put(as_it_comes={"losses": furthest(stopped[0], straight[0]), "tensor": name, "deviation": apart})
    job.check("losses without deterministic algorithms", furthest(stopped[0], straight[0]), TRANSFER_LIMIT)


Run = tuple[list[float], dict[str, Tensor]]  # losses; weights and moments


def _straight_and_resumed(job: Job, count: int) -> tuple[Run, Run]:
    """``2 * count`` steps: in one go, and with a checkpoint in a lake in the middle."""
    whole = _small(job, compile=False)
    straight = ours.run(whole, 2 * count), ours.tensors(whole)
    with tempfile.TemporaryDirectory(prefix="webtext-gpu-") as folder:
        first = _small(job, compile=False)
        losses = ours.run(first, count)
        second = _small(job, compile=False)
        _move(Lake(folder), first, second)
        losses += ours.run(second, count)
    return straight, (losses, ours.tensors(second))


def transfer(job: Job) -> None:
    """50 steps in fp32 on the CPU, and the same with the middle third on the device: the same samples, and losses as
    good as equal.
    """
    parts = job.pick(TRANSFER_STEPS, (2, 2, 2))
    here = _small(job, "cpu", precision="float32", compile=False)
    expected = ours.run(here, sum(parts))
    samples: list[list[int]] = []
    losses: list[float] = []
    trainers = [_small(job, device, precision="float32", compile=False) for device in ("cpu", job.device_name, "cpu")]
    with tempfile.TemporaryDirectory(prefix="webtext-gpu-") as folder:
        for index, (trainer, count) in enumerate(zip(trainers, parts, strict=True)):
            if index:
                _move(Lake(folder), trainers[index - 1], trainer)
            for _ in range(count):
                samples.append(_samples(trainer))
                losses += ours.run(trainer, 1)
    seen = [number for step in samples for number in step]
    job.put(losses={"expected": expected[-1], "found": losses[-1]})
    job.check("samples out of order", float(seen != list(range(len(seen)))), 0)
    job.check("losses", furthest(losses, expected), TRANSFER_LIMIT)


def _small(job: Job, device: str = "", **settings: Any) -> Trainer:
    """A small model with every module that the large ones have."""
    shape = job.pick(
        {"layers": 3, "heads": 4, "width": 128, "context": 64}, {"layers": 2, "heads": 2, "width": 32, "context": 32}
    )
    config = ModelConfig(**shape, vocab_size=job.pick(5_003, 301))
    corpus = make_corpus(job.pick(200_000, 4_000), 2_000, config.vocab_size)
    return ours.make(job, config, corpus, device, batch_size=8, micro_batch_size=4, learning_rate=1e-3, **settings)


def _samples(trainer: Trainer) -> list[int]:
    """The numbers of the samples of the next step."""
    return np.concatenate(trainer.batches.samples(trainer.step)).tolist()  # type: ignore[no-any-return]


def _move(lake: Lake, old: Trainer, new: Trainer) -> None:
    """Save the old trainer's state in the lake and restore it into the new one."""
    config = old.config
    model = old.model.config
    state = checkpoint.State.beginning("gpu", model, config, corpus=old.corpus.digest, manifests={})
    seen = config.samples_before(old.step)
    state = dataclasses.replace(state, step=old.step, samples_seen=seen, tokens_seen=seen * model.context)
    state = checkpoint.save(lake, old.weights, old.optimizers, state, old.world)
    checkpoint.restore(lake, checkpoint.check(lake, "gpu", state.step), new.weights, new.optimizers)
    new.step = state.step
