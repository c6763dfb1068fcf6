"""The processes that train one model together, started by torchrun; a single process is a world of one."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from data.errors import InputError
from model.config import Precision

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # the driver's list, on Linux
PATIENCE = timedelta(hours=2)  # while the first process copies the corpus or uploads a checkpoint


@dataclass(frozen=True)
class World:
    """This process among its peers. All processes call its collective methods together."""

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0  # among the processes of its machine

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_first_of_machine(self) -> bool:
        return self.local_rank == 0

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in fp64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def add_up(self, numbers: Tensor) -> Tensor:
        """A tensor on the device, summed over the processes in place; does not wait for the device."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def least(self, value: int) -> int:
        """The smallest of the processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def from_first(self, value: str) -> str:
        """The first process's value."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return str(held[0])

    def close(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()


def why_no_cuda() -> str | None:
    """Why torch has no CUDA device, in one line; None if it has one."""
    if torch.cuda.is_available():
        return None
    if not torch.backends.cuda.is_built():
        return "this torch is built without CUDA; install the CUDA build"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # such as a driver that is too old
        return str(error).strip().splitlines()[0]
    return "torch sees no CUDA device"


def unused_gpu() -> str | None:
    """What to say if this machine has an NVIDIA GPU that torch cannot use; None otherwise."""
    why = why_no_cuda()
    if why is None or not NVIDIA_GPUS.is_dir() or not any(NVIDIA_GPUS.iterdir()):
        return None
    return f"this machine has an NVIDIA GPU that torch cannot use ({why}); the CPU computes instead"


def best_device() -> str:
    """What ``auto`` means on this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def join(device: str) -> World:
    """Join the world that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK).

    With several processes each has its own GPU, which becomes torch's current device: collectives of objects and fsdp
    use that. Raises InputError for a device that this machine does not have.
    """
    of_torchrun = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", **os.environ}
    rank, size, local_rank = (int(of_torchrun[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    try:
        chosen = torch.device(best_device() if device == "auto" else device)
    except RuntimeError as error:
        raise InputError(f"--device {device}: not a device of torch; use auto, cpu, cuda, cuda:N or mps") from error
    if chosen.type == "cuda":
        there = torch.cuda.device_count()
        if size > 1 and chosen.index is not None:
            raise InputError(f"--device {device}: {size} processes need a GPU each; use --device cuda")
        if size > 1 and local_rank >= there:
            raise InputError(
                f"--device {device}: process {local_rank} has no GPU, torch sees {there} CUDA device(s); "
                "use fewer --processes"
            )
        if (chosen.index or 0) >= there:
            raise InputError(f"--device {device}: {why_no_cuda() or f'torch sees {there} CUDA device(s)'}")
        chosen = torch.device("cuda", local_rank if size > 1 else chosen.index or 0)
        torch.cuda.set_device(chosen)
    elif chosen.type == "mps":
        if size > 1:
            raise InputError(f"--device {device}: mps supports one process; use --processes 1 or --device cpu")
        if not torch.backends.mps.is_available():
            raise InputError(f"--device {device}: torch sees no such device")
    elif chosen.type != "cpu":
        raise InputError(f"--device {device}: use cpu, cuda, cuda:N or mps")
    if size > 1 and chosen.type == "cuda":
        dist.init_process_group("nccl", device_id=chosen, timeout=PATIENCE)
    elif size > 1:
        dist.init_process_group("gloo", timeout=PATIENCE)
    return World(rank, size, chosen, local_rank)


def precision_for(wanted: Precision, device: torch.device, parallel: str = "ddp", processes: int = 1) -> Precision:
    """The precision to use: ``auto`` means bfloat16 products if the device has instructions for them.

    Then auto is ``bfloat16``: converting weights in every pass costs more than fp32 masters do, and the residual stream
    takes half the memory. It is ``autocast`` with fsdp, whose shards are fp32, and with several GPUs, whose gradients
    DistributedDataParallel adds up during the backward pass. Raises InputError for a precision that the device does not
    support.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has_bf16 = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if (wanted in ("autocast", "bfloat16") and not has_bf16) or (wanted == "tf32" and not has_tf32):
        raise InputError(f"precision={wanted}: {device} has no instructions for it; use --set precision=float32")
    if wanted != "auto":
        return wanted
    if not has_bf16:
        return "float32"
    return "bfloat16" if parallel == "ddp" and (device.type == "cpu" or processes == 1) else "autocast"


def memory_of(device: torch.device) -> tuple[int, int]:
    """The free and the total memory of a device in bytes. On a CPU all memory counts as free: a run that is resumed
    must not depend on what else runs.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    total = torch.mps.recommended_max_memory() if device.type == "mps" else psutil.virtual_memory().total
    return total, total


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of giving each large block back to the kernel.

    The logits of a micro-batch take hundreds of megabytes, freed and allocated several times per step. Mapping
    their pages again took half the time of a CPU step (2 layers of width 128: 1,700 tokens/s without this, 3,700 with).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold = -1  # M_TRIM_THRESHOLD of malloc.h
        mmap_max = -4  # M_MMAP_MAX
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)
