"""Around the crawl: open files, the operator's contact, the log, and the options of `refresh`."""

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from data.config import LinksConfig, PagesConfig, SelectConfig
from flows import services
from flows.cli import main as cli
from flows.cli.options import select_config
from flows.crawl import FILES_RESERVED, allow_files, files_needed, lacks_contact, log_path
from flows.settings import Settings
from tests.flows.serving import webtext

IN_A_PROCESS = """
import json, resource, sys
from data.config import PagesConfig
from data.errors import InputError
from flows.crawl import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    fitting = allow_files(PagesConfig(max_connections=100)).max_connections
except InputError as error:
    fitting = str(error)
print(json.dumps([fitting, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (256, 10_000, [100, files_needed(100)]),  # raised only as far as needed
        (5_000, 10_000, [100, 5_000]),
        (256, FILES_RESERVED + 8 * 30 + 7, [30, FILES_RESERVED + 8 * 30 + 7]),  # as many connections as fit
        (256, 507, ["a crawl needs 508 open files, the limit is 507; raise `ulimit -Hn`", 507]),
    ],
)
def test_the_limit_of_open_files_is_raised_or_fewer_connections_are_used(
    soft: int, hard: int, expected: list[Any]
) -> None:
    command = [sys.executable, "-c", IN_A_PROCESS, str(soft), str(hard)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == expected


def test_a_sufficient_limit_of_open_files_is_unchanged() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < files_needed(1):
        pytest.skip("the limit of open files is below what one connection needs")
    pages = PagesConfig(max_connections=1)
    assert allow_files(pages) is pages


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"contact": "https://example.org/bot"}, False),
        ({"connect_to": ("*.example=127.0.0.1:8080",)}, False),
        ({"connect_to": ("*.example=[::1]:8080",)}, False),
        ({"connect_to": ("*.example=127.0.0.1:8080", "*=10.0.0.1:80")}, True),
        ({"allow_net": ("127.0.0.0/8",)}, True),
    ],
)
def test_crawling_the_public_web_needs_a_contact(settings: dict[str, Any], expected: bool) -> None:
    assert lacks_contact(PagesConfig(**settings)) is expected


def test_a_variant_shares_the_log_of_its_base(tmp_path: Path) -> None:
    path = log_path(Settings(home=tmp_path), "2026-11@gopher")
    assert path == tmp_path / "logs" / "crawl-2026-11.jsonl"


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[LinksConfig, PagesConfig]:
    """The settings that a command line results in, taken from its dry run."""
    seen: list[Any] = []

    def refresh_plan(_sources: list[str], links: LinksConfig, pages: PagesConfig, _lake: str) -> dict[str, Any]:
        seen.extend((links, pages))
        return {"dry_run": True}

    monkeypatch.setattr("flows.cli.dryrun.refresh_plan", refresh_plan)
    result = CliRunner().invoke(cli.app, ["refresh", "--links", "x.zst", "--dry-run", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return seen[0], seen[1]


def test_without_options_the_settings_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch) == (LinksConfig(), PagesConfig())


def test_every_option_of_the_crawl_reaches_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("# mine\nspam.example\nads.example  # both\n")
    two.write_text("ads.example\n\nmore.example\n")
    links, pages = asked(
        monkeypatch,
        *("--profile", "openwebtext", "--min-karma", "5", "--block-list", str(one), "--block-list", str(two)),
        *("--archive", "wayback", "--archive", "commoncrawl", "--archive", "wayback"),
        *("--host-delay", "2.5", "--max-connections", "17", "--max-links-per-host", "99"),
        *("--deadline", "1.5h", "--max-bytes", "2G", "--allow-net", "10.0.0.0/8", "--connect-to", "*=127.0.0.1:1"),
    )
    blocked = ("ads.example", "more.example", "spam.example")
    assert links == LinksConfig(min_karma=5, profile="openwebtext", block_domains=blocked)
    assert pages == PagesConfig(
        archives=("commoncrawl", "wayback"),
        host_delay_s=2.5,
        max_connections=17,
        max_links_per_host=99,
        deadline_s=5400.0,
        max_bytes=2_000_000_000,
        allow_net=("10.0.0.0/8",),
        connect_to=("*=127.0.0.1:1",),
    )


def test_all_archives_are_selected_in_query_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, "--archive", "all")[1].archives == ("commoncrawl", "wayback")


def test_the_name_of_a_variant_chooses_the_filters_that_are_called_so() -> None:
    assert select_config(None, "en", None) == select_config(None, "en", "2026-11@strict") == SelectConfig()
    assert select_config(None, "de", "2026-11@gopher") == SelectConfig(profile="gopher", language="de")
    assert select_config("fineweb", "en", "2026-11@strict") == SelectConfig(profile="fineweb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--archive", "archive.org"), "--archive archive.org: no such archive; choose from commoncrawl, wayback, all"),
        (("--max-connections", "0"), "'--max-connections': Input should be greater than or equal to 1"),
        (("--profile", "mine"), "--profile mine: no such list; choose from openwebtext, webtext"),
        (("--profile", "gopher"), "webtext; the filters of texts are chosen by --filters gopher"),
        (("--filters", "mine"), "--filters mine: no such filters; choose from webtext, gopher, fineweb"),
        (
            ("--filters", "gopher", "--snapshot", "a"),
            "snapshot a: the profile gopher makes a variant; name it a@gopher",
        ),
        (
            ("--filters", "fineweb", "--snapshot", "a@gopher"),
            "snapshot a@gopher is named like the profile gopher, but its profile is fineweb; choose the profile gopher",
        ),
        (
            ("--language", "English"),
            "language 'English' is none that texts are identified as; give a code such as en, de or zh",
        ),
        (("--max-bytes", "much"), "--max-bytes much: expected a number and one of K M G T, such as 2T"),
        (("--max-bytes", "8kbit"), "--max-bytes 8kbit: expected a number and one of K M G T, such as 2T"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["refresh", "--links", "x.zst", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_the_examples_in_the_help_parse() -> None:
    command = typer.main.get_command(cli.app).commands["refresh"]  # type: ignore[attr-defined]
    examples = [line.strip("`") for line in str(command.epilog).splitlines() if line.startswith("`webtext")]
    assert len(examples) == 2
    for example in examples:
        program, name, *arguments = shlex.split(example)
        assert (program, name) == ("webtext", "refresh")
        assert command.make_context(name, arguments).params["sources"]


def test_a_crawl_without_a_contact_says_so_and_is_logged(servers: services.Servers, home: Path, tmp_path: Path) -> None:
    """The real command on a host that cannot exist (RFC 6761), so that it contacts nobody."""
    (tmp_path / "urls.txt").write_text("http://a.invalid/\nhttp://b.invalid/\n")
    (tmp_path / "blocked.txt").write_text("b.invalid\n")
    environment = {"WEBTEXT_HOME": str(home), "WEBTEXT_LAKE": str(tmp_path / "lake"), "COLUMNS": "200"}
    run = webtext(
        {name: value for name, value in os.environ.items() if name != "WEBTEXT_CONTACT"} | environment,
        *("refresh", "--snapshot", "nowhere", "--links", f"urls:{tmp_path / 'urls.txt'}", "--host-delay", "0"),
        *("--block-list", str(tmp_path / "blocked.txt"), "--json"),
    )
    assert run.returncode == 0, run.stderr
    stages = json.loads(run.stdout)["stages"]
    assert (stages["links"]["by_status"]["blocked_domain"], stages["pages"]["by_status"]) == (1, {"dns_failure": 1})
    log = home / "logs" / "crawl-nowhere.jsonl"
    said = [line for line in run.stderr.splitlines() if line.startswith("pages: ")]
    assert said[0] == "pages: site owners cannot reach you: set WEBTEXT_CONTACT to a page or address of your own"
    assert f"pages: the crawl's log is {log}" in said
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("begin", "end")
    assert (lines[-1]["links"], lines[-1]["settled"], lines[-1]["by_status"]) == (1, 1, {"dns_failure": 1})
