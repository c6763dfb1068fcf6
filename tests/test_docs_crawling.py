"""docs/crawling.md is true: its table of limits is PagesConfig, its commands parse, its statuses and options exist."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from data.config import PagesConfig
from data.pages.crawllog import HOST_EVENTS, TASK_EVENTS
from data.schema import PageStatus
from flows.cli import main as cli

TEXT = (Path(__file__).parents[1] / "docs" / "crawling.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (yes|no) \| (.+) \|$", TEXT, re.MULTILINE)
FIELDS = {field.name: field for field in dataclasses.fields(PagesConfig)}
COMMAND = typer.main.get_command(cli.app).commands["refresh"]  # type: ignore[attr-defined]
OPTIONS = {option: parameter.name for parameter in COMMAND.params for option in parameter.opts}


def as_default(cell: str, real: Any) -> Any:
    return cell.split() if dataclasses.is_dataclass(real) else ast.literal_eval(cell)


def test_every_setting_is_in_the_table_once() -> None:
    assert sorted(name for name, *_ in ROWS) == sorted(FIELDS)


@pytest.mark.parametrize(("name", "default", "decides", "why"), ROWS)
def test_each_row_matches_its_setting(name: str, default: str, decides: str, why: str) -> None:
    real = FIELDS[name].default
    written = as_default(default, real)
    assert written == (list(dataclasses.astuple(real)) if dataclasses.is_dataclass(real) else real)
    assert type(written) is type(real) or dataclasses.is_dataclass(real)
    assert (decides == "no") is bool(FIELDS[name].metadata.get("operational", False))
    assert len(why) > 20


def test_the_row_of_a_setting_names_its_option() -> None:
    named = {name: found[0] for name, *_, why in ROWS if (found := re.findall(r"`(--[a-z-]+)`", why))}
    renamed = {"--archive": "archives", "--deadline": "deadline_s", "--host-delay": "host_delay_s"}
    expected = {renamed.get(option, name): option for option, name in OPTIONS.items()}
    assert named == {name: option for name, option in expected.items() if name in FIELDS}


def test_every_option_in_the_text_exists() -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) - {"--params"} <= OPTIONS.keys()


@pytest.mark.parametrize("line", re.findall(r"^webtext .*$", TEXT, re.MULTILINE))
def test_every_command_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    assert name == "refresh"
    assert COMMAND.make_context(name, arguments).params["sources"]


def test_every_opt_out_and_every_event_is_documented() -> None:
    opt_outs = {status.value for status in PageStatus if status.value.startswith("opt_out")}
    assert opt_outs | {"robots_disallowed"} == set(re.findall(r"\| `(\w+)` \|$", TEXT, re.MULTILINE))
    assert all(f"`{event}`" in TEXT for event in TASK_EVENTS | HOST_EVENTS)


def test_every_link_into_the_docs_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (Path(__file__).parents[1] / "docs" / target).exists(), target
