"""Train a peer's GPT-2 like its own project does: its model, its optimizer, batches from a file of tokens.

    python benchmarks/train_peers/peer.py PEER '{"tokens": FILE, "layers": 12, ...}'

    nanogpt         nanoGPT's model and its own optimizer (configure_optimizers) in fp32, its default on a CPU
                    (runs in its own folder, because its model.py would shadow our package)
    nanogpt-bf16    the same model under bfloat16 autocast, with fused AdamW
    transformers    GPT2LMHeadModel in fp32, AdamW

A step follows nanoGPT's train.py: a batch of random windows, forward, backward, clipping, update. Prints one JSON line:
the seconds of each step, the losses, the number of parameters, peak memory.
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


def nanogpt(size: dict[str, Any], *, is_fused: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    sys.path.insert(0, str(Path.cwd()))
    from model import GPT, GPTConfig  # type: ignore[attr-defined]

    shape = {"n_layer": size["layers"], "n_head": size["heads"], "n_embd": size["width"]}
    model = GPT(GPTConfig(block_size=size["context"], vocab_size=size["vocab_size"], dropout=0.0, bias=True, **shape))
    if not is_fused:
        return model, model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")
    decayed = [weight for weight in model.parameters() if weight.dim() >= 2]
    free = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)


def transformers(size: dict[str, Any]) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_layer": size["layers"], "n_head": size["heads"], "n_embd": size["width"]}
    config = GPT2Config(
        n_positions=size["context"], vocab_size=size["vocab_size"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **shape
    )
    model = GPT2LMHeadModel(config)
    return model, torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)


def main() -> None:
    peer, size = sys.argv[1], json.loads(sys.argv[2])
    torch.manual_seed(0)
    tokens = np.memmap(size["tokens"], dtype=np.uint16, mode="r")
    if peer == "transformers":
        model, optimizer = transformers(size)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # it prints to standard output
            model, optimizer = nanogpt(size, is_fused=peer == "nanogpt-bf16")
    precision = torch.autocast("cpu", torch.bfloat16) if peer == "nanogpt-bf16" else contextlib.nullcontext()
    model.train()
    seconds, cpu_seconds, losses = [], [], []
    for _ in range(size["steps"]):
        began, cpu_began = time.perf_counter(), time.process_time()
        starts = torch.randint(len(tokens) - size["context"], (size["batch"],))
        rows = np.stack([tokens[start : start + size["context"] + 1] for start in starts]).astype(np.int64)
        ids = torch.from_numpy(rows)
        with precision:
            if peer == "transformers":
                loss = model(
                    ids[:, :-1].contiguous(), labels=ids[:, :-1].contiguous()
                ).loss  # transformers shifts the labels
            else:
                loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    peak_kb = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    parameters = sum(weight.numel() for weight in model.parameters())
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "losses": losses, "parameters": parameters}
    print(json.dumps(result | {"peak_rss_mb": int(peak_kb.split()[1]) / 1024}))


if __name__ == "__main__":
    main()
