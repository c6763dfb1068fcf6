"""A documentation string to the blocks of an article: headings, paragraphs, lists, definitions, code.

Python's documentation strings mix three dialects: reStructuredText, numpydoc and Google's. This parser uses what they
share, the indentation, which is enough for an article. It is not a reST parser: unknown mark-up stays as text.
Inline mark-up is reduced to backticks around code.

Cost: about 0.1 ms per kilobyte. Sources: the docutils reStructuredText specification; the numpydoc format guide;
Google's Python style guide, section 3.8.
"""

from __future__ import annotations

import html
import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any

Block = list[Any]
"""JSON-able: ["h", text], ["p", text], ["pre", text], ["ul", [text]], ["ol", [text]], ["dl", [[term, text]]]."""

_RULE = re.compile(r"([=\-~^\"'*+#_.`:])\1{2,}")
_TABLE = re.compile(r"=+( +=+)+|\+[-=+]+\+")
_DIRECTIVE = re.compile(r"\.\. ([\w:+-]+)::\s*(.*)")
_FOOTNOTE = re.compile(r"\.\. \[(#?\w+)\]\s*(.*)")
_FIELD = re.compile(r":(\w[^:`]*):(?:\s+(.*))?$")
_ITEM = re.compile(r"([-*+•]|\d{1,2}[.)]|#\.)\s+(?=\S)")
_GOOGLE = re.compile(r"(Args|Arguments|Attributes|Example|Examples|Keyword Args|Note|Notes|Raises|Returns|Yields):$")
_GOOGLE_ENTRY = re.compile(r"(\*{0,2}\w[\w.]*(?: ?\([^)]*\))?):\s+(.*)")
_CODE_DIRECTIVES = frozenset({"code", "code-block", "sourcecode", "testcode", "ipython", "doctest", "highlight"})
_DROPPED_DIRECTIVES = frozenset(
    {"plot", "math", "figure", "image", "index", "module", "currentmodule", "autosummary", "toctree", "automodule"}
    | {"only", "raw", "contents", "include", "autoclass", "autofunction", "table", "list-table", "csv-table", "role"}
)

_MARKED = re.compile(r"[`*\\]|\]_")
_INLINE = (
    (re.compile(r":[\w:+-]+:`[^`<]*<([^`>]+)>`"), r"`\1`"),
    (re.compile(r":[\w:+-]+:`~?([^`]+)`"), r"`\1`"),
    (re.compile(r"``(.+?)``"), r"`\1`"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),
    (re.compile(r"`([^`]+)`__?(?!\w)"), r"\1"),
    (re.compile(r"(\[#?\w+\])_(?!\w)"), r"\1"),
    (re.compile(r"\*\*(?=\S)([^*]+)(?<=\S)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*`])\*(?=\w)([^*`]+)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"\\(?=[ *_`|])\s?"), ""),
)


def blocks_of(docstring: str) -> list[Block]:
    """The blocks of one documentation string, in order."""
    return _parse(inspect.cleandoc(docstring).split("\n"))


def plain(blocks: Sequence[Block]) -> str:
    """The visible text: one line per paragraph, item or definition; code lines unchanged."""
    lines: list[str] = []
    for kind, content in blocks:
        if kind == "dl":
            lines += [line.replace("`", "") for entry in content for line in entry if line]
        elif kind in ("ul", "ol"):
            lines += [item.replace("`", "") for item in content]
        else:
            lines.append(content if kind == "pre" else content.replace("`", ""))
    return "\n".join(lines)


def prose_chars(blocks: Sequence[Block]) -> int:
    """The number of characters in paragraphs, list items and definitions of at least 60 characters."""
    texts: list[str] = []
    for kind, content in blocks:
        if kind == "p":
            texts.append(content)
        elif kind in ("ul", "ol"):
            texts += content
        elif kind == "dl":
            texts += [text for _, text in content]
    return sum(len(text) for text in texts if len(text) >= 60)


def to_html(blocks: Sequence[Block], heading: str = "h2") -> str:
    """The blocks as HTML."""
    out = []
    for kind, content in blocks:
        if kind == "h":
            out.append(f"<{heading}>{_inline_html(content)}</{heading}>")
        elif kind == "p":
            out.append(f"<p>{_inline_html(content)}</p>")
        elif kind == "pre":
            out.append(f"<pre><code>{html.escape(content)}</code></pre>")
        elif kind == "dl":
            entries = (f"<dt>{_inline_html(term)}</dt>\n<dd>{_inline_html(text)}</dd>" for term, text in content)
            out.append("<dl>\n" + "\n".join(entries) + "\n</dl>")
        else:
            items = (f"<li>{_inline_html(item)}</li>" for item in content)
            out.append(f"<{kind}>\n" + "\n".join(items) + f"\n</{kind}>")
    return "\n".join(out)


def _inline_html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _inline(lines: Sequence[str]) -> str:
    text = " ".join(" ".join(lines).split())
    if not _MARKED.search(text):
        return text
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _body(lines: Sequence[str], start: int, above: int) -> tuple[list[str], int]:
    """The lines from ``start`` that are indented by more than ``above``, dedented, and where they end."""
    end = start
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > above):
        end += 1
    body = textwrap.dedent("\n".join(lines[start:end])).strip("\n")
    return (body.split("\n") if body else []), end


def _parse(lines: Sequence[str]) -> list[Block]:
    out: list[Block] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        at = _step(lines, at, out)
    return out


def _step(lines: Sequence[str], at: int, out: list[Block]) -> int:
    """Read the block at line ``at``, which is not blank; returns the line after it."""
    line = lines[at]
    text = line.strip()
    following = lines[at + 1].strip() if at + 1 < len(lines) else ""
    if _RULE.fullmatch(text):  # an overline or a transition
        return at + 1
    if _RULE.fullmatch(following) and len(text) <= 90:
        out.append(["h", _inline([text.rstrip(":")])])
        return at + 2
    if text.startswith(">>>"):
        return _take_doctest(lines, at, out)
    if _TABLE.fullmatch(text):
        return _take_table(lines, at, out)
    if text.startswith(".. "):
        return _take_directive(lines, at, out)
    if match := _FIELD.match(text):
        body, end = _body(lines, at + 1, _indent(line))
        _add(out, "dl", [_inline([match[1]]), _inline([match[2] or "", _flat(body)])])
        return end
    if _GOOGLE.match(text):
        body, end = _body(lines, at + 1, _indent(line))
        out.append(["h", text.rstrip(":")])
        _google(body, out)
        return end
    if match := _ITEM.match(text):
        body, end = _body(lines, at + 1, _indent(line))
        _add(out, "ul" if match[1] in "-*+•" else "ol", _inline([text[match.end() :], _flat(body)]))
        return end
    if at + 1 < len(lines) and following and _indent(lines[at + 1]) > _indent(line) and not text.endswith("::"):
        body, end = _body(lines, at + 1, _indent(line))
        _add(out, "dl", [_inline([text]), _flat(body)])
        return end
    return _take_paragraph(lines, at, out)


def _take_paragraph(lines: Sequence[str], at: int, out: list[Block]) -> int:
    end = at + 1
    while end < len(lines) and lines[end].strip() and _indent(lines[end]) <= _indent(lines[at]):
        if lines[end].lstrip().startswith((">>>", ".. ")) or _ITEM.match(lines[end].strip()):
            break
        end += 1
    text = _inline(lines[at:end])
    if not text.endswith("::"):
        out.append(["p", text])
        return end
    if text != "::":
        out.append(["p", text[:-1]])
    body, end = _body(lines, end, _indent(lines[at]))
    if body:
        out.append(["pre", "\n".join(body)])
    return end


def _take_doctest(lines: Sequence[str], at: int, out: list[Block]) -> int:
    end = at
    while end < len(lines) and lines[end].strip():
        end += 1
    code = textwrap.dedent("\n".join(lines[at:end]))
    if out and out[-1][0] == "pre":
        out[-1][1] += "\n" + code
    else:
        out.append(["pre", code])
    return end


def _take_table(lines: Sequence[str], at: int, out: list[Block]) -> int:
    end = at
    while end < len(lines) and lines[end].strip():
        end += 1
    out.append(["pre", textwrap.dedent("\n".join(lines[at:end]))])
    return end


def _take_directive(lines: Sequence[str], at: int, out: list[Block]) -> int:
    text = lines[at].strip()
    body, end = _body(lines, at + 1, _indent(lines[at]))
    if match := _FOOTNOTE.match(text):
        _add(out, "ul", _inline([f"[{match[1]}]", match[2], *body]))
        return end
    match = _DIRECTIVE.match(text)
    if match is None or match[1] in _DROPPED_DIRECTIVES:  # a comment or a link target, or what has no text
        return end
    body = [line for line in body if not re.match(r":\w[\w-]*:", line)]  # its options
    if match[1] in _CODE_DIRECTIVES:
        if body:
            out.append(["pre", "\n".join(body).strip("\n")])
    elif match[1] in ("versionadded", "versionchanged", "deprecated", "versionremoved"):
        verb = {"versionadded": "Added in", "deprecated": "Deprecated since"}.get(match[1], "Changed in")
        out.append(["p", _inline([f"{verb} version {match[2]}.", *body])])
    else:
        _add_all(out, _parse([match[2], "", *body] if match[1] in ("note", "warning", "tip", "seealso") else body))
    return end


def _google(body: Sequence[str], out: list[Block]) -> None:
    """Add the body of a Google section: entries ``name (type): text`` if it has them, otherwise any blocks."""
    if not body or not _GOOGLE_ENTRY.match(body[0]):
        _add_all(out, _parse(body))
        return
    at = 0
    while at < len(body):
        match = _GOOGLE_ENTRY.match(body[at])
        more, end = _body(body, at + 1, _indent(body[at]))
        if match:
            _add(out, "dl", [_inline([match[1]]), _inline([match[2], _flat(more)])])
        elif body[at].strip():
            _add_all(out, _parse([body[at], *more]))
        at = end


def _flat(lines: Sequence[str]) -> str:
    """The text of nested blocks as one line, without their code."""
    if not lines:
        return ""
    return " ".join(plain([block]).replace("\n", " ") for block in _parse(lines) if block[0] != "pre")


def _add(out: list[Block], kind: str, entry: Any) -> None:
    if out and out[-1][0] == kind:
        out[-1][1].append(entry)
    else:
        out.append([kind, [entry]])


def _add_all(out: list[Block], more: Sequence[Block]) -> None:
    for kind, content in more:
        if kind in ("ul", "ol", "dl") and out and out[-1][0] == kind:
            out[-1][1].extend(content)
        else:
            out.append([kind, content])
