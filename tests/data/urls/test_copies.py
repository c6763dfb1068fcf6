"""Archived, cached and translated copies get the URL, and so the rules and the karma, of their original."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import LinksConfig
from data.lake.store import Lake
from data.schema import LinkStatus
from data.trace import why
from data.urls.canonical import block_reason, canonical_url, host_of, unwrapped
from data.urls.copies import COPY_HOSTS, may_be_copy
from tests.data.links.dumps import build, dump, post, rows_of

PAGE = "https://www.example.com/a/b?x=1&y=2"

COPIES = {
    "https://web.archive.org/web/20200102030405/https://www.example.com/a/b?x=1&y=2#part": PAGE,
    "http://www.web.archive.org/web/20200102030405id_/https://www.example.com/a/b?y=2&x=1": PAGE,
    "https://web.archive.org/web/2020im_/https://www.example.com:443/a/b?x=1&y=2&utm_source=z": PAGE,
    "https://web.archive.org/web/20200102030405*/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://web.archive.org/web/*/www.example.com/a": "http://www.example.com/a",
    "https://web.archive.org/web/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://web.archive.org/https:/www.example.com/a/b?x=1&y=2": PAGE,
    "https://web.archive.org/save/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://web.archive.org/web/2020/https%3A%2F%2Fwww.example.com%2Fa%2Fb%3Fx%3D1%26y%3D2": PAGE,
    "https://web.archive.org/web/2012/www.example.com": "http://www.example.com/",
    "https://web.archive.org/web/2012/http://web.archive.org/web/2011/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://web.archive.org/web/2012/https://archive.is/2011/https://www.example.com/a/b?x=1&y=2": PAGE,
    **{
        f"https://archive.{top}/20200102030405/https://www.example.com/a/b?x=1&y=2": PAGE
        for top in ("today", "is", "ph", "li", "vn", "fo", "md")
    },
    "https://archive.ph/2020.01.02-030405/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://archive.is/newest/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://archive.is/o/AbCdE/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://www.archive.is/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://archive.is/?run=1&url=https%3A%2F%2Fwww.example.com%2Fa%2Fb%3Fx%3D1%26y%3D2": PAGE,
    "https://arquivo.pt/wayback/20200102030405/https://www.example.com/a/b?x=1&y=2": PAGE,
    "https://wayback.archive-it.org/123/20200102030405/https://www.example.com/a/b?x=1&y=2": PAGE,
    "http://www.webcitation.org/query?url=https%3A%2F%2Fwww.example.com%2Fa%2Fb%3Fx%3D1%26y%3D2": PAGE,
    "https://www-example-com.translate.goog/a/b?x=1&y=2&_x_tr_sl=de&_x_tr_tl=en&_x_tr_hl=en": PAGE,
    "https://my--site-example-com.translate.goog/?_x_tr_sch=http&_x_tr_sl=auto": "http://my-site.example.com/",
    "https://1-en--us-example-com.translate.goog/?_x_tr_enc=1": "https://en-us.example.com/",
    "https://0-bcher--kva-example.translate.goog/?_x_tr_enc=0": "https://xn--bcher-kva.example/",
    "https://ple-com.translate.goog/?_x_tr_hp=exam": "https://example.com/",
    "https://translate.google.com/translate?hl=en&sl=de&u=https%3A%2F%2Fwww.example.com%2Fa%2Fb%3Fx%3D1%26y%3D2": PAGE,
    "http://translate.google.co.uk/translate?u=www.example.com/a": "http://www.example.com/a",
    "https://webcache.googleusercontent.com/search?q=cache:AbCdEfGhIjKl:https://www.example.com/a+some+words&hl=en": (
        "https://www.example.com/a"
    ),
    "http://webcache.googleusercontent.com/search?q=cache%3AAbCdEfGhIjK%3Awww.example.com%2Fa": (
        "http://www.example.com/a"
    ),
    "https://www.google.com/search?q=cache:https://www.example.com/a": "https://www.example.com/a",
}


@pytest.mark.parametrize(("copy", "original"), COPIES.items())
def test_a_copy_has_the_canonical_url_of_its_original(copy: str, original: str) -> None:
    assert canonical_url(copy) == unwrapped(copy) == original
    assert canonical_url(original) == original
    assert unwrapped(original) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://archive.is/AbCdE",
        "https://archive.ph/wip/AbCdE",
        "https://perma.cc/ABCD-1234",
        "http://www.webcitation.org/5abc",
        "https://web.archive.org/",
        "https://web.archive.org/web/2020/http://me:secret@en.wikipedia.org/wiki/X",
        "https://web.archive.org/web/2020/ftp://en.wikipedia.org/wiki/X",
        "http://web.archive.org:8080/web/2020/http://en.wikipedia.org/wiki/X",
        "https://webcache.googleusercontent.com/search?q=words",
        "https://translate.goog/",
    ],
)
@pytest.mark.parametrize("profile", ["webtext", "openwebtext"])
def test_a_copy_that_does_not_name_its_original_is_blocked(url: str, profile: str) -> None:
    assert unwrapped(url) is None
    assert block_reason(url, LinksConfig(profile=profile)) is LinkStatus.BLOCKED_DOMAIN


@pytest.mark.parametrize(
    "url",
    [
        "https://archive.org/details/book",
        "https://blog.archive.org/2020/01/02/http-basics/",
        "https://arquivo.pt/about",
        "https://www.google.com/search?q=words",
        "https://translate.google.com/about/",
        "https://example.com/web/2020/https://www.example.com/",
        "https://notarchive.is/2020/https://www.example.com/",
        "https://archive.example/is",
    ],
)
def test_other_pages_are_no_copies(url: str) -> None:
    assert unwrapped(url) is None
    assert canonical_url(url) == url
    assert block_reason(url, LinksConfig()) is None


@pytest.mark.parametrize("copy", COPIES)
def test_the_rules_for_the_original_apply_to_its_copy(copy: str) -> None:
    wiki = copy.replace("www.example.com", "en.wikipedia.org").replace("www-example-com", "en-wikipedia-org")
    if wiki != copy:
        assert block_reason(wiki, LinksConfig()) is LinkStatus.BLOCKED_DOMAIN
        assert unwrapped(wiki) == canonical_url(wiki)
        assert host_of(canonical_url(wiki)) == "en.wikipedia.org"


_PIECES = st.sampled_from(
    [
        *("/", "//", "web/", "2020/", "*", "id_/", "http://", "https:/", "%2F", "https%3A", "a.b", "x", "-", "--", "?"),
        *("0-", "&", "q=cache:", "AbCdEfGhIjKl:", "u=", "url=", "_x_tr_hp=", "_x_tr_enc=0,1", "+", "@", ":8080"),
        *("archive.is/", "web.archive.org/", "x-y.translate.goog/", "cdn.ampproject.org/c/"),
        "webcache.googleusercontent.com/search?q=cache:",
    ]
)


@given(st.sampled_from([*sorted(COPY_HOSTS), "a-b.translate.goog", "www.google.com", "arquivo.pt"]), st.lists(_PIECES))
@settings(max_examples=500, deadline=None)
def test_unwrapping_ends_in_a_canonical_url(host: str, pieces: list[str]) -> None:
    try:
        url = canonical_url(f"https://{host}/{''.join(pieces)}")
    except ValueError:
        return
    assert canonical_url(url) == url
    if may_be_copy(host_of(url), "/"):
        assert unwrapped(url) is None


def test_votes_for_copies_count_for_the_original(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [post(0, url=PAGE, score=2)]
    rows += [post(n, url=copy, score=1 + n) for n, copy in enumerate(COPIES, 1) if COPIES[copy] == PAGE]
    rows += [post(100, url="https://web.archive.org/web/2020/https://de.wikipedia.org/wiki/X", score=50)]
    rows += [post(101, url="https://archive.is/AbCdE", score=50), post(102, url="https://other.example/archive.is")]
    manifest = build(tmp_path / "lake", [dump(tmp_path / "a.ndjson", rows)])
    n_copies = sum(original == PAGE for original in COPIES.values())
    assert manifest.extra["unwrapped"] == n_copies + 1
    found = {row["canonical_url"]: row for row in rows_of(tmp_path / "lake")}
    assert found.keys() == {
        PAGE,
        "https://de.wikipedia.org/wiki/X",
        "https://archive.is/AbCdE",
        "https://other.example/archive.is",
    }
    assert (found[PAGE]["status"], found[PAGE]["domain"]) == ("ok", "example.com")
    assert found[PAGE]["karma"] == max(row["score"] for row in rows if row["score"] < 50)
    assert len(found[PAGE]["submission_ids"]) == n_copies + 1
    assert found["https://de.wikipedia.org/wiki/X"]["reason"] == "wikipedia.org"
    assert found["https://archive.is/AbCdE"]["reason"] == "archive.is"
    (entry,) = why(Lake(tmp_path / "lake"), "https://archive.is/newest/" + PAGE)
    assert entry["canonical_url"] == PAGE
