"""URLs that show another URL's page: AMP caches and viewers, and mobile host names.

Only certain cases are rewritten, since a wrong guess would show another page:

* An AMP cache or viewer has the publisher's URL in its own path, by the format its operator documents. The publisher's
  own AMP pages (``/amp``, ``?amp=1``, ``amp.`` hosts) are kept: the URL of their plain page differs by site.
* ``MOBILE_HOSTS`` lists services that serve the same paths under a host name for phones, and redirect between the two.
  ``m.`` in front of any other host proves nothing: it may have other paths, or other pages.

Sources: developers.google.com/amp/cache/overview, cdn.ampproject.org/caches.json, amphtml's src/url.js (which
parameters the cache and the viewer add), www.mediawiki.org/wiki/Extension:MobileFrontend.
"""

from __future__ import annotations

import re

AMP_CACHES = ("cdn.ampproject.org", "bing-amp.com")
"""The hosts of Google's and Bing's AMP caches; subdomains count too."""

_WIKIMEDIA = frozenset(  # LANGUAGE.m.PROJECT.org is PROJECT's mobile site; commons.m.wikimedia.org and its like too
    "wikipedia wiktionary wikibooks wikinews wikiquote wikisource wikiversity wikivoyage wikimedia".split()
)
MOBILE_HOSTS = {
    "m.wikidata.org": "www.wikidata.org",
    "m.mediawiki.org": "www.mediawiki.org",
    "m.youtube.com": "www.youtube.com",  # one application, every path the same
    "mobile.twitter.com": "twitter.com",  # Twitter redirects browsers between the two by User-Agent,
    "m.twitter.com": "twitter.com",
    "mobile.x.com": "x.com",
    "m.facebook.com": "www.facebook.com",  # so does Facebook
    "m.xkcd.com": "xkcd.com",  # NUMBER/ is comic NUMBER on both, as xkcd.com says
}

_GOOGLE = re.compile(r"(?:www\.)?google\.(?:com?\.)?[a-z]{2,3}")  # its viewer stands under its search hosts
_ADDED = re.compile(r"(?:^|&)(?:amp_js|amp_gsa|amp_r|amp_kit|usqp)[^&]*")  # parameters of the cache and the viewer


def may_be_rewritten(host: str, path: str) -> bool:
    """Whether ``publisher_url`` or ``desktop_host`` may rewrite a canonical host and its path.

    False is certain, True is not. About 0.2 microseconds, for fast paths.
    """
    return path.startswith(("/amp/", "/c/", "/v/")) or host.startswith(("m.", "mobile.")) or ".m." in host


def publisher_url(host: str, path: str, query: str) -> str | None:
    """The page that an AMP cache or viewer shows at this canonical URL; None for any other URL."""
    if not path.startswith(("/amp/", "/c/", "/v/")):
        return None
    query = _ADDED.sub("", query).removeprefix("&")
    if path.startswith("/amp/"):
        # The query belongs to the viewer. The query of the page is in the path, with ?, = and & encoded.
        path, _, own_query = path.removeprefix("/amp/").partition("%3F")
        if not _GOOGLE.fullmatch(host) or query or "%25" in own_query:
            return None
        query = own_query.replace("%3D", "=").replace("%26", "&")
    elif any(host == cache or host.endswith(f".{cache}") for cache in AMP_CACHES):
        path = path[3:]  # /c/: a page; /v/: a page in a viewer
    else:
        return None
    scheme = "https" if path.startswith("s/") else "http"
    path = path.removeprefix("s/")
    if "." not in path.partition("/")[0]:
        return None
    return f"{scheme}://{path}?{query}" if query else f"{scheme}://{path}"


def desktop_host(host: str) -> str:
    """The host name that serves the same paths to everyone; the host itself if no other is known."""
    known = MOBILE_HOSTS.get(host)
    if known is not None or ".m." not in host:
        return known or host
    before, _, after = host.partition(".m.")
    project, _, top = after.partition(".")
    return f"{before}.{after}" if top == "org" and project in _WIKIMEDIA and "." not in before else host
