"""URLs: one spelling for one page, the registrable domain of a host, and which links are not wanted.

Parsing follows the WHATWG URL standard, as browsers do (the ada library), since links come as people pasted them.
After that, we change only what cannot change the page:

* the fragment, and parameters that only track, are dropped
* percent-encodings get one spelling (RFC 3986, section 6.2.2)
* parameters are sorted where no program can notice (``_sorted``)
* URLs of AMP caches and mobile hosts become the publisher's (data/urls/variants.py)
* URLs of archived, cached and translated copies become the original's (data/urls/copies.py)

http and https, www and no www, a trailing slash, and the order of all other parameters make a difference on many sites,
so they are kept.

The registrable domain follows the ICANN part of the public suffix list that tldextract carries. Nothing is fetched or
cached on disk. The version of the list is a setting (``LinksConfig.public_suffix_list``), so links made with different
lists never mix. A canonical URL costs about 10 microseconds.
"""

from __future__ import annotations

import functools
import hashlib
import pkgutil
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ada_url

from data.config import PUBLIC_SUFFIX_LIST, LinksConfig
from data.errors import InputError
from data.schema import LinkStatus
from data.urls.blocklists import PROFILES, REDDIT_HOSTS
from data.urls.copies import COPY_HOSTS, may_be_copy, original_url
from data.urls.variants import desktop_host, may_be_rewritten, publisher_url

if TYPE_CHECKING:
    import tldextract

MAX_URL_CHARS = 8_000  # RFC 9110, section 4.1, asks every recipient to support at least this length

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
"""Query parameters that say where a reader came from, never which page to show. Names with ``utm_`` count too.

Names that some sites use for content (``ref``, ``source``, ``id``, ``s``) are not in the list.
"""

# Fields that every program reads by name. Excluded are names that make arrays (a[], a.b, a1 and a2) or that PHP
# renames, and values that are URLs with fields of their own.
_PLAIN_FIELD = re.compile(r"([A-Za-z][A-Za-z_-]*)=[A-Za-z0-9._~%+,!*'()@-]+")
# A signature may cover the query as it stands; image servers apply these operations in the given order.
_ORDERED_NAMES = re.compile(r"sig|hmac|hash|md5|checksum|token|auth|policy|expires|resize|crop|rotate|filter|transform")

_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class UrlParts(NamedTuple):
    """A canonical URL in parts: ``http://host[:port]/path[?query]``. A missing port or query is empty."""

    scheme: str
    host: str  # lower case, punycode, IPv6 in brackets
    port: str
    path: str  # begins with a slash
    query: str

    @property
    def url(self) -> str:
        port = self.port and f":{self.port}"
        query = self.query and f"?{self.query}"
        return f"{self.scheme}://{self.host}{port}{self.path}{query}"


def parse_url(url: str) -> UrlParts:
    """The parts of a URL's canonical spelling.

    Raises ValueError, saying why, for a URL that cannot be fetched: it is not an absolute http or https URL, has
    credentials, a host that DNS cannot hold, or more than ``MAX_URL_CHARS`` characters.
    """
    parts = _split(url)
    while not parts.port and (may_be_rewritten(parts.host, parts.path) or may_be_copy(parts.host, parts.path)):
        shown = original_url(parts.host, parts.path, parts.query)
        shown = shown or publisher_url(parts.host, parts.path, parts.query)
        if shown is None:
            return parts._replace(host=desktop_host(parts.host))
        try:
            parts = _split(shown)  # it is shorter, so this ends
        except ValueError:
            break
    return parts


def _split(url: str) -> UrlParts:
    """Like ``parse_url``, but copies, AMP caches and mobile hosts stay."""
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
    parts = UrlParts(scheme, host, port, normal_percents(f"/{path}"), normal_query(query))
    if len(parts.url) > MAX_URL_CHARS:  # percent-encoding has made it longer
        raise ValueError(f"longer than {MAX_URL_CHARS} characters")
    return parts


def canonical_url(url: str) -> str:
    """The one spelling of a URL; idempotent, ASCII only. Raises ValueError as ``parse_url`` does."""
    return parse_url(url).url


def unwrapped(url: str) -> str | None:
    """The canonical URL of the original if a URL shows an archived, cached or translated copy; else None.

    Raises ValueError as ``parse_url`` does.
    """
    parts = _split(url)
    if parts.port or original_url(parts.host, parts.path, parts.query) is None:
        return None
    original = parse_url(url)
    is_itself = _split(original.url) == parts  # what its path names is no URL, so it is a page of the archive
    return None if is_itself or is_below(original.host, COPY_HOSTS) else original.url


def host_of(url: str) -> str:
    """The host that a request for this URL goes to: lower case, punycode, IPv6 in brackets.

    The canonical URL may have another host (AMP caches, mobile hosts). Raises ValueError as ``parse_url`` does.
    """
    return _split(url).host


def domain_of(url: str) -> str:
    """The registrable domain of ``host_of``; an IP address is its own domain (IPv6 without brackets).

    A public suffix or a single label is its own domain, too. Below an unknown top-level domain, the domain is the last
    two labels. Raises ValueError as ``parse_url`` does.
    """
    return registrable_domain(_split(url).host)


@functools.lru_cache(maxsize=65_536)
def registrable_domain(host: str) -> str:
    """Like ``domain_of``, for the host of a canonical URL."""
    if host.startswith("["):
        return host[1:-1]
    found = _extractor().extract_str(host)
    if found.top_domain_under_public_suffix:
        return found.top_domain_under_public_suffix
    if found.suffix or found.ipv4:
        return host
    return ".".join(host.split(".")[-2:])


def partition_of(domain: str) -> int:
    """A 64-bit hash of a registrable domain, the same on every machine; ``part_of`` cuts its range into parts."""
    return int.from_bytes(hashlib.blake2b(domain.encode(), digest_size=8).digest(), "big")


def part_of(domain: str, n_parts: int) -> int:
    """Which of ``n_parts`` parts holds a registrable domain; each part is an equal range of the hash."""
    return partition_of(domain) * n_parts >> 64


def is_below(host: str, hosts: frozenset[str]) -> str | None:
    """The member of ``hosts`` that equals the host or is above it; None if there is none."""
    while host not in hosts:
        _, dot, host = host.partition(".")
        if not dot:
            return None
    return host


def block_reason(url: str, config: LinksConfig) -> LinkStatus | None:
    """Why the profile or ``block_domains`` drop a URL: BLOCKED_DOMAIN, BLOCKED_EXTENSION, or None if they do not.

    Raises ValueError as ``parse_url`` does, and InputError as ``check_rules`` does.
    """
    blocked = blocked_by(url, config)
    return blocked[0] if blocked else None


def blocked_by(url: str, config: LinksConfig) -> tuple[LinkStatus, str] | None:
    """Like ``block_reason``, with the host or extension of the rule that applies."""
    parts = parse_url(url)
    return blocked_at(parts.host, parts.path, config)


def blocked_at(host: str, path: str, config: LinksConfig) -> tuple[LinkStatus, str] | None:
    """Like ``blocked_by``, for the host and the path of a canonical URL."""
    hosts, extensions = _rules(config.profile, config.block_domains)
    blocked_host = is_below(host, hosts)
    if blocked_host is not None:
        return LinkStatus.BLOCKED_DOMAIN, blocked_host
    dot, extension = path.rpartition("/")[2].lower().rpartition(".")[1:]
    if dot and f".{extension}" in extensions:
        return LinkStatus.BLOCKED_EXTENSION, f".{extension}"
    return None


def check_rules(config: LinksConfig) -> None:
    """Raises InputError for an unknown profile or suffix list, or an invalid host name in ``block_domains``."""
    if config.public_suffix_list != PUBLIC_SUFFIX_LIST:
        raise InputError(
            f"public_suffix_list {config.public_suffix_list!r} is not this version's list; set {PUBLIC_SUFFIX_LIST!r}"
        )
    _extractor()
    _rules(config.profile, config.block_domains)


@functools.lru_cache(maxsize=16)
def _rules(profile: str, block_domains: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    if profile not in PROFILES:
        raise InputError(f"profile {profile!r} is not known; choose from {', '.join(sorted(PROFILES))}")
    own = set()
    for domain in block_domains:
        try:
            own.add(_domain_name(domain))
        except ValueError as error:
            raise InputError(f"block_domains: {error}; write it like example.com") from error
    return PROFILES[profile].hosts | REDDIT_HOSTS | COPY_HOSTS | own, PROFILES[profile].extensions


def read_block_list(path: Path) -> tuple[str, ...]:
    """A file of domains to drop, as ``LinksConfig.block_domains`` takes them: canonical, sorted, each once.

    The file has one domain per line, which stands for itself and everything below it; ``#`` begins a comment. Raises
    InputError, naming file and line, for an invalid domain, and for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: the block list cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the block list is not UTF-8 ({error.reason} at byte {error.start})") from error
    domains = set()
    for number, line in enumerate(lines, start=1):
        domain = line.partition("#")[0].strip()
        if domain:
            try:
                domains.add(_domain_name(domain))
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number}: {error}; write one domain per line, like example.com"
                ) from error
    return tuple(sorted(domains))


def _domain_name(domain: str) -> str:
    """A domain as canonical URLs spell it. Raises ValueError for anything else."""
    if re.search(r"[/?#:@\\\s%*]", domain):
        raise ValueError(f"{domain!r} is not a domain")
    try:
        return _split(f"http://{domain}/").host
    except ValueError as error:
        raise ValueError(f"{domain!r} is not a domain ({error})") from error


@functools.lru_cache(maxsize=65_536)
def _host_and_port(authority: str) -> tuple[str, str]:
    """The host, without a trailing dot, and the port. RFC 1035, section 2.3.4: labels of 1 to 63 octets, 253 in all."""
    if authority.startswith("["):
        host, _, port = authority.partition("]")
        return f"{host}]", port[1:]
    host, _, port = authority.partition(":")
    host = host.removesuffix(".")
    if len(host) > 253 or not all(0 < len(label) <= 63 for label in host.split(".")):
        raise ValueError("not a host name that DNS can hold")
    return host, port


def normal_query(query: str) -> str:
    if not query:
        return ""
    fields = [field for field in normal_percents(query).split("&") if not _is_tracking(field)]
    return "&".join(fields if len(fields) < 2 else _sorted(fields))


def _sorted(fields: list[str]) -> list[str]:
    """The fields, sorted by name if all are plain and distinct."""
    names = set()
    for field in fields:
        plain = _PLAIN_FIELD.fullmatch(field)
        name = plain[1].lower() if plain else ""
        if not name or name in names or _ORDERED_NAMES.search(name):
            return fields
        names.add(name)
    return sorted(fields)


def _is_tracking(field: str) -> bool:
    name = field.partition("=")[0].lower()
    return name.startswith("utm_") or name in TRACKING_PARAMETERS


def normal_percents(text: str) -> str:
    """Decode unreserved characters, write other octets in upper case, and a percent sign without octet as ``%25``.

    Otherwise ``%%32e`` would become ``%2e``, which the next call would decode to a dot.
    """
    return _PERCENT.sub(_normal_percent, text) if "%" in text else text


def _normal_percent(match: re.Match[str]) -> str:
    octet = match.group(1)
    if octet is None:
        return "%25"
    char = chr(int(octet, 16))
    return char if char in _UNRESERVED else f"%{octet.upper()}"


def installed_suffix_list() -> str:
    """The version of the public suffix list that is installed with tldextract, and 16 digits of its sha256."""
    text = pkgutil.get_data("tldextract", ".tld_set_snapshot") or b""
    version = re.search(rb"^// VERSION: (\S+)", text, re.MULTILINE)
    return f"{version[1].decode() if version else 'unknown'} {hashlib.sha256(text).hexdigest()[:16]}"


@functools.cache
def _extractor() -> tldextract.TLDExtract:
    if (installed := installed_suffix_list()) != PUBLIC_SUFFIX_LIST:
        raise InputError(
            f"tldextract brings the public suffix list {installed!r}, this version of webtext needs "
            f"{PUBLIC_SUFFIX_LIST!r}: install the tldextract of constraints.txt"
        )
    import tldextract  # imports requests: a quarter of the start-up time of a process that decodes lines

    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=False)
