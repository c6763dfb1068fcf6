"""The fast path gives the same results as the exact path, for URLs, lines and blocks, here and in child processes."""

import json
import lzma
import string
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.links import workers
from data.links.blocks import BlockReader
from data.links.records import LinkRecords, classify_dump, plain_url
from data.links.submissions import Rejected, Submission, parse_dump_line
from data.links.workers import classify_blocks
from data.schema import LinkStatus
from data.urls.canonical import canonical_url, domain_of, host_of, is_below, partition_of

SHARED_LINKS = Path(__file__).parents[3].parent / "shared" / "data" / "links"


def exact(lines: list[bytes]) -> tuple[list[tuple[Any, ...]], Counter[LinkStatus], int]:
    """The results of data/links/submissions.py: submissions, counts, blank lines."""
    submissions: list[tuple[Any, ...]] = []
    counts: Counter[LinkStatus] = Counter()
    for line in lines:
        for found in parse_dump_line(line) if line.strip() else ():
            if isinstance(found, Submission):
                submissions.append((*found, partition_of(found.domain)))
            else:
                counts[found.status] += 1
    return submissions, counts, sum(not line.strip() for line in lines)


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    table = table.drop_columns(["source", "deferred_from"])
    for name in ("created", "observed_at"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    return [tuple(row.values()) for row in table.to_pylist()]


def same(records: LinkRecords, lines: list[bytes]) -> None:
    submissions, counts, blank = exact(lines)
    assert rows(records.table) == submissions
    assert records.outbound == len(submissions)
    assert records.counts == counts
    assert records.blank == blank


# ---------------------------------------------------------------------------------------------------- URLs

_PIECES = st.sampled_from(
    [
        *(
            "a",
            "B",
            "7",
            "-",
            ".",
            "..",
            "/.",
            "/",
            "//",
            "~",
            "%41",
            "%2e",
            "%",
            "&",
            "&amp;",
            "=",
            "?",
            "#",
            "@",
            ":",
        ),
        *("utm_source=x", "fbclid=1", "b=2", "a=1", "xn--", "é", " ", "\\", "|", "^", "[", "'", '"', "`", "{", "\t"),
        *("amp/", "m.", ".m.", "mobile.", "c/s/", "0x7f", "127", "youtube.com", "cdn.ampproject.org", "com", "_"),
    ]
)
_HOSTS = st.one_of(
    st.sampled_from(["example.com", "www.example.co.uk", "m.youtube.com", "en.m.wikipedia.org", "www.google.com"]),
    st.from_regex(r"[a-z0-9-]{1,5}(\.[a-z0-9-]{1,5}){0,3}", fullmatch=True),
    st.text(string.ascii_letters + string.digits + "-._%:@é", max_size=12),
)


@given(
    st.sampled_from(["http://", "https://", "HTTP://", "//", ""]),
    _HOSTS,
    st.lists(st.one_of(_PIECES, st.text(max_size=4)), max_size=6),
)
@settings(max_examples=700, deadline=None)
def test_a_plain_url_is_its_own_canonical_url(scheme: str, host: str, pieces: list[str]) -> None:
    url = scheme + host + "".join(["/", *pieces] if pieces else [])
    found = plain_url(url)
    if found is not None:
        canonical, about = found
        assert canonical == canonical_url(url)
        assert about.domain == domain_of(canonical)
        assert about.partition == partition_of(about.domain)
        assert about.is_reddit == (is_below(host_of(canonical), frozenset({"reddit.com", "redd.it"})) is not None)


@pytest.mark.parametrize(
    ("url", "is_plain"),
    [
        ("https://www.example.com/a/b-c_d.html", True),
        ("http://example.com", True),
        ("http://example.com/?utm_source=x&b=1&a=2#top", True),
        ("http://example.com/a?url=/b/c,d", True),
        ("http://example.com/a/../b", False),
        ("http://example.com/.well-known/x", False),
        ("http://example.com/a/%2E%2e/b", False),
        ("http://example.com/%7Eme%2f?a=%41%", True),
        ("http://example.com:80/", False),
        ("http://me@example.com/", False),
        ("http://127.0.0.1/", False),
        ("http://0x7f.1/", False),
        ("http://xn--bcher-kva.example/", False),
        ("http://localhost/", False),
        ("http://Example.com/", False),
        ("http://m.example.com/", False),
        ("https://www.google.com/amp/s/example.com/x", False),
        ("https://www.google.com/search?q=cache:example.com/x", False),
        ("https://web.archive.org/web/2020/https://example.com/", False),
        ("https://www-example-com.translate.goog/", False),
        ("https://archive.org/details/x", True),
        (f"http://example.com/{'%' * 2_700}", False),
        (f"http://{'a.' * 130}com/", False),
    ],
)
def test_plain_urls_are_recognised(url: str, is_plain: bool) -> None:
    found = plain_url(url)
    assert (found is not None) is is_plain
    if found is not None:
        assert found[0] == canonical_url(url)


# ---------------------------------------------------------------------------------------------------- lines

_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.just([]),
    st.just({"retrieved_2nd_on": 1_600_000_000}),
    st.sampled_from(["True", "false", "1", "12.0", 1.0, 0]),
)
_URLS = st.sampled_from(
    [
        *("https://example.com/a", "http://www.example.com/?b=1&amp;a=2", "https://old.reddit.com/r/x", "/r/news", " "),
        *("https://i.redd.it/x.png", "http://a.example/%7e", "https://Example.com/", "http://[::1]/", "nonsense"),
    ]
)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "url": st.one_of(_URLS, _VALUES),
    "id": st.one_of(st.just("abc"), _VALUES),
    "objectID": _VALUES,
    "subreddit": st.one_of(st.just("news"), _VALUES),
    "domain": st.sampled_from(["self.news", "example.com", None, 3]),
    "is_self": st.one_of(st.booleans(), _VALUES),
    "over_18": st.one_of(st.booleans(), _VALUES),
    "score": st.one_of(st.integers(-5, 50), _VALUES),
    "created_utc": st.one_of(st.just(1_500_000_000), _VALUES),
    "retrieved_on": st.one_of(st.just(1_500_000_000), _VALUES),
    "retrieved_utc": _VALUES,
    "_meta": _VALUES,
    "points": _VALUES,
    "time": _VALUES,
    "created_at_i": _VALUES,
    "kind": st.sampled_from(["Listing", "t3", "t1", 4]),
    "data": st.sampled_from(
        [{}, {"children": []}, {"children": [{"kind": "t3", "data": {"url": "http://b.example"}}]}]
    ),
    "type": st.sampled_from(["story", "job", "comment", None]),
    "_tags": st.sampled_from([["story"], ["job"], [3], None]),
    "dead": _VALUES,
    "deleted": _VALUES,
    "title": st.text(max_size=5),
}
_PLAIN = {name: _FIELDS[name] for name in ("url", "id", "subreddit", "is_self", "score", "created_utc", "over_18")}
_OBJECTS = st.fixed_dictionaries({}, optional=_FIELDS) | st.fixed_dictionaries(_PLAIN)
_ODD = st.sampled_from([rb'"\ud800"', rb'"\udc00x"', b'"\xff"', b'"\xed\xa0\x80"', b"1e999", b"-1e999", b"9" * 5_000])
_NAMES = st.sampled_from([*_FIELDS, "title", "selftext", "author", "edited", "all_awardings"])


def _with_odd_value(item: dict[str, Any], name: str, value: bytes, is_first: bool) -> bytes:
    """An object with one more field, before or after the others; it may repeat a name."""
    line = json.dumps(item).encode()
    field = b'"%b": %b' % (name.encode(), value)
    if line == b"{}":
        return b"{%b}" % field
    return b"{%b, %b" % (field, line[1:]) if is_first else b"%b, %b}" % (line[:-1], field)


_LINES = st.one_of(
    _OBJECTS.map(lambda item: json.dumps(item, ensure_ascii=False).encode()),
    st.builds(_with_odd_value, _OBJECTS, _NAMES, _ODD, st.booleans()),
    st.sampled_from([b"", b"  ", b"{", b"}", b"{}{}", b"null", b'{"url":', b'"x"}', b"[{}]", b'{"url": NaN}', b"{}\r"]),
)


@given(st.lists(_LINES, min_size=1, max_size=6), st.booleans())
@settings(max_examples=400, deadline=None)
def test_the_fast_path_classifies_every_line_like_the_exact_path(lines: list[bytes], ends_with_newline: bool) -> None:
    block = b"\n".join(lines) + b"\n" * (ends_with_newline or not lines[-1])
    same(classify_dump(block, "x"), lines)


_ODD_VALUES = {
    "a lone surrogate": rb'"caf\ud83d"',
    "half of a pair, reversed": rb'"\ude00\ud83d"',
    "invalid UTF-8": b'"caf\xe9"',
    "CESU-8": b'"\xed\xa0\xbd\xed\xb8\x80"',
    "a number beyond a double": b"1e999",
    "an integer of 5,000 digits": b"7" * 5_000,
    "all of them, nested": rb'{"a\ud800": [1e999, {"\udc00": "' + b'\xff"}]}',
}
_LINK = {"id": "abc", "url": "https://example.com/a", "score": 7, "created_utc": 1_500_000_000, "subreddit": "news"}


@pytest.mark.parametrize("value", _ODD_VALUES.values(), ids=_ODD_VALUES)
@pytest.mark.parametrize("extra", [{}, {"is_self": False}, {"is_self": None}, {"domain": "example.com"}])
def test_an_odd_value_in_a_field_that_is_not_used_costs_nothing(value: bytes, extra: dict[str, Any]) -> None:
    whole = json.dumps(_LINK | extra).encode()
    odd = b'{"selftext": %b, "title\xff": %b, %b' % (value, value, whole[1:])
    expected = exact([whole])
    assert len(expected[0]) == 1
    assert exact([odd]) == expected
    same(classify_dump(b"\n".join([whole, odd, whole]), "x"), [whole, odd, whole])


@pytest.mark.parametrize("value", [rb'"\ud800"', b'"\xff"'])
@pytest.mark.parametrize("name", ["url", "id", "subreddit"])
@pytest.mark.parametrize("extra", [{}, {"is_self": False}])
def test_a_string_that_is_no_text_in_a_field_that_is_used_spoils_the_line(
    name: str, value: bytes, extra: dict[str, Any]
) -> None:
    line = b'%b, "%b": %b}' % (json.dumps(_LINK | extra).encode()[:-1], name.encode(), value)
    assert exact([line]) == ([], Counter({LinkStatus.MALFORMED_LINE: 1}), 0)
    same(classify_dump(line, "x"), [line])
    (found,) = parse_dump_line(line)
    assert isinstance(found, Rejected)
    assert found.reason == f"the field {name} is not text: invalid UTF-8 or a lone surrogate"


def test_fields_that_decide_nothing_are_not_read() -> None:
    self_post = rb'{"is_self": true, "created_utc": 1, "url": "\ud800", "title": 1e999}'
    has_is_self = b'{"is_self": false, "domain": "\xff", "created_utc": 1, "url": "https://example.com/", "score": 9}'
    other_kind = rb'{"kind": "\ud800", "data": 1e999, "url": "https://example.com/", "created_utc": 1}'
    assert exact([self_post])[1] == {LinkStatus.SELF_POST: 1}
    assert len(exact([has_is_self, other_kind])[0]) == 2
    lines = [self_post, has_is_self, other_kind]
    same(classify_dump(b"\n".join(lines), "x"), lines)


def test_one_spoiled_submission_costs_no_other_of_its_listing() -> None:
    spoiled = rb'{"kind": "t3", "data": {"url": "http://a.example/\ud800", "score": 4, "created_utc": 1}}'
    good = rb'{"kind": "t3", "data": {"url": "http://a.example/", "score": 4, "created_utc": 1, "title": "\ud800"}}'
    line = b'{"kind": "Listing", "data": {"children": [%b, %b, 7]}}' % (spoiled, good)
    submissions, counts, _ = exact([line])
    assert [row[4] for row in submissions] == ["http://a.example/"]
    assert counts == {LinkStatus.MALFORMED_LINE: 2}
    same(classify_dump(line, "x"), [line])


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"url":', b'"http://a.example/"}{"a":1}'],  # two objects on two lines, but not one per line
        [b"{}{}", b""],
        [b'{"a":[{}', b"{}]}"],
        [b'{"created_utc":1,"is_self":false,"url":"http://a.example/"}', b""],
        [b'{"kind":"Listing","data":{"children":[{"kind":"t3","data":{"url":"http://a.example/","score":4}},7]}}'],
    ],
)
def test_lines_that_are_not_one_object_are_malformed(lines: list[bytes]) -> None:
    same(classify_dump(b"".join(line + b"\n" for line in lines), "x"), lines)


def test_malformed_lines_keep_their_numbers() -> None:
    records = classify_dump(b'{"is_self":true,"created_utc":1}\n{\n\n{"is_self":true,"created_utc":1}\n[]\n', "x")
    assert [line for line, _ in records.malformed] == [2, 5]
    assert [line for line, _ in records.after(10).malformed] == [12, 15]
    assert records.counts == {LinkStatus.SELF_POST: 2, LinkStatus.MALFORMED_LINE: 2}
    assert (records.n_read, records.blank) == (5, 1)


def test_the_fast_path_classifies_real_dumps_like_the_exact_path() -> None:
    path = SHARED_LINKS / "RS_v2_2005-07.xz"
    if not path.exists():
        pytest.skip("RS_v2_2005-07.xz is not at ../shared/data/links")
    body = lzma.decompress(path.read_bytes())
    records = classify_dump(body, "x")
    assert records.n_read == 1_079
    same(records, body.splitlines())


# ---------------------------------------------------------------------------------------------------- children


def _many(path: Path, n: int) -> Path:
    lines = [
        orjson.dumps(
            {
                "id": f"i{number}",
                "created_utc": 1_500_000_000 + number,
                "is_self": number % 3 == 0,
                "score": number % 9,
                "subreddit": "news",
                "url": f"https://site{number % 97}.example/{number}?b=1&a=2",
            }
        )
        for number in range(n)
    ]
    path.write_bytes(b"\n".join([*lines[: n // 2], b"{broken", b"", b"x" * 40_000, *lines[n // 2 :]]) + b"\n")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.links.blocks.BLOCK_BYTES", 2**14)
    monkeypatch.setattr("data.links.blocks.READ_BYTES", 2**12)
    monkeypatch.setattr("data.links.blocks.MAX_LINE_BYTES", 2**15)


def _records(path: Path, scratch: Path, workers: int) -> Iterator[LinkRecords]:
    with path.open("rb") as file:
        reader = BlockReader(path, file)
        yield from classify_blocks(reader, is_url_list=False, label="x", scratch=scratch, workers=workers)


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.usefixtures("small_blocks")
def test_children_return_the_same_records_in_the_same_order(tmp_path: Path) -> None:
    path = _many(tmp_path / "dump.ndjson", 80_000)
    n_seen = 0
    here, there = list(_records(path, tmp_path, 1)), []
    for records in _records(path, tmp_path, 3):
        there.append(records)
        n_seen = max(n_seen, len(_children()))
        time.sleep(0.005)  # so that the children start while blocks remain
    assert n_seen == 2
    assert len(here) == len(there) > 300
    for one, other in zip(here, there, strict=True):
        assert one.table.equals(other.table)
        assert one[1:] == other[1:]
    assert [line.line for records in there for line in records.malformed] == [40_001, 40_003]
    assert not (tmp_path / "blocks").exists()
    assert not _children()


@pytest.mark.usefixtures("small_blocks")
def test_children_exit_when_the_reader_stops_early(tmp_path: Path) -> None:
    records = _records(_many(tmp_path / "dump.ndjson", 20_000), tmp_path, 2)
    for _ in range(workers.FEW_BLOCKS + 2):
        next(records)
    assert _children()
    records.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if not _children():
            break
        time.sleep(0.1)
    assert not _children()
