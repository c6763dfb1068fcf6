from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import extraction
from data.config import TextConfig
from data.text import extract as module
from data.text import signals
from data.text.extract import decode, extract, normalise

PAGES = Path(__file__).parents[3].parent / "shared" / "data" / "pages"

PROSE = {
    "fr": "Le gouvernement a annoncé mercredi des mesures destinées à réduire le déficit public, après l’échec "
    "des négociations. C’était prévu depuis l’été dernier, précise-t-on à l’Élysée.",
    "ru": "Правительство России сообщило о новых мерах поддержки экономики. Эксперты считают, что рост цен "
    "продолжится и в следующем году.",
    "pl": "Rząd przyjął projekt ustawy budżetowej na przyszły rok, poinformował w środę rzecznik. Zażółć gęślą jaźń.",
    "el": "Η κυβέρνηση ανακοίνωσε νέα μέτρα στήριξης της οικονομίας για το επόμενο έτος.",
    "ja": "政府は新しい経済対策を発表した。専門家は来年も物価の上昇が続くと見ている。",
    "zh": "政府宣布了新的经济支持措施。专家认为明年物价将继续上涨，但速度会放缓。",
    "ko": "정부는 새로운 경제 지원 대책을 발표했다. 전문가들은 내년에도 물가 상승이 계속될 것으로 본다.",
    "en": "It’s a “smart” quote — and the café’s naïve résumé isn’t long. “Really?” she said… “It’s so.”",
}
TRUE_CHARSETS = [
    *[(language, "utf-8") for language in PROSE],
    ("fr", "windows-1252"),
    ("ru", "windows-1251"),
    ("ru", "koi8-r"),
    ("pl", "windows-1250"),
    ("el", "windows-1253"),
    ("ja", "shift_jis"),
    ("ja", "euc-jp"),
    ("zh", "gb18030"),
    ("ko", "euc-kr"),
    ("en", "windows-1252"),
]


def page(text: str, charset: str = "") -> str:
    meta = f'<meta charset="{charset}">' if charset else ""
    return f"<html><head>{meta}<title>A title</title></head><body><nav>Home</nav><p>{text}</p></body></html>"


@pytest.mark.parametrize("declared", ["", "utf-8", "iso-8859-1", "windows-1251", "gb2312", "no-such-charset", "hex"])
@pytest.mark.parametrize(("language", "charset"), TRUE_CHARSETS)
def test_a_wrong_declaration_causes_no_mojibake(language: str, charset: str, declared: str) -> None:
    body = page(PROSE[language], declared).encode(charset)
    text, _ = decode(body, None)
    assert text is not None
    assert PROSE[language] in text


@pytest.mark.parametrize(("language", "charset"), [*TRUE_CHARSETS, ("ja", "iso-2022-jp")])
@pytest.mark.parametrize("where", ["header", "meta", "xml"])
def test_a_correct_declaration_is_followed_without_a_note(language: str, charset: str, where: str) -> None:
    html = page(PROSE[language], charset if where == "meta" else "")
    if where == "xml":
        html = f'<?xml version="1.0" encoding="{charset}"?>\n{html}'
    header = f'text/html; charset="{charset}"' if where == "header" else "text/html"
    assert decode(html.encode(charset), header) == (html, None)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_read_with_and_without_a_byte_order_mark(codec: str) -> None:
    text, _ = decode(page(PROSE["pl"]).encode(codec), "text/html; charset=iso-8859-1")
    assert text == page(PROSE["pl"])


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_stray_nul_does_not_cost_a_page(language: str) -> None:
    body = page(PROSE[language]).encode().replace(b"<nav>", b"<nav>\0")
    text, _ = decode(body, "text/html; charset=utf-8")
    assert text is not None
    assert PROSE[language] in text


def test_an_overruled_declaration_is_recorded() -> None:
    _, note = decode(page(PROSE["ru"], "iso-8859-1").encode("cp1251"), None)
    assert note == "declared cp1252, read as cp1251"
    _, note = decode(page(PROSE["ru"], "iso-8859-1").encode(), None)
    assert note == "declared cp1252, read as utf-8"


READ_AS = {  # Python's codec for the encoding that browsers use for a label
    "cp1252": "ascii us-ascii latin-1 latin1 L1 iso-8859-1 ISO_8859-1 iso88591 x-cp1252",
    "cp1254": "iso-8859-9 latin5 iso88599",
    "cp874": "iso-8859-11 tis-620 windows-874 dos-874",
    "gb18030": "gb2312 gbk cp936 chinese euc-cn x-gbk csgb2312 gb18030",
    "cp932": "shift_jis sjis windows-31j x-sjis",
    "cp949": "euc-kr euc_kr ks_c_5601-1987 ksx1001 windows-949",
    "big5hkscs": "big5 big5-tw cn-big5",
    "euc_jp": "euc-jp ujis x-euc-jp",
    "cp1251": "windows-1251 cp1251 x-cp1251",
    "iso8859-2": "iso-8859-2 latin2 iso88592",
    "utf-16": "utf-16",
    "cp437": "cp437 ibm437",  # known to Python, not to browsers
}


@pytest.mark.parametrize(
    ("label", "codec"), [(label, codec) for codec, some in READ_AS.items() for label in some.split()]
)
def test_a_label_is_read_as_browsers_read_it(label: str, codec: str) -> None:
    _, note = decode(page(PROSE["ru"]).encode(), f"text/html; charset={label}")
    assert note == f"declared {codec}, read as utf-8"


@pytest.mark.parametrize("label", ["no-such-charset", "replacement", "x-user-defined", "hex", "utf-7", "idna"])
def test_an_unknown_label_is_not_a_declaration(label: str) -> None:
    _, note = decode(page(PROSE["ru"]).encode("cp1251"), f"text/html; charset={label}")
    assert note == "no charset declared, read as cp1251"


def test_a_stray_byte_does_not_cost_a_utf8_page() -> None:
    body = page(PROSE["ru"]).encode().replace("мерах".encode(), "мерах".encode()[:-1])
    text, _ = decode(body, "text/html; charset=utf-8")
    assert text == page(PROSE["ru"]).replace("мерах", "мера\ufffd")


def test_binary_data_is_undecodable() -> None:
    noise = bytes((k * k * 31 + k * 7 + (k >> 3)) % 256 for k in range(20_000))
    for body in (b"\x89PNG\r\n\x1a\n" + noise, noise.replace(b"\0", b"\xff")):
        outcome = extract(body, "text/html; charset=utf-8", "http://a.example/", "precision")
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
    outcome = extract(ARTICLE.encode(), "text/html", "https://news.example/2019/ferry", "precision")
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
    assert extract(ARTICLE.encode(), "text/html", "https://news.example/2019/ferry", "precision") == outcome


@pytest.mark.parametrize("start", ["", '<?xml version="1.0" encoding="windows-1251"?>\n'])
def test_a_page_is_decoded_in_its_own_charset(start: str) -> None:
    body = start + page(f"{PROSE['ru']} {PROSE['ru']}", "windows-1251")
    outcome = extract(body.encode("windows-1251"), "text/html", "http://a.example/", "precision")
    assert (outcome.text, outcome.language) == (f"{PROSE['ru']} {PROSE['ru']}", "ru")


@pytest.mark.parametrize("body", [b"", b"   ", b"<html><body></body></html>", b"<nav>x</nav>"])
def test_a_page_without_text_is_empty(body: bytes) -> None:
    outcome = extract(body, "text/html", "http://a.example/", "precision")
    assert (outcome.status, outcome.text, outcome.signals) == ("empty", None, None)


def test_an_error_of_the_extractor_becomes_a_status_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise KeyError("no\nsuch tag")

    monkeypatch.setattr(module.trafilatura, "bare_extraction", breaks)
    outcome = extract(ARTICLE.encode(), None, "http://a.example/", "precision")
    assert (outcome.status, outcome.reason) == ("failed", "KeyError: 'no\\nsuch tag'")


def test_text_is_normalised() -> None:
    assert normalise(" a\r\nb \t\rc\x0bd\u2028e\x00\x07\ufeff cafe\u0301\ud800\n\n") == "a\nb\nc\nd\ne café"


def test_signals_have_the_documented_values() -> None:
    found = signals.measure("The cat and\nthe 42 dogs\n\nThe cat and\nThe cat and\n")
    assert found.n_chars == 49
    assert found.n_words == 12
    assert found.mean_word_length == pytest.approx((3 * 9 + 3 + 2 + 4) / 12)
    assert found.alpha_share == pytest.approx(34 / 36)  # all but the two digits
    assert found.duplicate_line_share == pytest.approx(2 / 4)
    assert found.stop_word_share == pytest.approx(7 / 12)  # the and | the | the and | the and
    assert signals.measure("") == signals.Signals(0, 0, 0.0, 0.0, 0.0, 0.0)


def test_the_word_score_compares_multisets() -> None:
    assert extraction.score("a a b x", "A b b c") == (2 / 4, 2 / 4, 0.5)
    assert extraction.score("", "a") == (0.0, 0.0, 0.0)


# Measured 2026-11 with trafilatura 2.3.1: precision 0.9643, recall 0.9753, F1 0.9651. The floor lies 0.002 below, which
# is less than any other setting of `favor` loses (balanced 0.9587). Raise it with the measurement; a lower one needs a
# reason in docs/adr/.
F1_FLOOR = 0.963


@pytest.mark.skipif(not PAGES.is_dir(), reason=f"no marked pages at {PAGES}")
def test_quality_stays_above_the_floor() -> None:
    found = extraction.run(PAGES, dataclasses.replace(TextConfig(), workers=2))
    assert found["pages"] == 181
    assert found["without_text"] == 0
    assert found["f1"] >= F1_FLOOR
