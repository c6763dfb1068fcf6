"""Canonical URLs, registrable domains, partitions, block rules."""

import socket
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import urls
from data.blocklists import OPENWEBTEXT, PROFILES
from data.config import LinksConfig
from data.errors import InputError
from data.schema import LinkStatus
from data.urls import block_reason, canonical_url, domain_of, host_of, partition_of

SHARED_LINKS = Path(__file__).parents[2].parent / "shared" / "data" / "links"
WEBTEXT, OPEN = LinksConfig(), LinksConfig(profile="openwebtext")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://WWW.Example.COM:80/a/../B?q=1#top", "http://www.example.com/B?q=1"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/x", "https://example.com:8443/x"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("http://example.com./x", "http://example.com/x"),
        ("http://@example.com/", "http://example.com/"),
        ("  http://example.com/a\tb\n", "http://example.com/ab"),
        ("http://bücher.example/ä?ü=é", "http://xn--bcher-kva.example/%C3%A4?%C3%BC=%C3%A9"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://[2001:DB8:0::1]:80/", "http://[2001:db8::1]/"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://e.example/%7euser/%e4%2F%zz%", "http://e.example/~user/%E4%2F%25zz%25"),
        ("http://e.example/%%32e/", "http://e.example/%252e/"),
        ("http://e.example/a?utm_source=x&id=7&UTM_Medium=y&fbclid=z", "http://e.example/a?id=7"),
        ("http://e.example/a?utm%5Fsource=x", "http://e.example/a"),
        ("http://e.example/a?gclid=1#x", "http://e.example/a"),
        ("http://e.example/a?", "http://e.example/a"),
        ("http://e.example/a?b=2&a=1&b=1", "http://e.example/a?b=2&a=1&b=1"),
        ("http://e.example/a?ref=x&source=y&utm=1&my_utm_x=2", "http://e.example/a?ref=x&source=y&utm=1&my_utm_x=2"),
        (
            "http://e.example/?next=http://f.example/?utm_source=1",
            "http://e.example/?next=http://f.example/?utm_source=1",
        ),
    ],
)
def test_canonical_url(url: str, expected: str) -> None:
    assert canonical_url(url) == expected
    assert canonical_url(expected) == expected


@pytest.mark.parametrize("name", sorted(urls.TRACKING_PARAMETERS))
def test_every_tracking_parameter_is_dropped_and_its_neighbours_stay(name: str) -> None:
    assert canonical_url(f"http://e.example/?a=1&{name}=v&b") == "http://e.example/?a=1&b"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/x", "scheme 'ftp'"),
        ("javascript:alert(1)", "scheme 'javascript'"),
        ("mailto:a@example.com", "scheme 'mailto'"),
        ("http://user@example.com/", "credentials"),
        ("https://user:secret@example.com/", "credentials"),
        ("example.com/x", "not an absolute URL"),
        ("//example.com/x", "not an absolute URL"),
        ("http://", "not an absolute URL"),
        ("", "not an absolute URL"),
        ("http://exa mple.com/", "not an absolute URL"),
        ("http://example.com:99999/", "not an absolute URL"),
        ("http://\ud800.example/", "not an absolute URL"),
        ("http://a..example/", "DNS"),
        ("http://./", "DNS"),
        (f"http://{'a' * 64}.example/", "DNS"),
        (f"http://{'.'.join(['a' * 60] * 5)}/", "DNS"),
        ("http://e.example/" + "a" * 8_000, "longer than 8000"),
        ("http://e.example/" + "ä" * 2_000, "longer than 8000"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        canonical_url(url)
    assert "secret" not in str(caught.value)


_LABEL = st.text("abcXYZ019-_üßé例中ł", min_size=1, max_size=12)
_PIECES = [*"aZ09-._~%%%2eE5fF41&=?+ /\\'\"<>^`{}|;,:@!$()*[]ü例\t", "%2e", "%2F", "utm_x=", "/../"]
_TEXT = st.lists(st.sampled_from(_PIECES), max_size=30).map("".join)
_URLS = st.builds(
    lambda scheme, labels, port, path, query, fragment: f"{scheme}://{'.'.join(labels)}{port}/{path}{query}{fragment}",
    st.sampled_from(["http", "https", "HTTP", "hTtPs"]),
    st.lists(_LABEL, min_size=1, max_size=4),
    st.sampled_from(["", ":80", ":443", ":8080", ":"]),
    _TEXT,
    st.one_of(st.just(""), _TEXT.map("?{}".format)),
    st.one_of(st.just(""), _TEXT.map("#{}".format)),
)


@settings(max_examples=800, deadline=None)
@given(_URLS)
@example("http://a/%%32%65%%32%65/b")
@example("http://a/%25%32e/?%%3366=1")
@example("http://a/?utm_x=1&&utm_y")
def test_canonical_url_is_idempotent_and_ascii(url: str) -> None:
    try:
        once = canonical_url(url)
    except ValueError:
        return
    assert canonical_url(once) == once
    assert once.isascii()
    assert "#" not in once
    assert domain_of(once) == domain_of(url)


def test_the_generated_urls_are_mostly_valid() -> None:
    """Else the test above would say little."""
    outcomes: list[bool] = []

    @settings(max_examples=300, deadline=None, database=None)
    @given(_URLS)
    def judge(url: str) -> None:
        try:
            canonical_url(url)
            outcomes.append(True)
        except ValueError:
            outcomes.append(False)

    judge()
    assert sum(outcomes) > len(outcomes) / 3


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.bbc.co.uk", "bbc.co.uk"),
        ("a.b.c.example.com", "example.com"),
        ("foo.blogspot.com", "blogspot.com"),  # a private suffix, not an ICANN one
        ("user.github.io", "github.io"),
        ("foo.bar.example", "bar.example"),  # no known top-level domain
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),  # a public suffix itself
        ("x.ck", "x.ck"),  # the wildcard rule *.ck
        ("www.ck", "www.ck"),  # and its exception
        ("www.bücher.de", "xn--bcher-kva.de"),
        ("foo.公司.cn", "foo.xn--55qx5d.cn"),
        ("WWW.Example.COM.", "example.com"),
        ("192.0.2.7", "192.0.2.7"),
        ("0xC0000207", "192.0.2.7"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_domain_of(host: str, domain: str) -> None:
    assert domain_of(f"http://{host}/x") == domain
    assert domain_of(f"https://{host}:8443/x?y#z") == domain


def test_domain_of_needs_neither_network_nor_a_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TLDEXTRACT_CACHE", str(tmp_path / "cache"))
    urls._extractor.cache_clear()
    urls.registrable_domain.cache_clear()
    assert domain_of("http://never.seen.before.co.uk/") == "before.co.uk"
    assert list(tmp_path.iterdir()) == []


def test_host_of() -> None:
    assert host_of("https://Sub.Example.com:8080/x") == "sub.example.com"
    assert host_of("http://[::1]:80/") == "[::1]"


def test_partition_of_is_a_fixed_64_bit_hash_that_spreads() -> None:
    assert partition_of("example.com") == 0x13C51305C1CF2666  # printf example.com | b2sum -l 64
    halves = [partition_of(f"site{number}.example") >> 63 for number in range(2_000)]
    assert 900 < sum(halves) < 1_100


@pytest.mark.parametrize(
    ("url", "webtext", "openwebtext"),
    [
        ("http://en.wikipedia.org/wiki/GPT-2", LinkStatus.BLOCKED_DOMAIN, LinkStatus.BLOCKED_DOMAIN),
        ("http://en.m.wikipedia.org/wiki/GPT-2", LinkStatus.BLOCKED_DOMAIN, LinkStatus.BLOCKED_DOMAIN),
        ("https://upload.wikimedia.org/a", LinkStatus.BLOCKED_DOMAIN, None),
        ("http://notwikipedia.org/", None, None),
        ("http://wikipedia.org.example/", None, None),
        ("https://old.reddit.com/r/x", LinkStatus.BLOCKED_DOMAIN, LinkStatus.BLOCKED_DOMAIN),
        ("https://i.redd.it/x", LinkStatus.BLOCKED_DOMAIN, LinkStatus.BLOCKED_DOMAIN),
        ("https://i.imgur.com/x", LinkStatus.BLOCKED_DOMAIN, LinkStatus.BLOCKED_DOMAIN),
        ("https://github.com/openai/gpt-2", None, LinkStatus.BLOCKED_DOMAIN),
        ("https://gist.github.com/x", None, LinkStatus.BLOCKED_DOMAIN),
        ("https://example.com/paper.pdf", None, LinkStatus.BLOCKED_EXTENSION),
        ("https://example.com/a.JPG", LinkStatus.BLOCKED_EXTENSION, LinkStatus.BLOCKED_EXTENSION),
        ("https://example.com/a%2Ejpg", LinkStatus.BLOCKED_EXTENSION, LinkStatus.BLOCKED_EXTENSION),
        ("https://example.com/a.tar.gz#x", LinkStatus.BLOCKED_EXTENSION, LinkStatus.BLOCKED_EXTENSION),
        ("https://example.com/a.html", None, None),
        ("https://example.com/jpg", None, None),
        ("https://example.com/a.jpg/about", None, None),
        ("https://example.com/view?file=a.jpg", None, None),  # a page about a file
        ("https://openai.ai", None, None),  # the host ends in .ai, the path does not
    ],
)
def test_block_reason(url: str, webtext: LinkStatus | None, openwebtext: LinkStatus | None) -> None:
    assert block_reason(url, WEBTEXT) == webtext
    assert block_reason(url, OPEN) == openwebtext


def test_known_bug_extension_with_a_query_is_still_an_extension() -> None:
    assert block_reason("https://example.com/a.jpg?x=1", WEBTEXT) is LinkStatus.BLOCKED_EXTENSION
    assert block_reason("https://example.com/a.pdf?x=1#p2", OPEN) is LinkStatus.BLOCKED_EXTENSION


def test_known_bug_itunes_apple_com_does_not_block_other_apples() -> None:
    assert block_reason("https://itunes.apple.com/us/app", OPEN) is LinkStatus.BLOCKED_DOMAIN
    for host in ("www.apple.com", "apple.com", "apple.org", "itunes.example", "google.example"):
        assert block_reason(f"https://{host}/", OPEN) is None


def test_known_bug_7z_and_ai_are_two_extensions() -> None:
    for path in ("a.7z", "a.ai"):
        assert block_reason(f"https://example.com/{path}", OPEN) is LinkStatus.BLOCKED_EXTENSION
    assert all(extension.count(".") == 1 for profile in PROFILES.values() for extension in profile.extensions)


def test_openwebtext_lists_are_the_collected_ones() -> None:
    path = SHARED_LINKS / "reference_link_filters.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not at ../shared/data/links")
    facts = orjson.loads(path.read_bytes())
    assert set(facts["openwebtext_drop_registrable_domains"]) == OPENWEBTEXT.hosts
    assert set(facts["openwebtext_drop_extensions"]) == OPENWEBTEXT.extensions


def test_block_domains_of_the_user() -> None:
    config = LinksConfig(block_domains=("Example.COM", "bücher.de"))
    assert block_reason("https://www.example.com/", config) is LinkStatus.BLOCKED_DOMAIN
    assert block_reason("https://xn--bcher-kva.de/", config) is LinkStatus.BLOCKED_DOMAIN
    assert block_reason("https://example.org/", config) is None
    assert urls.blocked_by("https://www.example.com/", config) == (LinkStatus.BLOCKED_DOMAIN, "example.com")


@pytest.mark.parametrize("domain", ["", "https://example.com", "example.com/x", "a b", "user@example.com", "a..b"])
def test_block_domains_that_are_none_are_refused(domain: str) -> None:
    with pytest.raises(InputError, match=r"block_domains: .*write it like"):
        block_reason("http://e.example/", LinksConfig(block_domains=(domain,)))


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InputError, match="profile 'pile' is not known; there are openwebtext, webtext"):
        block_reason("http://e.example/", LinksConfig(profile="pile"))
