"""The benchmark of duplicates at its smallest. No timing is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_judgement_at_scale_finds_what_was_planted(tmp_path: Path) -> None:
    size = ["--kept", "50000", "--new", "50000", "--copies", "4000", "--workers", "1"]
    command = [sys.executable, "-m", "benchmarks.dedup", "--only", "scale", *size, "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "dedup"
    dropped = result["ours"]["scale_50000_against_50000"]["dropped"]
    assert min(dropped["pair"], dropped["exact"], dropped["history"]) > 0.99
    assert dropped["copy"] > 0.9
    assert 0.3 < dropped["chain"] < 0.8
    assert dropped["boilerplate"] == 0
    assert "documents share a bucket" in done.stderr
