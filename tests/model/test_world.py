"""The processes of a run: which device each one takes, and what several machines see. Stand-ins replace the GPUs."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import InputError
from data.lake.store import Lake
from model import checkpoint, others_are_busy, world
from model.config import TrainSpec
from model.loader import open_corpus
from model.train import train
from model.world import World
from tests.model.lakes import make_lake, make_spec
from tests.model.running import Events, files_of, trainer_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path / "lake")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A machine with four GPUs; records the calls to torch."""
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: found.append(("set_device", str(device))))
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda *of, **options: found.append(("group", *of, options))
    )
    return found


def place(monkeypatch: pytest.MonkeyPatch, rank: int, size: int, local_rank: int) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", local_rank)):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_has_its_own_gpu(calls: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """The GPU becomes torch's current device before the group is created: collectives of objects and fsdp use it."""
    place(monkeypatch, 6, 8, 2)
    peers = world.join(device)
    assert (peers.rank, peers.size, peers.device) == (6, 8, torch.device("cuda:2"))
    assert not peers.is_first_of_machine
    options = {"device_id": torch.device("cuda:2"), "timeout": world.PATIENCE}
    assert calls == [("set_device", "cuda:2"), ("group", "nccl", options)]


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:3", 3)])
def test_a_single_process_takes_the_named_gpu(calls: Any, device: str, index: int) -> None:
    peers = world.join(device)
    assert (peers.device, peers.size) == (torch.device("cuda", index), 1)
    assert calls == [("set_device", f"cuda:{index}")]


def test_a_gpu_that_torch_cannot_use_is_told_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As with a driver that is too old: torch then says so when it is initialised."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: True)

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    monkeypatch.setattr("torch.cuda.init", fail)
    with pytest.raises(InputError, match=r"--device cuda: The NVIDIA driver on your system is too old \(found"):
        world.join("cuda")
    monkeypatch.setattr(world, "NVIDIA_GPUS", tmp_path / "none")
    assert world.unused_gpu() is None
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(world, "NVIDIA_GPUS", tmp_path / "gpus")
    lake = make_lake(tmp_path / "lake")
    events = Events()
    train(dataclasses.replace(make_spec(lake, steps=3), device="auto"), events)
    (warning,) = events.warnings()
    assert "has an NVIDIA GPU that torch cannot use (The NVIDIA driver on your system is too old" in warning
    assert events.of("start")[0]["device"] == "cpu"


def test_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: False)
    with pytest.raises(InputError, match="--device cuda:1: this torch is built without CUDA; install the CUDA build"):
        world.join("cuda:1")


@pytest.mark.parametrize(
    ("device", "size", "local_rank", "message"),
    [
        ("cuda", 8, 5, "process 5 has no GPU, torch sees 4 CUDA device"),
        ("cuda:1", 2, 0, "2 processes need a GPU each; use --device cuda"),
        ("cuda:4", 1, 0, "--device cuda:4: torch sees 4 CUDA device"),
        ("mps", 2, 0, "mps supports one process; use --processes 1 or --device cpu"),
        ("meta", 1, 0, "--device meta: use cpu, cuda, cuda:N or mps"),
        ("gpu", 1, 0, "--device gpu: not a device of torch"),
    ],
)
def test_unavailable_devices_are_refused(
    calls: Any, monkeypatch: pytest.MonkeyPatch, device: str, size: int, local_rank: int, message: str
) -> None:
    place(monkeypatch, local_rank, size, local_rank)
    with pytest.raises(InputError, match=message):
        world.join(device)
    assert calls == []


def test_the_process_group_is_destroyed_at_the_end_but_not_after_an_error(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NCCL, destroying the group waits for the other processes, which wait for this one. Only its exit ends it."""
    closed: list[str] = []
    monkeypatch.setattr(World, "close", lambda _: closed.append("closed"))
    with pytest.raises(InputError, match="too few"):
        train(make_spec(lake, context=100_000), Events())
    assert closed == []
    train(make_spec(lake, steps=2), Events())
    assert len(closed) == 1


class Elsewhere(World):
    """The second of two processes, on a machine that does not have the first one's folders."""

    def wait(self) -> None:
        pass

    def sum(self, *values: float) -> list[float]:
        return list(values)

    def from_first(self, value: str) -> str:
        return "/nowhere/scratch"


def test_shards_are_not_written_to_a_folder_the_first_process_cannot_see(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its checkpoint would look complete."""
    train(make_spec(lake, steps=2), Events())
    state = checkpoint.read_state(lake, "a", 2)
    monkeypatch.setattr("model.checkpoint.is_sharded", lambda _: True)
    monkeypatch.setattr("model.checkpoint.save_shards", lambda *_: pytest.fail("shards were written"))
    trainer = trainer_of(lake)
    with pytest.raises(
        InputError, match="1 of 2 processes do not see /nowhere/scratch/step-00000002, where all must write"
    ):
        checkpoint.save(lake, trainer.weights, trainer.optimizers, state, Elsewhere(1, 2, torch.device("cpu")))


def on_machine(number: int, port: int, spec: TrainSpec, folder: Path) -> subprocess.Popen[str]:
    """One of two machines, each with one process and its own cache."""
    path = folder / f"machine-{number}.json"
    path.write_text(json.dumps({**spec.to_json(), "cache_dir": str(folder / f"cache-{number}")}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}"]
    return subprocess.Popen(
        [*torchrun, "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "model.train", "--spec", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )


def test_every_machine_verifies_its_copy_of_the_corpus(lake: Lake, tmp_path: Path) -> None:
    spec = make_spec(lake, steps=2)
    for number in range(2):
        open_corpus(lake, spec.corpus, tmp_path / f"cache-{number}")
    (damaged,) = (tmp_path / "cache-1").glob("corpus-*/train.bin")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines = [on_machine(number, port, spec, tmp_path) for number in range(2)]
    outcomes = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outcomes
    assert "train.bin does not match its sha256; copying it again" in outcomes[1][1]
    assert damaged.read_bytes() == whole
    train(make_spec(lake, "one", steps=2), Events())
    one = files_of(lake, "one", 2)
    two = files_of(lake, "a", 2)
    assert all(torch.allclose(tensor, two[name], atol=1e-5) for name, tensor in one.items())


SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("set_by_user", "spins"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, "30000000000"), ({"GOMP_SPINCOUNT": "77"}, "77")],
)
def test_threads_on_busy_cores_stop_spinning_soon_unless_the_user_sets_otherwise(
    set_by_user: dict[str, str], spins: str
) -> None:
    """torch's libgomp prints the value that it uses; a child prints the environment that it inherits."""
    (library,) = (Path(torch.__file__).parent / "lib").glob("libgomp*")
    code = (
        f"import model.launch, ctypes, subprocess; ctypes.CDLL({str(library)!r}); subprocess.run(['env'], check=True)"
    )
    inherited = {name: value for name, value in os.environ.items() if name not in SPIN_SETTINGS}
    environment = {**inherited, **set_by_user, "OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", code]
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert done.returncode == 0, done.stderr
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert {name: variables[name] for name in SPIN_SETTINGS if name in variables} == (
        set_by_user or {"GOMP_SPINCOUNT": "1000"}
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


@pytest.mark.parametrize(
    ("runnable", "cores", "is_busy"), [(1, 2, False), (2, 2, True), (3, 2, True), (4, 8, False), (5, 8, True)]
)
def test_cores_are_busy_when_others_could_fill_half_of_them(runnable: int, cores: int, is_busy: bool) -> None:
    assert others_are_busy(f"0.20 0.18 0.12 {runnable}/80 11206\n", cores) is is_busy


def test_a_copy_of_another_length_is_refused_without_hashing(lake: Lake, tmp_path: Path) -> None:
    open_corpus(lake, ("2026-10",), tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("corpus-*/train.bin")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"train\.bin: 100 bytes for \d+ tokens; remove"):
        open_corpus(lake, ("2026-10",), tmp_path / "cache", verify=False)
