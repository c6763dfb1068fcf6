"""Opt-outs in headers, markup and tdmrep.json, and that hostile bytes cannot make reading them slow."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from data.pages import optout
from data.pages.optout import HEAD_BYTES, allows_training, header_opt_out, meta_opt_out, parse_tdmrep, tdmrep_opt_out
from data.schema import PageStatus

BOT = "WebTextBot"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
SHARED_PAGES = Path(__file__).parents[3].parent / "shared" / "data" / "pages" / "html"


def _header(*fields: tuple[str, str]) -> tuple[str, str] | None:
    found = header_opt_out(CIMultiDictProxy(CIMultiDict(fields)), BOT, now=NOW)
    return found and (str(found[0]), found[1])


def _tag(*values: str) -> str | None:
    found = _header(*(("X-Robots-Tag", value) for value in values))
    assert found is None or found[0] == PageStatus.OPT_OUT_X_ROBOTS_TAG
    return found and found[1]


@pytest.mark.parametrize("name", ["X-Archive-Orig-X-Robots-Tag", "x-archive-orig-x-robots-tag"])
def test_the_headers_of_an_archived_page_forbid_its_copy(name: str) -> None:
    def status(**fields: str) -> PageStatus | None:
        found = header_opt_out(CIMultiDictProxy(CIMultiDict(fields)), BOT, now=NOW)
        return found and found[0]

    assert status(**{name: "noai"}) is PageStatus.OPT_OUT_X_ROBOTS_TAG
    assert status(**{name: "noai", "X-Robots-Tag": "all"}) is PageStatus.OPT_OUT_X_ROBOTS_TAG
    assert status(**{"X-Archive-Orig-TDM-Reservation": "1"}) is PageStatus.OPT_OUT_TDM
    assert status(**{"X-Archive-Orig-Content-Signal": "ai-train=no"}) is PageStatus.OPT_OUT_CONTENT_SIGNAL
    assert status(**{name: "all", "X-Archive-Orig-Server": "noai"}) is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (["noindex"], "noindex"),
        (["NoIndex, NoFollow"], "noindex"),
        (["nofollow,noindex"], "noindex"),
        (["none"], "none"),
        (["noai"], "noai"),
        (["noimageai, noai"], "noai"),
        (["noml"], "noml"),
        (["nofollow, NoML"], "noml"),
        (["webtextbot: noml"], "noml"),
        (["otherbot: noml"], None),
        (["nomlx"], None),
        (["noindex;nofollow"], "noindex"),
        (["nofollow noindex"], "noindex"),
        (["nofollow", "noindex"], "noindex"),  # two headers
        (["all"], None),
        (["index, follow, max-snippet:-1, max-image-preview:large, max-video-preview: -1"], None),
        (["nofollow, noarchive, nosnippet, noimageindex, noimageai, notranslate, nocache"], None),
        (["noindexer"], None),
        ([""], None),
        ([":"], None),
        (["WebTextBot: noindex"], "noindex"),
        (["webtextbot:noai"], "noai"),
        (["otherbot: noindex"], None),
        (["otherbot: noindex, nofollow"], None),
        (["otherbot: noindex, webtextbot: noai"], "noai"),
        (["webtextbot: nofollow, otherbot: noindex"], None),
        (["noindex, otherbot: nofollow"], "noindex"),
        (["otherbot: none", "noindex"], "noindex"),  # a robot's name applies only to its own header
        (["otherbot: max-snippet: 5, noindex"], None),
        (["max-snippet: 5, noindex"], "noindex"),
        (["webtextbotx: noindex"], None),
        (["webtext: noindex"], None),
    ],
)
def test_x_robots_tag_is_read(values: list[str], word: str | None) -> None:
    assert _tag(*values) == word


@pytest.mark.parametrize(
    ("value", "is_past"),
    [
        ("unavailable_after: 2026-10-31", True),
        ("unavailable_after: 2026-11-02", False),
        ("unavailable_after: 2026-11-01T00:00:00+01:00", True),
        ("unavailable_after: 2026-11-01T00:00:00-01:00", False),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
        ("unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT", True),
        ("unavailable_after: Friday, 25-Jun-10 15:00:00 UTC, nofollow", True),
        ("nofollow, unavailable_after: Tue, 25 Jun 2030 15:00:00 GMT", False),
        ("Unavailable_After: 2010-06-25", True),
        ("webtextbot: unavailable_after: 2010-06-25", True),
        ("otherbot: unavailable_after: 2010-06-25", False),
        ("unavailable_after: soon", False),
        ("unavailable_after", False),
        ("unavailable_after: 99999999999999999999", False),
    ],
)
def test_unavailable_after_refuses_once_the_date_has_passed(value: str, is_past: bool) -> None:
    assert _tag(value) == ("unavailable_after" if is_past else None)


def test_unavailable_after_uses_the_system_clock_by_default() -> None:
    headers = CIMultiDictProxy(CIMultiDict({"X-Robots-Tag": "unavailable_after: 2001-01-01"}))
    assert header_opt_out(headers, BOT) == (PageStatus.OPT_OUT_X_ROBOTS_TAG, "unavailable_after")


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ([("Content-Signal", "ai-train=no, search=yes")], ("opt_out_content_signal", "content-signal")),
        ([("content-signal", "search=yes"), ("content-signal", "ai-train=no")],
         ("opt_out_content_signal", "content-signal")),
        ([("Content-Signal", "ai-train=yes, search=no, ai-input=no")], None),
        ([("Content-Usage", "train-ai=n")], ("opt_out_content_signal", "content-usage")),
        ([("Content-Usage", "train-ai=y, search=n")], None),
        ([("Content-Signal", "ai-train=yes"), ("Content-Usage", "train-ai=n")],
         ("opt_out_content_signal", "content-usage")),
        ([("TDM-Reservation", "1")], ("opt_out_tdm", "header")),
        ([("tdm-reservation", "0"), ("tdm-reservation", " 1 ")], ("opt_out_tdm", "header")),
        ([("tdm-reservation", "0"), ("tdm-policy", "https://e.example/p")], None),
        ([("tdm-reservation", "yes")], None),
        ([("X-Robots-Tag", "noai"), ("tdm-reservation", "1")], ("opt_out_x_robots_tag", "noai")),
        ([("Content-Type", "text/html"), ("X-Robots", "noindex")], None),
        ([], None),
    ],
)  # fmt: skip
def test_other_headers_are_read(fields: list[tuple[str, str]], outcome: tuple[str, str] | None) -> None:
    assert _header(*fields) == outcome


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("ai-train=no", False),
        ("AI-Train = No", False),
        ("ai-train=yes", True),
        ("ai-train=yes, ai-train=no", False),
        ("train-ai=n;x=1, search=y", False),
        ("ai=n", False),  # a word from an earlier draft, which covers training
        ("ai=n, train-ai=y", True),  # the narrower word wins
        ("tdm=n", False),
        ("search=no", None),
        ("ai-input=no", None),
        ("ai-train=", None),
        ("ai-train", None),
        ("notai-train=no", None),
        ("", None),
    ],
)
def test_training_directives_are_read(value: str, allowed: bool | None) -> None:
    assert allows_training(value) is allowed


def _meta(markup: str | bytes) -> tuple[str, str] | None:
    found = meta_opt_out(markup if isinstance(markup, bytes) else markup.encode(), BOT, now=NOW)
    return found and (str(found[0]), found[1])


def _page(head: str) -> str:
    return f"<!doctype html><html><head><title>t</title>{head}</head><body><p>Text</p></body></html>"


@pytest.mark.parametrize(
    ("head", "word"),
    [
        ('<meta name="robots" content="noindex">', "noindex"),
        ("<meta name=robots content=noindex>", "noindex"),
        ("<META NAME='ROBOTS' CONTENT='NOINDEX,FOLLOW'/>", "noindex"),
        ('<meta content="nofollow, none" name="robots">', "none"),
        ('<meta\n  name = "robots"\n  content\t= "noai, noimageai"\n>', "noai"),
        ('<meta name="webtextbot" content="noindex">', "noindex"),
        ('<meta name="robots" content="noml">', "noml"),
        ('<meta name="robots" content="index, follow, NOML">', "noml"),
        ('<meta name="webtextbot" content="noml">', "noml"),
        ('<meta name="otherbot" content="noml">', None),
        ('<meta name="WebTextBot" content="noai">', "noai"),
        ('<meta name="robots" content="index"><meta name="robots" content="noindex">', "noindex"),
        ('<meta name="robots" content="no&#105;ndex noindex">', "noindex"),
        ('<meta name="description" content="it\'s about > robots"><meta name="robots" content="noindex">', "noindex"),
        ('<noscript><meta name="robots" content="noindex"></noscript>', "noindex"),  # we do not run scripts
        ('<script>document.write("<body>")</script><meta name="robots" content="noindex">', "noindex"),
        ('<!-- <body> --><meta name="robots" content="noindex">', "noindex"),
        (
            '<div><custom-element></div><meta name="robots" content="noindex">',
            "noindex",
        ),  # the parser opens a body here
        ('<meta name="robots" content="unavailable_after: 2010-06-25">', "unavailable_after"),
        ('<meta name="robots" content="unavailable_after: 2030-06-25">', None),
        ('<meta name="robots" content="index, follow, max-image-preview:large, max-snippet:-1">', None),
        ('<meta name="robots" content="noimageai, noarchive, nofollow">', None),
        ('<meta name="robots"><meta content="noindex">', None),
        ('<meta name="googlebot" content="noindex">', None),
        ('<meta name="robots-x" content="noindex">', None),
        ('<meta property="robots" content="noindex">', None),
        ('<meta name="description" content="robots and noindex">', None),
        ('<!-- <meta name="robots" content="noindex"> -->', None),
        ('<script>"<meta name=robots content=noindex>"</script>', None),
        ('<script type="text/template"><meta name="robots" content="noindex"></script>', None),
        ('<style>/* <meta name="robots" content="noindex"> */</style>', None),
        ("<title><meta name=robots content=noindex></title>", None),
        ('<meta name="x" content="<meta name=robots content=noindex>">', None),
        ("&lt;meta name=robots content=noindex&gt;", None),
        ("<metadata name=robots content=noindex>", None),
    ],
)
def test_meta_robots_is_read(head: str, word: str | None) -> None:
    assert _meta(_page(head)) == (word and ("opt_out_meta_robots", word))


@pytest.mark.parametrize(
    ("head", "is_reserved"),
    [
        ('<meta name="tdm-reservation" content="1">', True),
        ('<meta name="TDM-Reservation" content=" 1 "><meta name="tdm-policy" content="https://e.example/p">', True),
        ('<meta name="tdm-reservation" content="0">', False),
        ('<meta name="tdm-policy" content="1">', False),
        ('<!--<meta name="tdm-reservation" content="1">-->', False),
    ],
)
def test_meta_tdm_reservation_is_read(head: str, is_reserved: bool) -> None:
    assert _meta(_page(head)) == (("opt_out_tdm", "meta") if is_reserved else None)


def test_meta_elements_in_the_body_are_ignored() -> None:
    element = '<meta name="robots" content="noindex">'
    assert _meta(_page("").replace("<p>", f"<p>{element}")) is None
    assert _meta(_page("").replace("<body>", f'<BODY class="a">{element}').replace("</body>", "</BODY>")) is None
    assert _meta(f"<p>{element}") is not None  # without a body element, nothing marks the end of the head


def test_a_page_needs_neither_head_nor_end_nor_a_known_encoding() -> None:
    element = '<meta name="robots" content="noindex">'
    assert _meta(element) is not None
    assert _meta(f"<html>{element}<title>x") is not None
    assert _meta(f"\ufeff{_page(element)}".encode()) is not None
    assert _meta(_page(element).encode("utf-16")) is not None
    assert _meta(_page(element).encode("utf-16")[:-1]) is not None
    assert _meta(b"<title>\xff\xe4\x00</title>" + element.encode()) is not None
    assert _meta(b"") is None
    assert _meta(b"\x00\x00robots noindex <meta") is None


def test_markup_beyond_the_first_bytes_is_ignored() -> None:
    element = b'<meta name="robots" content="noindex">'
    assert _meta(b"<head>".ljust(HEAD_BYTES - len(element)) + element) is not None
    assert _meta(b"<head>".ljust(HEAD_BYTES) + element) is None


_HOSTILE = {
    "metas without end": b"<meta",
    "metas without end, spaced": b"<meta ",
    "robots without end": b'<meta name="robots" content="noindex',
    "robots that say nothing": b"<meta name=robots content='x' noindex>",
    "attributes": b" noindex%d=robots",
    "bodies": b"<body",
    "bodies in scripts": b"<script><body",
    "bodies in comments": b"<!--<body",
    "comments": b"<!-->",
    "elements in elements": b"<div>",
    "brackets": b"<",
    "quotes": b"\"'",
    "names": b"robots",
    "nothing": b"\0",
    "entities": b"&amp;&#x110000;&robots;",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", sorted(_HOSTILE))
@pytest.mark.parametrize("start", [b"", b"<meta name=robots content=index noindex "], ids=["", "in a meta"])
def test_hostile_pages_are_parsed_at_most_once_and_only_their_first_bytes(
    name: str, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of 1 MB costs what its first HEAD_BYTES cost: the parser gets only those, and only once."""
    unit = _HOSTILE[name]
    count = 1_000_000 // len(unit)
    page = start + (b"".join(unit % n for n in range(count)) if b"%d" in unit else unit * count)
    parsed: list[int] = []
    parse = optout.lxml.html.document_fromstring
    monkeypatch.setattr(
        optout.lxml.html, "document_fromstring", lambda head: (parsed.append(len(head)), parse(head))[1]
    )
    for _ in range(20):  # 20 of them within the time limit: a quadratic scan of 128 kB would take minutes
        meta_opt_out(page, BOT, now=NOW)
    assert len(parsed) in (0, 20)
    assert all(size <= HEAD_BYTES for size in parsed)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["a:", "a : ", "noindexx ", ",", "unavailable_after:", "unavailable_after: 1,", "9", " "]
)
def test_hostile_values_are_read_in_linear_time(unit: str) -> None:
    """60 values as large as a page's head. With a quadratic scan, one of them would take seconds."""
    value = unit * (HEAD_BYTES // len(unit) - 100)
    for _ in range(20):
        assert _tag(value) is None
        assert _meta(f"<meta name=robots content='noindexx {value}'>") is None
        assert allows_training(value) is None


def test_a_refusal_after_many_directives_is_found() -> None:
    assert _tag("nofollow, " * 3_000 + "noindex") == "noindex"


_PIECES = [
    *(
        "<meta",
        ' name="',
        "robots",
        '"',
        "'",
        " content=",
        "noindex",
        "none",
        ">",
        "<",
        "/",
        "<!--",
        "-->",
        "<body",
        "tdm-reservation",
    ),
    *(
        "<script>",
        "</script>",
        "<head>",
        "</head>",
        "\0",
        "=",
        " ",
        "1",
        "unavailable_after:",
        "\ud7ff",
        "&#105;",
        "webtextbot",
    ),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=40).map("".join), st.binary(max_size=20))
def test_arbitrary_bytes_never_raise(markup: str, rest: bytes) -> None:
    for page in (markup.encode() + rest, markup.encode("utf-16"), rest):
        found = meta_opt_out(page, BOT, now=NOW)
        assert found is None or found[0] in (PageStatus.OPT_OUT_META_ROBOTS, PageStatus.OPT_OUT_TDM)
    header_opt_out(CIMultiDictProxy(CIMultiDict({"X-Robots-Tag": markup, "Content-Signal": markup})), BOT, now=NOW)


def test_two_real_news_pages_are_refused() -> None:
    """Both have a plain <meta name="robots" content="noindex">. Most others have one with other words."""
    if not SHARED_PAGES.exists():
        pytest.skip("the pages are not at ../shared/data/pages")
    pages = [gzip.decompress(path.read_bytes()) for path in sorted(SHARED_PAGES.glob("*.gz"))]
    assert [str(found[1]) for page in pages if (found := meta_opt_out(page, BOT))] == ["noindex", "noindex"]
    assert sum(b'name="robots"' in page for page in pages) > 50


@pytest.mark.parametrize(
    ("location", "path", "is_reserved"),
    [
        ("/", "/", True),
        ("/", "/a/b?c", True),
        ("/a", "/a", True),
        ("/a", "/ab", True),
        ("/a/", "/a", False),
        ("/a", "/A", False),
        ("/a", "/b/a", False),
        ("/*.html", "/a/b.html", True),
        ("/*.html", "/a/b.html?x", True),
        ("/*.html$", "/a/b.html?x", False),
        ("/*.html$", "/a/b.html.html", True),
        ("/a$", "/a", True),
        ("/a$", "/ab", False),
        ("/a*$", "/ab", True),
        ("/a*a$", "/a", False),
        ("/*/b/*/d", "/a/b/c/d", True),
        ("/*/b/*/d", "/b/c/d", False),
        ("*", "/x", True),
        ("/a%24", "/a$b", True),
        ("/a%2a", "/a*", True),
        ("/a%2a", "/ab", False),
        ("/%7Euser", "/~user/x", True),
        ("/~user", "/%7euser/x", True),
        ("/caf%c3%a9", "/caf%C3%A9", True),
    ],
)
def test_tdmrep_location_patterns_are_matched(location: str, path: str, is_reserved: bool) -> None:
    rules = parse_tdmrep(f'[{{"location": "{location}", "tdm-reservation": 1}}]'.encode())
    assert len(rules) == 1
    assert tdmrep_opt_out(rules, path) == ((PageStatus.OPT_OUT_TDM, "tdmrep.json") if is_reserved else None)


def test_tdmrep_uses_the_first_matching_rule() -> None:
    rules = parse_tdmrep(
        b"""[{"location": "/images/*.jpg", "tdm-reservation": 0},
             {"location": "/images/", "tdm-reservation": 1, "tdm-policy": "https://e.example/p.json"},
             {"location": "/", "tdm-reservation": "0"}]"""
    )
    assert tdmrep_opt_out(rules, "/images/a.jpg") is None
    assert tdmrep_opt_out(rules, "/images/a.html") == (PageStatus.OPT_OUT_TDM, "tdmrep.json")
    assert tdmrep_opt_out(rules, "/x") is None
    assert tdmrep_opt_out((), "/x") is None


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        (b"", 0),
        (b"<html>Not found</html>", 0),
        (b"null", 0),
        (b"[]", 0),
        (b"1", 0),
        (b"[" * 100_000, 0),
        (b"\xff\xfe[]", 0),
        (b'{"location": "/", "tdm-reservation": 1}', 1),  # one rule without the enclosing array
        (b'\xef\xbb\xbf[{"location": "/", "tdm-reservation": 1}]', 1),
        (b'\xef\xbb[{"location": "/", "tdm-reservation": 1}]', 1),
        (b'\xbf [{"location": "/", "tdm-reservation": 1}]', 1),
        ('[{"location": "/", "tdm-reservation": 1}]'.encode("utf-16"), 1),
        (b'[{"location": "/", "tdm-reservation": 2}, {"location": "/", "tdm-reservation": null}]', 0),
        (
            b'[{"location": 1, "tdm-reservation": 1}, {"tdm-reservation": 1}, {"location": "a", "tdm-reservation": 1}]',
            0,
        ),
        (b'[7, "x", [], {"location": "/a", "tdm-reservation": 1}]', 1),
    ],
)
def test_tdmrep_files_are_parsed(body: bytes, rules: int) -> None:
    assert len(parse_tdmrep(body)) == rules


@pytest.mark.timeout(20)
def test_tdmrep_with_many_asterisks_is_matched_in_linear_time() -> None:
    rules = parse_tdmrep(f'[{{"location": "/{"*a" * 5_000}*b$", "tdm-reservation": 1}}]'.encode())
    for _ in range(100):
        assert tdmrep_opt_out(rules, "/" + "a" * 8_000) is None
