"""FSDP2: weights, gradients and optimizer state split over the processes that train one model.

A process holds 1/N of every tensor. Each block is a unit: its weights are gathered for its forward and its backward
pass and dropped afterwards (ZeRO stage 3: Rajbhandari et al., 2020; torch's ``fully_shard``). The shards are fp32. With
``autocast`` the gathered copies and the products are bfloat16, and gradients are summed over the processes in fp32.

Checkpoints use torch.distributed.checkpoint: every process writes its own shards as safetensors files, so nothing is
gathered and nothing is pickled. A shard file says which part of which tensor it holds, so any number of processes can
read a checkpoint that any other number has written.

    shard-00001-model-00001-of-00001.safetensors    the first process's shards, and so on
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from data.errors import InputError
from model.gpt2 import GPT2


def shard(model: GPT2, device_type: str, processes: int, precision: str) -> None:
    """Split a model in place over all processes of the default group; each process calls this with the same weights.

    ``model.loss`` and ``model(ids)`` work as before, but all processes must call them equally often.
    """
    mesh = init_device_mesh(device_type, (processes,))
    policy = MixedPrecisionPolicy()
    if precision == "autocast":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "loss")


def set_gradient_sync(model: nn.Module, *, is_last: bool) -> None:
    """Sum gradients over the processes in the next backward pass only if it is the step's last one."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(is_last)


def is_sharded(weights: Iterable[Tensor]) -> bool:
    return any(isinstance(weight, DTensor) for weight in weights)


def whole(tensor: Tensor) -> Tensor:
    """The unsharded tensor. Called by all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Put a whole tensor on the device of a weight and shard it alike. Called by all processes."""
    tensor = tensor.to(weight.device)
    if not isinstance(weight, DTensor):
        return tensor
    return distribute_tensor(tensor, weight.device_mesh, weight.placements)


def save_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write this process's shards into ``folder``, which all processes must see. Called by all processes.

    Raises OSError if a process cannot write.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except CheckpointException as error:  # derives from BaseException, and has many lines
        raise OSError("; ".join(sorted({str(failure[0]) for failure in error.failures.values()}))) from error


def load_shards(into: Mapping[str, Tensor], folder: Path, *, alone: bool = False) -> None:
    """Fill tensors, sharded or not, from the safetensors files of ``folder``.

    Called by all processes, or by one ``alone`` if no tensor is sharded. Raises InputError if a tensor is missing or
    has another shape.
    """
    known = shapes(folder)
    for name, tensor in into.items():
        if known.get(name) != tuple(tensor.shape):
            raise InputError(f"{folder}: {name} is {known.get(name)}, expected {tuple(tensor.shape)}")
    filled: dict[str, Any] = {name: tensor.detach() for name, tensor in into.items()}
    with warnings.catch_warnings():  # torch warns a process without peers
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(filled, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    for name, tensor in into.items():
        if filled[name] is not tensor and filled[name].data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(filled[name])


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The unsharded shapes of the tensors in the safetensors files of ``folder``, by name."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tuple(found.size) for name, found in metadata.items()}  # type: ignore[union-attr]


def read_whole(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """These tensors of ``folder``, unsharded, on the CPU in fp32; read by one process."""
    known = shapes(folder)
    tensors = {name: torch.empty(known[name]) for name in names}
    load_shards(tensors, folder, alone=True)
    return tensors
