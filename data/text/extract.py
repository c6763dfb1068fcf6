"""Turn the bytes of one page into its main text: extract, identify the language, measure. A pure function.

**Extraction.** trafilatura, with tables (older pages put prose into them) and without reader comments (other authors
wrote them, and they hold spam). Dates come from the page's metadata only: trafilatura's guesses from free text are slow
and depend on the day they are made.

Speed: 25-35 pages/s per core, nearly all of it trafilatura. The stage runs this in a child process that it can kill
(data/text/stage.py).

Source: Barbaresi 2021, "Trafilatura".
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import trafilatura
import trafilatura.utils
from lxml.html import HtmlElement, HTMLParser, fromstring
from trafilatura.settings import Document

from data.schema import TextStatus
from data.text import language, signals
from data.text.charset import decode

MAX_DEPTH = 2048  # libxml2's XML_MAX_HUGE_DEPTH

_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Control characters, surrogates, byte order marks, noncharacters.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")

# A fixed latest date: trafilatura's default is today, so the same page would give another row on another day.
_DATES = {"original_date": True, "extensive_search": False, "max_date": "2100-01-01"}


@dataclass(frozen=True)
class Extracted:
    """The result for one page. Without a text, only status and reason are set."""

    status: TextStatus
    reason: str | None = None
    text: str | None = None
    title: str | None = None
    date: str | None = None
    language: str | None = None
    language_score: float | None = None
    signals: signals.Signals | None = None


def extract(body: bytes, content_type: str | None, url: str, favor: str) -> Extracted:
    """Extract one page. Never raises: an error of the extractor becomes a status, and the reason names it.

    ``body`` is the page without content encoding, ``content_type`` its HTTP header, ``url`` its URL after redirects,
    ``favor`` one of ``balanced``, ``precision``, ``recall``.
    """
    try:
        html, note = decode(body, content_type)
        if html is None:
            return Extracted(TextStatus.UNDECODABLE, note)
        tree, cut = _parse(html)
        note = "; ".join(part for part in (note, cut) if part) or None
        document = trafilatura.bare_extraction(
            tree,
            url=url,
            favor_precision=favor == "precision",
            favor_recall=favor == "recall",
            include_comments=False,
            include_tables=True,
            include_formatting=False,
            deduplicate=False,
            with_metadata=True,
            date_extraction_params=_DATES,
        )
        if not isinstance(document, Document):  # trafilatura returns None where it finds nothing
            return Extracted(TextStatus.EMPTY, note)
        text = normalise(document.text or "")
        if not text:
            return Extracted(TextStatus.EMPTY, note)
        language_, score = language.identify(text)
        return Extracted(
            TextStatus.OK,
            note,
            text,
            _one_line(document.title),
            _one_line(document.date),
            language_,
            score,
            signals.measure(text),
        )
    except MemoryError:
        return Extracted(TextStatus.CRASHED, "memory limit")
    except Exception as error:  # parsers raise all kinds of errors on pages of the web
        return Extracted(TextStatus.FAILED, _one_line(f"{type(error).__name__}: {error}"))


def _parse(html: str) -> tuple[HtmlElement | str, str | None]:
    """The page's tree as trafilatura makes it, but deeper, with a note if even so not all of it is there.

    Old forums leave tags open, so that each post lies inside the one before. libxml2 stops reading when 256 elements
    are open, or ``MAX_DEPTH`` if it is asked for huge trees; trafilatura does not ask. A page that deep may take 20 s.
    """
    tree = trafilatura.load_html(html)
    if tree is None:
        return html, None
    if not _too_deep(trafilatura.utils.HTML_PARSER):
        return tree, None
    repaired = trafilatura.utils.repair_faulty_html(html, html[:50].lower())
    parser = HTMLParser(
        collect_ids=False,
        default_doctype=False,
        encoding="utf-8",
        remove_comments=True,
        remove_pis=True,
        huge_tree=True,
    )
    tree = fromstring(repaired.encode("utf-8", "surrogatepass"), parser=parser)
    return tree, f"elements deeper than {MAX_DEPTH} are left out" if _too_deep(parser) else None


def _too_deep(parser: HTMLParser) -> bool:
    return any(error.message.startswith("Excessive depth") for error in parser.error_log)


def normalise(text: str) -> str:
    """Unicode NFC, lines that end with ``\\n``, no control characters, no white space at line ends or outside."""
    text = _NO_TEXT.sub("", _LINE_END.sub("\n", text))
    return "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).split("\n")).strip()


def _one_line(text: str | None) -> str | None:
    return " ".join(normalise(text).split()) or None if text else None
