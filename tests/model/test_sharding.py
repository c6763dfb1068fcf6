"""FSDP2 over gloo: the same training as one process, and checkpoints that any number of processes reads."""

from __future__ import annotations

import json
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
from tests.model.running import Events, files_of, needs_bf16, run_process


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("sharding") / "lake")


def folder_of(lake: Lake, run: str, step: int) -> Path:
    return Path(lake.path("checkpoints", run, step_name(step)))


def finish(process: Any) -> list[dict[str, Any]]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_fsdp_equals_one_process_and_resumes_on_one_and_on_two(lake: Lake) -> None:
    """Two sharded processes, then one without sharding, then two sharded ones again; dropout on."""
    steady = {"schedule": "wsd", "final_lr_share": 1.0}  # a shorter run has the same learning rates
    whole = Events()
    train(make_spec(lake, "whole", **steady), whole)
    counts = []
    losses: dict[int, float] = {}
    for steps, processes, parallel in ((3, 2, "fsdp"), (6, 1, "ddp"), (8, 2, "fsdp")):
        events = finish(
            run_process(lake, make_spec(lake, "parts", steps, parallel=parallel, **steady), processes=processes)
        )
        losses |= {event["step"]: event["loss"] for event in events if event["event"] == "step"}
        counts.append(sum(event["event"] == "resumed" for event in events))
        names = sorted(path.name for path in folder_of(lake, "parts", steps).iterdir())
        shards = [name for name in names if name.startswith("shard-")]
        assert len(shards) == (2 if parallel == "fsdp" else 0), names
        assert ("model.safetensors" in names) == (parallel == "ddp")
    assert counts == [0, 1, 1]
    assert losses == pytest.approx(whole.losses(), abs=1e-5)
    model, state = checkpoint.load_model(lake, "parts", tokenizer="sixty-four")
    assert state.step == 8
    folder = folder_of(lake, "parts", 8)
    read = read_whole(folder, [name for name in shapes(folder) if "/" not in name])
    assert all(torch.equal(tensor, read[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-6),
        pytest.param(
            {"precision": "autocast", "recompute": "true", "optimizer": "muon"},
            2e-3,  # gathered copies are rounded to bfloat16 at a different point
            marks=needs_bf16,
        ),
    ],
    ids=["plain", "as-on-a-gpu"],
)
def test_fsdp_equals_ddp(lake: Lake, settings: dict[str, str], tolerance: float) -> None:
    """Two processes each: same losses, weights and moments. The single process agrees too."""
    runs = {"fsdp": f"sharded-{len(settings)}", "ddp": f"copied-{len(settings)}"}
    found = {
        parallel: finish(run_process(lake, make_spec(lake, run, 4, parallel=parallel, **settings), processes=2))
        for parallel, run in runs.items()
    }
    one = Events()
    train(make_spec(lake, f"plain-{len(settings)}", 4, **settings), one)
    for kind, name in (("step", "loss"), ("val", "val_loss")):
        expected = {event["step"]: event[name] for event in one.of(kind)}
        for events in found.values():
            values = {event["step"]: event[name] for event in events if event["event"] == kind}
            assert values == pytest.approx(expected, abs=tolerance)
    folder = folder_of(lake, runs["fsdp"], 4)
    copied = files_of(lake, runs["ddp"], 4)
    read = read_whole(folder, shapes(folder))
    assert read.keys() == copied.keys()
    for name, tensor in copied.items():
        assert torch.allclose(tensor, read[name], atol=10 * tolerance), name


def test_a_damaged_shard_is_passed_over(lake: Lake) -> None:
    settings: dict[str, Any] = {"parallel": "fsdp", "checkpoint_every": 2}
    finish(run_process(lake, make_spec(lake, "torn", 4, **settings), processes=2))
    (first, _) = sorted(folder_of(lake, "torn", 4).glob("shard-*"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    events = finish(run_process(lake, make_spec(lake, "torn", 5, **settings), processes=2))
    (warning,) = (event["message"] for event in events if event["event"] == "warning")
    assert first.name in warning
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
