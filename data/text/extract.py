"""Turn the bytes of one page into its main text: decode, extract, identify the language, measure. A pure function.

**Decoding.** The charset that a page declares is often wrong, and a wrong single-byte charset decodes without an error,
into mojibake. So a declaration is only a candidate. The candidates in order: a byte order mark; UTF-8, whose multi-byte
sequences hardly arise by chance; the HTTP header; the page's own ``<meta>`` or XML declaration; windows-1252, the
default of browsers; the guess of charset_normalizer. Unless it is UTF-8, the decoded text must also look like text
(``MAX_MESS``). A page that no candidate decodes is ``undecodable``; when a declaration was overruled, the reason says
so. One error stays unnoticed: an undeclared charset that differs from windows-1252 in a few letters only (Turkish).

**Extraction.** trafilatura, with tables (older pages put prose into them) and without reader comments (other authors
wrote them, and they hold spam). Dates come from the page's metadata only: trafilatura's guesses from free text are slow
and depend on the day they are made.

Speed: 25-35 pages/s per core, nearly all of it trafilatura. The stage runs this in a child process that it can kill
(data/text/stage.py).

Sources: WHATWG Encoding (labels, by webencodings) and HTML 13.2.3 (order of sniffing); Barbaresi 2021, "Trafilatura".
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import charset_normalizer
import charset_normalizer.md
import trafilatura
import webencodings
from trafilatura.settings import Document

from data.schema import TextStatus
from data.text import language, signals

# Largest share of suspicious characters (charset_normalizer's measure) in the passages that are not ASCII. Measured on
# 13 languages, each in its own charset and in five others: its own gave at most 0.05, the others 0.15 or more.
MAX_MESS = 0.1
MAX_BROKEN = 0.02  # share of the non-ASCII bytes that may be broken: a cut character, a stray byte in a UTF-8 page
MIN_NON_ASCII = 8  # with fewer such characters no charset is judged implausible
SAMPLE = 20_000  # characters or bytes on which plausibility and detection are based
META_BYTES = 4_096  # where a page must declare its charset; browsers read 1,024

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_PYTHONS_OWN = frozenset({"utf-16le", "utf-16be", "replacement", "x-user-defined"})  # read as Python reads the label
_NO_CHARSETS = frozenset({"utf-7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"})
_ESCAPING = ("iso2022", "hz")  # charsets that use ASCII bytes only

_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_TAG_BYTES = re.compile(rb"<[^<>]*>")
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


def decode(body: bytes, content_type: str | None) -> tuple[str | None, str | None]:
    """The page as text, with a note if its declaration was missing or overruled; or None and the reason."""
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
    """Python codecs of the known charsets that the HTTP header and the page declare, in this order."""
    labels = [match[1] for match in [_HEADER_CHARSET.search(content_type or "")] if match]
    labels += [match[1].decode() for match in [_META_CHARSET.search(body[:META_BYTES])] if match]
    found = []
    for label in labels:
        name = _codec(label)
        if name is None or name in _NO_CHARSETS:
            continue
        with contextlib.suppress(LookupError):
            b"<".decode(name, "replace")  # raises LookupError for codecs that do not give text, such as hex
            found.append(name)
    return list(dict.fromkeys(found))


def _codec(label: str) -> str | None:
    """The Python codec for a label of a page, or None for an unknown label.

    Browsers often read more than the label says: windows-1252 for latin-1, gb18030 for gbk. WHATWG lists these labels;
    Python knows further aliases of the same charsets.
    """
    try:
        name = codecs.lookup(label).name
    except LookupError:
        name = None
    encoding = webencodings.lookup(label) or webencodings.lookup((name or "").replace("_", "-"))
    if encoding is None or encoding.name in _PYTHONS_OWN:
        return name
    return "gb18030" if encoding.name == "gbk" else str(encoding.codec_info.name)


def _read(body: bytes, charset: str) -> str | None:
    """The body decoded, with U+FFFD for broken bytes; None if more than ``MAX_BROKEN`` of the non-ASCII ones are."""
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
    """The guess of charset_normalizer, if it has one. Lazy, because guessing is slow."""
    passages = [passage for passage in _TAG_BYTES.split(body) if not passage.isascii()]
    best = charset_normalizer.from_bytes(b"\n".join(passages)[:SAMPLE]).best()
    if best is not None:
        yield best.encoding


def _one_line(text: str | None) -> str | None:
    return " ".join(normalise(text).split()) or None if text else None
