"""Files of links: every compression, damaged and changing files, and invalid source names."""

import gzip
import io
import time
from pathlib import Path

import orjson
import pytest
import zstandard

from data.config import PagesConfig
from data.errors import InputError
from data.lake.store import Lake
from data.links import sources
from data.links.plan import SOURCE_KINDS, kind_of
from data.urls.canonical import partition_of
from flows.cli import options
from tests.data.links.dumps import COMPRESSORS, CONFIG, build, dump, item, ndjson, post, rows_of, zstd
from tests.data.links.test_submissions import COMMENT


def reading(folder: Path) -> sources.Reading:
    return sources.Reading(Lake(folder / "lake").dataset("links", "demo"), folder, CONFIG, PagesConfig(), time.time)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_compression_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    body = b"\xef\xbb\xbf" + ndjson([post(number) for number in range(300)]).removesuffix(b"\n")
    path = tmp_path / f"RS_2017-01{suffix}"
    path.write_bytes(COMPRESSORS[suffix](body))
    assert build(tmp_path / "lake", [path]).counts == {"merged": 0, "ok": 300}
    assert sorted(row["karma_sum"] for row in rows_of(tmp_path / "lake")) == [10] * 300


def test_zstd_with_the_2_gib_window_of_pushshift_is_read(tmp_path: Path) -> None:
    params = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=31, enable_ldm=True, hash_log=12, chain_log=12, ldm_hash_log=12
    )
    path = tmp_path / "RS_2020-01.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(compression_params=params).stream_writer(file) as writer:
        writer.write(ndjson([post(number) for number in range(2_000)]))
    assert zstandard.get_frame_parameters(path.read_bytes()[:18]).window_size == 2**31
    with pytest.raises(zstandard.ZstdError, match="too much memory"):
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
    assert build(tmp_path / "lake", [path]).rows_in == 2_000


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    frames = [zstd(ndjson([post(number) for number in range(start, start + 50)])) for start in (0, 50, 100)]
    (tmp_path / "a.zst").write_bytes(skippable + frames[0] + skippable + frames[1] + frames[2] + skippable)
    assert build(tmp_path / "lake", [tmp_path / "a.zst"]).rows_in == 150


@pytest.mark.parametrize("suffix", [".zst", ".xz", ".bz2", ".gz"])
@pytest.mark.parametrize("cut", [0.5, 0.9, -1])
def test_a_truncated_file_is_an_error_and_publishes_nothing(suffix: str, cut: float, tmp_path: Path) -> None:
    rows = [post(number, title=str(partition_of(str(number)))) for number in range(9_000)]
    whole = COMPRESSORS[suffix](ndjson(rows))
    path = tmp_path / f"RS_2017-01{suffix}"
    path.write_bytes(whole[: int(len(whole) * cut) if cut > 0 else -1])
    with pytest.raises(InputError, match=rf"RS_2017-01\{suffix}: damaged or cut off after [\d,]+ bytes") as caught:
        build(tmp_path / "lake", [path])
    assert "\n" not in str(caught.value)
    read = int(str(caught.value).split(" after ")[1].split()[0].replace(",", ""))
    assert 0 < read <= len(ndjson(rows))
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    assert dataset.manifest() is None
    assert dataset.sealed() == {}
    path.write_bytes(whole)  # the user downloads it again and repeats the command
    assert build(tmp_path / "lake", [path]).rows_in == 9_000


def test_a_truncated_file_keeps_the_parts_sealed_before(tmp_path: Path) -> None:
    first = dump(tmp_path / "a.ndjson", [post(1)])
    whole = zstd(ndjson([post(number) for number in range(5_000)]))
    (tmp_path / "b.zst").write_bytes(whole[:-3])
    with pytest.raises(InputError, match=r"b\.zst: damaged or cut off"):
        build(tmp_path / "lake", [first, tmp_path / "b.zst"])
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    assert list(dataset.sealed()) == ["source-00000"]
    dataset.verify(list(dataset.sealed().values()))
    (tmp_path / "b.zst").write_bytes(whole)
    with pytest.raises(InputError, match=r"made with other inputs \(source:b.zst: .*remove links/demo"):
        build(tmp_path / "lake", [first, tmp_path / "b.zst"])


@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".gz"])
@pytest.mark.parametrize("n_zeros", [1, 4, 512, 100_000])
def test_padding_after_and_between_streams_is_no_damage(suffix: str, n_zeros: int, tmp_path: Path) -> None:
    streams = [
        COMPRESSORS[suffix](ndjson([post(number) for number in range(first, first + 50)])) for first in (0, 50, 100)
    ]
    padding = bytes(n_zeros)
    path = tmp_path / f"RS_2017-01{suffix}"
    path.write_bytes(streams[0] + padding + streams[1] + streams[2] + padding)
    assert build(tmp_path / "lake", [path]).rows_in == 150


@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".gz"])
@pytest.mark.parametrize("rest", [b"\0\0\0\0junk", b"<html>not here</html>", b"\xff"])
def test_what_follows_a_stream_and_is_no_stream_is_an_error(suffix: str, rest: bytes, tmp_path: Path) -> None:
    whole = COMPRESSORS[suffix](ndjson([post(number) for number in range(50)]))
    path = tmp_path / f"RS_2017-01{suffix}"
    path.write_bytes(whole + rest + whole)
    with pytest.raises(InputError, match=rf"RS_2017-01\{suffix}: damaged or cut off after"):
        build(tmp_path / "lake", [path])


def test_damage_inside_a_file_is_an_error(tmp_path: Path) -> None:
    body = bytearray(zstd(ndjson([post(number) for number in range(5_000)])))
    body[len(body) // 2] ^= 0xFF
    (tmp_path / "a.zst").write_bytes(body)
    with pytest.raises(InputError, match=r"a\.zst: damaged or cut off after"):
        build(tmp_path / "lake", [tmp_path / "a.zst"])


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("missing.zst", None, "missing.zst: no such file"),
        ("empty.ndjson", b"", "empty.ndjson: the file is empty"),
        ("empty.zst", b"", "empty.zst: the file is empty"),
        ("nothing.zst", zstd(b""), "nothing.zst: holds no lines"),
        ("a.zip", b"PK\x03\x04\x14\x00\x00\x00", "a.zip: unknown compression"),
        ("a.lz4", b"\x04\x22\x4d\x18\x60\x40\x82", "a.lz4: unknown compression"),
        ("a.ndjson", "{}\n".encode("utf-16"), "a.ndjson: unknown compression"),
        ("page.zst", b"<!doctype html>\n<p>404</p>", "page.zst: named .zst but its content is plain"),
        ("a.xz", gzip.compress(b"{}", mtime=0), "a.xz: named .xz but its content is gzip"),
    ],
)
def test_unreadable_files_are_errors(name: str, body: bytes | None, message: str, tmp_path: Path) -> None:
    if body is not None:
        (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=message):
        build(tmp_path / "lake", [tmp_path / name])
    dataset = Lake(tmp_path / "lake").dataset("links", "demo")
    assert dataset.manifest() is None
    assert dataset.sealed() == {}


WRONG_FILES = {
    "comments": (ndjson([COMMENT] * 3), "comments of Reddit: name the dump of submissions"),
    "comments of Hacker News": (
        ndjson([item(type="comment", url=None, title=None, parent=8862)] * 3),
        "comments of Hacker News: name a file of stories",
    ),
    "jobs": (ndjson([item(type="job")] * 3), "jobs of Hacker News"),
    "an array": (b"[\n" + ndjson([post(n) for n in range(3)]).replace(b"\n", b",\n") + b"]\n", "a JSON array"),
    "an array that ends in a whole line": (b"[\n" + orjson.dumps(post(0)) + b",\n" + ndjson([post(1)]), "a JSON array"),
    "an array on one line": (
        orjson.dumps([post(n) for n in range(3)]),
        r"a JSON array: write one object per line \(jq",
    ),
    "a long array on one line": (orjson.dumps([post(n) for n in range(90_000)]), "a JSON array"),
    "an array, indented": (orjson.dumps([post(1)], option=orjson.OPT_INDENT_2), "a JSON array"),
    "objects, indented": (orjson.dumps(post(1), option=orjson.OPT_INDENT_2), "JSON over several lines"),
    "a search answer": (
        orjson.dumps({"hits": [item()], "nbHits": 1}),
        r"an answer of Algolia's search: .* \(jq -c '.hits\[\]' FILE",
    ),
    "an answer of Pushshift": (orjson.dumps({"data": [post(1)]}), "an answer of an interface"),
    "texts": (ndjson([{"url": "https://a.example/", "text": "A page."}]), "texts: write their URLs one per line"),
    "accounts": (ndjson([{"id": "u", "name": "someone", "link_karma": 4}]), "accounts of Reddit"),
    "other objects": (ndjson([{"b": 1, "a": {}}]), r"objects of another kind \(fields 'a', 'b'\)"),
    "URLs": (b"https://a.example/\nhttps://b.example/\n", "a list of URLs: name it urls:FILE"),
    "a table": (b"id,score,url\n1,7,https://a.example/\n", "a table with commas"),
    "a page": (b"<!doctype html>\n<title>404</title>", "a page of HTML or XML"),
    "captures": (b"example,a)/x 20200101000000 {}\n" * 2, "an index of web captures"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a pointer of Git LFS"),
    "prose": (b"The cat sat on the mat.\n", "plain text: a source has one JSON object per line"),
    "blanks": (b"\n \n", "blank"),
}


@pytest.mark.parametrize("suffix", ["", ".zst"])
@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_without_any_submission_is_refused_and_named(name: str, suffix: str, tmp_path: Path) -> None:
    body, message = WRONG_FILES[name]
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(zstd(body) if suffix else body)
    with pytest.raises(
        InputError, match=rf"(none|only 1) of its \d+ lines is a submission; it seems to be {message}"
    ) as caught:
        build(tmp_path / "lake", [path])
    assert "\n" not in str(caught.value)
    assert Lake(tmp_path / "lake").dataset("links", "demo").sealed() == {}
    path.write_bytes(zstd(ndjson([post(1)])) if suffix else ndjson([post(1)]))  # the right file may be named so later
    assert build(tmp_path / "lake", [path]).rows_in == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ndjson([post(1)]), "JSON: name it without urls:"),
        (orjson.dumps([post(1)]), "a JSON array"),
        (b"rank\tsite\n1\ta.example\n", "a table with tabs: keep the column of URLs only"),
        (b"a.example\nb.example\n", "plain text: a source has one absolute URL per line"),
    ],
)
def test_a_url_list_without_any_url_is_refused_and_named(body: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(body)
    with pytest.raises(InputError, match=rf"list.txt: none of its \d+ lines is a URL; it seems to be {message}"):
        build(tmp_path / "lake", [f"urls:{tmp_path}/list.txt"])


def test_one_submission_or_url_is_enough(tmp_path: Path) -> None:
    rows = [COMMENT, b"{", post(1, is_self=True), {"a": 1}]
    counts = build(tmp_path / "a", [dump(tmp_path / "dump.ndjson", rows)]).counts
    assert counts == {"malformed_line": 1, "merged": 0, "not_a_submission": 2, "self_post": 1}
    (tmp_path / "list.txt").write_bytes(b"a.example\nmailto:someone@a.example\n")
    assert build(tmp_path / "b", [f"urls:{tmp_path}/list.txt"]).counts == {"bad_url": 2, "merged": 0}


def test_an_invalid_source_is_refused_and_the_error_shows_the_format(tmp_path: Path) -> None:
    for specs, message in (
        ([], r"no link source given; name one with --links: urls:FILE \(one URL per line"),
        ([tmp_path], "is a directory"),
        (["hn:november"], "hn:november: 'november' is not a month; write it like 2026-11"),
        (["hn:2999-12"], "hn:2999-12: 2999-12 has not begun yet"),
        (["hn-items:9-8"], "hn-items:9-8: no items from 9 to 8"),
        (["hn-items:x"], "hn-items:x: write it like"),
        (["reddit:a b"], "'a b' is not a subreddit"),
        (["reddit:news,News"], "reddit:news: named twice among the link sources"),
        ([f"{tmp_path}/RS_*.zst"], "no file matches the pattern"),
        ([f"urls:{tmp_path}/none.txt"], "none.txt: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            build(tmp_path / "lake", specs)


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ("urls:list.txt", "urls:FILE"),
        ("hn:", "hn:[MONTH]"),
        ("hn:2026-11", "hn:[MONTH]"),
        ("hn-items:1-", "hn-items:FROM-[TO]"),
        ("reddit:news", "reddit:NAME,.."),
        ("http://a.example/RS.zst", "http://.."),
        ("https://a.example/top.json?t=all", "https://.."),
        ("RS_2026-10.zst", "PATH or 'PATTERN'"),
        ("RS_*.zst", "PATH or 'PATTERN'"),
        ("hnx:", "PATH or 'PATTERN'"),
    ],
)
def test_the_name_of_a_source_decides_its_kind(spec: str, form: str) -> None:
    assert kind_of(spec).form == form


def test_the_command_line_help_names_every_kind_of_source() -> None:
    (option,) = options.Sources.__metadata__  # type: ignore[attr-defined]
    for kind in SOURCE_KINDS:
        assert kind.prefix in option.help or kind.prefix.startswith("http"), kind
        assert kind.help


def test_a_path_that_exists_is_a_file_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("hn:", "reddit:news", "RS_*"):
        Path(name).write_bytes(ndjson([post(1)]))
        assert kind_of(name) is SOURCE_KINDS[-1]
    assert build(tmp_path / "lake", ["hn:", "RS_*"]).inputs.keys() == {"source:hn:", "source:RS_*"}


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.ndjson", [post(1)])
    source = sources.file_source(path)
    dump(Path(path), [post(2)])
    with pytest.raises(InputError, match=r"a\.ndjson: changed while it was read"):
        list(source.records(reading(tmp_path), []))
