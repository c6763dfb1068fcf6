"""The import rules hold by rooms. A module without a room, or a room without a floor, fails the lint."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the program's sources and of the rules."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("data", "model", "flows"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def lint(tree: Path) -> tuple[int, str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env={"PYTHONPATH": str(tree)})
    return done.returncode, done.stdout + done.stderr


def test_the_import_rules_hold(tree: Path) -> None:
    assert lint(tree)[0] == 0


@pytest.mark.parametrize("name", ["stray.py", "attic/__init__.py"])
def test_a_module_of_data_without_a_floor_fails_the_lint(tree: Path, name: str) -> None:
    path = tree / "data" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    status, output = lint(tree)
    assert status == 1
    assert name.partition(".")[0].partition("/")[0] in output


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("data/http/retry.py", "import data.pages.politeness"),  # upwards
        ("data/text/signals.py", "import data.select.minhash"),  # sideways: from one stage to another
        ("data/urls/variants.py", "import data.lake.store"),
        ("data/trace.py", "import data.report"),
        ("data/errors.py", "import model.flops"),
        ("model/flops.py", "import data.http.client"),
        ("model/flops.py", "import prefect"),
        ("flows/settings.py", "import mlflow"),
    ],
)
def test_an_import_that_breaks_a_rule_fails_the_lint(tree: Path, path: str, line: str) -> None:
    (tree / path).write_text(f"{(tree / path).read_text()}\n{line}\n")
    status, output = lint(tree)
    assert status == 1
    assert line.removeprefix("import ") in output


def test_the_model_imports_only_the_rooms_listed_here() -> None:
    """A room that someone adds is forbidden to the model until this test is changed."""
    (floors,) = (contract["layers"] for contract in CONTRACTS if contract.get("containers") == ["data"])
    rooms = {f"data.{name}" for floor in floors for name in floor.split(" | ")}
    (ban,) = (contract["forbidden_modules"] for contract in CONTRACTS if contract["name"].startswith("of data,"))
    allowed = {f"data.{name}" for name in "lake schema bpe evalsets settings errors process figures".split()}
    assert rooms - set(ban) == allowed
