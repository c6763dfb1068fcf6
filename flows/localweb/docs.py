"""Articles from the documentation strings of the installed Python packages.

They are real prose that is present on every machine with this project, without a network. Source files are parsed,
never imported. Only the project's own runtime dependencies are read, so a development install and a plain one see the
same articles.

A module's articles follow its source: a long documentation string becomes one article, a class and its methods become
one, and short strings are joined until they fill a page. An article must be mostly sentences. A hash of the names
chooses among the articles. A text that largely repeats earlier ones is left out, so that all copies on the local web
are planted ones.

Cost: about 12 s of CPU in two processes, most of it ``ast.parse``; files with little documentation are not parsed.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import multiprocessing
import os
import re
import signal
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from data.errors import InputError, KilledError
from data.process import die_with_parent
from flows.localweb.prose import Block, blocks_of, plain, prose_chars

SOURCES = (
    ("numpy", "numpy"),
    ("scipy", "scipy"),
    ("scikit-learn", "sklearn"),
    ("pandas", "pandas"),
    ("networkx", "networkx"),
    ("SQLAlchemy", "sqlalchemy"),
    ("alembic", "alembic"),
    ("matplotlib", "matplotlib"),
    ("torch", "torch"),
    ("mlflow", "mlflow"),
    ("joblib", "joblib"),
    ("Werkzeug", "werkzeug"),
    ("Flask", "flask"),
    ("click", "click"),
    ("websockets", "websockets"),
    ("pyparsing", "pyparsing"),
    ("datasketch", "datasketch"),
)
"""Distributions and their packages, all of them runtime dependencies of the project (a test checks this)."""

MAX_ARTICLES = 3_500
MAX_CHARS = 12_300_000  # of all articles together: a demo extracts them on two cores in about two minutes
MIN_CHARS, PAGE_CHARS, SPLIT_CHARS = 1_500, 3_500, 7_000
MIN_PROSE_SHARE = 0.55
MAX_KNOWN_SHARE = 0.3  # of an article's characters may be in lines that earlier articles have
MIN_FILE_DOC_CHARS = 1_500
MIN_FILE_DOC_SHARE = 0.2  # below this share, parsing a file is not worth its cost
MAX_CODE_CHARS = 800  # longer listings and tables are dropped

_SKIPPED_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "testing",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "_vendor",
        "vendor",
        "externals",
    }
    | {"third_party", "_extern", "protos", "pydoc_data", "encodings", "turtledemo", "_inductor", "_dynamo"}
)
_SKIPPED_SECTIONS = frozenset({"See Also", "References", "Array API Standard Support", "Examples"})
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Article:
    """A text with a title. ``name`` is its origin: ``package.module.object``."""

    name: str
    title: str
    blocks: list[Block]
    language: str = "en"


@dataclass(frozen=True)
class _Section:
    name: str
    blocks: list[Block]
    n_chars: int


def versions() -> dict[str, str]:
    """The versions of Python and of the packages, which decide the articles. Raises InputError if one is missing."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for distribution, _ in SOURCES:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError as error:
            raise InputError(f"package {distribution} is not installed: install the project again with pip") from error
    return found


def choose_articles() -> list[Article]:
    """The articles of the local web, of at least MIN_CHARS characters each. The same versions give the same list."""
    candidates = {article.name: article for article in _candidates()}
    chosen: list[Article] = []
    known: set[str] = set()
    titles: set[str] = set()
    n_chars = 0
    for article in sorted(candidates.values(), key=lambda article: _order(article.name)):
        text = plain(article.blocks)
        lines = {line for line in text.split("\n") if len(line) >= 30}
        n_known = sum(len(line) for line in lines & known)
        if n_known > MAX_KNOWN_SHARE * len(text) or article.title in titles:
            continue
        if len(chosen) == MAX_ARTICLES or n_chars + len(text) > MAX_CHARS:
            break
        chosen.append(article)
        known |= lines
        titles.add(article.title)
        n_chars += len(text)
    return chosen


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _candidates() -> Iterator[Article]:
    modules = [(package, folder, path) for package, folder in _folders() for path in _files(folder)]
    with ProcessPoolExecutor(
        min(2, os.cpu_count() or 1), multiprocessing.get_context("spawn"), initializer=_start_reader
    ) as pool:
        try:
            for articles in pool.map(_read, *zip(*modules, strict=True), chunksize=50):
                yield from articles
        except BrokenProcessPool as error:
            raise KilledError("a process that reads documentation was killed: run the same command again") from error


def _start_reader() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops, and ends its children
    gc.disable()  # syntax trees have no cycles, and looking for them would double the time


def _read(package: str, folder: Path, path: Path) -> list[Article]:
    source = path.read_text(encoding="utf-8", errors="replace")
    if not _is_documented(source):
        return []
    module = ".".join([package, *path.relative_to(folder).with_suffix("").parts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        return list(articles_of(module.removesuffix(".__init__").removeprefix("stdlib."), source))


def _folders() -> Iterator[tuple[str, Path]]:
    yield "stdlib", Path(sysconfig.get_path("stdlib"))
    for _, package in SOURCES:
        spec = importlib.util.find_spec(package)  # for a top-level package this imports nothing
        if spec is None or spec.origin is None:
            raise InputError(f"package {package} has no source files: install the project again with pip")
        yield package, Path(spec.origin).parent


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _SKIPPED_FOLDERS:
            yield from _files(path)
        elif path.suffix == ".py" and not path.name.startswith("test_"):
            yield path


def _is_documented(source: str) -> bool:
    n_doc = sum(map(len, source.split('"""')[1::2]))
    return n_doc >= MIN_FILE_DOC_CHARS and n_doc >= MIN_FILE_DOC_SHARE * len(source)


def articles_of(module: str, source: str) -> Iterator[Article]:
    """The articles of one module, in the order of its source."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # packages also hold templates and deliberate errors as .py files
        return
    waiting: list[_Section] = []
    for group in _groups(tree, module):
        n_chars = sum(section.n_chars for section in group)
        if n_chars >= MIN_CHARS:
            yield from _pages(group)
        else:
            waiting += group
            if sum(section.n_chars for section in waiting) >= PAGE_CHARS:
                yield from _pages(waiting)
                waiting = []
    yield from _pages(waiting)


def _groups(tree: ast.Module, module: str) -> Iterator[list[_Section]]:
    """Sections that belong together: a class with its methods; any other documentation string alone."""
    if section := _section(tree, module):
        yield [section]
    for node in tree.body:
        if not isinstance(node, _DOCUMENTED):
            continue
        name = f"{module}.{node.name}"
        members = node.body if isinstance(node, ast.ClassDef) else []
        sections = [_section(node, name)]
        sections += [_section(n, f"{name}.{n.name}") for n in members if isinstance(n, _DOCUMENTED)]
        if group := [section for section in sections if section]:
            yield group


def _section(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> _Section | None:
    docstring = ast.get_docstring(node, clean=False)
    if not docstring or len(docstring) < 40:
        return None
    blocks = list(_wanted(blocks_of(docstring)))
    return _Section(name, blocks, len(plain(blocks))) if blocks else None


def _wanted(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks without sections that hold no sentences, and without headings that have no text below."""
    heading: Block | None = None
    is_skipped = False
    for block in blocks:
        kind, content = block
        if kind == "h":
            heading, is_skipped = block, content in _SKIPPED_SECTIONS
        elif not is_skipped and not (kind == "pre" and len(content) > MAX_CODE_CHARS) and content:
            if heading is not None:
                yield heading
                heading = None
            yield block


def _pages(sections: list[_Section]) -> Iterator[Article]:
    """One article of these sections, several if it would be too long, none if it is too short or has few sentences."""
    pages: list[list[_Section]] = [[]]
    for section in sections:
        if pages[-1] and sum(s.n_chars for s in pages[-1]) + section.n_chars > SPLIT_CHARS:
            pages.append([])
        pages[-1].append(section)
    for page in pages:
        if page:
            yield from _parts(page[0], _joined(page))


def _joined(sections: list[_Section]) -> list[Block]:
    blocks = list(sections[0].blocks)
    for section in sections[1:]:
        blocks += [["h", f"`{section.name.rsplit('.', 1)[-1]}`"], *section.blocks]
    return blocks


def _parts(first: _Section, blocks: list[Block]) -> Iterator[Article]:
    parts: list[list[Block]] = [[]]
    n_chars = 0
    for block in blocks:
        n_block = len(plain([block]))
        if parts[-1] and n_chars + n_block > SPLIT_CHARS:
            parts.append([])
            n_chars = 0
        parts[-1].append(block)
        n_chars += n_block
    for number, part in enumerate(parts, 1):
        n_part = len(plain(part))
        if n_part >= MIN_CHARS and prose_chars(part) >= MIN_PROSE_SHARE * n_part:
            title = _title(first) if number == 1 else f"{_title(first)}, part {number}"
            yield Article(first.name if number == 1 else f"{first.name}#{number}", title, part)


def _title(section: _Section) -> str:
    """The first sentence, if it is short enough for a title; else the name."""
    kind, content = section.blocks[0]
    sentence = re.split(r"(?<=\w)[.:](?:\s|$)", content)[0].replace("`", "").strip() if kind in ("h", "p") else ""
    name = section.name.rsplit(".", 1)[-1].replace("_", " ").strip()
    is_title = 20 <= len(sentence) <= 90 and sentence.count("(") == sentence.count(")")
    return sentence.rstrip(".") if is_title else f"Notes on {name} in {section.name.split('.')[0]}"
