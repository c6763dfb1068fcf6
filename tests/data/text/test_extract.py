from __future__ import annotations

import re
from pathlib import Path

import pytest
from trafilatura.settings import Document

from benchmarks import extraction, gold
from data.text import extract as module
from data.text import signals
from data.text.extract import extract, normalise
from tests.data.text.test_charset import PROSE, page

CORPUS_GUIDE = Path(__file__).parents[3] / "docs" / "corpus.md"


def test_binary_data_is_undecodable() -> None:
    noise = bytes((k * k * 31 + k * 7 + (k >> 3)) % 256 for k in range(20_000))
    for body in (b"\x89PNG\r\n\x1a\n" + noise, noise.replace(b"\0", b"\xff")):
        outcome = extract(body, "text/html; charset=utf-8", "http://a.example/")
        assert outcome.status == "undecodable"
        assert outcome.reason == "declared utf-8, and in no charset do its bytes look like text"
        assert outcome.text is None


ARTICLE = """<html><head><title>The ferry, again | Harbour News</title>
<meta property="article:published_time" content="2019-03-04T10:00:00Z"></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/sport">Sport</a></li></ul></nav>
<article><h1>The ferry, again</h1>
<p>The ferry that links the two halves of the town was out of service for a third day on Monday, and the council
said that it did not know when the next one would leave the pier.</p>
<p>Passengers who had waited since dawn were told to take the bus, which goes around the bay and needs an hour and a
half. Some of them walked instead, and were there before it.</p></article>
<div id="comments"><div class="comment"><p>First! I would never take that boat, said a reader below.</p></div></div>
<footer>Copyright Harbour News. All rights reserved.</footer></body></html>"""


def test_an_article_is_extracted_without_its_surroundings() -> None:
    outcome = extract(ARTICLE.encode(), "text/html", "https://news.example/2019/ferry")
    assert outcome.status == "ok"
    assert outcome.title == "The ferry, again"
    assert outcome.date == "2019-03-04"
    assert outcome.language == "en"
    assert outcome.language_score is not None
    assert 0.9 < outcome.language_score <= 1
    assert outcome.text is not None
    assert outcome.text.startswith("The ferry")
    assert outcome.text.endswith("and were there before it.")
    for word in ("Sport", "First!", "Copyright"):
        assert word not in outcome.text
    assert outcome.signals == signals.measure(outcome.text)
    assert extract(ARTICLE.encode(), "text/html", "https://news.example/2019/ferry") == outcome


@pytest.mark.parametrize("start", ["", '<?xml version="1.0" encoding="windows-1251"?>\n'])
def test_a_page_is_decoded_in_its_own_charset(start: str) -> None:
    body = start + page(f"{PROSE['ru']} {PROSE['ru']}", "windows-1251")
    outcome = extract(body.encode("windows-1251"), "text/html", "http://a.example/")
    assert (outcome.text, outcome.language) == (f"{PROSE['ru']} {PROSE['ru']}", "ru")


@pytest.mark.parametrize("body", [b"", b"   ", b"<html><body></body></html>", b"<nav>x</nav>"])
def test_a_page_without_text_is_empty(body: bytes) -> None:
    outcome = extract(body, "text/html", "http://a.example/")
    assert (outcome.status, outcome.text, outcome.signals) == ("empty", None, None)


def test_the_text_of_deeply_nested_elements_is_kept() -> None:
    posts = "".join(f"<font><i><p>Post number {k} says that the ferry is late.</p>" for k in range(300))
    body = f"<html><head><title>Forum</title></head><body><div>{posts}</div></body></html>".encode()
    outcome = extract(body, None, "http://forum.example/")
    assert outcome.text is not None
    assert re.findall(r"Post number (\d+)", outcome.text) == [str(k) for k in range(300)]
    assert outcome.reason is None


@pytest.mark.parametrize(("charset", "note"), [("utf-8", ""), ("koi8-r", "declared koi8-r, read as utf-8; ")])
def test_the_reason_says_that_a_page_is_deeper_than_can_be_read(charset: str, note: str) -> None:
    shallow = f"<p>{PROSE['ru']}</p>" * 3
    body = f"<html><head><title>Forum</title></head><body>{shallow}{'<div>' * 2100}{shallow}</body></html>".encode()
    outcome = extract(body, f"text/html; charset={charset}", "http://forum.example/")
    assert outcome.status == "ok"
    assert outcome.reason == f"{note}elements deeper than 2048 are left out"


def test_an_error_of_the_extractor_becomes_a_status_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise KeyError("no\nsuch tag")

    monkeypatch.setattr(module.trafilatura, "bare_extraction", breaks)
    outcome = extract(ARTICLE.encode(), None, "http://a.example/")
    assert (outcome.status, outcome.reason) == ("failed", "KeyError: 'no\\nsuch tag'")


def test_text_is_normalised() -> None:
    assert normalise(" a\r\nb \t\rc\x0bd\u2028e\x00\x07\ufeff cafe\u0301\ud800\n\n") == "a\nb\nc\nd\ne café"


def test_the_word_score_compares_multisets() -> None:
    assert gold.score("a a b x", "A b b c") == (2 / 4, 2 / 4, 0.5)
    assert gold.score("", "a") == (0.0, 0.0, 0.0)


@pytest.mark.skipif(not (gold.SHARED / "wcxb").is_dir(), reason=f"no marked pages at {gold.SHARED}")
def test_quality_stays_above_the_floor_on_a_sample() -> None:
    _, wrong = extraction.check(extraction.sample(gold.pages()), "sample")
    assert wrong == []


def test_a_score_below_its_floor_is_named() -> None:
    floors = {"forum": 0.74, "article": 0.95, "news": 0.9}
    assert extraction.fallen({"forum": 0.7101, "article": 0.9499}, floors) == [
        "forum 0.7101, at least 0.7400",
        "news 0.0000, at least 0.9000",
    ]


SIX = [f"Paragraph {k} tells that the ferry left the pier at nine and came back in the evening." for k in range(6)]
P = [f"<p>{text}</p>" for text in SIX]
LI = [f"<li>{text}</li>" for text in SIX]
LAYOUTS = {
    "article": f"<article>{''.join(P)}</article>",
    "paragraphs around a list in a table cell": (
        f"<table><tr><td>{P[0]}<ul>{LI[1]}{LI[2]}</ul>{''.join(P[3:])}</td></tr></table>"
    ),
    "a list that is the whole body": f"<ul>{''.join(LI)}</ul>",
    "class `teaser-content` around most of the article": (
        f"<article>{P[0]}{P[1]}<div class='teaser-content'>{''.join(P[2:])}</div></article>"
    ),
    "class `comment-content post-body` around the article": (
        f"<h1>The ferry</h1><div class='comment-content post-body'>{''.join(P)}</div>"
    ),
    "tabs, of which one is hidden by `aria-hidden`": (
        f"<article>{''.join(P[:4])}<div role='tabpanel' aria-hidden='true'>{P[4]}{P[5]}</div></article>"
    ),
}


def test_the_guide_says_how_much_of_each_layout_is_kept() -> None:
    lines = CORPUS_GUIDE.read_text().partition("## Layouts")[2].partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert {row[0]: row[1:] for row in cells[2:]} == {
        layout: [
            str(len(set(re.findall(r"Paragraph \d", kept))))
            for kept in (extract(html, None, "http://a.example/").text or "", _trafilatura(html))
        ]
        for layout, html in (
            (name, f"<html><head><title>The ferry</title></head><body>{body}</body></html>".encode())
            for name, body in LAYOUTS.items()
        )
    }


def _trafilatura(html: bytes) -> str:
    document = module.trafilatura.bare_extraction(html, include_comments=False)
    return str(document.text) if isinstance(document, Document) else ""
