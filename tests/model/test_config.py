from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from data.errors import InputError
from model.config import ALIASES, PRESETS, ModelConfig, TrainConfig, TrainSpec, resolve
from model.optim import learning_rate


def test_aliases_are_the_same_presets() -> None:
    for alias, name in ALIASES.items():
        assert resolve(alias, {}) is not None
        assert resolve(alias, {}) == resolve(name, {}) == PRESETS[name]


def test_presets_follow_the_recipe_of_the_paper() -> None:
    for name in ALIASES.values():
        preset = PRESETS[name]
        assert (preset.train.batch_size, preset.model.context, preset.model.vocab_size) == (512, 1024, 50_257)
        assert preset.model.dropout == 0.0
        assert preset.model.width == 64 * preset.model.heads


def test_overrides_are_typed() -> None:
    preset = resolve("124M", {"learning_rate": "1e-3", "width": "96", "steps": "1_000", "precision": "float32"})
    assert (preset.train.learning_rate, preset.model.width, preset.train.steps) == (1e-3, 96, 1000)
    assert PRESETS["124M"].model.width == 768


def test_a_number_may_be_left_to_the_program() -> None:
    values = [resolve("nano", {"val_batch_tokens": text}).train.val_batch_tokens for text in ("auto", "4_096")]
    assert values == ["auto", 4_096]
    assert resolve("nano", {}).train.val_batch_tokens == "auto"


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("125M", {}, "--preset 125M: no such preset; choose from nano, mini, 124M, 355M, 774M, 1558M, 117M"),
        ("nano", {"lr": "1"}, "--set lr=1: no such setting; choose from batch_size, batch_warmup_steps, beta1"),
        ("nano", {"steps": "1.5"}, "--set steps=1.5: must be a whole number"),
        ("nano", {"learning_rate": "fast"}, "--set learning_rate=fast: must be a number"),
        ("nano", {"steps": "0"}, "steps must be greater than 0, got 0"),
        ("nano", {"learning_rate": "inf"}, "learning_rate must be a finite number, got inf"),
        ("nano", {"clip_norm": "nan"}, "clip_norm must be a finite number, got nan"),
        ("nano", {"dropout": "1"}, "dropout must be less than 1, got 1.0"),
        ("nano", {"recompute": "yes"}, "--set recompute=yes: must be true or false"),
        ("nano", {"val_batch_tokens": "all"}, "--set val_batch_tokens=all: must be a whole number or auto"),
        ("nano", {"val_batch_tokens": "0"}, "val_batch_tokens must be greater than 0, got 0"),
        ("nano", {"width": "97"}, "width must be divisible by heads=4, got 97"),
        ("nano", {"seed": "9" * 23}, "--set seed=99999999999999999999999: must be a whole number of 64 bits"),
        (
            "nano",
            {"precision": "half"},
            "precision must be 'auto', 'float32', 'tf32', 'autocast' or 'bfloat16', got 'half'",
        ),
    ],
)
def test_bad_settings_are_refused(preset: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(preset, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_spec_survives_json() -> None:
    spec = TrainSpec("lake", ("a", "b"), "run", "nano", "cache", overrides={"seed": "3"}, steps=5)
    assert TrainSpec.from_json(spec.to_json(), "x") == spec
    assert spec.resolve().train.steps == 5
    assert spec.resolve().train.seed == 3
    with pytest.raises(InputError, match=r"spec.json: not a valid TrainSpec .*\(colour: no such setting"):
        TrainSpec.from_json({**spec.to_json(), "colour": "red"}, "spec.json")


@pytest.mark.parametrize(
    ("corpus", "run", "message"),
    [((), "r", "is empty"), (("a", "a"), "r", "twice"), (("a",), "../r", "not a valid run")],
)
def test_bad_specs_are_refused(corpus: tuple[str, ...], run: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSpec("lake", corpus, run, "nano", "cache")


def test_a_model_config_of_another_version_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"config\.json: not a valid ModelConfig for this version of webtext \(heads is missing\)"
    ):
        ModelConfig.from_json({"layers": 2}, "config.json")


@pytest.mark.parametrize("value", ["2", 2.0, True, None])
def test_values_are_not_converted(value: Any) -> None:
    with pytest.raises(InputError, match="layers must be a valid integer, got "):
        ModelConfig(layers=value, heads=1, width=8)


def test_configs_compare_by_value() -> None:
    config = resolve("nano", {}).train
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(dataclasses.replace(config))
    assert TrainConfig.from_json(config.to_json(), "x") == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 1  # type: ignore[misc]
    with pytest.raises(InputError, match="steps must be greater than 0, got -1"):
        dataclasses.replace(config, steps=-1)


def test_overrides_count_together_whatever_their_order() -> None:
    pairs = [("batch_size", "4"), ("batch_warmup_steps", "0")]
    for overrides in (dict(pairs), dict(reversed(pairs))):
        assert resolve("nano", overrides).train.batch_size == 4
    with pytest.raises(InputError, match="divisible by 8 to warm up, got 4; choose another one, or set batch_warmup"):
        resolve("nano", {"batch_size": "4"})


def test_settings_of_the_machine_are_not_content() -> None:
    config = resolve("nano", {}).train
    content = config.content()
    assert {"learning_rate", "batch_size", "seed", "precision"} <= content.keys()
    assert not {"steps", "micro_batch_size", "parallel", "log_every", "max_steps_left_out"} & content.keys()


def test_the_learning_rate_follows_its_schedule() -> None:
    config = resolve("mini", {"steps": "101", "warmup_steps": "10", "learning_rate": "1"}).train
    assert [learning_rate(step, config) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(10, config) == pytest.approx(1.0)
    assert learning_rate(55, config) == pytest.approx(0.55)  # half way down to a tenth
    assert learning_rate(100, config) == pytest.approx(0.1)
    rates = [learning_rate(step, config) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("preset", "steps", "warmup", "growing"),
    [
        ("124M", 572_204, 715, 0),
        ("124M", 20_000, 715, 0),  # 5 % would be more
        ("124M", 2_000, 100, 0),
        ("124M", 500, 25, 0),
        ("124M", 100, 5, 0),
        ("124M", 1, 1, 0),
        ("mini", 400, 20, 0),
        ("mini", 1_600, 40, 0),
        ("nano", 432, 20, 432),
        ("nano", 864, 20, 432),
        ("nano", 100, 5, 100),
    ],
)
def test_a_short_run_reaches_its_peak_and_falls(preset: str, steps: int, warmup: int, growing: int) -> None:
    resolved = resolve(preset, {"steps": str(steps)})
    config = resolved.train
    assert (config.warmup_steps, config.batch_warmup_steps) == (warmup, growing)
    assert bool(resolved.notes) == (warmup < PRESETS[preset].train.warmup_steps)
    rates = [learning_rate(step, config) for step in range(0, steps, max(1, steps // 5_000))]
    if steps > 1:
        assert max(rates) > 0.99 * config.learning_rate
        assert learning_rate(steps - 1, config) == pytest.approx(config.final_lr_share * config.learning_rate)
        assert config.batch_at(steps - 1) == config.batch_size
    config.require_apart()


def test_a_warm_up_that_is_set_is_not_fitted() -> None:
    resolved = resolve("124M", {"steps": "500", "warmup_steps": "300", "batch_warmup_steps": "400"})
    assert (resolved.train.warmup_steps, resolved.train.batch_warmup_steps) == (300, 400)
    assert resolved.notes == ()
    (note,) = resolve("124M", {"steps": "500"}).notes
    assert note.startswith("warmup_steps is 25 instead of 715, because the run has 500 steps and the preset 572,204")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"steps": "500", "warmup_steps": "501"}, "warmup_steps=501 do not fit into a run of 500 steps; lower them"),
        (
            {"steps": "500", "warmup_steps": "401", "schedule": "wsd"},
            r"warmup_steps=401 and the last 100 steps, in which the rate falls \(decay_share=0.2\), do not fit",
        ),
        ({"steps": "500", "schedule": "wsd", "decay_share": "1"}, "warmup_steps=25 and the last 500 steps"),
    ],
)
def test_a_rise_and_a_fall_that_overlap_are_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve("124M", overrides).train.require_apart()


def test_a_rise_and_a_fall_that_just_fit_are_allowed() -> None:
    cosine = resolve("124M", {"steps": "500", "warmup_steps": "500"}).train
    wsd = resolve("124M", {"steps": "500", "warmup_steps": "400", "schedule": "wsd"}).train
    level = resolve("124M", {"steps": "3", "warmup_steps": "2", "schedule": "wsd", "final_lr_share": "1"}).train
    for config, falling in ((cosine, 0), (wsd, 100), (level, 0)):
        config.require_apart()
        assert config.falling_steps(config.steps) == falling


def test_a_run_of_one_step_does_not_warm_up() -> None:
    config = resolve("nano", {"steps": "1"}).train
    config.require_apart()
    assert (config.warmup_steps, config.falling_steps(1)) == (0, 1)
