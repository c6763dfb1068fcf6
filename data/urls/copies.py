"""URLs of copies of pages: web archives, Google's cache and Google's translations. They become the original's URL.

A copy would bypass every rule for its original: the block lists, the merging of submissions, robots.txt and opt-outs.
So the original is fetched instead of the copy (docs/adr/0019-archived-copies.md). ``COPY_HOSTS`` show nothing but
copies. A URL on them that does not name its original (``archive.is/AbCdE``) is dropped like a blocked domain.

Sources: web.archive.org's URLs, archive.today/faq,
developers.google.com/search/docs/appearance/ad-network-and-translation.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

_TRANSLATE = ".translate.goog"
_ARCHIVE_TODAY = frozenset(f"archive.{top}" for top in ("today", "is", "ph", "li", "vn", "fo", "md"))
_WAYBACK = frozenset({"web.archive.org", "wayback.archive.org"})
_CACHE = "webcache.googleusercontent.com"
COPY_HOSTS = (
    _ARCHIVE_TODAY
    | _WAYBACK
    | {_CACHE, "cc.bingj.com", "translate.goog"}
    | {"perma.cc", "webcitation.org", "ghostarchive.org", "peeep.us"}
)
"""Services that show nothing but copies; subdomains count too."""

_OTHER_ARCHIVES = frozenset(  # they have pages of their own, and copies at PATH/TIMESTAMP/URL
    "arquivo.pt wayback.archive-it.org webarchive.loc.gov webarchive.nationalarchives.gov.uk webarchive.org.uk".split()
)
COPY_PATTERN = "(?i)" + "|".join(re.escape(host) for host in (*sorted(COPY_HOSTS | _OTHER_ARCHIVES), "google."))
"""Matches every URL, as it was submitted, that may name a copy, and others. For Arrow (RE2)."""

_IN_PATH = re.compile(r"/(https?)(?::|%3A)((?:/|%2F){1,3})(.+)", re.IGNORECASE)
_TIME = r"(?:\d{1,14}|\d{4}\.\d\d\.\d\d-\d{6}|[*])\*?(?:[a-z]{2}_)?"
_WITHOUT_SCHEME = re.compile(
    rf"/(?:(?:web|save)/)?(?:(?:{_TIME}|newest|oldest|timegate)/)?([a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/.*)?)"
)
_GOOGLE = re.compile(r"(?:(?:www|translate)\.)?google\.(?:com?\.)?[a-z]{2,3}")
_CACHE_ID = re.compile(r"[A-Za-z0-9_-]{11,12}:(?!/)")


def may_be_copy(host: str, path: str) -> bool:
    """Whether ``original_url`` may know an original. False is certain, True is not."""
    host = host.removeprefix("www.")
    if host in COPY_HOSTS or host in _OTHER_ARCHIVES or host.endswith(_TRANSLATE):
        return True
    return path.startswith(("/search", "/translate", "/website")) and _GOOGLE.fullmatch(host) is not None


def may_show_copies(host: str) -> bool:
    """Whether ``may_be_copy`` holds for any path of a host."""
    return may_be_copy(host, "/search")


def original_url(host: str, path: str, query: str) -> str | None:
    """The original of the copy at this canonical URL; None if it is no copy or does not name its original."""
    if not may_be_copy(host, path):
        return None
    host = host.removeprefix("www.")
    if host.endswith(_TRANSLATE):
        return _translated(host, path, query)
    fields = dict(parse_qsl(query))
    if host == _CACHE or (path == "/search" and _GOOGLE.fullmatch(host)):
        return _cached(fields.get("q", ""))
    if _GOOGLE.fullmatch(host):
        return _with_scheme(fields.get("u", "")) if host.startswith("translate.") else None
    return _in_path(host, path, query) or _with_scheme(fields.get("url", ""))


def _in_path(host: str, path: str, query: str) -> str | None:
    match = _IN_PATH.search(path)
    if match is not None:
        scheme, slashes, rest = match.groups()
        rest = unquote(rest) if "%" in slashes else rest
        return f"{scheme}://{rest}?{query}" if query else f"{scheme}://{rest}"
    match = _WITHOUT_SCHEME.fullmatch(path) if host in _WAYBACK or host in _ARCHIVE_TODAY else None
    if match is None:
        return None
    return f"http://{match[1]}?{query}" if query else f"http://{match[1]}"


def _translated(host: str, path: str, query: str) -> str | None:
    """By the steps that Google documents: dots are hyphens, hyphens are doubled, parameters name the exceptions."""
    fields = dict(parse_qsl(query))
    name = fields.get("_x_tr_hp", "") + host.removesuffix(_TRANSLATE)
    codes = fields.get("_x_tr_enc", "").split(",")
    if "1" in codes:
        name = name.removeprefix("1-")
    is_idn = "0" in codes and name.startswith("0-")
    name = re.sub(r"\b-\b", ".", name[2:] if is_idn else name).replace("--", "-")
    if "." not in name:
        return None
    scheme = "http" if fields.get("_x_tr_sch") == "http" else "https"
    own = "&".join(field for field in query.split("&") if field and not field.startswith("_x_tr_"))
    return f"{scheme}://{'xn--' if is_idn else ''}{name}{path}" + (f"?{own}" if own else "")


def _cached(q: str) -> str | None:
    """``cache:ID:URL and words that were searched for``."""
    if not q.startswith("cache:"):
        return None
    wanted = q.removeprefix("cache:").split(" ")[0]
    return _with_scheme(_CACHE_ID.sub("", wanted, count=1) if _CACHE_ID.match(wanted) else wanted)


def _with_scheme(url: str) -> str | None:
    if not url or "." not in url:
        return None
    return url if re.match(r"(?i)https?:/", url) else f"http://{url}"
