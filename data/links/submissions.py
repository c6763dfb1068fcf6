"""Parses one line of a link source: a submission with an outbound link, or the reason why there is none.

Fields come and go over twenty years of Reddit: ``created_utc`` is an integer, a float or a string, ``is_self`` and
``retrieved_on`` may be absent, and Arctic Shift keeps the time of its second observation of the score in ``_meta``.
Tables that were converted to JSON write 12 as "12.0", and true as 1 or "True".
Items of Hacker News are recognised line by line: they have ``points``, ``time`` or ``dt`` and never ``created_utc``.
They may be Firebase's items, hits of Algolia's search, or lines of older dumps. In items that we fetched ourselves,
``retrieved_on`` is the time of the request.

Only a field that decides something can spoil a line. Lone surrogates, invalid UTF-8 and numbers beyond a double in any
other field are ignored.

These functions are exact and slow, 15 to 20 microseconds per line; data/links/records.py has a fast path for plain
lines.

Sources: the dumps of Pushshift and Arctic Shift (file_content_explanations.md), github.com/HackerNews/API,
hn.algolia.com/api, www.reddit.com/dev/api.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from data.schema import LinkStatus
from data.urls.blocklists import REDDIT_HOSTS
from data.urls.canonical import UrlParts, is_below, parse_url, registrable_domain

MAX_SCORE = 2**31  # a larger number is not a score; sums of scores stay far within 64 bits
HACKER_NEWS_FIELDS = frozenset({"points", "time", "dt"})
_SUBMISSION_FIELDS = frozenset({"score", "is_self", "over_18", "subreddit"})
_NO_STORIES = frozenset({"job", "comment", "poll", "pollopt"})
_HN_HOSTS = frozenset({"news.ycombinator.com"})
_WORDS = dict.fromkeys(("true", "t", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "f", "no", "0", "0.0"), False)
LAST_S = 253_402_300_799  # the end of the year 9999


class Submission(NamedTuple):
    """A submission with an outbound link. Times are milliseconds since 1970, UTC.

    ``is_listed``: from a URL list, which has no votes; being on the list counts as voted up.
    """

    site: str  # reddit, hackernews, list: ids are unique within one
    id: str | None
    subreddit: str | None
    url: str
    canonical_url: str
    domain: str
    score: int | None
    created_ms: int | None
    observed_ms: int | None
    is_listed: bool


class Rejected(NamedTuple):
    status: LinkStatus
    reason: str


def parse_url_line(line: bytes) -> Submission | Rejected:
    """A line of a URL list."""
    try:
        url = line.decode().strip()
    except UnicodeDecodeError as error:
        return Rejected(LinkStatus.MALFORMED_LINE, f"not UTF-8: {error}")
    parts = _parts(url)
    return parts if isinstance(parts, Rejected) else _submission("list", None, None, url, parts, None, None, None)


def parse_dump_line(line: bytes) -> Iterator[Submission | Rejected]:
    """A line of a Reddit dump, of Hacker News items, or of Reddit's API.

    One result; a saved ``Listing`` of the API is one line and has a result per submission.
    """
    try:
        item = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            item = loads_leniently(line)
        except (ValueError, RecursionError):
            yield Rejected(LinkStatus.MALFORMED_LINE, f"not JSON: {error}")
            return
    yield from _items(item)


class _SpoiledError(Exception):
    """The field of this name holds a string that is no text."""


class _Checked(dict[str, Any]):
    """An object in which some strings may hold surrogates. Raises _SpoiledError when such a string is read."""

    def get(self, name: str, default: Any = None) -> Any:
        value = super().get(name, default)
        if isinstance(value, str) and not _is_text(value):
            raise _SpoiledError(name)
        return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def loads_leniently(line: bytes) -> Any:
    """JSON with lone surrogates, invalid UTF-8 (each octet a surrogate) and numbers of any size.

    Raises ValueError for a line that is not JSON even so, and RecursionError for one that is nested too deep.
    """
    text = line.decode(errors="surrogateescape")
    return json.loads(text, object_hook=_Checked, parse_int=_int, parse_constant=_refuse)


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else float(digits)  # as orjson does; int() refuses 4,300 digits


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _items(item: Any) -> Iterator[Submission | Rejected]:
    if not isinstance(item, dict):
        yield Rejected(LinkStatus.MALFORMED_LINE, f"JSON, but no object: {type(item).__name__}")
    elif "created_utc" in item:
        yield _result(parse_reddit, item)
    elif dict.get(item, "kind") == "Listing" and isinstance(data := dict.get(item, "data"), dict):
        children = dict.get(data, "children")
        for child in children if isinstance(children, list) else [None]:
            yield _result(_child, child)
    elif not HACKER_NEWS_FIELDS.isdisjoint(item):
        yield _result(_hacker_news, item)
    else:
        yield _result(_untimed, item)


def _result(parse: Callable[[Any], Submission | Rejected], item: Any) -> Submission | Rejected:
    try:
        return parse(item)
    except _SpoiledError as error:
        return Rejected(LinkStatus.MALFORMED_LINE, f"the field {error} is not text: invalid UTF-8 or a lone surrogate")


def _child(child: Any) -> Submission | Rejected:
    if isinstance(child, dict) and child.get("kind") == "t3" and isinstance(data := child.get("data"), dict):
        return parse_reddit(data)
    kind = child.get("kind") if isinstance(child, dict) else None
    status = LinkStatus.NOT_A_SUBMISSION if isinstance(kind, str) else LinkStatus.MALFORMED_LINE
    return Rejected(status, "in a listing, but no submission")


def _untimed(item: dict[str, Any]) -> Submission | Rejected:
    """An object without a time. A URL alone makes no submission: text corpora and crawl logs have URLs too."""
    if _SUBMISSION_FIELDS.isdisjoint(item) and ("title" not in item or "text" in item):
        return Rejected(LinkStatus.NOT_A_SUBMISSION, "no field of a submission")
    return parse_reddit(item)


def left_out(item: Mapping[str, Any]) -> Rejected | None:
    """Why an item of Hacker News is no live story; None for a story.

    Firebase names the kind of an item in ``type``, Algolia among ``_tags``; a line without either may be a story.
    """
    tags = item.get("_tags")
    kinds = [item.get("type"), *(tags if isinstance(tags, list) else [])]
    other = next((kind for kind in kinds if isinstance(kind, str) and kind in _NO_STORIES), None)
    if other is not None:
        return Rejected(LinkStatus.NOT_A_SUBMISSION, other)
    if truth(item.get("deleted")):
        return Rejected(LinkStatus.DELETED, "")
    return Rejected(LinkStatus.DEAD, "") if truth(item.get("dead")) else None


def _hacker_news(item: dict[str, Any]) -> Submission | Rejected:
    if (other := left_out(item)) is not None:
        return other
    url = item.get("url")
    if not isinstance(url, str) or not url.strip():
        is_story = item.get("type") == "story" or isinstance(item.get("title"), str)
        return Rejected(LinkStatus.NO_URL if is_story else LinkStatus.NOT_A_SUBMISSION, "")
    parts = _parts(url)
    if isinstance(parts, Rejected):
        return parts
    if is_below(parts.host, _HN_HOSTS):
        return Rejected(LinkStatus.SELF_POST, "on the site's own hosts")
    score = _score(item.get("points", item.get("score")))
    created_ms = _milliseconds(item.get("time", item.get("created_at_i", item.get("dt"))))
    identity = item.get("id", item.get("objectID"))
    observed_ms = _milliseconds(item.get("retrieved_on"))
    return _submission("hackernews", identity, None, url, parts, score, created_ms, observed_ms)


def parse_reddit(item: Mapping[str, Any]) -> Submission | Rejected:
    """A submission as an object of Reddit's API, which is also what dumps hold."""
    is_self = truth(item.get("is_self"))
    if is_self:
        return Rejected(LinkStatus.SELF_POST, "is_self")
    url = item.get("url")
    domain = item.get("domain") if is_self is None else None
    domain = domain.lower() if isinstance(domain, str) else ""
    is_self_domain = domain.startswith("self.")
    if not isinstance(url, str) or not url.strip():
        if is_self_domain:
            return Rejected(LinkStatus.SELF_POST, "")
        is_submission = item.get("is_self") is not None or isinstance(item.get("title"), str)  # comments have neither
        return Rejected(LinkStatus.NO_URL if is_submission else LinkStatus.NOT_A_SUBMISSION, "")
    if url.startswith("/"):
        if "display_name" in item:
            return Rejected(LinkStatus.NOT_A_SUBMISSION, "a subreddit")
        return Rejected(LinkStatus.SELF_POST, "relative to the site")
    url = unescaped(url)
    parts = _parts(url)
    host = "" if isinstance(parts, Rejected) else parts.host
    if is_below(host, REDDIT_HOSTS):
        return Rejected(LinkStatus.SELF_POST, "on the site's own hosts")
    if is_self_domain and host.removeprefix("www.") != domain:  # self.com is a site, self.AskReddit is not
        return Rejected(LinkStatus.SELF_POST, "domain")
    if truth(item.get("over_18")):
        return Rejected(LinkStatus.OVER_18, "")
    if isinstance(parts, Rejected):
        return parts
    observed_ms = observed(item.get("_meta"), item.get("retrieved_on"), item.get("retrieved_utc"))
    created_ms = _milliseconds(item.get("created_utc"))
    score = _score(item.get("score"))
    return _submission("reddit", item.get("id"), item.get("subreddit"), url, parts, score, created_ms, observed_ms)


def observed(meta: Any, retrieved_on: Any, retrieved_utc: Any) -> int | None:
    """When the score was observed, in milliseconds, from the fields of these names; ``meta`` is Arctic Shift's."""
    seen_again = meta.get("retrieved_2nd_on") if isinstance(meta, dict) else None
    return _milliseconds(seen_again or retrieved_on or retrieved_utc)


def _parts(url: str) -> UrlParts | Rejected:
    try:
        return parse_url(url)
    except ValueError as error:
        return Rejected(LinkStatus.BAD_URL, str(error))


def _submission(
    site: str,
    identity: Any,
    subreddit: Any,
    url: str,
    parts: UrlParts,
    score: int | None,
    created_ms: int | None,
    observed_ms: int | None,
) -> Submission:
    return Submission(
        site,
        _identity(identity),
        subreddit if isinstance(subreddit, str) and subreddit else None,
        url.strip(),
        parts.url,
        registrable_domain(parts.host),
        score,
        created_ms,
        observed_ms,
        site == "list",
    )


def _identity(value: Any) -> str | None:
    """An id is a string or a whole number; decoders disagree about numbers beyond 64 bits, so those are none."""
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value)) if abs(value) < 2**63 else None
    return value if isinstance(value, str) and value else None


def unescaped(url: str) -> str:
    """Undo the HTML entities of Reddit's API, which escapes only these three characters."""
    return url.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if "&" in url else url


def truth(value: Any) -> bool | None:
    """A boolean, which may be written as 1 or 0 or as a word; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def _score(value: Any) -> int | None:
    """An integer, which may be written as a float or a string; None for anything else."""
    try:
        score = int(value) if isinstance(value, int) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return score if abs(score) < MAX_SCORE else None


def _milliseconds(value: Any) -> int | None:
    """Seconds since 1970 as a number or a string, or an ISO 8601 time (UTC if it names no zone), in milliseconds."""
    try:
        ms = round(float(value) * 1000)
    except (TypeError, OverflowError):
        return None
    except ValueError:
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            return None
        ms = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    return ms if 0 <= ms <= LAST_S * 1000 else None
