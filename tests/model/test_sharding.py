"""FSDP2 over gloo: the same training as one process, and checkpoints that any number of processes reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.errors import InputError
from data.lake.store import Lake
from model import checkpoint
from model.checkpoint import step_name
from model.sharding import load_shards, read_whole, save_shards, shapes
from model.train import train
from tests.model.lakes import make_lake, make_spec
from tests.model.running import HAS_BF16, Events, files_of, needs_bf16
from tests.model.several import Reported, train_all

STEADY = {"schedule": "wsd", "final_lr_share": 1.0}  # a shorter run has the same learning rates
TORN: dict[str, Any] = {"parallel": "fsdp", "checkpoint_every": 2}
AS_ON_A_GPU = {"precision": "autocast", "recompute": "true", "optimizer": "muon"}
COMPARED: dict[str, dict[str, str]] = {"plain": {}, **({"as-on-a-gpu": AS_ON_A_GPU} if HAS_BF16 else {})}


@dataclass(frozen=True)
class Runs:
    """What the runs of this module have reported and written. Two processes train them all in one launch, and resume
    two of them in another launch.
    """

    lake: Lake
    begun: Reported  # by run
    alone: list[dict[str, Any]]  # the second share of "parts", in one process
    resumed: Reported  # by run
    files: dict[int, list[str]]  # in a checkpoint of "parts", by step
    damaged: str  # the shard of "torn" that was damaged between the launches


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    lake = make_lake(tmp_path_factory.mktemp("sharding") / "lake")
    specs = [make_spec(lake, "parts", 3, parallel="fsdp", **STEADY), make_spec(lake, "torn", 4, **TORN)]
    specs += [
        make_spec(lake, f"{parallel}-{name}", 4, parallel=parallel, **settings)
        for name, settings in COMPARED.items()
        for parallel in ("fsdp", "ddp")
    ]
    begun = train_all(lake, specs, processes=2)
    files = {3: names_in(lake, 3)}
    alone = Events()
    train(make_spec(lake, "parts", 6, parallel="ddp", **STEADY), alone)
    files[6] = names_in(lake, 6)
    (first, _) = sorted(folder_of(lake, "torn", 4).glob("shard-*"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    specs = [make_spec(lake, "parts", 8, parallel="fsdp", **STEADY), make_spec(lake, "torn", 5, **TORN)]
    resumed = train_all(lake, specs, processes=2)
    files[8] = names_in(lake, 8)
    return Runs(lake, begun, alone.all, resumed, files, first.name)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("alone") / "lake")


def folder_of(lake: Lake, run: str, step: int) -> Path:
    return Path(lake.path("checkpoints", run, step_name(step)))


def names_in(lake: Lake, step: int) -> list[str]:
    return sorted(path.name for path in folder_of(lake, "parts", step).iterdir())


def test_fsdp_equals_one_process_and_resumes_on_one_and_on_two(runs: Runs) -> None:
    """Two sharded processes, then one without sharding, then two sharded ones again; dropout on."""
    whole = Events()
    train(make_spec(runs.lake, "whole", **STEADY), whole)
    counts = []
    losses: dict[int, float] = {}
    for events in (runs.begun["parts"], runs.alone, runs.resumed["parts"]):
        losses |= {event["step"]: event["loss"] for event in events if event["event"] == "step"}
        counts.append(sum(event["event"] == "resumed" for event in events))
    for step, names in runs.files.items():
        shards = [name for name in names if name.startswith("shard-")]
        assert len(shards) == (0 if step == 6 else 2), names
        assert ("model.safetensors" in names) == (step == 6)
    assert counts == [0, 1, 1]
    assert losses == pytest.approx(whole.losses(), abs=1e-5)
    model, state = checkpoint.load_model(runs.lake, "parts", tokenizer="sixty-four")
    assert state.step == 8
    folder = folder_of(runs.lake, "parts", 8)
    read = read_whole(folder, [name for name in shapes(folder) if "/" not in name])
    assert all(torch.equal(tensor, read[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("plain", 1e-6),
        pytest.param(
            "as-on-a-gpu",
            2e-3,  # gathered copies are rounded to bfloat16 at a different point
            marks=needs_bf16,
        ),
    ],
    ids=["plain", "as-on-a-gpu"],
)
def test_fsdp_equals_ddp(runs: Runs, name: str, tolerance: float) -> None:
    """Two processes each: same losses, weights and moments. The single process agrees too."""
    lake = runs.lake
    names = {parallel: f"{parallel}-{name}" for parallel in ("fsdp", "ddp")}
    one = Events()
    train(make_spec(lake, f"one-{name}", 4, **COMPARED[name]), one)
    for kind, value in (("step", "loss"), ("val", "val_loss")):
        expected = {event["step"]: event[value] for event in one.of(kind)}
        for run in names.values():
            values = {event["step"]: event[value] for event in runs.begun[run] if event["event"] == kind}
            assert values == pytest.approx(expected, abs=tolerance)
    folder = folder_of(lake, names["fsdp"], 4)
    copied = files_of(lake, names["ddp"], 4)
    read = read_whole(folder, shapes(folder))
    assert read.keys() == copied.keys()
    for key, tensor in copied.items():
        assert torch.allclose(tensor, read[key], atol=10 * tolerance), key


def test_a_damaged_shard_is_passed_over(runs: Runs) -> None:
    events = runs.resumed["torn"]
    (warning,) = (event["message"] for event in events if event["event"] == "warning")
    assert runs.damaged in warning
    assert [event["step"] for event in events if event["event"] == "resumed"] == [2]


def test_tensors_that_do_not_fit_are_named(lake: Lake) -> None:
    train(make_spec(lake, "shape", 2), Events())
    folder = folder_of(lake, "shape", 2)
    stored = load_file(folder / "model.safetensors")
    filled = {name: torch.zeros_like(tensor) for name, tensor in stored.items()}
    load_shards(filled, folder, alone=True)
    assert all(torch.equal(tensor, filled[name]) for name, tensor in stored.items())
    with pytest.raises(InputError, match=r"ln\.weight is \(16,\), expected \(17,\)"):
        load_shards({"ln.weight": torch.zeros(17)}, folder, alone=True)
    with pytest.raises(InputError, match="nothing_such is None"):
        load_shards({"nothing_such": torch.zeros(1)}, folder, alone=True)


def test_shards_that_cannot_be_written_are_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        save_shards({"a": torch.zeros(2)}, tmp_path / "file" / "below")
