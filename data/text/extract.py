"""One page's bytes to its main text: decode, extract, identify the language, measure. A pure function of the page.

**Decoding.** What a page declares is often wrong, and a wrong single-byte charset decodes everything without an error,
into mojibake. So a declaration is a candidate, not an order. Asked in turn: a byte order mark; UTF-8, whose multi-byte
sequences hardly arise by chance; the HTTP header; the page's own ``<meta>`` or XML declaration; windows-1252, which is
what browsers assume; at last detection by charset_normalizer. A single-byte or East Asian reading must also look like
text (``MAX_MESS``). What no candidate reads is ``undecodable``; when a declaration was overruled, the reason says so.
Not seen is a charset that differs from windows-1252 in a few letters only, as Turkish does, where it is not declared.

**Extraction.** trafilatura, with tables (they hold prose on older pages) and without reader comments (another author's
text, and where spam lives). Dates come from the page's own metadata only: trafilatura's guesses from free text are slow
and depend on today's date.

About 25-35 pages a second and core, nearly all of it trafilatura. It runs in a child process that can be killed,
see data/text/stage.py.

Sources: WHATWG Encoding (labels) and HTML 13.2.3 (order of sniffing); Barbaresi 2021, "Trafilatura".
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import charset_normalizer
import charset_normalizer.md
import trafilatura
from trafilatura.settings import Document

from data.schema import TextStatus
from data.text import language, signals

# Share of suspicious characters by charset_normalizer's measure, over the passages that are not ASCII. Found on 13
# languages in their right and in five wrong charsets: right ones reached 0.05, other alphabets began at 0.15.
MAX_MESS = 0.1
MAX_BROKEN = 0.02  # of the bytes that are not ASCII may be broken: a cut character, one stray byte in a UTF-8 page
MIN_NON_ASCII = 8  # characters below which nothing can be said of how plausible a reading is
SAMPLE = 20_000  # characters or bytes that plausibility and detection look at
META_BYTES = 4_096  # a declaration further down is not one; browsers read 1,024

# WHATWG's labels where Python's codec of that name is narrower than what pages mean by it.
_WHATWG = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_NO_CHARSETS = frozenset({"utf-7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"})
_ESCAPING = ("iso2022", "hz")  # charsets whose bytes are all ASCII

_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_TAG_BYTES = re.compile(rb"<[^<>]*>")
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_NO_TEXT = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]"
)  # control, surrogate, no character

# A fixed far end: with trafilatura's default, today, the same page would give another row on another day.
_DATES = {"original_date": True, "extensive_search": False, "max_date": "2100-01-01"}


@dataclass(frozen=True)
class Extracted:
    """What was made of one page. Without text all but status and reason is None."""

    status: TextStatus
    reason: str | None = None
    text: str | None = None
    title: str | None = None
    date: str | None = None
    language: str | None = None
    language_score: float | None = None
    signals: signals.Signals | None = None


def extract(body: bytes, content_type: str | None, url: str, favor: str) -> Extracted:
    """Never raises: an error of the extractor is a status with its name.

    ``body`` is the page without content encoding, ``content_type`` its HTTP header, ``url`` where it came from at last,
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
    except Exception as error:  # whatever a parser raises on the web's pages becomes that page's outcome
        return Extracted(TextStatus.FAILED, _one_line(f"{type(error).__name__}: {error}"))


def normalise(text: str) -> str:
    """NFC, ``\\n`` as the only line end, no control characters, no white space at the ends of lines or of the text."""
    text = _NO_TEXT.sub("", _LINE_END.sub("\n", text))
    return "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).split("\n")).strip()


def decode(body: bytes, content_type: str | None) -> tuple[str | None, str | None]:
    """The page as text, and a note where a declaration was missing or overruled; or None, and why."""
    for mark, charset in _BOMS:
        if body.startswith(mark):
            text = _read(body, charset)
            return (text, None) if text is not None else (None, f"byte order mark of {charset}, other bytes follow")
    declared = _declared(body, content_type)
    if b"\0" in body[:META_BYTES]:
        candidates = ["utf-16-le" if body[1:2] == b"\0" else "utf-16-be"]  # markup begins with an ASCII character
    elif declared and declared[0].startswith(_ESCAPING):
        candidates = declared
    else:
        candidates = ["utf-8", *declared, "cp1252"]
    said = f"declared {declared[0]}" if declared else "no charset declared"
    for charset in itertools.chain(candidates, _detected(body)):
        text = _read(body, charset)
        if text is None or (charset != "utf-8" and _mess(text) > MAX_MESS):
            continue
        as_expected = body.isascii() or charset == (declared[0] if declared else "utf-8")
        return text, None if as_expected else f"{said}, read as {charset}"
    return None, f"{said}, and in no charset do its bytes look like text"


def _declared(body: bytes, content_type: str | None) -> list[str]:
    """Python codecs of the charsets that the HTTP header and the page name, those that exist."""
    labels = [match[1] for match in [_HEADER_CHARSET.search(content_type or "")] if match]
    labels += [match[1].decode() for match in [_META_CHARSET.search(body[:META_BYTES])] if match]
    found = []
    for label in labels:
        try:
            name = codecs.lookup(label).name
            if name in _NO_CHARSETS:
                continue
            b"<".decode(name, "replace")  # raises LookupError for codecs that are not of text, such as hex
        except LookupError:
            continue
        found.append(_WHATWG.get(name, name))
    return list(dict.fromkeys(found))


def _read(body: bytes, charset: str) -> str | None:
    """The body in a charset, with U+FFFD for at most ``MAX_BROKEN`` of its bytes that are not ASCII; else None."""
    try:
        return body.decode(charset)
    except UnicodeDecodeError:
        text = body.decode(charset, errors="replace")
    n_non_ascii = len(body) - len(body.translate(None, bytes(range(128, 256))))
    return text if text.count("\ufffd") <= MAX_BROKEN * n_non_ascii else None


def _mess(text: str) -> float:
    passages = [passage for passage in _TAG.split(text) if not passage.isascii()]
    sample = "\n".join(passages)[:SAMPLE]
    if len(sample) - len(sample.encode("ascii", "ignore")) < MIN_NON_ASCII:
        return 0.0
    return charset_normalizer.md.mess_ratio(sample, 1.0)


def _detected(body: bytes) -> Iterator[str]:
    """What charset_normalizer takes the body for, if anything; it is not asked before this is iterated over."""
    passages = [passage for passage in _TAG_BYTES.split(body) if not passage.isascii()]
    best = charset_normalizer.from_bytes(b"\n".join(passages)[:SAMPLE]).best()
    if best is not None:
        yield best.encoding


def _one_line(text: str | None) -> str | None:
    return " ".join(normalise(text).split()) or None if text else None
