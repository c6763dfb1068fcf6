"""Canonical URLs, registrable domains, partitions."""

import hashlib
import socket
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import ada_url
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.config import PUBLIC_SUFFIX_LIST, LinksConfig, content_settings
from data.errors import InputError
from data.urls import canonical as urls
from data.urls.canonical import canonical_url, domain_of, host_of, part_of, partition_of
from data.urls.variants import may_be_rewritten


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
        ("http://e.example/a?ref=x&source=y&utm=1&my_utm_x=2", "http://e.example/a?my_utm_x=2&ref=x&source=y&utm=1"),
        (
            "http://e.example/?next=http://f.example/?utm_source=1",
            "http://e.example/?next=http://f.example/?utm_source=1",
        ),
    ],
)
def test_urls_are_canonicalised(url: str, expected: str) -> None:
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
def test_a_url_that_cannot_be_fetched_is_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        canonical_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "b=2&a=1&b=1",  # the second b may be another element, or override the first
        "b=2&a=1&B=1",
        "b=2&a",  # some sites read a parameter without a value by its position
        "b=2&a=",
        "b=2&&a=1",
        "b=2&=1",
        "b[]=2&a=1",
        "b2=2&a=1",
        "b.x=2&a=1",  # PHP reads b_x
        "url=http://f.example/?x=1&a=1",  # a may be a field of the inner URL
        "url=f.example/x&a=1",
        "q=x;y&a=1",
        "b=2&a=1&sig=f00",  # may sign the query as it stands
        "token=f00&a=1",
        "resize=10&crop=5",  # in this order
        "OpenDocument&b=1&a=2",
    ],
)
def test_parameters_keep_their_order_if_it_may_matter(query: str) -> None:
    assert canonical_url(f"http://e.example/?{query}") == f"http://e.example/?{query}"


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "id", "Page", "v_x", "q-y"]), st.text("aZ09%+ü", min_size=1), min_size=1),
    st.randoms(),
)
def test_plain_parameters_give_the_same_url_in_any_order(fields: dict[str, str], random: Random) -> None:
    pairs = [f"{name}={value}" for name, value in fields.items()]
    expected = canonical_url("http://e.example/?" + "&".join(pairs))
    random.shuffle(pairs)
    assert canonical_url("http://e.example/?" + "&".join(["utm_source=x", *pairs])) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.google.com/amp/s/www.example.com/a/b", "https://www.example.com/a/b"),
        ("https://www.google.com/amp/www.example.com/a", "http://www.example.com/a"),
        ("https://www.google.co.uk/amp/s/e.example/", "https://e.example/"),
        ("https://google.de/amp/s/e.example", "https://e.example/"),
        ("https://www.google.com/amp/s/e.example/a%3famp=1#x", "https://e.example/a?amp=1"),
        ("https://www.google.de/amp/e.example/a/%3Famp_page%3Dtrue%26b%3D2", "http://e.example/a/?amp_page=true&b=2"),
        ("https://www.google.com/amp/s/e.example/a?usqp=mq331AQ", "https://e.example/a"),
        ("https://www-e-example.cdn.ampproject.org/c/s/www.e.example/amp/x.html", "https://www.e.example/amp/x.html"),
        ("https://cdn.ampproject.org/c/e.example/x?y=1", "http://e.example/x?y=1"),
        ("https://e-example.cdn.ampproject.org/v/s/e.example/x?usqp=a&amp_js_v=0.1&y=1", "https://e.example/x?y=1"),
        ("https://e-example.cdn.ampproject.org/v/s/e.example/?amp_js_v=0.1#referrer=x", "https://e.example/"),
        ("https://e-example.bing-amp.com/c/s/e.example/x", "https://e.example/x"),
        ("https://www.bing-amp.com/c/s/e.example/x", "https://e.example/x"),
        (
            "https://www.google.com/amp/s/www.google.de/amp/s/e.example/x",
            "https://e.example/x",
        ),  # one nested in another
        ("https://www.google.com/amp/s/en.m.wikipedia.org/wiki/X", "https://en.wikipedia.org/wiki/X"),
        ("https://en.m.wikipedia.org/wiki/GPT-2?action=history", "https://en.wikipedia.org/wiki/GPT-2?action=history"),
        ("https://zh-min-nan.m.wikipedia.org/wiki/X", "https://zh-min-nan.wikipedia.org/wiki/X"),
        ("https://fr.m.wiktionary.org/wiki/X", "https://fr.wiktionary.org/wiki/X"),
        ("https://commons.m.wikimedia.org/wiki/X", "https://commons.wikimedia.org/wiki/X"),
        ("http://m.youtube.com/watch?v=x", "http://www.youtube.com/watch?v=x"),
        ("https://mobile.twitter.com/a/status/1", "https://twitter.com/a/status/1"),
        ("https://m.facebook.com/a/posts/1", "https://www.facebook.com/a/posts/1"),
    ],
)
def test_unambiguous_amp_and_mobile_variants_are_rewritten(url: str, expected: str) -> None:
    assert canonical_url(url) == expected
    assert canonical_url(expected) == expected
    assert may_be_rewritten(host_of(url), urlsplit(url).path)


@pytest.mark.parametrize(
    "url",
    [
        "https://www.example.com/amp/s/e.example/x",  # not a known cache
        "https://example.com/article/amp",  # the publisher's own; the name of its plain page is unknown
        "https://example.com/article?amp=1",
        "https://amp.example.com/x",
        "https://www.google.com/amp/s/",
        "https://www.google.com/amp/x",
        "https://www.google.com/amp/s/user:secret@e.example/x",
        "https://www.google.com/amp/s/e..example/x",
        "https://www.google.com/amp/s/e.example/x?id=7",  # the owner of this parameter is unknown
        "https://www.google.com/amp/s/e.example/x%3Fa%3D%2526",
        "https://www.google.com/amplifier/e.example",
        "https://www.google.com.evil.example/amp/s/e.example/x",
        "https://google.example.com/amp/s/e.example/x",
        "https://www.google.com:8443/amp/s/e.example/x",
        "https://cdn.ampproject.org/i/s/e.example/x.png",  # an image
        "https://cdn.ampproject.org/v0.js",
        "https://notcdn.ampproject.org/c/s/e.example/x",
        "https://m.example.com/x",
        "https://mobile.example.com/x",
        "https://en.m.example.org/wiki/X",
        "https://a.b.m.wikipedia.org/x",
        "https://m.wikipedia.org.example/x",
        "https://mobile.twitter.com:8443/x",
    ],
)
def test_ambiguous_variants_are_kept(url: str) -> None:
    assert canonical_url(url) == url


def test_host_of_returns_the_host_that_answers() -> None:
    """The politeness delay applies to the host that answers, not to the host of the canonical URL."""
    url = "https://e-example.cdn.ampproject.org/c/s/www.e.example/x"
    assert (host_of(url), domain_of(url)) == ("e-example.cdn.ampproject.org", "ampproject.org")
    assert host_of("https://mobile.twitter.com/x") == "mobile.twitter.com"
    assert host_of(canonical_url(url)) == "www.e.example"


_LABEL = st.text("abcXYZ019-_üßé例中ł", min_size=1, max_size=12)
_PIECES = [*"aZ09-._~%%%2eE5fF41&=?+ /\\'\"<>^`{}|;,:@!$()*[]ü例\t", "%2e", "%2F", "utm_x=", "/../"]
_TEXT = st.lists(st.sampled_from(_PIECES), max_size=30).map("".join)
_VARIANT_HOSTS = [
    "en.m.wikipedia.org",
    "m.youtube.com",
    "www.google.com/amp/s",
    "x.cdn.ampproject.org/c",
    "m.m.wikipedia.org",
]
_VARIANTS = st.lists(
    st.sampled_from(["https://", "/", "s/", "?", "%3F", "%3D", "%26", "usqp=1", "&", "a.example", *_VARIANT_HOSTS]),
    max_size=12,
).map(lambda pieces: "https://" + "".join(pieces))
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
@given(st.one_of(_URLS, _VARIANTS))
@example("http://a/%%32%65%%32%65/b")
@example("http://a/%25%32e/?%%3366=1")
@example("http://a/?utm_x=1&&utm_y")
@example("https://www.google.com/amp/s/x.cdn.ampproject.org/c/s/m.youtube.com/a?usqp=1&b=2&a=1")
def test_canonical_url_is_idempotent_and_ascii(url: str) -> None:
    try:
        once = canonical_url(url)
    except ValueError:
        return
    assert canonical_url(once) == once
    assert once.isascii()
    assert "#" not in once
    parts = urls.parse_url(url)
    assert (host_of(once), parts.url) == (parts.host, once)
    named = ada_url.URL(url)
    path, query = urls.normal_percents(named.pathname), urls.normal_query(named.search.removeprefix("?"))
    if not may_be_rewritten(host_of(url), path):
        assert parts == (named.protocol.removesuffix(":"), host_of(url), named.port, path, query)


def test_the_generated_urls_are_mostly_valid() -> None:
    """Otherwise the test above would prove little."""
    outcomes: list[bool] = []

    @settings(max_examples=300, deadline=None, database=None)
    @given(_URLS)
    def note(url: str) -> None:
        try:
            canonical_url(url)
            outcomes.append(True)
        except ValueError:
            outcomes.append(False)

    note()
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
        ("co.uk", "co.uk"),  # is itself a public suffix
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
def test_domain_of_returns_the_registrable_domain(host: str, domain: str) -> None:
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


def test_host_of_returns_the_host() -> None:
    assert host_of("https://Sub.Example.com:8080/x") == "sub.example.com"
    assert host_of("http://[::1]:80/") == "[::1]"


def test_partition_of_is_a_fixed_64_bit_hash_that_spreads() -> None:
    assert partition_of("example.com") == 0x13C51305C1CF2666  # printf example.com | b2sum -l 64
    halves = [partition_of(f"site{number}.example") >> 63 for number in range(2_000)]
    assert 900 < sum(halves) < 1_100


def test_parts_are_equal_ranges_of_the_hash() -> None:
    for n_parts in (1, 3, 8, 1_000):
        parts = [part_of(f"site{number}.example", n_parts) for number in range(200)]
        assert parts == [partition_of(f"site{number}.example") * n_parts // 2**64 for number in range(200)]
        assert set(parts) <= set(range(n_parts))
    assert part_of("example.com", 16) == 0x1  # the first digit of its hash


def test_the_public_suffix_list_is_pinned() -> None:
    """Another tldextract version brings another list with other domains. Then this test and every stage fail."""
    assert urls.installed_suffix_list() == PUBLIC_SUFFIX_LIST == LinksConfig().public_suffix_list
    assert content_settings(LinksConfig())["public_suffix_list"] == PUBLIC_SUFFIX_LIST


def test_a_different_public_suffix_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="public_suffix_list '2030' is not this version's list"):
        urls.check_rules(LinksConfig(public_suffix_list="2030"))
    text = b"// VERSION: 2030-01-01\ncom\n"
    monkeypatch.setattr(urls.pkgutil, "get_data", lambda *_: text)
    urls._extractor.cache_clear()
    urls.registrable_domain.cache_clear()
    try:
        digest = hashlib.sha256(text).hexdigest()[:16]
        with pytest.raises(InputError, match=f"brings the public suffix list '2030-01-01 {digest}'.*constraints.txt"):
            domain_of("http://some.example.com/")
    finally:
        urls._extractor.cache_clear()
