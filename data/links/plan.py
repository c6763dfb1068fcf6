"""What a refresh reads: the sources that --links names, the windows of live sources, and deferred links.

The plan is made when the dataset is begun, from the files, the clock, the watermarks and the earlier snapshots. It is
recorded among the dataset's inputs. A run that resumes a begun dataset takes the plan from there, so it reads what the
first run would have read, whatever happened in between.

``SOURCE_KINDS`` lists what --links takes.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from data.errors import InputError
from data.lake.store import Lake
from data.links.deferred import KEY, DeferredLinks, unclaimed
from data.links.download import UrlSource
from data.links.hackernews import items_source, search_source
from data.links.reddit import RedditListing, subreddit_sources
from data.links.sources import FileSource, LinkSource, Reading, file_source


@dataclass(frozen=True)
class Consumed:
    """A file that matches a pattern and that another snapshot has read."""

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


@dataclass(frozen=True)
class _Start:
    """What the sources of a spec depend on, besides the spec."""

    state: Lake
    reading: Reading
    marks: dict[str, int]
    recorded: dict[str, str] | None  # the inputs of the run that began the dataset; None: this one begins it
    now: int

    def recorded_window(self, spec: str) -> str | None:
        return (self.recorded or {}).get(f"live:{spec}")


class _Found(NamedTuple):
    sources: Sequence[LinkSource]
    consumed: Sequence[Consumed] = ()


def _search(spec: str, start: _Start) -> _Found:
    return _Found([search_source(spec, start.recorded_window(spec), start.marks.get(spec), start.now)])


def _items(spec: str, start: _Start) -> _Found:
    return _Found([items_source(spec, start.recorded_window(spec), start.reading)])


def _subreddits(spec: str, start: _Start) -> _Found:
    base = start.reading.config.reddit_url
    return _Found(subreddit_sources(spec, start.recorded or {}, start.marks, start.now, base))


def _address(spec: str, _: _Start) -> _Found:
    is_listing = urlsplit(spec).path.endswith(".json")
    return _Found([RedditListing(spec, spec, None) if is_listing else UrlSource(spec)])


def _file(spec: str, start: _Start) -> _Found:
    is_pattern = glob.has_magic(spec) and not spec.startswith("urls:") and not Path(spec).exists()
    return _pattern(spec, start) if is_pattern else _Found([file_source(spec)])


class SourceKind(NamedTuple):
    """A kind of link source: how its names begin, how a person writes them, what is read, and who finds the sources."""

    prefix: str
    form: str
    help: str
    find: Callable[[str, _Start], _Found]


SOURCE_KINDS = (
    SourceKind("urls:", "urls:FILE", "one URL per line, compressed or not", _file),
    SourceKind("hn:", "hn:[MONTH]", "Hacker News: a month, or what is new", _search),
    SourceKind("hn-items:", "hn-items:FROM-[TO]", "items of Hacker News by number", _items),
    SourceKind("reddit:", "reddit:NAME,..", "what is new in subreddits", _subreddits),
    SourceKind("http://", "http://..", "as https://..", _address),
    SourceKind("https://", "https://..", "a dump, or a listing of Reddit (.json)", _address),
    SourceKind("", "PATH or 'PATTERN'", "a dump: .zst .xz .bz2 .gz or plain NDJSON", _file),
)
"""What --links takes. The first kind whose prefix matches reads the source. An existing path is always a file."""


def kind_of(spec: str) -> SourceKind:
    """The kind of a source by its name."""
    *_, file_kind = SOURCE_KINDS
    if Path(spec).exists():
        return file_kind
    return next(kind for kind in SOURCE_KINDS if spec.startswith(kind.prefix))


def make_plan(specs: Sequence[str], state: Lake, reading: Reading, marks: dict[str, int]) -> Plan:
    """The sources, in an order that does not depend on the order of ``specs``.

    ``state`` is the lake whose earlier snapshots count, ``marks`` holds its watermarks. Raises InputError for a source
    that is missing, unreadable, misspelt, or named twice.
    """
    if not specs:
        forms = "; ".join(f"{kind.form} ({kind.help})" for kind in SOURCE_KINDS)
        raise InputError(f"no link source given; name one with --links: {forms}")
    begun: dict[str, Any] | None = reading.dataset.begun()
    start = _Start(state, reading, marks, begun["inputs"] if begun else None, int(reading.clock()))
    found = [kind_of(spec).find(spec, start) for spec in specs]
    named = [source for one in found for source in one.sources]
    files = [source for source in named if isinstance(source, FileSource)]
    others = [source for source in named if not isinstance(source, FileSource)]
    others += [
        DeferredLinks(state.root, snapshot, digest)
        for snapshot, digest in _deferred(state, reading.dataset.snapshot, begun).items()
    ]
    sources = (*_told_apart(files), *sorted(others, key=lambda source: source.inputs))
    twice = [key for key, n in Counter(source.inputs[0] for source in sources).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0].partition(':')[2]}: named twice among the link sources; name it once")
    new_marks = {source.label: source.mark for source in sources if source.mark is not None}
    return Plan(sources, tuple(file for one in found for file in one.consumed), new_marks)


def _pattern(pattern: str, start: _Start) -> _Found:
    """The files that match a pattern: new, or consumed if another published snapshot has read the same bytes.

    If the dataset was begun before, only the files among its recorded inputs are new.
    """
    paths = sorted(path for path in glob.glob(pattern) if Path(path).is_file())  # noqa: PTH207 - may be absolute
    if not paths:
        raise InputError(f"link source {pattern}: no file matches the pattern; check the path")
    read_by = {
        digest: name
        for name in start.state.snapshots("links")
        if name != start.reading.dataset.snapshot
        for key, digest in start.state.dataset("links", name).require().inputs.items()
        if key.startswith("source:")
    }
    mine = {digest for key, digest in (start.recorded or {}).items() if key.startswith("source:")}
    new = []
    old = []
    for path in paths:
        source = file_source(path)
        if source.sha256 in mine or (start.recorded is None and source.sha256 not in read_by):
            new.append(source)
        elif source.sha256 in read_by:
            old.append(Consumed(path, source.sha256, read_by[source.sha256]))
    return _Found(new, old)


def _told_apart(files: list[FileSource]) -> list[FileSource]:
    """Files of the same name in different directories get their hash into their labels."""
    names = Counter(label for label, _ in {(file.label, file.sha256) for file in files})
    named = [
        file if names[file.label] == 1 else replace(file, label=f"{file.label}@{file.sha256[:12]}") for file in files
    ]
    return sorted(named, key=lambda file: file.label)


def _deferred(state: Lake, snapshot: str, begun: dict[str, Any] | None) -> dict[str, str]:
    if begun is None:
        return unclaimed(state, snapshot)
    return {key.removeprefix(KEY): value for key, value in begun["inputs"].items() if key.startswith(KEY)}
