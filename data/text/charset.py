"""Decode the bytes of a page.

**Charset.** The one that a page declares is often wrong, and a wrong single-byte charset decodes without an error, into
mojibake. So a declaration is only a candidate. The candidates in order: a byte order mark; UTF-8, whose multi-byte
sequences hardly arise by chance; the HTTP header; the page's own ``<meta>`` or XML declaration; windows-1252, the
default of browsers; the guess of charset_normalizer among the charsets that browsers guess. The code pages of DOS and
the old Mac are not guessed: among so many, one always makes letters of a few stray bytes. Unless it is UTF-8, the
decoded text must also look like text (``MAX_MESS``). A page that no candidate decodes is undecodable. When a
declaration was overruled, the note says so. One error stays unnoticed: an undeclared charset that differs from
windows-1252 in a few letters only (Turkish).

**Broken bytes.** A page is UTF-8 if it has at least as many valid multi-byte sequences as broken ones (twice as many if
it declares another charset). Measured on translated messages of 29 languages in their older charsets, in more than
50,000 samples of 1 to 50 messages: the valid sequences that arise by chance were never twice as many as the broken
ones, and as many in 19 samples, each of one message. Each broken sequence becomes U+FFFD, as in browsers. A page with
fewer valid ones, but more than chance gives (``MIN_VALID``), is a mixture of UTF-8 and windows-1252, and each part is
read as what it is.

Sources: WHATWG Encoding (labels by webencodings; windows code pages, in which unassigned bytes are control characters)
and HTML 13.2.3 (order of sniffing); Unicode TR 26, CESU-8.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import charset_normalizer
import charset_normalizer.md
import webencodings

# Largest share of suspicious characters (charset_normalizer's measure) in the passages that are not ASCII. Measured on
# 13 languages, each in its own charset and in five others: its own gave at most 0.05, the others 0.15 or more.
MAX_MESS = 0.1
MAX_BROKEN = 0.02  # of the non-ASCII bytes of a page that is not UTF-8; one broken byte is always allowed
MIN_VALID = 0.1  # valid sequences per broken one; Latin letters in a Windows code page gave at most 0.07
MIN_NON_ASCII = 8  # with fewer such characters or bytes no charset is judged implausible
MIN_NULS = 0.1  # of the first bytes of UTF-16; a stray one is no sign of it
SAMPLE = 20_000  # characters or bytes on which plausibility and detection are based
META_BYTES = 4_096  # where a page must declare its charset; browsers read 1,024

_NO_CHARSETS = frozenset({"utf-7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"})
_PYTHONS_OWN = frozenset({"utf-16le", "utf-16be", "replacement", "x-user-defined"})  # read as Python reads the label
_ESCAPING = ("iso2022", "hz")  # charsets that use ASCII bytes only
_DETECTED = (
    *("big5hkscs", "cp932", "cp949", "euc_jp", "gb18030"),
    *("cp874", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"),
    *("iso8859_2", "iso8859_4", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_13", "koi8_r", "koi8_u"),
)

_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_TAG_BYTES = re.compile(rb"<[^<>]*>")
_SURROGATES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]|\xed[\xa0-\xbf][\x80-\xbf]")
# What a cut character leaves and no windows code page has: the start of a quote or dash, of an emoji, of a space.
_CUTS = (
    re.compile(rb"\xe2[\x80-\x84](?![\x80-\xbf])"),
    re.compile(rb"\xf0\x9f[\x80-\xbf]?(?![\x80-\xbf])"),
    re.compile(rb"\xc2(?=[\s<&])"),
)

MIXED = "utf-8 and cp1252"


def decode(body: bytes, content_type: str | None) -> tuple[str | None, str | None]:
    """The page as text, with a note if its declaration was missing or overruled; or None and the reason."""
    for mark, charset in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if body.startswith(mark):
            text = _read(body, charset)
            return (text, None) if text is not None else (None, f"byte order mark of {charset}, other bytes follow")
    if body.startswith(codecs.BOM_UTF8):
        body = body.removeprefix(codecs.BOM_UTF8)
        declared = ["utf-8"]
    else:
        declared = _declared(body, content_type)
    candidates = ["utf-8", *declared, MIXED, "cp1252"]
    if declared and declared[0].startswith(_ESCAPING):
        candidates = [*declared, *candidates]
    head = body[:META_BYTES]
    if head.count(0) > MIN_NULS * len(head):
        candidates = ["utf-16-le" if body[1:2] == b"\0" else "utf-16-be"]  # markup begins with an ASCII character
    utf8 = _Utf8.read(body)
    said = f"declared {declared[0]}" if declared else "no charset declared"
    for charset in itertools.chain(candidates, _detected(body)):
        if charset == "utf-8":
            enough = utf8.n_valid >= utf8.n_broken * (1 if declared[:1] in ([], ["utf-8"]) else 2)
            text = utf8.text if enough else None
        elif charset == MIXED:
            text = utf8.mixed() if utf8.n_valid > utf8.n_broken * MIN_VALID else None
        else:
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


class _Utf8(NamedTuple):
    """A body read as UTF-8, and how well it went."""

    body: bytes  # with surrogates joined
    text: str
    n_valid: int = 0  # multi-byte sequences; counted only if some are broken
    n_broken: int = 0

    @classmethod
    def read(cls, body: bytes) -> _Utf8:
        try:
            return cls(body, body.decode())
        except UnicodeDecodeError:
            body = _join_surrogates(body)
        text = body.decode(errors="replace")
        n_broken = text.count("\ufffd") - body.count("\ufffd".encode())
        n_cut = sum(len(cut.findall(body)) for cut in _CUTS)
        return cls(body, text, _n_non_ascii(text) - n_broken + n_cut, n_broken)

    def mixed(self) -> str:
        """The body with its valid sequences read as UTF-8 and all else as windows-1252."""
        return self.body.decode(errors="webtext-cp1252")


def _cp1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    broken = error.object[error.start : error.end]
    return codecs.charmap_decode(broken, "replace", _windows_table("cp1252")[0])[0], error.end


codecs.register_error("webtext-cp1252", _cp1252)


def _join_surrogates(body: bytes) -> bytes:
    """CESU-8, which Java and old databases write, as UTF-8: one character for two surrogates; U+FFFD for a lone one."""
    return _SURROGATES.sub(
        lambda pair: (
            pair[0]
            .decode(errors="surrogatepass")
            .encode("utf-16", "surrogatepass")
            .decode("utf-16", "replace")
            .encode()
        ),
        body,
    )


def _read(body: bytes, charset: str) -> str | None:
    """The body decoded, with U+FFFD for broken bytes; None if they are too many (``MAX_BROKEN``) for this charset."""
    n_non_ascii = _n_among(body, bytes(range(128, 256)))
    few = n_non_ascii < MIN_NON_ASCII
    limit = max(MAX_BROKEN * n_non_ascii, 0 if few else 1)
    if charset.startswith("utf-16"):
        text = body.decode(charset, errors="replace")
        return text if text.count("\ufffd") <= max(MAX_BROKEN * len(text), 1) else None
    if charset == "cp874" or charset.startswith("cp125"):
        table, unassigned = _windows_table(charset)
        text = codecs.charmap_decode(body, "replace", table)[0]
        return text if few or _n_among(body, unassigned) <= limit else None
    text = body.decode(charset, errors="replace")
    return text if text.count("\ufffd") <= limit else None


@functools.cache
def _windows_table(charset: str) -> tuple[str, bytes]:
    """The characters of a Windows code page, and its unassigned bytes: in C1 they are control characters."""
    characters = [bytes([byte]).decode(charset, "replace") for byte in range(256)]
    unassigned = bytes(byte for byte in range(256) if characters[byte] == "\ufffd")
    return "".join(chr(k) if k in unassigned and k < 0xA0 else c for k, c in enumerate(characters)), unassigned


def _n_among(body: bytes, some: bytes) -> int:
    return len(body) - len(body.translate(None, some))


def _mess(text: str) -> float:
    passages = [passage for passage in _TAG.split(text) if not passage.isascii()]
    sample = "\n".join(passages)[:SAMPLE].replace("\ufffd", "")  # broken bytes are counted elsewhere
    if _n_non_ascii(sample) < MIN_NON_ASCII:
        return 0.0
    return charset_normalizer.md.mess_ratio(sample, 1.0)


def _n_non_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _detected(body: bytes) -> Iterator[str]:
    """The guess of charset_normalizer, if it has one. Lazy, because guessing is slow."""
    passages = [passage for passage in _TAG_BYTES.split(body) if not passage.isascii()]
    sample = b"\n".join(passages)[:SAMPLE]
    best = charset_normalizer.from_bytes(sample, cp_isolation=list(_DETECTED)).best()
    if best is not None:
        yield best.encoding
