"""One lake of each kind."""

from pathlib import Path

import pytest

from data.lake.store import Lake


@pytest.fixture(params=["disk", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "disk":
        return Lake(tmp_path / "lake")
    request.getfixturevalue("s3")
    return Lake(f"s3://corpus/{request.node.name.translate(str.maketrans('[]', '--'))}")
