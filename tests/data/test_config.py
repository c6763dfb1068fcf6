"""Settings of the stages: which values are refused, and which settings decide the result."""

import pickle
from dataclasses import fields, replace
from typing import Any

import pytest

from data.config import (
    LinksConfig,
    PagesConfig,
    SelectConfig,
    StageConfig,
    TextConfig,
    TokensConfig,
    content_settings,
    operational_settings,
)
from data.errors import InputError

CONFIGS = [LinksConfig(), PagesConfig(), TextConfig(), SelectConfig(), TokensConfig()]


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (LinksConfig(), {"part_links": 0}, "part_links must be greater than 0, got 0"),
        (LinksConfig(), {"workers": -1}, "workers must be greater than or equal to 0, got -1"),
        (LinksConfig(), {"min_karma": "3"}, "min_karma must be a valid integer, got '3'"),
        (LinksConfig(), {"block_domains": ["a.example"]}, r"block_domains must be a valid tuple, got \['a.example'\]"),
        (PagesConfig(), {"max_wire_bytes": 0}, "max_wire_bytes must be greater than 0, got 0"),
        (PagesConfig(), {"host_delay_s": -1.0}, "host_delay_s must be greater than or equal to 0, got -1.0"),
        (PagesConfig(), {"robots_lifetime_s": 90_000.0}, "robots_lifetime_s .* less than or equal to 86400, got 90000"),
        (PagesConfig(), {"user_agent": "Bot/1.0"}, "user_agent must be letters, - and _, got 'Bot/1.0'"),
        (PagesConfig(), {"max_bytes": 1.5}, "max_bytes must be a valid integer, got 1.5"),
        (
            SelectConfig(),
            {"language": "english"},
            "language 'english' is none that texts are identified as; give a code",
        ),
        (SelectConfig(), {"bands": 7}, "bands x rows must equal permutations, got 7 x 8 != 112"),
        (SelectConfig(), {"threshold": 0.0}, "threshold must be greater than 0, got 0.0"),
        (SelectConfig(), {"threshold": 1.1}, "threshold must be less than or equal to 1, got 1.1"),
        (TokensConfig(), {"val_share": 1.0}, "val_share must be less than 1, got 1.0"),
    ],
)
def test_a_setting_outside_its_bounds_is_refused(config: StageConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        replace(config, **change)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_setting_is_either_content_or_operational(config: StageConfig) -> None:
    content, operational = content_settings(config), operational_settings(config)
    assert content.keys().isdisjoint(operational)
    assert content.keys() | operational.keys() == {field.name for field in fields(config)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_settings_pass_between_processes(config: StageConfig) -> None:
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_whole_number_of_seconds_is_the_same_setting_as_a_float() -> None:
    assert str(content_settings(TextConfig(timeout_s=5))) == str(content_settings(TextConfig(timeout_s=5.0)))
