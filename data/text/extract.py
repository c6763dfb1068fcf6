"""Turn the bytes of one page into its main text: extract, identify the language, measure. A pure function.

**Extraction.** trafilatura (balanced, with tables, without comments) and resiliparse each find a main text. A model
that weighs their votes with the page's structure decides which of its blocks stay, and names the kind of page
(data/text/choice.py). A page in which no block is found has trafilatura's text.

**Metadata.** Title and date are what the page's own metadata says. trafilatura's other fields and its guesses of dates
from free text cost as much time as its extraction, and the guesses depend on the day they are made.

The stage runs this in a child process that it can kill (data/text/stage.py). docs/benchmarks.md has the speed.

Sources: Barbaresi 2021, "Trafilatura"; Bevendorff et al. 2018, "Elastic ChatNoir" (resiliparse).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import htmldate
import trafilatura
import trafilatura.metadata
import trafilatura.utils
from lxml.html import HtmlElement, HTMLParser, fromstring
from resiliparse.extract.html2text import extract_plain_text
from trafilatura.settings import Document

from data.schema import TextStatus
from data.text import choice, language, signals
from data.text.blocks import Block, blocks_of
from data.text.charset import decode
from data.text.facts import facts_of
from data.text.features import Ints, key_of, measure, votes_of, word_counts

MAX_DEPTH = 2048  # libxml2's XML_MAX_HUGE_DEPTH

_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Control characters, surrogates, byte order marks, noncharacters.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")

# A fixed latest date: htmldate's default is today, so the same page would give another row on another day.
DATES: dict[str, Any] = {"original_date": True, "extensive_search": False, "max_date": "2100-01-01"}


@dataclass(frozen=True)
class Extracted:
    """The result for one page. Without a text, only status and reason are set."""

    status: TextStatus
    reason: str | None = None
    text: str | None = None
    title: str | None = None
    date: str | None = None
    kind: str | None = None
    extractor: str | None = None
    language: str | None = None
    language_score: float | None = None
    signals: signals.Signals | None = None


@dataclass(frozen=True)
class Proposals:
    """What a page may have as its main text. Without blocks there are no rows."""

    blocks: list[Block]
    keys: list[str]
    rows: Ints | None  # [n, f] what the model knows of each block
    whole: str  # the text that trafilatura finds; empty if it finds none


def extract(body: bytes, content_type: str | None, url: str) -> Extracted:
    """Extract one page. Never raises: an error of the extractor becomes a status, and the reason names it.

    ``body`` is the page without content encoding, ``content_type`` its HTTP header, ``url`` its URL after redirects.
    """
    try:
        html, note = decode(body, content_type)
        if html is None:
            return Extracted(TextStatus.UNDECODABLE, note)
        tree, cut = parse(html)
        note = "; ".join(part for part in (note, cut) if part) or None
        if tree is None:  # no markup at all
            return Extracted(TextStatus.EMPTY, note)
        proposals = propose(html, tree, url)
        text, kind, extractor = main_text(proposals)
        if not text:
            return Extracted(TextStatus.EMPTY, note)
        language_, score = language.identify(text)
        return Extracted(
            TextStatus.OK,
            note,
            text,
            _one_line(_title(tree)),
            _one_line(htmldate.find_date(tree, url=url, **DATES)),
            kind,
            extractor,
            language_,
            score,
            signals.measure(text),
        )
    except MemoryError:
        return Extracted(TextStatus.CRASHED, "memory limit")
    except Exception as error:  # parsers raise all kinds of errors on pages of the web
        return Extracted(TextStatus.FAILED, _one_line(f"{type(error).__name__}: {error}"))


def propose(html: str, tree: HtmlElement, url: str) -> Proposals:
    """Ask the extractors and measure the page's blocks. The tree, made from ``html``, stays as it is."""
    document = trafilatura.bare_extraction(
        tree,
        url=url,
        include_comments=False,
        include_tables=True,
        include_formatting=False,
        deduplicate=False,
        with_metadata=False,
    )
    # trafilatura returns None where it finds nothing.
    whole = normalise(document.text or "") if isinstance(document, Document) else ""
    blocks = blocks_of(tree)
    keys = [key_of(block.text) for block in blocks]
    if not blocks:
        return Proposals(blocks, keys, None, whole)
    other = extract_plain_text(
        html, main_content=True, preserve_formatting=True, list_bullets=False, alt_texts=False, comments=False
    )
    votes = {"trafilatura": votes_of(keys, whole), "resiliparse": votes_of(keys, other)}
    rows, _ = measure(blocks, keys, votes, facts_of(tree, url))
    return Proposals(blocks, keys, rows, whole)


def main_text(proposals: Proposals, model: choice.Model | None = None) -> tuple[str, str | None, str]:
    """The main text, the kind of page, and the name of what chose the text."""
    if proposals.rows is None:
        return proposals.whole, None, "trafilatura"
    blocks, model = proposals.blocks, model or choice.model()
    chances = model.chances(blocks, proposals.rows)
    chances[choice.repeated(blocks, proposals.keys)] = 0
    keep = choice.best(word_counts(blocks), chances)
    text = normalise(choice.text_of([block for block, is_kept in zip(blocks, keep, strict=True) if is_kept]))
    return text, model.kind(proposals.rows[0]), "blocks"


def _title(tree: HtmlElement) -> str | None:
    found: str | None = trafilatura.metadata.examine_meta(tree).title or trafilatura.metadata.extract_title(tree)
    return found


def parse(html: str) -> tuple[HtmlElement | None, str | None]:
    """The page's tree as trafilatura makes it, but deeper, with a note if even so not all of it is there.

    None if trafilatura sees no markup.

    Old forums leave tags open, so that each post lies inside the one before. libxml2 stops reading when 256 elements
    are open, or ``MAX_DEPTH`` if it is asked for huge trees; trafilatura does not ask. A page that deep may take 20 s.
    """
    tree = trafilatura.load_html(html)
    if tree is None:
        return None, None
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
