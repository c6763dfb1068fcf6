"""What a refresh reads: the sources that are named, the windows of the live ones, and the links left from before.

All of it is settled when the dataset is begun, from the files, the clock, the watermarks and the earlier snapshots, and
recorded among its inputs. A run that goes on with a begun dataset takes it from there, so it reads what the first one
would have read, whatever the time, and whatever came in between.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data.errors import InputError
from data.lake.store import Lake
from data.links.deferred import KEY, DeferredLinks, unclaimed
from data.links.download import UrlSource
from data.links.hackernews import HackerNewsSearch, items_source, search_source
from data.links.live import FIRST_WINDOW_S, Window
from data.links.reddit import RedditListing, listing_sources
from data.links.sources import FileSource, LinkSource, Reading, file_source


@dataclass(frozen=True)
class Consumed:
    """A file of a pattern that an earlier snapshot has read."""

    path: str
    sha256: str
    snapshot: str


@dataclass(frozen=True)
class Plan:
    """``marks``: the watermarks to set once the links are published."""

    sources: tuple[LinkSource, ...]
    consumed: tuple[Consumed, ...]
    marks: dict[str, int]

    @property
    def inputs(self) -> dict[str, str]:
        return dict(source.inputs for source in self.sources)


def make_plan(specs: Sequence[str], state: Lake, reading: Reading, marks: dict[str, int]) -> Plan:
    """The sources in an order that does not depend on that of ``specs``.

    ``state`` is the lake whose earlier snapshots count, ``marks`` holds its watermarks. Raises InputError for a source
    that is missing, unreadable, of an unknown kind, or named twice.
    """
    if not specs:
        raise InputError("no link source given: name a dump file, urls:FILE, hn: or reddit:NAME with --links")
    begun: dict[str, Any] | None = reading.dataset.begun()
    recorded: dict[str, str] = begun["inputs"] if begun else {}
    files: list[FileSource] = []
    consumed: list[Consumed] = []
    others: list[LinkSource] = []
    now = int(reading.clock())
    for spec in specs:
        is_path = spec.startswith("urls:") or Path(spec).exists()
        if spec.startswith("hn:") and not is_path:
            others.append(search_source(spec, recorded.get(f"live:{spec}"), marks.get(spec), now, FIRST_WINDOW_S))
        elif spec.startswith("hn-items:") and not is_path:
            others.append(items_source(spec, recorded.get(f"live:{spec}"), reading))
        elif not is_path and (spec.startswith("reddit:") or _is_listing(spec)):
            others += _listings(spec, recorded, marks, now, reading.config.reddit_url)
        elif not is_path and _is_url(spec):
            others.append(UrlSource(spec))
        elif not is_path and glob.has_magic(spec):
            new, old = _pattern(spec, state, reading.dataset.snapshot, recorded if begun else None)
            files += new
            consumed += old
        else:
            files.append(file_source(spec))
    others += [
        DeferredLinks(state.root, snapshot, digest)
        for snapshot, digest in _deferred(state, reading.dataset.snapshot, begun).items()
    ]
    sources = (*_told_apart(files), *sorted(others, key=lambda source: source.inputs))
    twice = [key for key, n in Counter(source.inputs[0] for source in sources).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0].partition(':')[2]}: among the link sources twice; name it once")
    windows = {source.label: _window_from_mark(source) for source in others}
    return Plan(sources, tuple(consumed), {label: window.mark for label, window in windows.items() if window})


def _window_from_mark(source: LinkSource) -> Window | None:
    """The window of a source that is read from its watermark on."""
    if isinstance(source, HackerNewsSearch):
        return source.window if source.spec == "hn:" else None
    return source.window if isinstance(source, RedditListing) else None


def _is_url(spec: str) -> bool:
    return spec.startswith(("http://", "https://"))


def _is_listing(spec: str) -> bool:
    return _is_url(spec) and urlsplit(spec).path.endswith(".json")


def _listings(spec: str, recorded: dict[str, str], marks: dict[str, int], now: int, base: str) -> list[LinkSource]:
    found: list[LinkSource] = []
    for name, url in listing_sources(spec, base):
        window = None
        if spec.startswith("reddit:"):
            begun = recorded.get(f"live:{name}")
            window = Window.parse(begun) if begun else Window(marks.get(name, now - FIRST_WINDOW_S), now)
        found.append(RedditListing(name, url, window))
    return found


def _pattern(
    pattern: str, state: Lake, snapshot: str, recorded: dict[str, str] | None
) -> tuple[list[FileSource], list[Consumed]]:
    """The files of a pattern that are new, and those that other published snapshots have read, by their hash.

    ``recorded`` holds the inputs of a run that began: then its files are the new ones.
    """
    paths = sorted(path for path in glob.glob(pattern) if Path(path).is_file())  # noqa: PTH207 - may be absolute
    if not paths:
        raise InputError(f"link source {pattern}: no file matches the pattern; check the path")
    read_by = {
        digest: name
        for name in state.snapshots("links")
        if name != snapshot
        for key, digest in state.dataset("links", name).require().inputs.items()
        if key.startswith("source:")
    }
    mine = {digest for key, digest in (recorded or {}).items() if key.startswith("source:")}
    new, old = [], []
    for path in paths:
        source = file_source(path)
        if source.sha256 in mine or (recorded is None and source.sha256 not in read_by):
            new.append(source)
        elif source.sha256 in read_by:
            old.append(Consumed(path, source.sha256, read_by[source.sha256]))
    return new, old


def _told_apart(files: list[FileSource]) -> list[FileSource]:
    """Files of the same name in different directories are told apart by their hash."""
    names = Counter(label for label, _ in {(file.label, file.sha256) for file in files})
    named = [
        file if names[file.label] == 1 else replace(file, label=f"{file.label}@{file.sha256[:12]}") for file in files
    ]
    return sorted(named, key=lambda file: file.label)


def _deferred(state: Lake, snapshot: str, begun: dict[str, Any] | None) -> dict[str, str]:
    if begun is None:
        return unclaimed(state, snapshot)
    return {key.removeprefix(KEY): value for key, value in begun["inputs"].items() if key.startswith(KEY)}
