"""Options of the command line: what they are called, what ``--help`` says of them, and what their words mean.

Here are those that several commands have and all of ``refresh``, in the groups in which its help shows them. Another
option of one command stands with the command (flows/cli/main.py), and so do all defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from typer import BadParameter, Option

from data.urls.blocklists import PROFILES


def filled(value: str | None) -> str | None:
    """Refuses an empty value: that of a shell variable which is not set must not stand for a default."""
    if value is not None and not value.strip():
        raise BadParameter("is empty")
    return value


Lake = Annotated[
    str | None,
    Option(
        "--lake",
        metavar="DIR",
        help="The lake: a directory or s3://bucket/prefix. [WEBTEXT_LAKE]",
        callback=filled,
    ),
]
Json = Annotated[
    bool, Option("--json", help="End with one JSON object on standard output; all else goes to standard error.")
]
Run = Annotated[str, Option("--run", metavar="NAME", help="A training run's name.", callback=filled)]
Step = Annotated[
    int | None, Option("--step", metavar="N", help="The checkpoint of this step. [default: the newest]", min=1)
]
Device = Annotated[str, Option(help="cpu, cuda, mps, or auto for the best there is.")]

# refresh

REFRESH_EXAMPLES = """**Examples**

Last month's dump and the news since the last time, for at most six hours:

`webtext refresh --links RS_2026-10.zst --links hn: --deadline 6h`

One's own list of URLs, dead ones from the web archives, slower than usual:

`webtext refresh --snapshot mine --links urls:FILE --archive all --host-delay 5`
"""

Sources = Annotated[
    list[str],
    Option(
        "--links",
        metavar="SOURCE",
        help="A Reddit or Hacker News dump (.zst .xz .bz2 .gz or plain NDJSON), by path or URL; 'DIR/RS_*.zst' for "
        "those not read yet; hn:2026-11, or hn: for news; hn-items:FROM-[TO]; reddit:NAME,..; urls:FILE. Repeatable.",
    ),
]
NewSnapshot = Annotated[str | None, Option(metavar="NAME", help="Such as 2026-11. [default: this ISO week]")]
DryRun = Annotated[bool, Option("--dry-run", help="Read the links only, and say what would be fetched.")]

_WHICH = "Which links and pages"

MinKarma = Annotated[int, Option(help="Links below are dropped; the paper's value is 3.", rich_help_panel=_WHICH)]
Profile = Annotated[
    str,
    Option(
        metavar="NAME",
        help="Which domains and file types are dropped: webtext or openwebtext.",
        rich_help_panel=_WHICH,
    ),
]
BlockList = Annotated[
    list[Path] | None,
    Option(
        metavar="FILE", help="Further domains to drop, one a line, # for comments; repeatable.", rich_help_panel=_WHICH
    ),
]
Archive = Annotated[
    list[str] | None,
    Option(
        metavar="NAME",
        help="Look dead pages up in a web archive: commoncrawl, wayback, or all; repeatable. [default: none]",
        rich_help_panel=_WHICH,
    ),
]
History = Annotated[
    list[str] | None,
    Option(
        metavar="SNAPSHOT",
        help="Earlier snapshots to compare with; repeatable. [default: all published]",
        rich_help_panel=_WHICH,
    ),
]

_MANNERS = "Manners"

HostDelay = Annotated[
    float, Option(metavar="SECONDS", help="Pause between two requests to a host.", rich_help_panel=_MANNERS)
]
MaxConnections = Annotated[
    int, Option(min=1, metavar="N", help="Connections of each crawl task, one a host.", rich_help_panel=_MANNERS)
]
MaxLinksPerHost = Annotated[
    int,
    Option(
        min=1,
        metavar="N",
        help="Further links of a host, those of least karma, are `deferred`.",
        rich_help_panel=_MANNERS,
    ),
]

_BUDGET = "Budget"

Deadline = Annotated[
    str | None,
    Option(metavar="TIME", help="Such as 6h: links not fetched by then are `deferred`.", rich_help_panel=_BUDGET),
]
MaxBytes = Annotated[
    str | None,
    Option(
        metavar="SIZE", help="Such as 2T: links beyond about so many bytes are `deferred`.", rich_help_panel=_BUDGET
    ),
]

_NETWORK = "Network"

AllowNet = Annotated[
    list[str] | None,
    Option(
        metavar="CIDR",
        help="Non-public addresses that may be reached, on any port; repeatable.",
        rich_help_panel=_NETWORK,
    ),
]
ConnectTo = Annotated[
    list[str] | None,
    Option(metavar="GLOB=ADDR:PORT", help="Connect there for these host names; repeatable.", rich_help_panel=_NETWORK),
]

# What their words mean; BadParameter names the option and what it takes

_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ARCHIVES = ("commoncrawl", "wayback")


def check_profile(name: str) -> None:
    if name not in PROFILES:
        raise BadParameter(f"--profile {name}: there are {', '.join(sorted(PROFILES))}")


def block_domains(files: list[Path]) -> tuple[str, ...]:
    """The domains of all the files, each once; another order or a comment makes no other settings."""
    if not files:
        return ()
    from data.urls.canonical import read_block_list

    return tuple(sorted({domain for file in files for domain in read_block_list(file)}))


def archives(names: list[str]) -> tuple[str, ...]:
    """Always in the same order, which is the order of asking."""
    for name in names:
        if name not in (*_ARCHIVES, "all"):
            raise BadParameter(f"--archive {name}: there are {', '.join(_ARCHIVES)}, and all")
    return tuple(name for name in _ARCHIVES if name in names or "all" in names)


def seconds(text: str, option: str) -> float:
    """``6h``."""
    return _quantity(text, _TIMES, option)


def n_bytes(text: str, option: str) -> int:
    """``2T``."""
    return int(_quantity(text, _SIZES, option))


def pairs(items: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` of ``--set``; a later one of the same key counts."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise BadParameter(f"--set {item}: expected KEY=VALUE")
        found[key] = value
    return found


def _quantity(text: str, units: dict[str, int], option: str) -> float:
    """A number and one of the units."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]?)", text.strip())
    if not match or match[2] not in units:
        choices = " ".join(unit for unit in units if unit)
        raise BadParameter(f"{option} {text}: expected a number and one of {choices}, such as 6{list(units)[-2]}")
    return float(match[1]) * units[match[2]]
