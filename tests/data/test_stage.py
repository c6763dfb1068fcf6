"""run_stage: rounds, resuming, recognising finished work."""

from functools import partial
from pathlib import Path

import pytest

from data.config import TokensConfig, content_settings
from data.errors import InputError
from data.lake.store import Lake
from data.stage import run_stage
from tests.data.lake.parts import make_part


def test_later_rounds_see_earlier_ones_and_a_second_run_writes_nothing(tmp_path: Path) -> None:
    dataset = Lake(tmp_path).dataset("tokens", "demo")
    made: list[str] = []

    def make(name: str):
        made.append(name)
        return make_part(dataset, [len(made)], name)

    def rounds():
        yield ["part-00000", "part-00001"]
        yield [f"part-1-{len(dataset.sealed()):05d}"]

    first = run_stage(dataset, TokensConfig(), {"select": "d"}, rounds, make)
    assert made == ["part-00000", "part-00001", "part-1-00002"]
    assert not first.skipped
    second = run_stage(dataset, TokensConfig(), {"select": "d"}, rounds, make)
    assert second.skipped
    assert second.manifest == first.manifest
    assert len(made) == 3


def test_an_interrupted_run_resumes_to_the_same_digest(tmp_path: Path) -> None:
    names = [f"part-{index:05d}" for index in range(5)]
    whole = Lake(tmp_path / "whole").dataset("tokens", "demo")
    expected = run_stage(
        whole, TokensConfig(), {}, lambda: [names], lambda name: make_part(whole, [int(name[-1])], name)
    )

    dataset = Lake(tmp_path / "cut").dataset("tokens", "demo")
    made: list[str] = []

    def make(name: str, fail_at: str | None):
        if name == fail_at:
            raise RuntimeError("killed")
        made.append(name)
        return make_part(dataset, [int(name[-1])], name)

    with pytest.raises(RuntimeError, match="killed"):
        run_stage(dataset, TokensConfig(), {}, lambda: [names], partial(make, fail_at="part-00003"))
    assert dataset.manifest() is None
    outcome = run_stage(dataset, TokensConfig(), {}, lambda: [names], partial(make, fail_at=None))
    assert made == names
    assert outcome.manifest.digest == expected.manifest.digest


def test_a_damaged_sealed_part_is_detected_before_it_is_reused(tmp_path: Path) -> None:
    dataset = Lake(tmp_path).dataset("tokens", "demo")
    dataset.begin(content_settings(TokensConfig()), {})
    make_part(dataset, [1, 2, 3], "part-00000")
    path = tmp_path / "tokens" / "demo" / "part-00000.parquet"
    body = bytearray(path.read_bytes())
    body[10] ^= 0xFF
    path.write_bytes(body)
    with pytest.raises(InputError, match=r"part-00000\.parquet: sha256 is"):
        run_stage(dataset, TokensConfig(), {}, lambda: [["part-00000"]], lambda name: make_part(dataset, [1], name))
