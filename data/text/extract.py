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
from trafilatura.settings import Document

from data.schema import TextStatus
from data.text import language, signals
from data.text.charset import decode

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
        document = trafilatura.bare_extraction(
            html,
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


def normalise(text: str) -> str:
    """Unicode NFC, lines that end with ``\\n``, no control characters, no white space at line ends or outside."""
    text = _NO_TEXT.sub("", _LINE_END.sub("\n", text))
    return "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).split("\n")).strip()


def _one_line(text: str | None) -> str | None:
    return " ".join(normalise(text).split()) or None if text else None
