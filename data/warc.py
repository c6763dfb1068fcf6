"""WARC files, one per segment of pages: the responses that the crawl received, with their requests.

    warcinfo              first in every file: the software and its settings
    response + request    a page that was received whole
    revisit + request     a page whose payload is in an earlier record, headers only: its digest is the same
                          (identical-payload-digest), or the server answered 304 (server-not-modified)
    response              a page from a web archive. WARC-Date is when the archive captured it, WARC-Source-URI where
                          the archive keeps it, WARC-Creation-Date when we took it from there. There is no request
                          record, because our request went to the archive, not to the page's server.

Bodies are stored **decoded**, without transfer encoding and content encoding, as Common Crawl stores them and with its
header names (``X-Crawler-Content-Encoding`` keeps the server's header). A server may compress the same page differently
each time, so only the decoded body has a stable digest. Extraction needs the decoded body, and readers need not
decompress data from strangers again. A record has one digest: of the payload if it has one, else of the block. Both
would hash a page twice, and gzip has its own checksum. Dates are whole seconds, as in the pages table, so a
WARC-Refers-To-Date made from the table equals the date of the record.

Each record is a gzip member of its own, so the offset is enough to read a page. FastWARC makes the record, and ISA-L
compresses it at its level 1: about the size of zlib's level 2 in a third of the time. A 60 kB news page with its
request takes 0.13 ms of CPU (compression: 0.08 ms) and 16.3 kB.
Memory: three times the size of the page while it is written.

Sources: ISO 28500:2017 (WARC/1.1), sections 5 and 6.7; IIPC's list of WARC fields (warcit's WARC-Source-URI and
WARC-Creation-Date); RFC 1952 (gzip).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from isal import igzip_lib

from data.errors import InputError, StoreError

GZIP_LEVEL = 1  # of ISA-L's 0 to 3; 2 takes 5 % longer for 0.7 % fewer bytes, 3 twice as long for 4 % fewer
MAX_HEADER_BYTES = 8 << 20  # of one record; the client accepts 128 headers of 32 kB
MAX_PAYLOAD_BYTES = 200_000_000  # read into memory at most

IDENTICAL_PAYLOAD = "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"
NOT_MODIFIED = "http://netpreserve.org/warc/1.1/revisit/server-not-modified"

HeaderList = list[tuple[bytes, bytes]]
Message = tuple[bytes, HeaderList]
"""The first line and the headers of a request as sent, or of a response as received."""

_REQUEST = "application/http; msgtype=request"
_RESPONSE = "application/http; msgtype=response"
_RENAMED = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class WarcWriter:
    """Appends records to an open binary file. The first one is a warcinfo record."""

    def __init__(self, file: BinaryIO, filename: str, fields: Mapping[str, str]) -> None:
        self.file = file
        self.size = 0  # bytes written
        record = WarcRecord()
        record.init_headers(WarcRecordType.warcinfo)
        record.headers["WARC-Filename"] = filename
        record.headers["Content-Type"] = "application/warc-fields"
        text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        record.set_bytes_content(text.encode())
        self.info_id = str(record.record_id)
        self._write(record)

    def write_page(
        self, url: str, fetched_at: datetime, request: Message, response: Message, body: bytes, sha1: bytes
    ) -> int:
        """Write one exchange and return the offset of the response's gzip member.

        ``body`` is decoded, ``sha1`` its digest (20 bytes), ``fetched_at`` a time with a zone.
        """
        date = warc_date(fetched_at)
        record = self._exchange(WarcRecordType.response, url, date)
        record.set_bytes_content(_response_block(response, body))
        return self._write_with_request(record, sha1, url, date, request)

    def write_revisit(
        self,
        url: str,
        fetched_at: datetime,
        request: Message,
        response: Message,
        sha1: bytes,
        *,
        refers_to_url: str,
        refers_to_date: datetime,
        profile: str,
    ) -> int:
        """Write an exchange whose payload is in an earlier record, and return the offset of the revisit's member.

        ``profile`` is IDENTICAL_PAYLOAD or NOT_MODIFIED, ``sha1`` the digest of the earlier payload, and
        ``refers_to_url`` and ``refers_to_date`` are the URL and the date of the earlier record.
        """
        date = warc_date(fetched_at)
        record = self._exchange(WarcRecordType.revisit, url, date)
        record.headers["WARC-Profile"] = profile
        record.headers["WARC-Refers-To-Target-URI"] = refers_to_url
        record.headers["WARC-Refers-To-Date"] = warc_date(refers_to_date)
        record.set_bytes_content(_http_block(response[0], _renamed(response[1]), b""))
        return self._write_with_request(record, sha1, url, date, request)

    def write_capture(
        self,
        url: str,
        captured_at: datetime,
        response: Message,
        body: bytes,
        sha1: bytes,
        *,
        source_url: str,
        taken_at: datetime,
    ) -> int:
        """Write a page from a web archive, and return the offset of its gzip member.

        ``captured_at`` is when the archive fetched ``url``, ``taken_at`` when we took it from ``source_url``.
        """
        record = self._exchange(WarcRecordType.response, url, warc_date(captured_at))
        record.headers["WARC-Source-URI"] = source_url
        record.headers["WARC-Creation-Date"] = warc_date(taken_at)
        record.set_bytes_content(_response_block(response, body))
        return self._write(record, sha1)

    def _exchange(self, kind: WarcRecordType, url: str, date: str) -> WarcRecord:
        record = WarcRecord()
        record.init_headers(kind)
        headers = record.headers
        headers["WARC-Date"] = date
        headers["WARC-Target-URI"] = url
        headers["WARC-Warcinfo-ID"] = self.info_id
        headers["Content-Type"] = _REQUEST if kind is WarcRecordType.request else _RESPONSE
        return record

    def _write_with_request(self, record: WarcRecord, sha1: bytes, url: str, date: str, request: Message) -> int:
        offset = self._write(record, sha1)
        asked = self._exchange(WarcRecordType.request, url, date)
        asked.headers["WARC-Concurrent-To"] = str(record.record_id)
        asked.set_bytes_content(_http_block(request[0], request[1], b""))
        self._write(asked)
        return offset

    def _write(self, record: WarcRecord, payload_sha1: bytes | None = None) -> int:
        offset = self.size
        plain = io.BytesIO()
        if payload_sha1 is not None:
            record.headers["WARC-Payload-Digest"] = payload_digest(payload_sha1)
        record.write(plain, checksum_data=payload_sha1 is None)
        member = igzip_lib.compress(plain.getbuffer(), GZIP_LEVEL, igzip_lib.COMP_GZIP)
        self.file.write(member)
        self.size += len(member)
        return offset


@functools.lru_cache(maxsize=64)  # many pages share a second
def warc_date(moment: datetime) -> str:
    """A time in WARC's format, in whole seconds of UTC. ``moment`` has a time zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _response_block(response: Message, body: bytes) -> bytes:
    headers = [*_renamed(response[1]), (b"Content-Length", str(len(body)).encode())]
    return _http_block(response[0], headers, body)


def _renamed(headers: HeaderList) -> HeaderList:
    """The headers, with other names for those that do not describe the body as it is stored."""
    return [(b"X-Crawler-" + k if k.lower() in _RENAMED else k, v) for k, v in headers]


def _http_block(first_line: bytes, headers: HeaderList, body: bytes) -> bytes:
    return b"\r\n".join((first_line, *map(b": ".join, headers), b"", body))


def read_payload(
    file: BinaryIO, offset: int, max_bytes: int = MAX_PAYLOAD_BYTES
) -> tuple[list[tuple[str, str]], bytes]:
    """The HTTP headers and the decoded body of the response record at ``offset`` of an open WARC file.

    Raises InputError if no response record begins there, if the body does not match its digest (the file was cut off or
    damaged), or if the body is larger than ``max_bytes``.
    """
    where = f"{getattr(file, 'name', 'WARC file')} at {offset}"
    file.seek(offset)
    try:
        record = next(iter(ArchiveIterator(file, parse_http=True, max_header_len=MAX_HEADER_BYTES)), None)
        if record is None or record.record_type != WarcRecordType.response:
            raise InputError(f"{where}: no WARC response record begins here; the file was damaged")
        body = record.reader.read(max_bytes + 1)
    except (InputError, StoreError):
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: not a WARC record ({error}); the file was damaged") from error
    if len(body) > max_bytes:
        raise InputError(f"{where}: the page is larger than {max_bytes} bytes")
    if record.headers.get("WARC-Payload-Digest") != payload_digest(hashlib.sha1(body, usedforsecurity=False).digest()):
        raise InputError(
            f"{where}: the page is not the one that was written (its digest differs); the file was damaged"
        )
    return [(str(name), str(value)) for name, value in record.http_headers.to_tuples()], body


@functools.lru_cache(maxsize=64)  # needed for the row and for the record; base32 is slow
def payload_digest(sha1: bytes) -> str:
    """A digest (20 bytes) in the format of WARC and the pages table: ``sha1:`` and base32."""
    return f"sha1:{base64.b32encode(sha1).decode()}"
