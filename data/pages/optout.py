"""Opt-outs beside robots.txt: in a page's headers, in its markup, and in a file for the whole site.

    X-Robots-Tag, meta robots    noindex, none, noai, noml, unavailable_after a past time; to all, or to us by name
    Content-Signal, Content-Usage    ai-train=no, train-ai=n
    tdm-reservation              1, as a header, as a meta element, or for paths in /.well-known/tdmrep.json

``noindex`` keeps a page out of indexes. It counts here because a corpus is copied further than any index.
``noimageai``, ``noarchive``, ``nosnippet`` and ``nofollow`` are about other uses than ours. One refusal among several
statements is enough. Reasons are fixed words.

In the markup only the first HEAD_BYTES before ``<body`` count. A search of the bytes finds meta elements that could
refuse, and only a page that has one is parsed, so a meta in a comment or a script does not count. This takes about 50
microseconds for a news page of 60 kB, and 0.25 milliseconds more if the page is parsed. It is linear in HEAD_BYTES.

Sources: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag, meta robots),
contentsignals.org, draft-ietf-aipref-attach and -vocab (Content-Usage), www.w3.org/community/reports/tdmrep (TDMRep).
``noai`` is DeviantArt's, ``noml`` Mojeek's (noml.info).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import lxml.etree
import lxml.html
import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from data.schema import PageStatus
from data.urls.canonical import normal_percents

HEAD_BYTES = 131_072
TAG_BYTES = 1_024  # a robots meta is shorter and has no > inside a value
MAX_DIRECTIVES = 100  # in one value; real ones have fewer, and a hostile header can hold 30,000

Refusal = tuple[PageStatus, str]
"""A status, and a reason in fixed words."""

BOM_BYTES = b"\xef\xbb\xbf"  # some files begin with a part of the byte order mark

_REFUSING = frozenset({"noindex", "none", "noai", "noml"})
# Directives with a value after a colon. Any other word before a colon is the name of a robot.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"\s*([A-Za-z0-9_-]+)\s*:")
_WORDS = re.compile(r"[\s,;]+")
_META_WORDS = re.compile(rb"noindex|none|noai|noml|unavailable_after|tdm-reservation")

# The categories in the drafts that cover training of a generative model: first the exact ones, then wider ones.
_TRAINING = (frozenset({"ai-train", "train-ai", "train-genai", "genai"}), frozenset({"ai", "tdm", "bots", "all"}))
_ORIGINAL = "x-archive-orig-"  # before the names of the page's own headers in a replay of OpenWayback or pywb
_ALLOWED = {"yes": True, "y": True, "no": False, "n": False}


class TdmRule(NamedTuple):
    """A rule of tdmrep.json: whether the paths that match its location are reserved."""

    pieces: tuple[str, ...]  # the location, split at its asterisks
    is_whole: bool  # the location ends with $, so the path must end there
    is_reserved: bool


def header_opt_out(headers: CIMultiDictProxy[str], user_agent: str, *, now: datetime | None = None) -> Refusal | None:
    """Why an answer's headers forbid its use; None if they do not.

    ``user_agent`` is our product token; ``now`` (this machine's time by default) is for ``unavailable_after``.
    """
    original = [
        (name[len(_ORIGINAL) :], value) for name, value in headers.items() if name.lower().startswith(_ORIGINAL)
    ]
    if original:  # a copy in an archive: what forbids the page forbids the copy
        headers = CIMultiDictProxy(CIMultiDict([*headers.items(), *original]))
    for value in headers.getall("X-Robots-Tag", ()):
        word = _header_word(value, user_agent.lower(), now)
        if word is not None:
            return PageStatus.OPT_OUT_X_ROBOTS_TAG, word
    for name in ("Content-Signal", "Content-Usage"):
        if allows_training(",".join(headers.getall(name, ()))) is False:
            return PageStatus.OPT_OUT_CONTENT_SIGNAL, name.lower()
    if any(value.strip() == "1" for value in headers.getall("tdm-reservation", ())):
        return PageStatus.OPT_OUT_TDM, "header"
    return None


def allows_training(value: str) -> bool | None:
    """Whether a Content-Signal or Content-Usage value allows training a generative model; None if it says nothing.

    Categories for training take precedence over wider ones, and a refusal over a permission.
    """
    if not value:
        return None
    said: dict[str, bool] = {}
    for member in value.lower().split(",", MAX_DIRECTIVES):
        name, _, preference = member.partition("=")
        allowed = _ALLOWED.get(preference.partition(";")[0].strip())
        if allowed is not None:
            said[name.strip()] = said.get(name.strip(), True) and allowed
    for names in _TRAINING:
        if names & said.keys():
            return all(said[name] for name in names & said.keys())
    return None


def _header_word(value: str, user_agent: str, now: datetime | None) -> str | None:
    """The first word of an X-Robots-Tag header that forbids us to use the page."""
    is_ours = True
    parts = value.split(",", MAX_DIRECTIVES)  # the last part holds all the rest, which is searched too
    for index, part in enumerate(parts):
        begin = 0
        while (agent := _AGENT.match(part, begin)) and agent[1].lower() not in _VALUED:
            is_ours = agent[1].lower() == user_agent
            begin = agent.end()
        if is_ours:
            word = _refusing_word(part[begin:], parts[index + 1 : index + 2], now)
            if word is not None:
                return word
    return None


def _refusing_word(part: str, following: list[str], now: datetime | None) -> str | None:
    """The refusing word of one directive. ``following`` is the next directive, because a date may contain a comma."""
    name, colon, value = part.strip().lower().partition(":")
    if name.strip() == "unavailable_after":
        is_past = colon and (_is_past(value, now) or _is_past(",".join([value, *following]), now))
        return "unavailable_after" if is_past else None
    return next((word for word in _WORDS.split(part.lower()) if word in _REFUSING), None)


def _is_past(text: str, now: datetime | None) -> bool:
    """Whether a time (RFC 822, RFC 850 or ISO 8601; UTC without a zone) is past. False for an invalid time."""
    if len(text) > 64:
        return False
    time = None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            time = parse(text.strip().upper())
            break
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    if time is None:
        return False
    return (time if time.tzinfo else time.replace(tzinfo=UTC)) <= (now or datetime.now(UTC))


def meta_opt_out(body: bytes, user_agent: str, *, now: datetime | None = None) -> Refusal | None:
    """Why a page's meta elements forbid its use; None if they do not. Arguments as ``header_opt_out``."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        body = body[:HEAD_BYTES].decode("utf-16", errors="replace").encode()
    head = body[: _head_end(body)]
    agent = user_agent.lower()
    if not _may_refuse(head.lower(), agent.encode()):
        return None
    for name, content in _metas(head):
        if name in ("robots", agent):
            word = _header_word(content, agent, now)
            if word is not None:
                return PageStatus.OPT_OUT_META_ROBOTS, word
        elif name == "tdm-reservation" and content.strip() == "1":
            return PageStatus.OPT_OUT_TDM, "meta"
    return None


def _head_end(body: bytes) -> int:
    """Where the body element begins, at most HEAD_BYTES: the first ``<body`` outside scripts and comments."""
    for spelling in (b"<body", b"<BODY"):
        at = -1
        for _ in range(4):
            at = body.find(spelling, at + 1, HEAD_BYTES)
            if at < 0:
                break
            if not (_is_open(body, b"<script", b"</script", at) or _is_open(body, b"<!--", b"-->", at)):
                return at
    return HEAD_BYTES


def _is_open(body: bytes, opening: bytes, closing: bytes, at: int) -> bool:
    last = body.rfind(opening, 0, at)
    return last >= 0 and body.find(closing, last, at) < 0


def _may_refuse(lowered: bytes, agent: bytes) -> bool:
    """Whether one of the meta tags has both a relevant name and a refusing word."""
    for rest in lowered.split(b"<meta")[1:]:
        tag = rest[:TAG_BYTES].partition(b">")[0]
        if (b"robots" in tag or agent in tag or b"tdm-reservation" in tag) and _META_WORDS.search(tag):
            return True
    return False


def _metas(head: bytes) -> Iterator[tuple[str, str]]:
    """Name, in lower case, and content of the meta elements in the first bytes of a page."""
    try:
        tree = lxml.html.document_fromstring(head)
    except (lxml.etree.LxmlError, ValueError):  # nothing in it that could be an element
        return
    for meta in tree.iter("meta"):
        yield meta.get("name", "").strip().lower(), meta.get("content", "")


def parse_tdmrep(body: bytes) -> tuple[TdmRule, ...]:
    """The rules of a tdmrep.json in their order. Ignores invalid rules; invalid JSON has no rules."""
    try:
        if body.startswith((b"\xff\xfe", b"\xfe\xff")):
            body = body.decode("utf-16", errors="replace").encode()
        found = orjson.loads(body.lstrip(BOM_BYTES))
    except orjson.JSONDecodeError:
        return ()
    rules = []
    for rule in found if isinstance(found, list) else [found]:
        location = rule.get("location") if isinstance(rule, dict) else None
        reservation = str(rule.get("tdm-reservation")).strip() if isinstance(rule, dict) else ""
        if isinstance(location, str) and location.startswith(("/", "*")) and reservation in ("0", "1"):
            pattern = normal_percents(location)
            pieces = tuple(_bare(piece) for piece in pattern.removesuffix("$").split("*"))
            rules.append(TdmRule(pieces, pattern.endswith("$"), reservation == "1"))
    return tuple(rules)


def tdmrep_opt_out(rules: tuple[TdmRule, ...], path: str) -> Refusal | None:
    """Why an origin's tdmrep.json forbids the use of a URL's path and query; None if it does not.

    The first rule whose location matches decides, as TDMRep says. A location matches the paths that begin with it;
    ``*`` matches anything, and ``$`` at the end of the location matches the end of the path.
    """
    path = _bare(normal_percents(path))
    for rule in rules:
        if _matches(rule, path):
            return (PageStatus.OPT_OUT_TDM, "tdmrep.json") if rule.is_reserved else None
    return None


def _bare(text: str) -> str:
    """Decode the percent-encodings of ``$`` and ``*``, by which a location names the characters themselves."""
    return text.replace("%24", "$").replace("%2A", "*")


def _matches(rule: TdmRule, path: str) -> bool:
    """Match each piece at its first place after the previous piece. A later place could not match more."""
    first, *others = rule.pieces
    if not path.startswith(first):
        return False
    at = len(first)
    if not others:
        return not rule.is_whole or at == len(path)
    *middle, last = others
    for piece in middle:
        at = path.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    if rule.is_whole:
        return len(path) - at >= len(last) and path.endswith(last)
    return path.find(last, at) >= 0
