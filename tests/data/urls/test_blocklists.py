"""The links that the profiles and the user's list drop, and the known bugs of earlier lists."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from data.config import LinksConfig
from data.errors import InputError
from data.lake.store import Lake
from data.links import stage as links
from data.schema import LinkStatus
from data.urls.blocklists import OPENWEBTEXT, PROFILES
from data.urls.canonical import block_reason, blocked_by, check_rules, read_block_list

SHARED_LINKS = Path(__file__).parents[3].parent / "shared" / "data" / "links"
WEBTEXT, OPEN = LinksConfig(), LinksConfig(profile="openwebtext")
DOMAIN, EXTENSION = LinkStatus.BLOCKED_DOMAIN, LinkStatus.BLOCKED_EXTENSION


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    path = SHARED_LINKS / "reference_link_filters.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not at ../shared/data/links")
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


@pytest.mark.parametrize(
    ("url", "webtext", "openwebtext"),
    [
        ("http://en.wikipedia.org/wiki/GPT-2", DOMAIN, DOMAIN),
        ("http://en.m.wikipedia.org/wiki/GPT-2", DOMAIN, DOMAIN),
        ("https://upload.wikimedia.org/a", DOMAIN, None),
        ("http://notwikipedia.org/", None, None),
        ("http://wikipedia.org.example/", None, None),
        ("https://old.reddit.com/r/x", DOMAIN, DOMAIN),
        ("https://i.redd.it/x", DOMAIN, DOMAIN),
        ("https://i.imgur.com/x", DOMAIN, DOMAIN),
        ("https://github.com/openai/gpt-2", None, DOMAIN),
        ("https://gist.github.com/x", None, DOMAIN),
        ("https://example.com/paper.pdf", None, EXTENSION),
        ("https://example.com/a.JPG", EXTENSION, EXTENSION),
        ("https://example.com/a%2Ejpg", EXTENSION, EXTENSION),
        ("https://example.com/a.tar.gz#x", EXTENSION, EXTENSION),
        ("https://example.com/a.html", None, None),
        ("https://example.com/jpg", None, None),
        ("https://example.com/a.jpg/about", None, None),
        ("https://example.com/view?file=a.jpg", None, None),  # a page about a file
        ("https://openai.ai", None, None),  # the host ends in .ai, the path does not
    ],
)
def test_each_blocked_url_has_its_reason(url: str, webtext: LinkStatus | None, openwebtext: LinkStatus | None) -> None:
    assert block_reason(url, WEBTEXT) == webtext
    assert block_reason(url, OPEN) == openwebtext


def test_known_bug_extension_with_a_query_is_still_an_extension() -> None:
    assert block_reason("https://example.com/a.jpg?x=1", WEBTEXT) is EXTENSION
    assert block_reason("https://example.com/a.pdf?x=1#p2", OPEN) is EXTENSION


def test_known_bug_itunes_apple_com_does_not_block_other_apples() -> None:
    assert block_reason("https://itunes.apple.com/us/app", OPEN) is DOMAIN
    for host in ("www.apple.com", "apple.com", "apple.org", "itunes.example", "google.example"):
        assert block_reason(f"https://{host}/", OPEN) is None


def test_known_bug_7z_and_ai_are_two_extensions() -> None:
    for path in ("a.7z", "a.ai"):
        assert block_reason(f"https://example.com/{path}", OPEN) is EXTENSION
    assert all(extension.count(".") == 1 for profile in PROFILES.values() for extension in profile.extensions)


def test_known_bug_self_posts_without_is_self_are_self_posts(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "score": 9, "created_utc": 1, "domain": "self.AskReddit", "url": "http://www.reddit.com/r/x/a/"},
        {"id": "b", "score": 9, "created_utc": 1, "domain": "self.AskReddit", "url": ""},
        {"id": "c", "score": 9, "created_utc": 1, "url": "/r/AskReddit/comments/c/"},
        {"id": "d", "score": 9, "created_utc": 1, "url": "https://old.reddit.com/r/AskReddit/comments/d/"},
        {"id": "e", "score": 9, "created_utc": 1, "domain": "self.example", "url": "https://self.example/page"},
    ]
    dump = tmp_path / "RS.ndjson"
    dump.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    outcome = links.run(Lake(str(tmp_path / "lake")), "s", [str(dump)], LinksConfig())
    assert {k: n for k, n in outcome.manifest.counts.items() if n} == {"self_post": 4, "ok": 1}


def test_every_known_bug_of_earlier_lists_has_a_test(facts: dict[str, Any]) -> None:
    assert facts["known_bugs_in_earlier_lists"] == [
        "an extension test on the raw string misses '?x=1' tails",
        "comparing only the second-level label makes 'apple' hit every apple.*",
        "a missing comma turned '.7z' and '.ai' into '.7z.ai'",
        "self posts slip through where is_self is absent",
    ]


def test_openwebtext_lists_equal_the_collected_lists(facts: dict[str, Any]) -> None:
    assert set(facts["openwebtext_drop_registrable_domains"]) == OPENWEBTEXT.hosts
    assert set(facts["openwebtext_drop_extensions"]) == OPENWEBTEXT.extensions


def test_openwebtext_drops_exactly_the_urls_on_the_collected_lists(facts: dict[str, Any]) -> None:
    for domain in facts["openwebtext_drop_registrable_domains"]:
        for host in (domain, f"www.{domain}", f"a.b.{domain}"):
            assert blocked_by(f"https://{host}/x", OPEN) == (DOMAIN, domain)
        assert block_reason(f"https://not{domain}/x", OPEN) is None
    for extension in facts["openwebtext_drop_extensions"]:
        assert blocked_by(f"https://e.example/a{extension}?x=1", OPEN) == (EXTENSION, extension)
        longer = EXTENSION if f"{extension}x" in OPENWEBTEXT.extensions else None  # .doc and .docx
        assert block_reason(f"https://e.example/a{extension}x", OPEN) is longer
        assert block_reason(f"https://e.example/{extension.removeprefix('.')}", OPEN) is None
    for kept in facts["webtext_paper"]["drop_domains"]:
        assert block_reason(f"https://{kept}/", WEBTEXT) is DOMAIN


@pytest.mark.parametrize("config", [WEBTEXT, OPEN], ids=["webtext", "openwebtext"])
@pytest.mark.parametrize(
    "url",
    [
        "https://wikipedia.org/",
        "https://www.wikipedia.org/",
        "https://de.wikipedia.org/wiki/X",
        "https://simple.wikipedia.org/wiki/X",
        "https://zh-min-nan.wikipedia.org/wiki/X",
        "http://en.m.wikipedia.org/wiki/X",
        "https://zh-yue.m.wikipedia.org/wiki/X",
        "https://en.zero.wikipedia.org/wiki/X",
        "https://en.wikipedia.org./wiki/X",
        "https://EN.Wikipedia.ORG/wiki/X",
        "https://www.google.com/amp/s/en.m.wikipedia.org/wiki/X",
        "https://en-m-wikipedia-org.cdn.ampproject.org/c/s/en.m.wikipedia.org/wiki/X",
    ],
)
def test_wikipedia_is_dropped_in_all_languages_and_on_its_mobile_hosts(url: str, config: LinksConfig) -> None:
    assert blocked_by(url, config) == (DOMAIN, "wikipedia.org")


def test_block_domains_of_the_user_are_dropped() -> None:
    config = LinksConfig(block_domains=("Example.COM", "bücher.de"))
    assert block_reason("https://www.example.com/", config) is DOMAIN
    assert block_reason("https://xn--bcher-kva.de/", config) is DOMAIN
    assert block_reason("https://example.org/", config) is None
    assert blocked_by("https://www.example.com/", config) == (DOMAIN, "example.com")


@pytest.mark.parametrize("domain", ["", "https://example.com", "example.com/x", "a b", "user@example.com", "a..b"])
def test_invalid_block_domains_are_refused(domain: str) -> None:
    with pytest.raises(InputError, match=r"block_domains: .*write it like"):
        block_reason("http://e.example/", LinksConfig(block_domains=(domain,)))


def test_a_block_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "block.txt"
    path.write_text(
        "\ufeff# ours\nExample.COM\n\n  b\u00fccher.de  # books\r\nexample.com.\n192.0.2.7\n", encoding="utf-8"
    )
    domains = read_block_list(path)
    assert domains == ("192.0.2.7", "example.com", "xn--bcher-kva.de")
    config = LinksConfig(block_domains=domains)
    check_rules(config)
    assert block_reason("https://www.b\u00fccher.de/x", config) is DOMAIN
    assert block_reason("http://192.0.2.7/", config) is DOMAIN
    assert block_reason("https://example.org/", config) is None


@pytest.mark.parametrize(
    "line",
    ["https://example.com", "example.com/x", "a b.example", "*.example.com", "||ads.example^", "0.0.0.0 a.example"],
)
def test_an_error_names_the_line_that_is_not_a_domain(line: str, tmp_path: Path) -> None:
    path = tmp_path / "block.txt"
    path.write_text(f"example.org\n# no\n{line}\n")
    with pytest.raises(InputError, match=r"block\.txt, line 3: '.*' is not a domain.*one domain per line"):
        read_block_list(path)


def test_an_error_names_an_unreadable_block_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: the block list cannot be read \(No such file"):
        read_block_list(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"b\xfccher.de\n")
    with pytest.raises(InputError, match=r"latin\.txt: the block list is not UTF-8"):
        read_block_list(tmp_path / "latin.txt")


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InputError, match="profile 'pile' is not known; choose from openwebtext, webtext"):
        block_reason("http://e.example/", LinksConfig(profile="pile"))
