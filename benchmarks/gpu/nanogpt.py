"""nanoGPT's training step, as its train.py makes it, from a checkout in the working directory.

    python benchmarks/gpu/nanogpt.py '{"tokens": FILE, "layers": 12, ...}'

Its defaults: torch.compile of the whole model, autocast to bf16 (fp16 where the card has no bf16), TF32 elsewhere,
fused AdamW by configure_optimizers, flash attention, no biases, no dropout, random windows, the next batch drawn during
the forward pass, one read of the loss per step. Nothing of nanoGPT is copied: model.py is imported from its checkout.

It builds the model, makes one step and prints a JSON line. For every line on standard input, a number of seconds, it
trains for about that long and prints tokens/s and its peak memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Peer:
    def __init__(self, size: dict[str, Any]) -> None:
        sys.path.insert(0, str(Path.cwd()))
        from model import GPT, GPTConfig  # type: ignore[attr-defined]

        torch.manual_seed(1337)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        self.size = size
        self.is_cuda = size["device"].startswith("cuda")
        shape = {"n_layer": size["layers"], "n_head": size["heads"], "n_embd": size["width"]}
        context, vocab_size = size["context"], size["vocab_size"]
        model = GPT(GPTConfig(block_size=context, vocab_size=vocab_size, dropout=0.0, bias=False, **shape))
        self.model: Any = model.to(size["device"])
        kind = "cuda" if self.is_cuda else "cpu"
        has_bf16 = self.is_cuda and torch.cuda.is_bf16_supported()
        dtype = torch.bfloat16 if has_bf16 or not self.is_cuda else torch.float16
        self.autocast = torch.autocast(kind, dtype) if self.is_cuda else contextlib.nullcontext()
        self.scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
        self.optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), kind)
        self.weights = list(model.parameters())
        self.tokens = np.memmap(size["tokens"], dtype=np.uint16, mode="r")
        self.dtype = str(dtype).removeprefix("torch.") if self.is_cuda else "float32"
        self.is_compiled = size["compile"]
        if self.is_compiled:
            self.model = torch.compile(model)
        self.batch = self.draw()

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        context = self.size["context"]
        starts = torch.randint(len(self.tokens) - context, (self.size["micro_batch"],))
        rows = np.stack([self.tokens[start : start + context + 1] for start in starts.tolist()]).astype(np.int64)
        ids = torch.from_numpy(rows)
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        if self.is_cuda:
            device = self.size["device"]
            return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        return x, y

    def step(self) -> float:
        for _ in range(self.size["accumulate"]):
            with self.autocast:
                loss = self.model(*self.batch)[1] / self.size["accumulate"]
            self.batch = self.draw()
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item() * self.size["accumulate"]

    def timed(self, steps: int) -> tuple[float, float]:
        """The seconds of so many steps, and the last loss."""
        if self.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        if self.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began, loss


def main() -> None:
    size = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):  # it prints to standard output
        peer = Peer(size)
        try:
            first_s, _ = peer.timed(1)
        except Exception as error:  # no compiler
            if not peer.is_compiled or isinstance(error, torch.OutOfMemoryError):
                raise
            print(f"compiling failed, so the model runs eager: {error}")
            peer = Peer({**size, "compile": False})
            first_s, _ = peer.timed(1)
        step_s, _ = peer.timed(1)
    began = {"first_step_s": round(first_s, 2), "compile": peer.is_compiled, "precision": peer.dtype}
    print(json.dumps(began), flush=True)
    per_step = size["micro_batch"] * size["accumulate"] * size["context"]
    for line in sys.stdin:
        if peer.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        peer.timed(1)  # allocates what the turn before gave back
        steps = max(1, round(float(line) / step_s))
        seconds, loss = peer.timed(steps)
        step_s = seconds / steps
        found = {"tokens_per_s": per_step / step_s, "step_s": round(step_s, 4), "last_loss": round(loss, 4)}
        if peer.is_cuda:
            found["peak_bytes"] = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
