"""The documents of the project, taken apart: fenced blocks, commands and code spans."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDES = ("README.md", "CONTRIBUTING.md", "docs/tutorial.md", "docs/troubleshooting.md")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [body for found, body in _FENCED.findall(read(name)) if found == language]


def prose(name: str) -> str:
    """The document without its fenced blocks."""
    return _FENCED.sub("", read(name))


def commands(name: str) -> list[str]:
    """The lines of the shell blocks, without comments."""
    lines = "".join(blocks(name, "sh")).splitlines()
    return [command for line in lines if (command := line.partition(" #")[0].strip())]


def inline_commands(name: str, program: str) -> list[str]:
    """Code spans of the prose that run ``program``."""
    spans = re.findall(r"`([^`\n]+)`", prose(name))
    return [span for span in spans if span.split()[0] == program and " " in span]


def paths(name: str) -> list[str]:
    """Paths in the prose and the tables."""
    return sorted(set(re.findall(r"`((?:data|model|flows|tests|docs|benchmarks)/[\w./-]+)`", prose(name))))
