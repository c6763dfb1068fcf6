"""One frozen dataclass of settings per stage, passed whole.

A field is a *content* setting, which decides the result and is part of the digest, unless it is marked *operational*
(workers, delays, addresses). Operational settings are recorded in the manifest and may differ from run to run.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from data.errors import InputError
from data.settings import checked, operational

PUBLIC_SUFFIX_LIST = "2025-04-07_15-51-09_UTC b69315c085d53972"
"""The version of the public suffix list that data/urls/canonical.py uses, and the first 16 digits of its sha256."""


@checked
@dataclass(frozen=True)
class LinksConfig:
    """Which links of a source become rows with status ``ok``."""

    min_karma: int = 3  # the paper, section 2.1
    profile: str = "webtext"  # block rules in data/urls/blocklists.py: webtext or openwebtext
    block_domains: tuple[str, ...] = ()  # further host names to drop, each with its subdomains
    public_suffix_list: str = PUBLIC_SUFFIX_LIST  # decides where a registrable domain begins
    part_links: PositiveInt = 20_000  # submissions per part, at most and on average; a part is one crawl task
    spill_rows: PositiveInt = operational(200_000)  # rows held in memory before they are spilled to disk
    workers: NonNegativeInt = operational(0)  # processes that classify lines; 0: one per core, at most 4
    max_download_bytes: PositiveInt = operational(200_000_000_000)  # for a dump that is named by its URL
    hn_search_url: str = operational("https://hn.algolia.com/api/v1")
    hn_items_url: str = operational("https://hacker-news.firebaseio.com/v0")
    reddit_url: str = operational("https://www.reddit.com")


@dataclass(frozen=True)
class ArchiveUrls:
    """Where the web archives answer: scheme, host and port, without a path."""

    commoncrawl_index: str = "https://index.commoncrawl.org"
    commoncrawl_data: str = "https://data.commoncrawl.org"
    wayback: str = "https://web.archive.org"


ARCHIVE_URLS = ArchiveUrls()


@checked
@dataclass(frozen=True)
class PagesConfig:
    """How the crawler fetches pages. Times are seconds, sizes are bytes. docs/crawling.md explains each limit."""

    user_agent: str = "WebTextBot"  # the product token that robots.txt rules are matched with
    max_wire_bytes: PositiveInt = 10_000_000
    max_decoded_bytes: int = 40_000_000
    max_ratio: PositiveInt = 200  # decoded to wire bytes, above 1 MiB; prose has 3 to 10, gzip at most 1,032
    max_redirects: int = 8
    max_robots_bytes: PositiveInt = 512_000  # RFC 9309 asks for at least 500 KiB
    max_crawl_delay_s: float = 30.0
    total_timeout_s: PositiveFloat = 60.0  # one page, from connecting to its last byte, redirects included
    read_timeout_s: PositiveFloat = 20.0  # silence on an open connection
    connect_timeout_s: PositiveFloat = 10.0
    slow_after_s: PositiveFloat = 10.0  # from then on an exchange must average min_bytes_per_s
    min_bytes_per_s: NonNegativeInt = 500
    max_attempts: PositiveInt = 3  # per link, after 429, 5xx or a lost connection
    max_retry_after_s: NonNegativeFloat = 600.0  # if a host asks for a longer pause, its links are deferred
    # A host that fails so often in a row is left alone for breaker_pause_s; a time-out counts twice.
    breaker_failures: PositiveInt = 5
    max_links_per_host: PositiveInt = 10_000  # per crawl task; the links of lowest karma beyond it are deferred
    archives: tuple[str, ...] = ()  # where dead pages are looked up: commoncrawl, wayback; none by default
    archive_crawls: PositiveInt = 4  # how many of Common Crawl's crawls are searched for a page, nearest date first
    archive_urls: ArchiveUrls = field(default=ARCHIVE_URLS, metadata={"operational": True})
    contact: str = operational("https://github.com/webtext/webtext")  # shown in the User-Agent header, as (+CONTACT)
    host_delay_s: NonNegativeFloat = operational(1.0)
    backoff_s: NonNegativeFloat = operational(5.0)  # before attempt 2; doubles each time, times a random 0.5 to 1.5
    breaker_pause_s: NonNegativeFloat = operational(30.0)
    network_pause_s: NonNegativeFloat = operational(900.0)  # how long the crawl waits for our own network to return
    robots_lifetime_s: Annotated[float, Field(gt=0, le=86_400)] = operational(86_400.0)  # RFC 9309, section 2.4
    robots_failure_lifetime_s: PositiveFloat = operational(300.0)
    robots_cache_bytes: PositiveInt = operational(64_000_000)  # approximate memory for rules, per crawl task
    max_hosts: PositiveInt = operational(10_000)  # per crawl task, in progress at once; they take turns
    max_connections: PositiveInt = operational(256)  # per crawl task, busy and idle
    max_hosts_per_domain: PositiveInt = operational(4)  # per registrable domain, in progress at once
    segment_bytes: PositiveInt = operational(1_000_000_000)  # a WARC file is sealed at this size,
    segment_rows: PositiveInt = operational(10_000)  # or after this many settled links,
    segment_s: PositiveFloat = operational(300.0)  # or at this age; a killed task loses what is not sealed
    allow_net: tuple[str, ...] = operational(())  # CIDRs that are allowed although not public, on any port
    connect_to: tuple[str, ...] = operational(())  # GLOB=ADDR:PORT
    deadline_s: float | None = operational(None)  # links that are not fetched by then are `deferred`
    max_bytes: int | None = operational(None)  # wire bytes of the whole refresh; links beyond it are `deferred`

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_-]+", self.user_agent):  # RFC 9309, section 2.2.1: a product token
            raise InputError(f"user_agent must be letters, - and _, got {self.user_agent!r}; the version is added")


EXTRACTOR = "blocks 76b87ea1a24c1530"
"""How data/text/ finds the main text: the first 16 digits of the sha256 of its model, blocks.npz."""


@checked
@dataclass(frozen=True)
class TextConfig:
    """How text is extracted from a page."""

    extractor: str = EXTRACTOR
    max_html_bytes: PositiveInt = 10_000_000
    timeout_s: PositiveFloat = 30.0  # of CPU time; then the page's process is killed
    worker_memory_bytes: int = operational(2_000_000_000)  # address space a child may add to what it starts with
    workers: int = operational(0)  # child processes; 0: one per core
    pages_per_child: int = operational(2_000)  # then the child is replaced, so that leaks stay small


LANGUAGES = frozenset(
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo "
    "fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km "
    "kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt "
    "qu ro ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa "
    "wuu xh yo yue zh zu zxx".split()
)
"""What py3langid can call a text (data/text/language.py)."""

FilterProfile = Literal["webtext", "gopher", "fineweb"]
DEFAULT_PROFILE: FilterProfile = "webtext"


@checked
@dataclass(frozen=True)
class SelectConfig:
    """The filters and the near-duplicate scheme."""

    profile: FilterProfile = DEFAULT_PROFILE  # a list of rules in data/select/filters.py, with the limits of its paper
    language: str = "en"  # one of LANGUAGES
    min_language_score: Annotated[float, Field(ge=0, le=1)] = 0.6
    drop_domains: tuple[str, ...] = ("wikipedia.org",)  # GPT-2, section 2.1: evaluation sets are made from it
    ngram: PositiveInt = 5  # words in a shingle
    char_ngram: PositiveInt = 5  # characters in a shingle of a language without spaces (data/select/shingles.py)
    permutations: PositiveInt = 112
    bands: PositiveInt = 14
    rows: PositiveInt = 8  # P(a pair at Jaccard 0.8 meets in a band) = 1-(1-0.8**8)**14 = 0.924
    # Two documents are near-duplicates if at least this share of their signature rows is equal.
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.75
    minhash_seed: int = 1

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise InputError(
                f"language {self.language!r} is none that texts are identified as; give a code such as en, de or zh"
            )
        if self.bands * self.rows != self.permutations:
            raise InputError(
                f"bands x rows must equal permutations, got {self.bands} x {self.rows} != {self.permutations}"
            )


@checked
@dataclass(frozen=True)
class TokensConfig:
    """How documents become token shards."""

    tokenizer: str = "gpt2"
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.01  # documents whose id hashes below this share go to val
    split_seed: int = 0  # with the id, it decides a document's split, shard and place in the shard
    shard_documents: PositiveInt = 50_000  # on average and at most; the number of shards is a power of two


@checked
@dataclass(frozen=True)
class OverlapConfig:
    """Which 8-grams are looked for in which corpus."""

    corpus: tuple[str, ...]  # snapshots
    evalsets: tuple[str, ...]  # as set:sha256 of its file
    files: tuple[str, ...] = operational(())  # the path of each set's file


@checked
@dataclass(frozen=True)
class DecontaminateConfig:
    """Which documents a variant without evaluation sets leaves out."""

    # GPT-3's 13-grams (Brown et al. 2020, appendix C): many an 8-gram is a common phrase
    min_common_words: PositiveInt = 13


StageConfig = OverlapConfig | DecontaminateConfig | LinksConfig | PagesConfig | TextConfig | SelectConfig | TokensConfig


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
