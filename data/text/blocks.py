"""Cut a page into blocks: the passages between the boundaries of its block elements, with where they stand.

A browser begins a new line at these boundaries, so a block is a paragraph, a heading, a list item, a table cell or a
line before ``<br>``. Scripts, styles and form fields have no text for readers. The text of ``<noscript>`` is read,
since some forums send their posts only there.

A block knows its surroundings as a set of marks: the elements that it lies in (``nav``, ``article``, ``li`` ..), and
what their classes and ids say (``sidebar``, ``comment``, ``share`` ..). Blocks with the same path of elements and
classes have the same ``place``, as the posts of a thread do.

Cost: 5 ms for a page of 1,500 elements.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from lxml import etree
from lxml.html import HtmlElement

_NO_TEXT = frozenset(
    "script style svg template head title iframe object select textarea input math canvas audio video map datalist "
    "embed applet".split()
)
_INLINE = frozenset(
    "a b i em strong span code sub sup small font abbr cite q label time u s mark kbd samp var tt ins del big acronym "
    "bdo bdi wbr img strike dfn nobr data ruby rt rb rp picture source".split()
)
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))

_WORDS = {
    "nav": "nav menu breadcrumb crumb paginat pager paging toolbar tabs dropdown drawer offcanvas",
    "head": "header masthead topbar banner hero logo",
    "foot": "foot copyright colophon legal disclaimer",
    "side": "side aside rail widget gutter secondary",
    "comment": "comment disqus respond discussion",
    "share": "shar social follow tweet facebook twitter addtoany whatsapp pinterest",
    "related": "relat recommend more popular trending latest recent also suggest similar upsell carousel slider swiper "
    "slick next prev",
    "ad": "=ad =ads advert promo sponsor taboola outbrain banner affiliate =cta",
    "consent": "cookie consent gdpr privacy modal popup overlay lightbox toast alert",
    "signup": "newsletter subscri signup login register paywall optin form search",
    "author": "author byline bio avatar profile user contributor",
    "meta": "meta date time tag categor label badge info published stats views vote score rating review star",
    "caption": "caption figure credit photo image gallery media video thumb",
    "content": "content entry article story prose markdown richtext text copy wysiwyg body",
    "post": "post article blog news hentry",
    "main": "main primary page",
    "message": "message thread topic repl answer question cooked wrapper forum",
    "product": "product price =sku cart shop buy basket wishlist variant",
    "item": "item card tile grid list =row =col result teaser excerpt summary snippet",
    "details": "desc detail spec feature overview about =faq accordion toggle collaps",
    "document": "=doc =docs wiki readme manual guide tutorial reference =api section chapter =toc contents",
    "title": "title heading headline subtitle lead intro standfirst",
    "hidden": "hidden hide =sr screen visually invisible print skip",
    "control": "=btn button link action icon control",
    "quote": "quote signature edit",
}
"""What a class or an id may say of its element: words that its parts contain, or equal where marked with ``=``."""

_ELEMENTS = [
    *("nav", "header", "footer", "aside", "main", "article", "section", "form", "table", "ul", "ol", "dl", "li"),
    *("figure", "blockquote", "pre", "p", "h", "button", "address", "details", "tr", "dd", "noscript"),
]

MARKS = (*_WORDS, *(f"<{name}>" for name in _ELEMENTS), "not shown", "role main")
"""The bits of ``Block.marks``, lowest first."""

BIT = {mark: 1 << k for k, mark in enumerate(MARKS)}
_ELEMENT_BIT = {name: BIT[f"<{name}>"] for name in _ELEMENTS} | dict.fromkeys(_HEADINGS, BIT["<h>"])
_ROLE_BIT = {
    "main": BIT["role main"],
    "article": BIT["role main"],
    "navigation": BIT["<nav>"],
    "banner": BIT["<header>"],
    "contentinfo": BIT["<footer>"],
    "complementary": BIT["<aside>"],
}
_MAX_NAMES = 2_000  # characters of id and classes that are read; they are keys of a cache
_PART = re.compile(r"[a-z]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NOT_DISPLAYED = re.compile(r"display\s*:\s*none")


@dataclass(slots=True)
class Block:
    """One passage of a page. Elements are numbered within the page."""

    text: str  # one line, unless it is preformatted
    element: str  # the block element that it stands in directly, or "br" after a line break
    own: int  # the marks of this element
    marks: int  # the marks of this element and of all around it
    parent: int  # the block element around this element
    grandparent: int
    place: int  # the same for blocks with the same path of elements and classes
    row: int  # the table row that it is a cell of; 0 outside a row
    depth: int  # block elements around it
    link_chars: int  # characters inside links, white space included
    n_links: int


@dataclass(slots=True)
class _Open:
    """A block element that is not closed yet."""

    element: str
    own: int
    marks: int
    number: int
    place: int
    row: int


def blocks_of(tree: HtmlElement) -> list[Block]:
    """The blocks of a page in the order of the document. The tree stays as it is."""
    root = tree.find("body") if tree.tag == "html" else tree
    return [] if root is None else _Reader().read(root)


class _Reader:
    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.path: list[_Open] = []
        self.places: dict[tuple[int, str, str], int] = {}
        self.parts: list[str] = []
        self.link_chars = 0
        self.n_links = 0
        self.in_link = 0
        self.in_pre = 0
        self.after_break = False

    def read(self, root: HtmlElement) -> list[Block]:
        skipped = 0  # open elements, from the outermost without text
        number = 0
        for event, element in etree.iterwalk(root, events=("start", "end")):
            tag = element.tag
            if event == "start":
                if skipped or tag in _NO_TEXT:
                    skipped += 1
                elif tag in _INLINE:
                    if tag == "a":
                        self.in_link += 1
                        self.n_links += 1
                    self._add(element.text)
                elif isinstance(tag, str):
                    self._end_block()
                    if tag != "br":
                        number += 1
                        self._open(element, tag, number)
                        self._add(element.text)
            else:
                if skipped:
                    skipped -= 1
                    if skipped:
                        continue
                elif tag == "a":
                    self.in_link -= 1
                elif tag == "br":
                    self.after_break = True
                elif isinstance(tag, str) and tag not in _INLINE:
                    self._end_block()
                    self.in_pre -= tag == "pre"
                    self.path.pop()
                if element is not root:
                    self._add(element.tail)
        return self.blocks

    def _add(self, text: str | None) -> None:
        if text:
            self.parts.append(text)
            if self.in_link:
                self.link_chars += len(text)

    def _open(self, element: HtmlElement, tag: str, number: int) -> None:
        own = _ELEMENT_BIT.get(tag, 0)
        first_class = ""
        attributes = element.attrib
        if attributes:
            classes = attributes.get("class", "")
            first_class = classes.split(None, 1)[0] if classes.strip() else ""
            own |= _said_by(f"{attributes.get('id', '')} {classes}"[:_MAX_NAMES])
            own |= _ROLE_BIT.get(attributes.get("role", ""), 0)
            if (
                attributes.get("aria-hidden") == "true"
                or "hidden" in attributes
                or _NOT_DISPLAYED.search(attributes.get("style", ""))
            ):
                own |= BIT["not shown"]
        around = self.path[-1] if self.path else _Open("", 0, 0, 0, 0, 0)
        place = self.places.setdefault((around.place, tag, first_class), len(self.places) + 1)
        row = number if tag == "tr" else around.row
        self.path.append(_Open(tag, own, around.marks | own, number, place, row))
        self.in_pre += tag == "pre"
        self.after_break = False

    def _end_block(self) -> None:
        if self.parts:
            whole = "".join(self.parts)
            text = whole.strip("\r\n") if self.in_pre else " ".join(whole.split())
            if text and not text.isspace():
                self.blocks.append(self._block(text))
            self.parts.clear()
        self.link_chars = self.n_links = 0

    def _block(self, text: str) -> Block:
        at = self.path[-1]
        return Block(
            text=text,
            element="br" if self.after_break else at.element,
            own=at.own,
            marks=at.marks,
            parent=self.path[-2].number if len(self.path) > 1 else 0,
            grandparent=self.path[-3].number if len(self.path) > 2 else 0,
            place=at.place,
            row=at.row,
            depth=len(self.path),
            link_chars=self.link_chars,
            n_links=self.n_links,
        )


@functools.lru_cache(maxsize=2**15)
def _said_by(names: str) -> int:
    """The marks that the classes and the id of an element stand for."""
    marks = 0
    for part in _PART.findall(_CAMEL.sub(" ", names).lower()):
        marks |= _mark_of(part)
    return marks


@functools.lru_cache(maxsize=2**15)
def _mark_of(part: str) -> int:
    marks = 0
    for mark, words in _WORDS.items():
        for word in words.split():
            if part == word[1:] if word[0] == "=" else word in part:
                marks |= BIT[mark]
    return marks
