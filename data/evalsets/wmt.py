"""WMT 2014's test set for French and English (Bojar et al., 2014), newstest2014, and pairs of newstest2013.

The organisers publish SGML, ``newstest2014-fren-{src,ref}.{en,fr}.sgm``: 3,003 segments in documents, with the same
text whichever side is the source. Plain text without ``.sgm``, one sentence per line, is read too; there each sentence
counts as a document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import unescape

from data.errors import InputError

_MARKUP = re.compile(r'<doc\b[^>]*?\bdocid="([^"]*)"|<seg\b[^>]*>(.*?)</seg>', re.IGNORECASE | re.DOTALL)
_END = re.compile(r"</(?:src|ref|tst)set>\s*\Z", re.IGNORECASE)
_ENTITIES = {"&quot;": '"', "&apos;": "'"}


@dataclass(frozen=True)
class SentencePair:
    document: str
    english: str
    french: str


def french_of(english: Path) -> Path | None:
    """The French file beside ``newstest2014-fren-src.en[.sgm]``, or beside newstest2013's; None if there is none."""
    for ours, theirs in (("src.en", "ref.fr"), ("src.en", "src.fr"), ("2013.en", "2013.fr")):
        path = english.with_name(english.name.replace(ours, theirs))
        if ours in english.name and path.is_file():
            return path
    return None


def newstest2013(folder: Path) -> tuple[Path, Path] | None:
    """The English and the French file of newstest2013 in a folder, if both are there."""
    for name in ("newstest2013-src.en.sgm", "newstest2013.en"):
        english = folder / name
        french = french_of(english)
        if english.is_file() and french is not None:
            return english, french
    return None


def read_wmt(english: Path, french: Path) -> list[SentencePair]:
    """The pairs of two files. Raises InputError if one is cut or has an empty sentence, or if their numbers differ."""
    ours, theirs = _segments(english), _segments(french)
    if len(ours) != len(theirs):
        raise InputError(f"{english} has {len(ours)} sentences, {french} has {len(theirs)}; get both files again")
    return [SentencePair(document, text, other) for (document, text), (_, other) in zip(ours, theirs, strict=True)]


def _segments(path: Path) -> list[tuple[str, str]]:
    """The document and the text of each sentence."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); get the file again") from error
    if path.suffix == ".sgm":
        if not _END.search(text):
            raise InputError(f"{path}: does not end with </srcset> or </refset>; it was cut: get the file again")
        found = []
        document = ""
        for match in _MARKUP.finditer(text):
            if match[1] is not None:
                document = match[1]
            else:
                found.append((document, " ".join(unescape(match[2], _ENTITIES).split())))
    else:
        lines = text.rstrip().split("\n") if text.strip() else []
        found = [(str(number), " ".join(line.split())) for number, line in enumerate(lines, start=1)]
    if not found:
        raise InputError(f"{path}: no sentence; get the file again")
    for number, (_, sentence) in enumerate(found, start=1):
        if not sentence:
            raise InputError(f"{path}: sentence {number} is empty; get the file again")
    return found
