"""Options of the command line: names, help texts, and how their values are parsed.

This module has the options that several commands share and all options of ``refresh``, in the groups of its help. The
options of other commands, and all defaults, are in flows/cli/main.py, those of ``eval`` in flows/cli/scoring.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, cast, get_args

from pydantic import ByteSize, Field, TypeAdapter
from typer import Argument, BadParameter, Option

from data.config import DEFAULT_PROFILE, FilterProfile, SelectConfig
from data.errors import InputError
from data.lake.names import check_variant
from data.urls.blocklists import PROFILES


def filled(value: str | None) -> str | None:
    """Refuse an empty value: an unset shell variable must not silently choose the default."""
    if value is not None and not value.strip():
        raise BadParameter("is empty")
    return value


Lake = Annotated[
    str | None,
    Option(
        "--lake",
        metavar="DIR",
        help="Use this lake: a directory or s3://bucket/prefix. [default: $WEBTEXT_LAKE, or ./lake]",
        callback=filled,
    ),
]
Json = Annotated[
    bool, Option("--json", help="Print the result as one line of JSON on standard output, everything else on stderr.")
]
Run = Annotated[str, Option("--run", metavar="NAME", help="Use this training run.", callback=filled)]
Step = Annotated[
    int | None, Option("--step", metavar="N", help="Use the checkpoint of step N. [default: the newest]", min=1)
]
Device = Annotated[str, Option(help="Run on cpu, cuda or mps; auto takes the best available.")]

# export

EXPORT_FORMATS = """**Formats of a corpus**

- `nanogpt`: train.bin and val.bin of nanoGPT, 16-bit tokens

- `llmc`: .bin files of llm.c with their headers

- `datatrove`: .ds files of datatrove with their .ds.index

- `hf`: a directory for `datasets.load_dataset`, with texts and their URLs

- `jsonl`: one JSON object per document, with texts and their URLs
"""

ExportDirectory = Annotated[
    Path, Option("--to", metavar="DIR", help="Write into this directory, which must be new or empty.")
]
ExportedRun = Annotated[
    str | None, Option("--run", metavar="NAME", help="Export the model of this run.", callback=filled)
]
ExportedCorpus = Annotated[
    str | None,
    Option("--corpus", metavar="SNAPSHOT[,SNAPSHOT]", help="Export the corpus of these snapshots.", callback=filled),
]
ExportFormat = Annotated[
    str | None,
    Option(
        "--format", metavar="NAME", help="Write a corpus as nanogpt, llmc, datatrove, hf or jsonl.", callback=filled
    ),
]

# overlap and duplicates

SearchedCorpus = Annotated[
    str,
    Option(
        "--corpus",
        metavar="SNAPSHOT[,SNAPSHOT]",
        help="Search the training documents of these snapshots.",
        callback=filled,
    ),
]
SearchedFor = Annotated[
    str,
    Option(
        "--eval-data",
        metavar="DIR",
        help="Read official benchmark files (LAMBADA, WikiText-2) from here.",
        callback=filled,
    ),
]
Decontaminate = Annotated[
    str | None,
    Option(
        metavar="VARIANT",
        help="Also make SNAPSHOT@VARIANT, without the documents that share 13 words in a row with a set.",
        callback=filled,
    ),
]
DocOrUrl = Annotated[
    str, Argument(metavar="DOC_OR_URL", help="A doc_id (32 hexadecimal digits), or a URL in any spelling.")
]

# refresh

REFRESH_EXAMPLES = """**Examples**

Last month's dump and everything new on Hacker News since the last refresh, for at most six hours:

`webtext refresh --links RS_2026-10.zst --links hn: --deadline 6h`

Your own list of URLs, with dead pages taken from web archives, slower than usual:

`webtext refresh --snapshot mine --links urls:FILE --archive all --host-delay 5`
"""

Sources = Annotated[
    list[str],
    Option(
        "--links",
        metavar="SOURCE",
        help="A Reddit or Hacker News dump (.zst .xz .bz2 .gz or plain NDJSON), by path or URL; 'DIR/RS_*.zst' for "
        "the files not read yet; hn:2026-11, or hn: for new stories; hn-items:FROM-[TO]; reddit:NAME,..; urls:FILE. "
        "Repeatable.",
    ),
]
NewSnapshot = Annotated[
    str | None, Option(metavar="NAME", help="Name the snapshot, such as 2026-11. [default: this ISO week]")
]
DryRun = Annotated[bool, Option("--dry-run", help="Read the links and print what would be fetched; fetch no page.")]

_WHICH = "Which links and pages"

MinKarma = Annotated[
    int, Option(metavar="N", help="Drop links with less karma; the paper uses 3.", rich_help_panel=_WHICH)
]
Profile = Annotated[
    str,
    Option(
        metavar="NAME",
        help="Drop the domains and file types of this list: webtext or openwebtext.",
        rich_help_panel=_WHICH,
    ),
]
BlockList = Annotated[
    list[Path] | None,
    Option(
        metavar="FILE",
        help="Drop these domains, too: one per line, # starts a comment; repeatable.",
        rich_help_panel=_WHICH,
    ),
]
Archive = Annotated[
    list[str] | None,
    Option(
        metavar="NAME",
        help="Look dead pages up in this web archive: commoncrawl, wayback, or all; repeatable. [default: none]",
        rich_help_panel=_WHICH,
    ),
]
History = Annotated[
    list[str] | None,
    Option(
        metavar="SNAPSHOT",
        help="Drop near-duplicates of this earlier snapshot; repeatable. [default: all published]",
        rich_help_panel=_WHICH,
    ),
]

_TEXTS = "Which texts"

Filters = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="Judge the texts by these rules: webtext (the paper: length and language only), gopher (MassiveText's "
        "quality and repetition) or fineweb (gopher's, C4's and FineWeb's). Any but webtext makes a variant: "
        "--snapshot 2026-11@gopher shares links, pages and text with 2026-11. [default: the variant's name if it is "
        "one of these, else webtext]",
        rich_help_panel=_TEXTS,
    ),
]
Language = Annotated[
    str, Option(metavar="CODE", help="Keep texts in this language: en, de, zh, ...", rich_help_panel=_TEXTS)
]

_MANNERS = "Manners"

HostDelay = Annotated[
    float, Option(metavar="SECONDS", help="Wait this long between two requests to a host.", rich_help_panel=_MANNERS)
]
MaxConnections = Annotated[
    int,
    Option(
        min=1, metavar="N", help="Open at most N connections per crawl task, one per host.", rich_help_panel=_MANNERS
    ),
]
MaxLinksPerHost = Annotated[
    int,
    Option(
        min=1,
        metavar="N",
        help="Fetch at most N links per host, those with most karma; the others are `deferred`.",
        rich_help_panel=_MANNERS,
    ),
]

_BUDGET = "Budget"

Deadline = Annotated[
    str | None,
    Option(
        metavar="TIME",
        help="Stop fetching after this time, such as 6h; the links left are `deferred`.",
        rich_help_panel=_BUDGET,
    ),
]
MaxBytes = Annotated[
    str | None,
    Option(
        metavar="SIZE",
        help="Stop fetching after about this many bytes, such as 2T; the links left are `deferred`.",
        rich_help_panel=_BUDGET,
    ),
]

_NETWORK = "Network"

AllowNet = Annotated[
    list[str] | None,
    Option(
        metavar="CIDR",
        help="Allow these non-public addresses, on any port; repeatable.",
        rich_help_panel=_NETWORK,
    ),
]
ConnectTo = Annotated[
    list[str] | None,
    Option(
        metavar="GLOB=ADDR:PORT",
        help="Connect to this address for matching host names; repeatable.",
        rich_help_panel=_NETWORK,
    ),
]

# Parsing: BadParameter names the option and the values it takes

_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ARCHIVES = ("commoncrawl", "wayback")


def check_profile(name: str) -> None:
    if name not in PROFILES:
        hint = f"; the filters of texts are chosen by --filters {name}" if name in get_args(FilterProfile) else ""
        raise BadParameter(f"--profile {name}: no such list; choose from {', '.join(sorted(PROFILES))}{hint}")


def select_config(filters: str | None, language: str, snapshot: str | None) -> SelectConfig:
    """The settings of select. Refuses filters that the snapshot's name contradicts."""
    variant = (snapshot or "").partition("@")[2]
    known = get_args(FilterProfile)
    profile = filters or (variant if variant in known else DEFAULT_PROFILE)
    if profile not in known:
        raise BadParameter(f"--filters {filters}: no such filters; choose from {', '.join(known)}")
    try:
        if snapshot:
            check_variant(snapshot, cast(FilterProfile, profile))
        return SelectConfig(profile=cast(FilterProfile, profile), language=language)
    except InputError as error:
        raise BadParameter(str(error)) from error


def block_domains(files: list[Path]) -> tuple[str, ...]:
    """The domains of all files, sorted and without repeats, so that order and comments do not change the settings."""
    if not files:
        return ()
    from data.urls.canonical import read_block_list

    return tuple(sorted({domain for file in files for domain in read_block_list(file)}))


def archives(names: list[str]) -> tuple[str, ...]:
    """The archives in the order in which they are asked."""
    for name in names:
        if name not in (*_ARCHIVES, "all"):
            raise BadParameter(f"--archive {name}: no such archive; choose from {', '.join(_ARCHIVES)}, all")
    return tuple(name for name in _ARCHIVES if name in names or "all" in names)


def seconds(text: str, option: str) -> float:
    """``6h``, ``1.5d``, ``90s``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match:
        raise BadParameter(f"{option} {text}: expected a number and one of {' '.join(_TIMES)}, such as 6h")
    return float(match[1]) * _TIMES[match[2]]


def n_bytes(text: str, option: str) -> int:
    """``2T``, ``500M``, ``100GiB``: decimal units, except for KiB, MiB and so on."""
    try:
        if "bit" in text.lower():  # which ByteSize reads as bytes
            raise ValueError(text)
        return int(TypeAdapter(Annotated[ByteSize, Field(ge=0)]).validate_python(text))
    except ValueError as error:
        raise BadParameter(f"{option} {text}: expected a number and one of K M G T, such as 2T") from error


def pairs(items: list[str]) -> dict[str, str]:
    """The values of ``--set KEY=VALUE``; the last one of a key counts."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise BadParameter(f"--set {item}: expected KEY=VALUE")
        found[key] = value
    return found
