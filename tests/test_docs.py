"""The documents are true: every command and option exists, statuses are printed from the schema, modules exist."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from data.schema import MEANINGS, SCHEMAS, STAGES, STATUSES, VOLATILE
from flows.cli import main as cli
from flows.cli import options
from model.config import ModelConfig, TrainConfig, resolve
from tests import documents

ROOT = Path(__file__).parents[1]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


GUIDE_COMMANDS = [(name, line) for name in documents.GUIDES for line in documents.commands(name)]
OTHER_PROGRAMS = {"export", "pip", "prefect"}


def parsed(line: str) -> dict[str, Any]:
    """The parameters of a ``webtext`` command, after the checks that the command makes before it does anything."""
    _, name, *words = shlex.split(line)
    context = COMMANDS[name].make_context(name, words)
    if name == "train":
        train_preset(context.params)
    return context.params


def train_preset(params: dict[str, Any]) -> None:
    overrides = options.pairs(params["overrides"] or [])
    steps = {} if params["steps"] is None else {"steps": str(params["steps"])}
    resolve(params["preset"], {**overrides, **steps}).train.require_divisible(params["processes"])


@pytest.mark.parametrize(("guide", "line"), GUIDE_COMMANDS)
def test_every_command_of_the_guides_exists(guide: str, line: str) -> None:
    program, *words = shlex.split(line)
    if program == "webtext":
        assert parsed(line)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", documents.read("Makefile"), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    else:
        assert program in OTHER_PROGRAMS


@pytest.mark.parametrize("guide", documents.GUIDES)
def test_commands_inside_sentences_exist(guide: str) -> None:
    for line in documents.inline_commands(guide, "webtext"):
        name = shlex.split(line)[1]
        assert name in COMMANDS, line
    targets = set(re.findall(r"^([\w-]+):", documents.read("Makefile"), re.MULTILINE))
    for line in documents.inline_commands(guide, "make"):
        assert {word for word in line.split()[1:] if "=" not in word} <= targets, line


def test_the_prefect_commands_of_the_readme_exist() -> None:
    lines = [line for line in documents.commands("README.md") if line.startswith("prefect ")]
    assert len(lines) == 3
    for line in lines:
        words = [word for word in shlex.split(line)[1:] if word != "--no-prompt"]
        path = words[: next((i for i, word in enumerate(words) if word.startswith("--")), len(words))]
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *path, "--help"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for option in (word for word in words if word.startswith("--")):
            assert option in done.stdout, f"{line}: no {option}"


@pytest.mark.parametrize("guide", documents.GUIDES)
def test_every_path_of_the_guides_exists(guide: str) -> None:
    missing = [path for path in documents.paths(guide) if not (ROOT / path).exists()]
    assert not missing
    folder = (ROOT / guide).parent
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", documents.prose(guide)):
        assert (folder / target).exists(), f"{guide} links to {target}"


def test_every_command_is_in_the_readme_or_explained_by_help() -> None:
    used = {shlex.split(line)[1] for line in documents.commands("README.md") if line.startswith("webtext ")}
    assert {"refresh", "train", "eval", "sample", "export", "report", "why", "status", "ui"} <= used
    for name, command in COMMANDS.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert parameter.help, f"{name} {parameter.opts} has no help"


def test_statuses_are_documented_from_the_schema() -> None:
    lines = ["# Statuses", "", "What can become of a row, stage by stage; printed from `data/schema.py`."]
    for stage, statuses in STATUSES.items():
        lines += ["", f"## {stage}", "", "| status | meaning |", "| --- | --- |"]
        lines += [f"| `{status.value}` | {status.__doc__} |" for status in statuses]
    assert (ROOT / "docs" / "statuses.md").read_text() == "\n".join(lines) + "\n"


def test_columns_are_documented_from_the_schema() -> None:
    assert tuple(SCHEMAS) == tuple(MEANINGS) == STAGES
    lines = [
        "# Columns",
        "",
        "Every column of the Parquet files in the lake, stage by stage; printed from `data/schema.py`. Columns marked",
        "with * may differ between two runs over the same web, so they are not part of a digest.",
    ]
    for stage, schema in SCHEMAS.items():
        assert list(MEANINGS[stage]) == schema.names
        lines += ["", f"## {stage}", "", "| column | type | meaning |", "| --- | --- | --- |"]
        for column in schema:
            star = "*" if column.name in VOLATILE else ""
            lines.append(f"| `{column.name}`{star} | `{column.type}` | {MEANINGS[stage][column.name]} |")
    assert (ROOT / "docs" / "columns.md").read_text() == "\n".join(lines) + "\n"


@pytest.mark.parametrize("package", ["data", "model", "flows"])
def test_the_architecture_names_exactly_the_rooms_and_modules(package: str) -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    section = text.split(f"## {package}/", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(\w+/?)`", "".join(line for line in section.splitlines() if line.startswith("|"))))
    folders = {path.parent for path in (ROOT / package).glob("*/__init__.py")}
    modules = {path.stem for folder in (ROOT / package, *folders) for path in folder.glob("*.py")} - {"__init__"}
    rooms = {f"{folder.name}/" for folder in folders}
    evals = {path.stem for path in (ROOT / "model" / "evals").glob("*.py")}
    assert named - modules - rooms - {"InputError"} == set()
    assert (modules | rooms) - named - evals == set()


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    pattern = re.compile(r"/(?:work|root|tmp/bash_jobs|home/\w+)/")
    for path in ROOT.rglob("*"):
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt"} and ".venv" not in path.parts:
            relative = path.relative_to(ROOT)
            if (
                relative.parts[0] in {"data", "model", "flows", "docs", "benchmarks", "docker"}
                or len(relative.parts) == 1
            ):
                assert not pattern.search(path.read_text()), relative


def test_every_setting_of_training_is_documented() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    fields = {field.name for cls in (ModelConfig, TrainConfig) for field in dataclasses.fields(cls)}
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert fields <= named, fields - named


def test_every_webtext_command_in_the_training_guide_parses() -> None:
    lines = [line for line in (ROOT / "docs" / "training.md").read_text().splitlines() if line.startswith("webtext ")]
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line.partition("#")[0])
        context = COMMANDS[words[1]].make_context(words[1], words[2:])
        overrides = dict(pair.split("=") for pair in context.params["overrides"])
        resolve(context.params["preset"], overrides).train.require_divisible(context.params["processes"])


def test_every_name_in_the_walks_exists() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    walks = text.split("## Four walks", 1)[1].split("\n## ", 1)[0]
    for walk in re.split(r"\n\*\*.*\*\*\n", walks)[1:]:
        assert 1 <= len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) <= 10
    source = "\n".join(path.read_text() for room in ("data", "model") for path in (ROOT / room).rglob("*.py"))
    defined = set(re.findall(r"^\s*(?:async )?(?:def|class) (\w+)|^(\w+)(?:: TypeAlias)? = ", source, re.MULTILINE))
    names = {name for pair in defined for name in pair if name}
    for quoted in re.findall(r"`([\w./]+)`", walks):
        last = quoted.rpartition(".")[2]
        is_file = quoted.endswith(("/", ".json")) or quoted in {"evaluate", "doc_id"}
        assert is_file or last in names, f"`{quoted}` is not defined"
