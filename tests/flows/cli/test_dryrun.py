"""``webtext train --dry-run``: the arithmetic of the paper's sizes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import InputError
from flows.cli import main as cli
from flows.cli import show
from flows.cli.dryrun import train_plan
from model import config

PARAMETERS = {"124M": 124_439_808, "355M": 354_823_168, "774M": 774_030_080, "1558M": 1_557_611_200}


@pytest.mark.parametrize(("preset", "parameters"), PARAMETERS.items())
def test_the_plan_has_the_sizes_of_the_paper(preset: str, parameters: int) -> None:
    plan = train_plan(preset, {}, None)
    size, one, eight = plan.size, plan.gpus["1"], plan.gpus["8 ddp"]
    assert size.parameters == parameters
    assert size.tokens_per_step == 512 * 1024
    assert size.tokens == size.steps * size.tokens_per_step
    assert size.flop == size.flop_per_token * size.tokens
    assert size.checkpoint_bytes == 12 * parameters
    assert one.a100_hours == pytest.approx(size.flop / (0.4 * 312e12) / 3600)
    assert eight.a100_hours == pytest.approx(one.a100_hours / 8)
    for gpu in (one, eight):
        for memory in gpu.memory.values():
            assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    assert one.memory["plain"]["gradients"] == 6 * parameters, "bfloat16"
    assert eight.memory["plain"]["gradients"] == 8 * parameters, "autocast, with buckets"
    plain, recomputed = one.memory["plain"], one.memory["recompute"]
    sizes = one.micro_batch_size
    assert sizes["plain"] <= sizes["recompute"]
    assert recomputed["activations"] / sizes["recompute"] < plain["activations"] / sizes["plain"] / 4
    sharded = plan.gpus["8 fsdp"].memory["plain"]
    assert sharded["optimizer"] == parameters
    assert sharded["weights"] < eight.memory["plain"]["weights"] / 3
    assert max(plain["total"], recomputed["total"]) < 0.88 * 80e9, "the micro-batch must fit a card of 80 GB"


def test_steps_and_settings_change_the_plan() -> None:
    plan = train_plan("124M", {"micro_batch_size": "16", "precision": "float32"}, 100)
    usual = train_plan("124M", {"micro_batch_size": "8", "compile": "false"}, None)
    assert plan.size.tokens == 100 * 512 * 1024
    assert plan.gpus["1"].memory["plain"]["weights"] == 4 * PARAMETERS["124M"]
    assert plan.gpus["1"].micro_batch_size == {"plain": 16, "recompute": 16}
    beside = 50_257 * 2_048 * 4  # the softmax of some rows, not in a compiled loss
    assert plan.gpus["1"].memory["plain"]["logits"] == 16 * 1024 * 4 * 50_257 + 2 * 50_257 * 768 * 4  # and the head
    assert usual.gpus["1"].memory["plain"]["logits"] == 8 * 1024 * 2 * 50_257 + beside + 2 * 50_257 * 768 * 2


def test_the_plan_of_a_short_run_states_its_warm_up(capsys: pytest.CaptureFixture[str]) -> None:
    plan = train_plan("124M", {}, 500)
    assert plan.training.warmup_steps == 25
    show.training_plan(plan)
    assert "note: warmup_steps is 25 instead of 715, because the run has 500 steps" in capsys.readouterr().out
    assert train_plan("124M", {}, None).notes == []
    with pytest.raises(InputError, match="warmup_steps=600 do not fit into a run of 500 steps"):
        train_plan("124M", {"warmup_steps": "600"}, 500)


def test_the_presets_file_states_the_right_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [train_plan(preset, {"micro_batch_size": "1"}, None) for preset in PARAMETERS]
    monkeypatch.setattr("flows.cli.dryrun.USUAL_CARD", ("a card", 80 * 10**9))
    large = [train_plan(preset, {}, None).gpus["1"].micro_batch_size["plain"] for preset in PARAMETERS]
    monkeypatch.setattr("flows.cli.dryrun.USUAL_CARD", ("a card", 24 * 10**9))
    small = [train_plan(preset, {}, None).gpus["1"].micro_batch_size["plain"] for preset in PARAMETERS]
    sizes = [plan.size.flop_per_token / 1e9 for plan in plans]
    alone = [plan.gpus["1"].memory["plain"]["total"] / 1e9 for plan in plans]
    sharded = [plan.gpus["8 fsdp"].memory["recompute"]["total"] / 1e9 for plan in plans]
    seconds = [plan.gpus["1"].a100_hours * 3600 / plan.size.steps for plan in plans]
    text = Path(config.__file__).read_text()
    for numbers, digits in ((sizes, 2), (large, 0), (small, 0), (alone, 1), (sharded, 1), (seconds, 1)):
        assert re.search(r"\s+".join(re.escape(f"{number:.{digits}f}") for number in numbers), text), numbers


def test_muon_keeps_one_number_per_matrix_weight() -> None:
    """One number per weight of the blocks' matrices, two per other weight."""
    plan, usual = (train_plan("124M", {"optimizer": name}, None) for name in ("muon", "adamw"))
    matrices = 12 * (4 * 768 * 768 + 8 * 768 * 768)
    assert usual.size.checkpoint_bytes - plan.size.checkpoint_bytes == 4 * matrices
    kept = [each.gpus["1"].memory["plain"]["optimizer"] for each in (plan, usual)]
    assert kept[1] - kept[0] == 4 * matrices


def test_the_requested_number_of_processes_is_planned() -> None:
    plan = train_plan("124M", {}, None, processes=4)
    assert list(plan.gpus) == ["1", "4 ddp", "4 fsdp", "8 ddp", "8 fsdp"]
    assert plan.gpus["4 ddp"].a100_hours == pytest.approx(plan.gpus["1"].a100_hours / 4)


@pytest.mark.parametrize("option", [["--steps", "0"], ["--set", "steps=0"]])
def test_zero_steps_are_wrong_usage(option: list[str]) -> None:
    result = CliRunner().invoke(cli.app, ["train", "--corpus", "none", "--preset", "nano", *option, "--dry-run"])
    assert result.exit_code == 2
    assert "steps must be greater than 0, got 0" in result.output


def test_bfloat16_is_not_planned_with_shards() -> None:
    """model.train refuses the combination."""
    with pytest.raises(InputError, match="whose shards are fp32"):
        train_plan("124M", {"precision": "bfloat16", "parallel": "fsdp"}, None)
    assert list(train_plan("124M", {"precision": "bfloat16"}, None).gpus) == ["1", "8 ddp"]


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--corpus", "none", "--preset", "117M", "--dry-run"]
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0
    plan = json.loads(result.stdout.splitlines()[-1])
    assert plan["size"]["parameters"] == PARAMETERS["124M"]
    assert plan["gpus"]["1"].keys() == {"micro_batch_size", "memory", "a100_hours"}
    show.training_plan(train_plan("117M", {}, None))
    printed = capsys.readouterr().out
    for text in ("124,439,808", "with recompute=true", "GPUs: 8 fsdp", "time at 40% of the peak of A100s"):
        assert text in printed


def test_a_batch_that_eight_gpus_cannot_share_is_planned_for_fewer(capsys: pytest.CaptureFixture[str]) -> None:
    plan = train_plan("nano", {"batch_size": "4", "batch_warmup_steps": "0"}, None)
    assert list(plan.gpus) == ["1"]
    show.training_plan(plan)
    assert "not on 8 GPUs: batch_size=4 is not divisible by 8 processes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": "500", "batch_warmup_steps": "9"}, "batch_size must be divisible by 8 to warm up, got 500"),
        ({"layers": "0"}, "layers must be greater than 0, got 0"),
    ],
)
def test_an_impossible_plan_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_plan("124M", settings, None)
