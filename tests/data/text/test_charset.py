from __future__ import annotations

import functools
import gzip
import re
from pathlib import Path

import pytest

from data.text.charset import decode
from data.text.extract import extract

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
FILES = sorted((*SHARED.glob("pages/html/*.gz"), *SHARED.glob("wcxb/html/*.gz")))
needs_pages = pytest.mark.skipif(not FILES, reason=f"no pages at {SHARED}")

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
    "mac-roman": "macintosh mac csmacintosh x-mac-roman X-Mac-Roman macroman",
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


# What goes wrong with single bytes of UTF-8 pages: a template in another charset, a cut, a wrong encoder.
FAULTS = {
    "latin-1 ©": (b"\xa9", "©"),
    "latin-1 space": (b"\xa0", "\xa0"),
    "windows-1252 ’": (b"\x92", "\u2019"),
    "byte that windows-1252 leaves unassigned": (b"\x9d", "\x9d"),
    "cut quote": (b"\xe2\x80", "\ufffd"),
    "cut emoji": (b"\xf0\x9f\x98", "\ufffd"),
    "cut space": (b"\xc2 ", "\ufffd "),
    "half of a CESU-8 pair": (b"\xed\xa0\xbd", "\ufffd"),
    "CESU-8 emoji": (b"\xed\xa0\xbd\xed\xb8\x80", "\U0001f600"),
}


@functools.cache
def pages() -> list[bytes]:
    """The handed pages that are UTF-8 and declare nothing else."""
    found = [gzip.decompress(file.read_bytes()).removeprefix(b"\xef\xbb\xbf") for file in FILES]
    return [body for body in found if re.search(rb"charset=.?(x-)?mac", body[:4096]) is None]


@needs_pages
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_in_a_utf8_page_costs_one_character(fault: str) -> None:
    broken, shown = FAULTS[fault]
    assert len(pages()) == 916
    for body in pages()[:181]:
        at = max(body.find(b"</p>"), 0)
        before, after = body[:at], body[at:]
        text, note = decode(before + broken + after, None)
        # Without another multi-byte character, nothing says that the page is UTF-8 and not windows-1252.
        replaced = {shown, shown if body.isascii() or len(shown) > 1 else "\ufffd"}
        if fault == "CESU-8 emoji":
            replaced = {shown}
        assert text in {before.decode() + one + after.decode() for one in replaced}, note


@functools.cache
def articles() -> list[tuple[bytes, int, str]]:
    """A few pages, with a place between two words of the article, and their texts."""
    found = []
    for body in pages()[:181:60]:
        text = extract(body, None, "https://a.example/").text or ""
        for paragraph in re.finditer(rb"<p>([^<>&]{200,})</p>", body):
            if paragraph[1].decode() in text and not body.isascii():
                found.append((body, body.index(b" ", paragraph.start() + 100), text))
                break
    return found


@needs_pages
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_inside_an_article_changes_nothing_else_of_its_text(fault: str) -> None:
    broken, shown = FAULTS[fault]
    replaced = shown if fault == "CESU-8 emoji" else "\ufffd"
    assert len(articles()) >= 2
    for body, at, text in articles():
        spoilt = extract(body[:at] + broken.strip() + body[at:], None, "https://a.example/").text
        assert spoilt is not None
        assert spoilt.count(replaced) == text.count(replaced) + 1
        assert spoilt.replace(replaced, "") == text.replace(replaced, "")


@functools.cache
def passages(script: str) -> list[str]:
    """What some pages say in a script, for pages with enough of it."""
    found = []
    for body in pages()[:181]:
        pieces = [piece for piece in re.split("[<>]", body.decode()) if re.search(script, piece)]
        passage = "\n".join(pieces[:200])
        if len(re.findall(script, passage)) >= 200:  # else too little of another language
            found.append(passage)
    return found


@needs_pages
@pytest.mark.parametrize("declared", ["right", "", "utf-8"])
@pytest.mark.parametrize(
    ("script", "charset"),
    [
        ("[\u0400-\u04ff]", "windows-1251"),
        ("[\u0400-\u04ff]", "koi8-r"),
        ("[\uac00-\ud7a3]", "euc-kr"),
        ("[\u3040-\u30ff]", "shift_jis"),
        ("[\u3040-\u30ff]", "euc-jp"),
        ("[\u4e00-\u9fff]", "gb18030"),
        ("[\u00e0-\u00fc\u2018-\u201d]", "windows-1252"),
    ],
)
def test_a_page_of_another_charset_is_not_taken_for_a_broken_utf8_page(
    script: str, charset: str, declared: str
) -> None:
    header = f"text/html; charset={charset if declared == 'right' else declared}" if declared else "text/html"
    n_right = 0
    for passage in passages(script):
        one = page(passage.encode(charset, "ignore").decode(charset))
        text, _ = decode(one.encode(charset), header)
        assert text == one or (text is None and declared != "right")
        n_right += text == one
    assert n_right


@pytest.mark.parametrize(("language", "charset"), [pair for pair in TRUE_CHARSETS if pair[1] != "utf-8"])
def test_one_broken_byte_does_not_cost_a_page_its_declared_charset(language: str, charset: str) -> None:
    body = page(PROSE[language] * 5, charset).encode(charset).replace(b"</nav>", b"\x81 </nav>")
    text, note = decode(body, None)
    assert note is None
    assert text is not None
    assert PROSE[language] in text


def test_windows_1252_gives_every_byte_a_character_as_in_browsers() -> None:
    body = page(f"{PROSE['en']} " * 20, "windows-1252").encode("windows-1252")
    text, note = decode(body.replace(b"Home", b"\x80\x81\x8d\x8f\x90\x9d\x9f"), None)
    assert note is None
    assert text == body.decode("windows-1252").replace("Home", "\u20ac\x81\x8d\x8f\x90\x9d\u0178")


def test_unassigned_bytes_speak_against_a_windows_charset() -> None:
    slovak = "Získať informáciu, či má byť možné uložiť a ukončiť všetky zmeny, ktoré sa týkajú ľudí."
    text, note = decode(page(slovak, "windows-1252").encode("windows-1250"), None)
    assert text == page(slovak, "windows-1252")
    assert note == "declared cp1252, read as cp1250"


@pytest.mark.parametrize("codec", ["cp437", "cp850", "cp866", "mac-roman", "mac-cyrillic"])
def test_code_pages_of_dos_and_the_mac_are_read_when_declared_and_not_guessed(codec: str) -> None:
    prose = PROSE["ru"] if codec in {"cp866", "mac-cyrillic"} else "Der Müller von Köln hört schöne Märchen über Bäume."
    assert decode(page(prose, codec).encode(codec), None) == (page(prose, codec), None)
    _, note = decode(page(prose).encode(codec), None)
    assert note is not None
    assert not re.search(r"mac|cp[48]\d\d|cp1125|hp_roman", note)


def test_quotes_and_a_stray_byte_are_no_text_of_an_old_mac() -> None:
    body = page("The town’s “best” café isn’t open", "utf-8").encode().replace(b"Home", b"\xa9 Home")
    text, note = decode(body, "text/html; charset=utf-8")
    assert note is None
    assert text == page("The town’s “best” café isn’t open", "utf-8").replace("Home", "\ufffd Home")


@pytest.mark.parametrize("declared", ["", "utf-8", "iso-8859-1"])
def test_a_mixture_of_utf8_and_windows_1252_is_read_part_by_part(declared: str) -> None:
    first, second = page("“Yes”, it’s the café’s", declared).split("café")
    body = first.encode() + b"caf\xe9" + second.encode() + ("It’s naïve – isn’t it? " * 5).encode("windows-1252")
    text, note = decode(body, None)
    assert text == f"{first}café{second}{'It’s naïve – isn’t it? ' * 5}"
    assert note is not None
    assert note.endswith("read as utf-8 and cp1252")


@pytest.mark.parametrize(("codec", "tail"), [("utf-8-sig", b"\x92"), ("utf-16", b"x"), ("utf-16", b"\x00\xd8")])
def test_a_broken_byte_does_not_cost_a_page_with_a_byte_order_mark(codec: str, tail: bytes) -> None:
    text, note = decode(page("The “ferry” has left.").encode(codec) + tail, None)
    assert text is not None
    assert text.startswith(page("The “ferry” has left."))
    assert note is None


def test_a_byte_order_mark_does_not_make_windows_1252_undecodable() -> None:
    text, _ = decode(b"\xef\xbb\xbf" + page(PROSE["fr"]).encode("windows-1252"), None)
    assert text == page(PROSE["fr"])


def test_a_stray_nul_and_a_stray_byte_do_not_cost_a_utf8_page() -> None:
    body = page(PROSE["en"]).encode().replace(b"<nav>", b"<nav>\0\xa9")
    text, _ = decode(body, None)
    assert text == page(PROSE["en"]).replace("<nav>", "<nav>\0\ufffd")
