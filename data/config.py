"""One frozen dataclass of settings per stage, passed whole.

A field is a *content* setting, which decides the result and is part of the digest, unless it is marked *operational*
(workers, delays, addresses): those are recorded in the manifest and may differ from run to run.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from data.errors import InputError

PUBLIC_SUFFIX_LIST = "2025-04-07_15-51-09_UTC b69315c085d53972"
"""The version of the list that data/urls/canonical.py goes by, and the first 16 digits of its sha256."""


def operational(default: Any) -> Any:
    """A field that does not decide the result."""
    return field(default=default, metadata={"operational": True})


@dataclass(frozen=True)
class LinksConfig:
    """Which links of a source become rows with status ``ok``."""

    min_karma: int = 3  # the paper, section 2.1
    profile: str = "webtext"  # named block rules in data/urls/canonical.py: webtext, openwebtext
    block_domains: tuple[str, ...] = ()  # further registrable domains to drop
    public_suffix_list: str = PUBLIC_SUFFIX_LIST  # what says where a registrable domain ends
    part_links: int = 20_000  # links a part aims at; a part is one crawl task and holds whole domains
    spill_rows: int = operational(200_000)  # rows held in memory before they are spilled to disk
    workers: int = operational(0)  # processes that judge lines; 0: one a core, at most 4
    max_download_bytes: int = operational(200_000_000_000)  # of a dump that is named by its URL
    hn_search_url: str = operational("https://hn.algolia.com/api/v1")
    hn_items_url: str = operational("https://hacker-news.firebaseio.com/v0")
    reddit_url: str = operational("https://www.reddit.com")

    def __post_init__(self) -> None:
        _positive(self, "part_links", "spill_rows", "max_download_bytes")
        _not_negative(self, "workers")


@dataclass(frozen=True)
class ArchiveUrls:
    """Where the web archives answer: scheme, host and port, without a path."""

    commoncrawl_index: str = "https://index.commoncrawl.org"
    commoncrawl_data: str = "https://data.commoncrawl.org"
    wayback: str = "https://web.archive.org"


ARCHIVE_URLS = ArchiveUrls()


@dataclass(frozen=True)
class PagesConfig:
    """How the web is asked. Times are seconds, sizes are bytes. docs/crawling.md says why each limit is what it is."""

    user_agent: str = "WebTextBot"  # the product token robots.txt is matched with
    max_wire_bytes: int = 10_000_000
    max_decoded_bytes: int = 40_000_000
    max_ratio: int = 200  # decoded to wire bytes, above 1 MiB; prose has 3 to 10, gzip at most 1,032
    max_redirects: int = 8
    max_robots_bytes: int = 512_000  # RFC 9309 asks for at least 500 KiB
    max_crawl_delay_s: float = 30.0
    total_timeout_s: float = 60.0  # one page, from connecting to its last byte, redirects included
    read_timeout_s: float = 20.0  # silence on an open connection
    connect_timeout_s: float = 10.0
    slow_after_s: float = 10.0  # an exchange that takes longer must have got min_bytes_per_s by then, on average
    min_bytes_per_s: int = 500
    max_attempts: int = 3  # of a link that is answered 429 or 5xx, or whose connection is lost
    max_retry_after_s: float = 600.0  # a host that asks for a longer pause has its links deferred
    breaker_failures: int = 5  # failures in a row after which a host is left alone for breaker_pause_s
    max_links_per_host: int = 10_000  # in one refresh; further ones, those of least karma, are deferred
    archives: tuple[str, ...] = ()  # where dead pages are looked up: commoncrawl, wayback; none by default
    archive_crawls: int = 4  # how many of Common Crawl's crawls are asked for a page: those nearest to its date
    archive_urls: ArchiveUrls = field(default=ARCHIVE_URLS, metadata={"operational": True})
    contact: str = operational("https://github.com/webtext/webtext")  # shown in the User-Agent header, as (+CONTACT)
    host_delay_s: float = operational(1.0)
    backoff_s: float = operational(5.0)  # before the second attempt; doubles with each, times a random 0.5 to 1.5
    breaker_pause_s: float = operational(30.0)
    network_pause_s: float = operational(900.0)  # how long an outage of our own network is waited for
    robots_lifetime_s: float = operational(86_400.0)  # RFC 9309, section 2.4: not above 24 hours
    robots_failure_lifetime_s: float = operational(300.0)
    robots_cache_bytes: int = operational(64_000_000)  # memory for the rules that one crawl task holds, about
    max_hosts: int = operational(10_000)  # of one crawl task, worked on at once: asked in turns
    max_connections: int = operational(256)  # of one crawl task, busy and idle
    max_hosts_per_domain: int = operational(4)  # of one registrable domain, worked on at once
    segment_bytes: int = operational(1_000_000_000)  # a WARC file is sealed at this size,
    segment_rows: int = operational(10_000)  # or with so many links settled,
    segment_s: float = operational(300.0)  # or at this age; a killed task loses what is not sealed
    allow_net: tuple[str, ...] = operational(())  # CIDRs that may be reached although they are not public, on any port
    connect_to: tuple[str, ...] = operational(())  # GLOB=ADDR:PORT
    deadline_s: float | None = operational(None)  # links whose turn has not come by then are `deferred`
    max_bytes: int | None = operational(None)  # wire bytes of the whole refresh; what is over is `deferred`

    def __post_init__(self) -> None:
        _positive(
            self,
            "max_wire_bytes",
            "max_decoded_bytes",
            "max_ratio",
            "total_timeout_s",
            "read_timeout_s",
            "connect_timeout_s",
            "slow_after_s",
            "max_robots_bytes",
            "max_attempts",
            "breaker_failures",
            "max_links_per_host",
            "archive_crawls",
            "robots_lifetime_s",
            "robots_failure_lifetime_s",
            "robots_cache_bytes",
            "max_hosts",
            "max_connections",
            "max_hosts_per_domain",
            "segment_bytes",
            "segment_rows",
            "segment_s",
        )
        _not_negative(
            self,
            "host_delay_s",
            "backoff_s",
            "breaker_pause_s",
            "network_pause_s",
            "max_retry_after_s",
            "min_bytes_per_s",
        )
        if not re.fullmatch(r"[A-Za-z_-]+", self.user_agent):  # RFC 9309, section 2.2.1: a product token
            raise InputError(f"user_agent must be letters, - and _, got {self.user_agent!r}; the version is added")
        if self.robots_lifetime_s > 86_400:
            raise InputError(f"robots_lifetime_s must be at most 86400 (RFC 9309), got {self.robots_lifetime_s}")


@dataclass(frozen=True)
class TextConfig:
    """How text is taken from a page."""

    extractor: str = "trafilatura"
    # trafilatura's trade: balanced, precision or recall. Mean F1 of words on 181 news pages (benchmarks/extraction.py):
    # precision 0.9651, balanced 0.9587, recall 0.9587; none left a page without text.
    favor: str = "precision"
    max_html_bytes: int = 10_000_000
    timeout_s: float = 30.0  # a page that takes longer is given up and its process killed
    worker_memory_bytes: int = operational(2_000_000_000)  # address space a child may add to what it starts with
    workers: int = operational(0)  # child processes; 0: one a core
    pages_per_child: int = operational(2_000)  # then the child is replaced, so that leaks stay small

    def __post_init__(self) -> None:
        _positive(self, "max_html_bytes", "timeout_s")
        if self.favor not in ("balanced", "precision", "recall"):
            raise InputError(f"favor must be balanced, precision or recall, got {self.favor!r}")


@dataclass(frozen=True)
class SelectConfig:
    """WebText-like filters and the near-duplicate scheme."""

    min_words: int = 50
    min_chars: int = 200
    max_chars: int = 1_000_000
    language: str = "en"
    min_language_score: float = 0.6
    drop_domains: tuple[str, ...] = ("wikipedia.org",)
    min_alpha_share: float = 0.5
    max_duplicate_line_share: float = 0.5
    ngram: int = 5  # words in a shingle
    permutations: int = 112
    bands: int = 14
    rows: int = 8  # P(a pair at Jaccard 0.8 meets in a band) = 1-(1-0.8**8)**14 = 0.924
    threshold: float = 0.75  # share of equal signature rows from which a pair counts as near-duplicates
    minhash_seed: int = 1

    def __post_init__(self) -> None:
        _positive(self, "ngram", "permutations", "bands", "rows")
        if self.bands * self.rows != self.permutations:
            raise InputError(
                f"bands x rows must equal permutations, got {self.bands} x {self.rows} != {self.permutations}"
            )
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold must be in (0, 1], got {self.threshold}")


@dataclass(frozen=True)
class TokensConfig:
    """How documents become token shards."""

    tokenizer: str = "gpt2"
    val_share: float = 0.01  # documents whose id's hash falls below this share go to val
    split_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise InputError(f"val_share must be in [0, 1), got {self.val_share}")


StageConfig = LinksConfig | PagesConfig | TextConfig | SelectConfig | TokensConfig


def content_settings(config: StageConfig) -> dict[str, Any]:
    """The settings that decide the result, as JSON values."""
    return _settings(config, is_operational=False)


def operational_settings(config: StageConfig) -> dict[str, Any]:
    """The settings that do not decide the result, as JSON values."""
    return _settings(config, is_operational=True)


def _settings(config: StageConfig, *, is_operational: bool) -> dict[str, Any]:
    chosen = (f for f in dataclasses.fields(config) if f.metadata.get("operational", False) == is_operational)
    values = ((f.name, getattr(config, f.name)) for f in chosen)
    return {name: _plain(value) for name, value in values}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _positive(config: StageConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"{name} must be positive, got {getattr(config, name)}")


def _not_negative(config: StageConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 0:
            raise InputError(f"{name} must not be negative, got {getattr(config, name)}")
