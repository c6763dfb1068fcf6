"""WARC files, read back by two independent readers."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import re
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator as FastIterator
from fastwarc.warc import WarcRecordType
from warcio.archiveiterator import ArchiveIterator as WarcioIterator
from warcio.checker import Checker

from data.errors import InputError
from data.warc import IDENTICAL_PAYLOAD, NOT_MODIFIED, WarcWriter, payload_digest, read_payload

BODIES = [b"<p>one", b"<p>" + bytes(range(256)) * 2000, b"", b"WARC/1.1\r\n\r\n", "<p>ünï".encode()]
DATE = datetime(2026, 11, 1, 12, 30, 15, 999_999, tzinfo=UTC)
LATER = datetime(2026, 12, 1, 1, 0, 0, tzinfo=timezone(timedelta(hours=2)))
HEADERS = [(b"Content-Type", b"text/html"), (b"Content-ENCODING", b"gzip"), (b"Content-Length", b"7")]
KINDS = ["warcinfo", *["response", "request"] * len(BODIES), *["revisit", "request"] * 2, "response"]


def sha1(body: bytes) -> bytes:
    return hashlib.sha1(body).digest()


def request(path: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    return f"GET {path} HTTP/1.1".encode(), [(b"Host", b"a.example")]


@pytest.fixture
def warc(tmp_path: Path) -> tuple[Path, list[int]]:
    """Five pages, a revisit of each profile and a capture, with the offset of each."""
    path = tmp_path / "part-00000.warc.gz"
    with path.open("wb") as file:
        writer = WarcWriter(file, path.name, {"software": "webtext/test", "robots": "obey"})
        offsets = [
            writer.write_page(
                f"http://a.example/{n}", DATE, request(f"/{n}"), (b"HTTP/1.1 200 OK", HEADERS), body, sha1(body)
            )
            for n, body in enumerate(BODIES)
        ]
        for url, answer, profile in (
            ("http://b.example/copy", b"HTTP/1.1 200 OK", IDENTICAL_PAYLOAD),
            ("http://a.example/1", b"HTTP/1.1 304 Not Modified", NOT_MODIFIED),
        ):
            offset = writer.write_revisit(
                url,
                LATER,
                request("/x"),
                (answer, HEADERS),
                sha1(BODIES[1]),
                refers_to_url="http://a.example/1",
                refers_to_date=DATE,
                profile=profile,
            )
            offsets.append(offset)
        offset = writer.write_capture(
            "http://gone.example/",
            datetime(2009, 3, 5, tzinfo=UTC),
            (b"HTTP/1.1 200 OK", HEADERS),
            b"<p>old",
            sha1(b"<p>old"),
            source_url="https://web.archive.org/web/20090305000000id_/http://gone.example/",
            taken_at=LATER,
        )
        offsets.append(offset)
    return path, offsets


def member_starts(data: bytes) -> list[int]:
    """Offsets of the gzip members of a file, found with zlib alone; the last entry is the end of the file."""
    starts = [0]
    while starts[-1] < len(data):
        stream = zlib.decompressobj(31)
        stream.decompress(data[starts[-1] :])
        starts.append(len(data) - len(stream.unused_data))
    return starts


def test_records_are_read_back_in_random_order(warc: tuple[Path, list[int]]) -> None:
    path, offsets = warc
    with path.open("rb") as file:
        for n in (3, 0, 4, 1, 2):
            headers, body = read_payload(file, offsets[n])
            assert body == BODIES[n]
            assert headers == [
                ("Content-Type", "text/html"),
                ("X-Crawler-Content-ENCODING", "gzip"),
                ("X-Crawler-Content-Length", "7"),
                ("Content-Length", str(len(body))),
            ]
        assert read_payload(file, offsets[7])[1] == b"<p>old"


def test_every_record_is_a_gzip_member(warc: tuple[Path, list[int]]) -> None:
    path, offsets = warc
    data = path.read_bytes()
    starts = member_starts(data)
    assert starts[-1] == len(data)
    kinds = [gzip.decompress(data[start:]).split(b"\r\n")[1].decode() for start in starts[:-1]]
    assert kinds == [f"WARC-Type: {kind}" for kind in KINDS]
    assert offsets == [start for start, kind in zip(starts, KINDS, strict=False) if kind in ("response", "revisit")]


def test_fastwarc_reads_the_records(warc: tuple[Path, list[int]]) -> None:
    seen = []
    with warc[0].open("rb") as file:
        for record in FastIterator(file, parse_http=False):
            kind = str(record.record_type)
            if kind in ("response", "revisit"):  # theirs is the payload's, which is most of the block
                assert record.headers["WARC-Payload-Digest"].startswith("sha1:")
                assert "WARC-Block-Digest" not in record.headers
            else:
                assert record.verify_block_digest()
            seen.append(kind)
    assert seen == KINDS
    with warc[0].open("rb") as file:
        responses = []
        for record in FastIterator(file, parse_http=True, record_types=WarcRecordType.response):
            assert record.verify_payload_digest()
            responses.append(record.headers["WARC-Target-URI"])
    assert responses == [*(f"http://a.example/{n}" for n in range(5)), "http://gone.example/"]


def test_warcio_reads_the_records(warc: tuple[Path, list[int]], capsys: pytest.CaptureFixture[str]) -> None:
    path, offsets = warc
    bodies = []
    starts = []
    kinds = []
    with path.open("rb") as file:
        records = WarcioIterator(file, check_digests="raise")
        for record in records:
            headers = record.rec_headers
            kinds.append(record.rec_type)
            if record.rec_type == "warcinfo":
                assert headers.get_header("WARC-Filename") == "part-00000.warc.gz"
            elif record.rec_type in ("response", "revisit"):
                bodies.append(record.content_stream().read())
                starts.append(records.get_record_offset())  # reads to the end of the record
                response_id = headers.get_header("WARC-Record-ID")
                assert headers.get_header("Content-Type") == "application/http; msgtype=response"
                assert record.http_headers.get_statuscode() in ("200", "304")
            elif record.rec_type == "request":
                assert headers.get_header("WARC-Concurrent-To") == response_id
                assert record.http_headers.get_header("Host") == "a.example"
    assert (kinds, starts, bodies) == (KINDS, offsets, [*BODIES, b"", b"", b"<p>old"])
    # This is what `warcio check` does: it returns an exit code and prints every wrong digest.
    assert Checker(_Arguments([str(path)])).process_all() == 0
    assert capsys.readouterr().out == ""


class _Arguments:
    """The command-line arguments that warcio's check command reads."""

    def __init__(self, inputs: list[str]) -> None:
        self.inputs = inputs
        self.verbose = False


def test_dates_are_whole_seconds_in_utc(warc: tuple[Path, list[int]]) -> None:
    with warc[0].open("rb") as file:
        dates = {r.headers["WARC-Target-URI"]: r.headers["WARC-Date"] for r in FastIterator(file) if r.is_http}
    assert dates["http://a.example/0"] == "2026-11-01T12:30:15Z"
    assert dates["http://b.example/copy"] == "2026-11-30T23:00:00Z"


def test_revisits_lead_to_their_payload(warc: tuple[Path, list[int]]) -> None:
    found = {}
    revisits = []
    with warc[0].open("rb") as file:
        for record in WarcioIterator(file):
            header = record.rec_headers.get_header
            if record.rec_type == "response":
                found[header("WARC-Target-URI"), header("WARC-Date")] = record.content_stream().read()
            elif record.rec_type == "revisit":
                revisits.append(record.rec_headers)
                assert record.http_headers.get_header("X-Crawler-Content-Length") == "7"  # as received
                assert record.content_stream().read() == b""
    assert [revisit.get_header("WARC-Profile") for revisit in revisits] == [IDENTICAL_PAYLOAD, NOT_MODIFIED]
    for revisit in revisits:
        key = revisit.get_header("WARC-Refers-To-Target-URI"), revisit.get_header("WARC-Refers-To-Date")
        assert payload_digest(sha1(found[key])) == revisit.get_header("WARC-Payload-Digest")
        assert found[key] == BODIES[1]


def test_a_capture_keeps_both_dates(warc: tuple[Path, list[int]]) -> None:
    with warc[0].open("rb") as file:
        (headers,) = (r.headers for r in FastIterator(file) if r.headers.get("WARC-Source-URI"))
        assert headers["WARC-Target-URI"] == "http://gone.example/"
        assert headers["WARC-Date"] == "2009-03-05T00:00:00Z"
        assert headers["WARC-Creation-Date"] == "2026-11-30T23:00:00Z"
        assert headers["WARC-Source-URI"] == "https://web.archive.org/web/20090305000000id_/http://gone.example/"


def test_a_record_that_is_not_a_response_is_an_error(warc: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, offsets = warc
    with path.open("rb") as file:
        for offset in (0, offsets[5], path.stat().st_size):
            with pytest.raises(InputError, match=rf"part-00000.warc.gz at {offset}: no WARC response record"):
                read_payload(file, offset)
        with pytest.raises(InputError, match="damaged"):
            read_payload(file, offsets[1] + 1)
        with pytest.raises(InputError, match="larger than 100 bytes"):
            read_payload(file, offsets[1], max_bytes=100)


def test_a_torn_file_gives_only_its_complete_records(warc: tuple[Path, list[int]]) -> None:
    path, offsets = warc
    data = path.read_bytes()
    starts = member_starts(data)
    cuts = {*starts, *(start - 1 for start in starts[1:]), *(start + 12 for start in starts[:-1])}
    cuts |= {(start + end) // 2 for start, end in itertools.pairwise(starts)}
    pages = {offset: body for offset, body in zip(offsets, [*BODIES, None, None, b"<p>old"], strict=True) if body}
    for cut in sorted(cuts):
        torn = io.BytesIO(data[:cut])
        for offset, body in pages.items():
            end = starts[starts.index(offset) + 1]
            # Only the CRC and the size follow the last byte of the data, so a page is complete without them.
            if cut >= end - 1:
                assert read_payload(torn, offset)[1] == body
            elif cut < (offset + end) // 2 + 1:
                with pytest.raises(InputError, match=re.escape(f"at {offset}: ")):
                    read_payload(torn, offset)


def test_a_flipped_byte_is_detected(warc: tuple[Path, list[int]]) -> None:
    path, offsets = warc
    whole = path.read_bytes()
    end = member_starts(whole)
    end_of_first = end[end.index(offsets[0]) + 1]
    for position in range(offsets[0], end_of_first):
        data = bytearray(whole)
        data[position] ^= 0x55
        try:
            _, body = read_payload(io.BytesIO(data), offsets[0])
        except InputError:
            continue
        assert body == BODIES[0]  # a header byte that does not affect the page
