"""Numbers and names in the ADRs, checked against the code."""

from __future__ import annotations

import re

import pytest

from data.config import SelectConfig
from data.schema import VOLATILE
from tests import documents

ADRS = sorted((documents.ROOT / "docs" / "adr").glob("*.md"))


def adr(number: int) -> str:
    (path,) = [path for path in ADRS if path.name.startswith(f"{number:04d}-")]
    return path.read_text()


def n_lines(*modules: str) -> int:
    return sum(len((documents.ROOT / "data" / module).read_text().splitlines()) for module in modules)


def numbers(text: str, pattern: str) -> list[int]:
    match = re.search(pattern, text)
    assert match, pattern
    return [int(value.replace(",", "")) for value in match.groups()]


def test_sizes_of_modules_are_about_right() -> None:
    ours, others = numbers(adr(11), r"[Aa]bout (\d+) lines[^.]*about (\d+) more")
    assert ours == pytest.approx(n_lines("http/client.py", "http/connection.py", "http/exchange.py"), rel=0.15)
    assert others == pytest.approx(n_lines("http/decode.py", "http/streams.py", "http/guard.py"), rel=0.15)
    (cdx,) = numbers(adr(14), r"about (\d+) lines, pure")
    assert cdx == pytest.approx(n_lines("archives/cdx.py"), rel=0.15)


def test_the_near_duplicate_scheme_is_the_default() -> None:
    config = SelectConfig()
    scheme = numbers(adr(5), r"(\d+) permutations in (\d+) bands of (\d+) rows")
    assert scheme == [config.permutations, config.bands, config.rows]
    assert numbers(adr(5), r"at least (\d+) % of the") == [100 * config.threshold]
    chance = 1 - (1 - 0.8**config.rows) ** config.bands
    assert f"probability {chance:.3f}" in adr(5)


def test_servers_are_recognised_by_their_command_line() -> None:
    services = documents.read("flows/services.py")
    assert "cmdline()" in services
    assert "create_time" not in services
    assert "by its command line, not by its start time" in " ".join(adr(4).split())


def test_validators_and_places_stay_out_of_the_digest() -> None:
    assert {"fetched_at", "warc_file", "warc_offset", "etag", "last_modified"} == VOLATILE
    assert "fetch times, places in WARC files, validators" in adr(2)


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.name)
def test_every_module_that_an_adr_names_exists(path) -> None:
    named = re.findall(r"`((?:data|model|flows|tests)/[\w./-]+)`", path.read_text())
    assert [name for name in named if not (documents.ROOT / name).exists()] == []
    title = path.read_text().splitlines()[0]
    assert title.startswith(f"# {int(path.name[:4])}. ")


def test_the_changelog_follows_its_format() -> None:
    headings = re.findall(r"^(#+ .+)$", documents.read("CHANGELOG.md"), re.MULTILINE)
    assert headings[:2] == ["# Changelog", "## [Unreleased]"]
    kinds = {heading.removeprefix("### ") for heading in headings if heading.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
