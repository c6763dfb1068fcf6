"""WARC files, read back by two readers that others wrote."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator as FastIterator
from warcio.archiveiterator import ArchiveIterator as WarcioIterator
from warcio.checker import Checker

from data.errors import InputError
from data.warc import WarcWriter, read_payload

BODIES = [b"<p>one", b"<p>" + bytes(range(256)) * 2000, b"", b"WARC/1.1\r\n\r\n", "<p>ünï".encode()]
DATE = datetime(2026, 11, 1, 12, 30, 15, tzinfo=UTC)


@pytest.fixture
def warc(tmp_path: Path) -> tuple[Path, list[int]]:
    path = tmp_path / "part-00000.warc.gz"
    with path.open("wb") as file:
        writer = WarcWriter(file, path.name, {"software": "webtext/test", "robots": "obey"})
        offsets = [
            writer.write_page(
                f"http://a.example/{n}",
                DATE,
                (f"GET /{n} HTTP/1.1".encode(), [(b"Host", b"a.example")]),
                (
                    b"HTTP/1.1 200 OK",
                    [(b"Content-Type", b"text/html"), (b"Content-ENCODING", b"gzip"), (b"Content-Length", b"7")],
                ),
                body,
                hashlib.sha1(body).digest(),
            )
            for n, body in enumerate(BODIES)
        ]
    return path, offsets


def test_read_back_at_random(warc: tuple[Path, list[int]]) -> None:
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


def test_every_record_is_a_gzip_member(warc: tuple[Path, list[int]]) -> None:
    path, offsets = warc
    data = path.read_bytes()
    assert gzip.decompress(data).count(b"WARC/1.1\r\nWARC-Type: ") == 1 + 2 * len(BODIES)
    for offset in offsets:
        assert gzip.decompress(data[offset:]).startswith(b"WARC/1.1\r\nWARC-Type: response\r\n")


def test_fastwarc(warc: tuple[Path, list[int]]) -> None:
    seen = []
    with warc[0].open("rb") as file:
        for record in FastIterator(file, parse_http=False):
            assert record.verify_block_digest()
            seen.append(str(record.record_type))
    assert seen == ["warcinfo", *["response", "request"] * len(BODIES)]
    with warc[0].open("rb") as file:
        responses = [r for r in FastIterator(file, parse_http=True) if r.headers["WARC-Type"] == "response"]
    assert [r.headers["WARC-Target-URI"] for r in responses] == [f"http://a.example/{n}" for n in range(5)]
    with warc[0].open("rb") as file:
        assert all(r.verify_payload_digest() for r in FastIterator(file) if r.headers["WARC-Type"] == "response")


def test_warcio(warc: tuple[Path, list[int]], capsys: pytest.CaptureFixture[str]) -> None:
    path, offsets = warc
    with path.open("rb") as file:
        info, *pairs = WarcioIterator(file, check_digests="raise")
        assert info.rec_headers.get_header("WARC-Filename") == "part-00000.warc.gz"
    bodies, starts = [], []
    with path.open("rb") as file:
        records = WarcioIterator(file, check_digests="raise")
        for record in records:
            headers = record.rec_headers
            if record.rec_type == "response":
                bodies.append(record.content_stream().read())
                starts.append(records.get_record_offset())  # goes to the end of the record
                response_id = headers.get_header("WARC-Record-ID")
                assert headers.get_header("WARC-Date").startswith("2026-11-01T12:30:15")
                assert headers.get_header("Content-Type") == "application/http; msgtype=response"
                assert record.http_headers.get_statuscode() == "200"
                assert headers.get_header("WARC-Payload-Digest").startswith("sha1:")
            elif record.rec_type == "request":
                assert headers.get_header("WARC-Concurrent-To") == response_id
                assert record.http_headers.get_header("Host") == "a.example"
    assert (starts, bodies) == (offsets, BODIES)
    Checker(_Arguments([str(path)])).process_all()
    assert "fail" not in capsys.readouterr().out.lower()
    assert len(pairs) == 2 * len(BODIES)


class _Arguments:
    """What warcio's own check command reads from its command line."""

    def __init__(self, inputs: list[str]) -> None:
        self.inputs, self.verbose = inputs, False


def test_not_a_response(warc: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, offsets = warc
    with path.open("rb") as file:
        with pytest.raises(InputError, match=r"part-00000.warc.gz at 0: no WARC response record"):
            read_payload(file, 0)
        with pytest.raises(InputError, match="damaged"):
            read_payload(file, offsets[1] + 1)
        with pytest.raises(InputError, match="damaged"):
            read_payload(file, path.stat().st_size)
        with pytest.raises(InputError, match="larger than 100 bytes"):
            read_payload(file, offsets[1], max_bytes=100)


def test_a_flipped_byte_is_found(warc: tuple[Path, list[int]]) -> None:
    path, offsets = warc
    data = bytearray(path.read_bytes())
    data[offsets[0] + 100] ^= 0xFF
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(InputError, match="damaged"):
        read_payload(file, offsets[0])
