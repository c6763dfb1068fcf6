"""URLs: one spelling for one page, the registrable domain of a host, and which links are not wanted.

Parsing follows the WHATWG URL standard (the ada library, as browsers do), since links come as people pasted them.
What is changed beyond that is what cannot change the page: the fragment, parameters that only track, the spelling
of percent-encodings (RFC 3986, section 6.2.2). http and https, www and no www, and the order of parameters are kept:
for many sites they make a difference.

The registrable domain follows the ICANN part of the public suffix list that tldextract carries; nothing is fetched, and
nothing is cached on disk. A canonical URL costs about 10 microseconds.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import NamedTuple

import ada_url
import tldextract

from data.blocklists import PROFILES, REDDIT_HOSTS
from data.config import LinksConfig
from data.errors import InputError
from data.schema import LinkStatus

MAX_URL_CHARS = 8_000  # RFC 9110, section 4.1: what every recipient should be able to take

TRACKING_PARAMETERS = frozenset(
    [
        *("fbclid", "igshid", "igsh"),  # Facebook, Instagram
        *("gclid", "gclsrc", "dclid", "gbraid", "wbraid", "srsltid"),  # Google Ads and Shopping
        *("msclkid", "twclid", "ttclid", "yclid", "li_fat_id"),  # ads of Microsoft, Twitter, TikTok, Yandex, LinkedIn
        *(
            "mc_cid",
            "mc_eid",
            "mkt_tok",
            "_hsenc",
            "_hsmi",
            "vero_id",
        ),  # newsletters: Mailchimp, Marketo, HubSpot, Vero
        *("oly_anon_id", "oly_enc_id"),  # newsletters: Omeda
        *("_ga", "_gl", "_openstat", "xtor"),  # analytics: Google's cross-domain linkers, Openstat, AT Internet
    ]
)
"""Query parameters that say where a reader came from, never which page is shown; and all that start with ``utm_``.

Names that some site uses for content (``ref``, ``source``, ``id``, ``s``) are not among them.
"""

_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class UrlParts(NamedTuple):
    """A canonical URL in parts: ``http://host[:port]/path[?query]``. Port and query are empty where there is none."""

    scheme: str
    host: str  # lower case, punycode, IPv6 in brackets
    port: str
    path: str  # begins with a slash
    query: str

    @property
    def url(self) -> str:
        port, query = self.port and f":{self.port}", self.query and f"?{self.query}"
        return f"{self.scheme}://{self.host}{port}{self.path}{query}"


def parse_url(url: str) -> UrlParts:
    """The parts of a URL's canonical spelling.

    Raises ValueError, saying why, for what cannot be fetched: no absolute http or https URL, credentials inside, a host
    that DNS cannot hold, more than ``MAX_URL_CHARS`` characters.
    """
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"longer than {MAX_URL_CHARS} characters")
    try:
        href = ada_url.URL(url).href
    except ValueError as error:  # UnicodeEncodeError (a lone surrogate) is one
        raise ValueError("not an absolute URL that can be parsed") from error
    scheme, separator, rest = href.partition("#")[0].partition("://")
    if not separator or scheme not in ("http", "https"):
        raise ValueError(f"scheme {href.partition(':')[0][:20]!r} is neither http nor https")
    authority, _, rest = rest.partition("/")  # the parser has put a slash where there was none
    if "@" in authority:
        raise ValueError("credentials inside")
    host, port = _host_and_port(authority)
    path, _, query = rest.partition("?")
    parts = UrlParts(scheme, host, port, _normal_percents(f"/{path}"), _without_tracking(query))
    if len(parts.url) > MAX_URL_CHARS:  # percent-encoding has made it longer
        raise ValueError(f"longer than {MAX_URL_CHARS} characters")
    return parts


def canonical_url(url: str) -> str:
    """The one spelling of a URL; idempotent, ASCII only. Raises ValueError as ``parse_url``."""
    return parse_url(url).url


def host_of(url: str) -> str:
    """The host of a URL as it stands in the canonical one. Raises ValueError as ``parse_url``."""
    return parse_url(url).host


def domain_of(url: str) -> str:
    """The registrable domain of an http(s) URL; for an address the address (IPv6 without brackets).

    The host itself where it is a public suffix or one label; below an unknown top-level domain its last two labels.
    Raises ValueError as ``parse_url``.
    """
    return registrable_domain(parse_url(url).host)


@functools.lru_cache(maxsize=65_536)
def registrable_domain(host: str) -> str:
    """As ``domain_of``, for the host of a canonical URL."""
    if host.startswith("["):
        return host[1:-1]
    found = _extractor().extract_str(host)
    if found.top_domain_under_public_suffix:
        return found.top_domain_under_public_suffix
    if found.suffix or found.ipv4:
        return host
    return ".".join(host.split(".")[-2:])


def partition_of(domain: str) -> int:
    """A 64-bit hash of a registrable domain, the same on every machine; its top bits choose the part."""
    return int.from_bytes(hashlib.blake2b(domain.encode(), digest_size=8).digest(), "big")


def is_below(host: str, hosts: frozenset[str]) -> str | None:
    """The member of ``hosts`` that the host is or is a subdomain of; None if there is none."""
    while host not in hosts:
        _, dot, host = host.partition(".")
        if not dot:
            return None
    return host


def block_reason(url: str, config: LinksConfig) -> LinkStatus | None:
    """Why the profile or ``block_domains`` drop a URL: BLOCKED_DOMAIN, BLOCKED_EXTENSION, or None if they do not.

    Raises ValueError as ``parse_url``, InputError as ``check_rules``.
    """
    blocked = blocked_by(url, config)
    return blocked[0] if blocked else None


def blocked_by(url: str, config: LinksConfig) -> tuple[LinkStatus, str] | None:
    """As ``block_reason``, with the host or extension of the rule that applies."""
    hosts, extensions = _rules(config.profile, config.block_domains)
    parts = parse_url(url)
    host = is_below(parts.host, hosts)
    if host is not None:
        return LinkStatus.BLOCKED_DOMAIN, host
    dot, extension = parts.path.rpartition("/")[2].lower().rpartition(".")[1:]
    if dot and f".{extension}" in extensions:
        return LinkStatus.BLOCKED_EXTENSION, f".{extension}"
    return None


def check_rules(config: LinksConfig) -> None:
    """Raises InputError for an unknown profile, or a ``block_domains`` entry that is no host name."""
    _rules(config.profile, config.block_domains)


@functools.lru_cache(maxsize=16)
def _rules(profile: str, block_domains: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    if profile not in PROFILES:
        raise InputError(f"profile {profile!r} is not known; there are {', '.join(sorted(PROFILES))}")
    own = set()
    for domain in block_domains:
        try:
            host = parse_url(f"http://{domain}/").host
        except ValueError as error:
            raise InputError(f"block_domains: {domain!r} is no domain ({error}); write it like example.com") from error
        if re.search(r"[/?#:@\\\s]", domain):
            raise InputError(f"block_domains: {domain!r} is no domain; write it like example.com")
        own.add(host)
    return PROFILES[profile].hosts | REDDIT_HOSTS | own, PROFILES[profile].extensions


@functools.lru_cache(maxsize=65_536)
def _host_and_port(authority: str) -> tuple[str, str]:
    """Host without the root's dot, and port. RFC 1035, section 2.3.4: labels of 1 to 63 octets, 253 in all."""
    if authority.startswith("["):
        host, _, port = authority.partition("]")
        return f"{host}]", port[1:]
    host, _, port = authority.partition(":")
    host = host.removesuffix(".")
    if len(host) > 253 or not all(0 < len(label) <= 63 for label in host.split(".")):
        raise ValueError("not a host name that DNS can hold")
    return host, port


def _without_tracking(query: str) -> str:
    if not query:
        return ""
    return "&".join(field for field in _normal_percents(query).split("&") if not _is_tracking(field))


def _is_tracking(field: str) -> bool:
    name = field.partition("=")[0].lower()
    return name.startswith("utm_") or name in TRACKING_PARAMETERS


def _normal_percents(text: str) -> str:
    """Unreserved characters bare, other octets in upper case; a percent sign that starts no octet becomes ``%25``.

    Without the last one, ``%%32e`` would become ``%2e`` and that, next time, a dot.
    """
    return _PERCENT.sub(_normal_percent, text) if "%" in text else text


def _normal_percent(match: re.Match[str]) -> str:
    octet = match.group(1)
    if octet is None:
        return "%25"
    char = chr(int(octet, 16))
    return char if char in _UNRESERVED else f"%{octet.upper()}"


@functools.cache
def _extractor() -> tldextract.TLDExtract:
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=False)
