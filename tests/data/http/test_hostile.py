"""The exact outcome of a link, case by case: a server at its worst, over real sockets."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import itertools
import zlib

import brotli
import pytest
import zstandard

from tests.data.http.hostile import (
    HTML,
    PAGE,
    TDMREP,
    Handler,
    Names,
    Request,
    Web,
    drip,
    in_turn,
    raw,
    redirect,
    reply,
    rules,
)
from tests.data.pages.crawling import SHORT, URL, Case, Crawler, host_urls

SMALL = {"max_wire_bytes": 50_000, "max_decoded_bytes": 100_000}
SLOW = {"slow_after_s": 0.4, "min_bytes_per_s": 500}
HOPS_20 = {"max_redirects": 20}
BOMB = b"\0" * 3_000_000
PROSE = b"<p>" + b"".join(b"Sentence number %d of a page that is long.\n" % n for n in range(30_000))
CHUNKED = HTML + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH_100 = HTML + b"Content-Length: 100\r\n\r\n<p>cut"
WIRE, DECODED, RATIO = (
    "more than 50000 bytes",
    "more than 100000 bytes decoded",
    "more than 200 times its size on the wire",
)
BROKEN = "not valid HTTP, or cut off"
UNASKED = "a content encoding that was not asked for"
NO_URL = "Location is not a URL that can be fetched"
CUT = "the compressed data is cut off"
UNNAMED = "compressed in a way that no header names"
UNASKED_TRANSFER = "a transfer encoding that was not asked for"
SILENT, LONG = "silent for read_timeout_s", "longer than total_timeout_s"


def _page(handler: Handler) -> dict[str, Handler]:
    return {URL: handler}


def _robots(handler: Handler) -> dict[str, Handler]:
    return {URL: reply(), "www.site.example/robots.txt": handler}


def _tdmrep(handler: Handler) -> dict[str, Handler]:
    return {URL: reply(), "www.site.example" + TDMREP: handler}


def _rules(text: str) -> dict[str, Handler]:
    return _robots(rules(text))


def _coded(coding: str, data: bytes) -> dict[str, Handler]:
    return _page(reply(data, content_encoding=coding))


def _to(location: str, **more: Handler) -> dict[str, Handler]:
    """A redirect to a URL, and the answers at paths of the host (``_`` for ``/``)."""
    return _page(redirect(location)) | {
        "www.site.example/" + path.strip("_").replace("_", "/"): h for path, h in more.items()
    }


def _head(*lines: bytes, body: bytes = PAGE) -> dict[str, Handler]:
    """A page with these header lines, and its length."""
    return _page(
        raw(HTML + b"".join(b"%b\r\n" % line for line in (*lines, b"Content-Length: %d" % len(body))) + b"\r\n" + body)
    )


def _chain(n: int) -> dict[str, Handler]:
    """``URL`` and n redirects to a page."""
    hops = [URL, *(f"http://www.site.example/hop{i}" for i in range(1, n)), "http://www.site.example/end"]
    return {a: redirect(b) for a, b in itertools.pairwise(hops)} | {hops[-1]: reply()}


def _robots_chain(n: int) -> dict[str, Handler]:
    """robots.txt with n redirects to one that forbids everything."""
    hops = ["www.site.example/robots.txt", *(f"www.site.example/r{i}" for i in range(1, n + 1))]
    return {a: redirect(f"http://{b}") for a, b in itertools.pairwise(hops)} | {
        URL: reply(),
        hops[-1]: rules("User-agent: *\nDisallow: /"),
    }


def _status(line: str) -> dict[str, Handler]:
    return _page(reply(status=line))


BODIES = [
    Case("page", _page(reply()), "ok", 200),
    Case("page_xhtml", _page(reply(content_type="Application/XHTML+xml")), "ok", 200),
    *(Case(f"page_of_type_{value}", _page(reply(content_type=value)), "ok", 200, body=PAGE)
      for value in ("text/html charset=utf-8", "text/html\tcharset=utf-8", "TEXT/HTML  charset=utf-8",
                    "text/html,charset=utf-8", "text/html, charset=utf-8", "text/html:charset=utf-8",
                    "text/html. charset=utf-8", "text/html|charset=utf-8", "text/html&charset=utf-8",
                    "text/html (a comment)", '"text/html"', "text/html;;charset=utf-8", "text/html, text/html",
                    "application/xhtml+xml charset=utf-8")),
    *(Case(f"not_html_type_{value}", _page(reply(content_type=value)), "not_html", 200, reason=reason)
      for value, reason in (("text/plain charset=utf-8", "text/plain"), ("text/plain, charset=utf-8", "text/plain"),
                            ("text/htmlx charset=utf-8", "text/htmlx"), ("text/html.x", "text/html.x"),
                            ("text/plain, text/html", "text/plain, text/html"), ("html", "html"),
                            ("image/svg+xml text/html", "image/svg+xml"), ("text/html+x", "text/html+x"),
                            ("application/vnd.ms-excel charset=utf-8", "application/vnd.ms-excel"))),
    Case("page_gzip", _coded("gzip", gzip.compress(PAGE)), "ok", 200),
    Case("page_x_gzip", _coded("x-gzip", gzip.compress(PAGE)), "ok", 200),
    Case("page_gzip_members", _coded("gzip", gzip.compress(PAGE[:9]) + gzip.compress(PAGE[9:])), "ok", 200, body=PAGE),
    Case("page_deflate", _coded("deflate", zlib.compress(PAGE)), "ok", 200),
    Case("page_deflate_raw", _coded("deflate", zlib.compress(PAGE)[2:-4]), "ok", 200),
    Case("page_brotli", _coded("BR", brotli.compress(PAGE)), "ok", 200),
    Case("page_identity", _coded("identity", PAGE), "ok", 200),
    Case("page_of_prose_that_compresses_well", _coded("gzip", gzip.compress(PROSE)), "ok", 200, body=PROSE),
    Case("page_chunked", _page(raw(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PAGE), PAGE))), "ok", 200, body=PAGE),
    Case("page_chunked_byte_by_byte", _page(raw(CHUNKED, *(b"1\r\n%c\r\n" % c for c in PAGE), b"0\r\n\r\n", pause_s=0)),
         "ok", 200, body=PAGE),
    Case("page_chunked_with_extension_and_trailer",
         _page(raw(CHUNKED + b"%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(PAGE), PAGE))), "ok", 200, body=PAGE),
    Case("page_until_close", _page(raw(HTML + b"\r\n" + PAGE, then="close")), "ok", 200, body=PAGE),
    Case("page_in_pieces", _page(raw(HTML[:20], HTML[20:] + b"Content-Length: %d\r\n\r\n" % len(PAGE), PAGE[:7],
         PAGE[7:])),
         "ok", 200, body=PAGE),
    Case("page_without_type", _page(reply(b"\xef\xbb\xbf \n" + PAGE, content_type="")), "ok", 200),
    Case("text_without_type", _page(reply(b"plain words", content_type="")), "not_html", 200, reason="no content type"),
    Case("bad_charset", _page(reply(content_type="text/html; charset=klingon")), "ok", 200, body=PAGE),
    Case("charset_that_is_wrong", _page(reply(b"<p>\xff\xfe\x80", content_type="text/html; charset=utf-8")), "ok", 200,
         body=b"<p>\xff\xfe\x80"),
    Case("nul_bytes", _page(reply(b"<p>\0a\0b\0")), "ok", 200, body=b"<p>\0a\0b\0"),
    Case("only_nul_bytes", _page(reply(b"\0" * 500_000)), "ok", 200),
    Case("one_line_of_5_MB", _page(reply(b"<p>" + b"x" * 5_000_000)), "ok", 200),
    Case("not_html_pdf", _page(reply(b"%PDF-1.4", content_type="application/pdf")), "not_html", 200,
         reason="application/pdf"),
    Case("not_html_plain", _page(reply(content_type="text/plain")), "not_html", 200, reason="text/plain"),
    Case("not_html_two_types", _page(reply(content_type="text/html, text/plain")), "not_html", 200,
         reason="text/html, text/plain"),
    Case("not_html_nonsense", _page(reply(content_type="\udcff\udcfe;;;")), "not_html", 200, reason="\ufffd\ufffd"),
    Case("not_html_is_not_read", _page(raw(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n", then="hang")),
         "not_html", 200, SHORT, "video/mp4"),
    Case("pdf_named_html", _page(reply(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj")), "not_html", 200,
         reason="begins as a PDF"),
    Case("empty", _page(reply(b"")), "empty_body", 200),
    Case("empty_gzip", _coded("gzip", gzip.compress(b"")), "empty_body", 200),
    Case("empty_gzip_without_a_byte", _coded("gzip", b""), "empty_body", 200),
    Case("bomb_gzip", _coded("gzip", gzip.compress(BOMB)), "decoded_too_large", 200, SMALL, DECODED),
    Case("bomb_deflate", _coded("deflate", zlib.compress(BOMB)), "decoded_too_large", 200, SMALL, DECODED),
    Case("bomb_deflate_raw", _coded("deflate", zlib.compress(BOMB)[2:-4]), "decoded_too_large", 200, SMALL, DECODED),
    Case("bomb_brotli", _coded("br", brotli.compress(BOMB)), "decoded_too_large", 200, SMALL, DECODED),
    Case("bomb_zstd", _coded("zstd", zstandard.compress(BOMB)), "bad_encoding", 200, SMALL, UNASKED),
    Case("bomb_in_gzip_members", _coded("gzip", gzip.compress(BOMB[:50_000]) * 60), "decoded_too_large", 200, SMALL,
         DECODED),
    Case("bomb_chunked", _page(raw(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
                                   + b"%x\r\n%b\r\n" % (len(gzip.compress(BOMB)), gzip.compress(BOMB)), then="hang")),
         "decoded_too_large", 200, SMALL, DECODED),
    Case("bomb_by_ratio", _coded("gzip", gzip.compress(BOMB)), "decoded_too_large", 200, reason=RATIO),
    Case("bomb_by_ratio_brotli", _coded("br", brotli.compress(BOMB)), "decoded_too_large", 200, reason=RATIO),
    Case("gzip_members_without_content", _coded("gzip", gzip.compress(b"") * 2_000 + gzip.compress(PAGE)), "ok", 200),
    Case("encoding_zstd", _coded("zstd", zstandard.compress(PAGE)), "bad_encoding", 200, reason=UNASKED),
    Case("encoding_twice", _coded("gzip, gzip", gzip.compress(gzip.compress(PAGE))), "bad_encoding", 200,
         reason=UNASKED),
    Case("encoding_in_two_headers", _head(b"Content-Encoding: gzip", b"Content-Encoding: br"), "bad_encoding", 200,
         reason=UNASKED),
    Case("encoding_of_a_bomb_in_a_bomb", _coded("gzip", gzip.compress(gzip.compress(bytes(60_000_000), 1))),
         "bad_encoding", 200, reason=UNNAMED),
    Case("encoding_is_a_lie", _coded("gzip", PAGE), "bad_encoding", 200, reason="broken gzip data"),
    Case("encoding_is_a_lie_brotli", _coded("br", b"\xff\xff\xff\xff"), "bad_encoding", 200,
         reason="broken brotli data"),
    Case("encoding_is_a_lie_deflate", _coded("deflate", PAGE), "bad_encoding", 200, reason="broken deflate data"),
    Case("encoding_cut", _coded("gzip", gzip.compress(PAGE * 50)[:-20]), "bad_encoding", 200, reason=CUT),
    Case("encoding_cut_brotli", _coded("br", brotli.compress(PAGE * 50)[:-5]), "bad_encoding", 200, reason=CUT),
    Case("encoding_cut_after_one_byte", _coded("gzip", b"\x1f"), "bad_encoding", 200, reason=CUT),
    Case("encoding_with_bad_checksum", _coded("gzip", gzip.compress(PAGE)[:-8] + b"12345678"), "bad_encoding", 200,
         reason="broken gzip data"),
]  # fmt: skip

GZIP, ZLIB, RAW, BROTLI = gzip.compress(PAGE), zlib.compress(PAGE), zlib.compress(PAGE)[2:-4], brotli.compress(PAGE)
COMPRESSOR = zlib.compressobj(wbits=31)
FLUSHED = COMPRESSOR.compress(PAGE) + COMPRESSOR.flush(zlib.Z_SYNC_FLUSH)
TAIL = b"\r\n<!-- made in 0.2 s -->"
TRANSFER_GZIP = HTML + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
TRANSFER_AND_GZIP = HTML + b"Transfer-Encoding: gzip, chunked\r\nContent-Encoding: gzip\r\n\r\n"
PLAIN_TYPE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
TDM_ALL = b'[{"location":"/","tdm-reservation":1}]'
WHOLES = [("gzip", "gzip", GZIP), ("zlib", "deflate", ZLIB), ("deflate", "deflate", RAW), ("brotli", "br", BROTLI)]
DENY = "User-agent: *\nDisallow: /"


def _chunks(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _pieces(wire: bytes) -> list[bytes]:
    return [wire[n : n + 7] for n in range(0, len(wire), 7)]


def _sized(coding: bytes, *pieces: bytes) -> dict[str, Handler]:
    """A page of which each piece is sent on its own."""
    head = HTML + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, sum(map(len, pieces)))
    return _page(raw(head, *pieces))


def _ok(name: str, pages: dict[str, Handler]) -> Case:
    return Case(name, pages, "ok", 200, body=PAGE)


TRANSFERS = [
    _ok("transfer_gzip", _page(raw(TRANSFER_GZIP + _chunks(GZIP)))),
    _ok("transfer_gzip_in_pieces", _page(raw(TRANSFER_GZIP, *_pieces(_chunks(GZIP[:1], GZIP[1:20], GZIP[20:]))))),
    _ok("transfer_x_gzip", _page(raw(TRANSFER_GZIP.replace(b"gzip", b"X-Gzip") + _chunks(GZIP)))),
    _ok("transfer_deflate", _page(raw(TRANSFER_GZIP.replace(b"gzip", b"deflate") + _chunks(ZLIB)))),
    _ok("transfer_deflate_raw", _page(raw(TRANSFER_GZIP.replace(b"gzip", b"deflate") + _chunks(RAW)))),
    _ok("transfer_gzip_in_two_headers", _page(raw(HTML + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"
                                                  b"\r\n" + _chunks(GZIP)))),
    _ok("transfer_gzip_until_close", _page(raw(HTML + b"Transfer-Encoding: gzip\r\n\r\n" + GZIP, then="close"))),
    _ok("transfer_gzip_around_gzip", _page(raw(TRANSFER_AND_GZIP + _chunks(gzip.compress(GZIP))))),
    _ok("transfer_gzip_around_brotli", _page(raw(TRANSFER_AND_GZIP.replace(b"Encoding: gzip\r\n\r\n",
                                                                           b"Encoding: br\r\n\r\n")
                                                 + _chunks(gzip.compress(BROTLI) + TAIL)))),
    _ok("transfer_gzip_named_again_as_content", _page(raw(TRANSFER_AND_GZIP + _chunks(GZIP)))),
    _ok("transfer_gzip_that_is_plain", _page(raw(TRANSFER_GZIP + _chunks(PAGE)))),
    _ok("transfer_gzip_with_a_tail", _page(raw(TRANSFER_GZIP + _chunks(GZIP, TAIL)))),
    _ok("transfer_identity", _page(raw(TRANSFER_GZIP.replace(b"gzip", b"identity") + _chunks(PAGE)))),
    _ok("transfer_chunked_named_twice", _page(raw(CHUNKED.replace(b"chunked", b"chunked\r\nTransfer-Encoding: chunked")
                                                  + _chunks(PAGE)))),
    Case("transfer_gzip_cut", _page(raw(TRANSFER_GZIP + _chunks(GZIP[:-20]))), "bad_encoding", 200, reason=CUT),
    Case("transfer_gzip_in_two_headers_cut",
         _page(raw(HTML + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
                   + _chunks(GZIP).removesuffix(b"0\r\n\r\n"), then="close")), "protocol_error", reason=BROKEN),
    Case("transfer_gzip_with_bad_checksum", _page(raw(TRANSFER_GZIP + _chunks(GZIP[:-8] + b"12345678"))),
         "bad_encoding", 200, reason="broken gzip data"),
    Case("transfer_gzip_twice", _page(raw(TRANSFER_GZIP.replace(b"gzip", b"gzip, gzip")
                                          + _chunks(gzip.compress(GZIP)))), "bad_encoding", 200,
         reason=UNASKED_TRANSFER),
    Case("transfer_compress", _page(raw(TRANSFER_GZIP.replace(b"gzip", b"compress") + _chunks(PAGE))), "bad_encoding",
         200, reason=UNASKED_TRANSFER),
    Case("transfer_chunked_before_gzip", _page(raw(HTML + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + _chunks(GZIP),
         then="close")), "bad_encoding", 200, reason=UNASKED_TRANSFER),
    Case("transfer_chunked_with_a_parameter", _page(raw(CHUNKED.replace(b"chunked", b"chunked;q=1") + _chunks(PAGE),
         then="close")), "bad_encoding", 200, reason=UNASKED_TRANSFER),
    Case("transfer_gzip_bomb", _page(raw(TRANSFER_GZIP + _chunks(gzip.compress(BOMB)))), "decoded_too_large", 200,
         SMALL, DECODED),
    Case("transfer_gzip_bomb_in_a_bomb", _page(raw(TRANSFER_AND_GZIP
         + _chunks(gzip.compress(gzip.compress(bytes(60_000_000), 1))))),
         "decoded_too_large", 200, reason=RATIO),
    Case("robots_transfer_gzip", _robots(raw(PLAIN_TYPE + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
                                             + _chunks(gzip.compress(DENY.encode())))), "robots_disallowed",
         reason="robots.txt"),
    Case("encoding_gzip_without_a_header", _page(reply(GZIP)), "bad_encoding", 200, reason=UNNAMED),
    Case("encoding_zstd_without_a_header", _page(reply(zstandard.compress(PAGE))), "bad_encoding", 200,
         reason=UNNAMED),
    Case("robots_gzip_without_a_header", _robots(reply(gzip.compress(DENY.encode()))), "robots_unreachable",
         reason="robots.txt: bad_encoding"),
]  # fmt: skip

ENDS = [
    *(_ok(f"tail_of_{name}_in_one_packet", _coded(coding, whole + TAIL)) for name, coding, whole in WHOLES),
    *(_ok(f"tail_of_{name}_in_two_packets", _sized(coding.encode(), whole, TAIL)) for name, coding, whole in WHOLES),
    *(_ok(f"tail_of_{name}_in_many_packets", _sized(coding.encode(), whole[:-2], whole[-2:] + TAIL[:1], TAIL[1:9],
                                                    TAIL[9:])) for name, coding, whole in WHOLES),
    *(_ok(f"tail_of_zeros_of_{name}", _coded(coding, whole + bytes(512))) for name, coding, whole in WHOLES),
    *(Case(f"tail_of_{name}_too_long", _coded(coding, whole + bytes(70_000)), "bad_encoding", 200,
           reason="more than 65536 bytes after the compressed data") for name, coding, whole in WHOLES),
    _ok("tail_between_chunks", _page(raw(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: br\r\n\r\n"),
                                         _chunks(BROTLI[:9], BROTLI[9:], TAIL)))),
    _ok("gzip_members_in_packets", _sized(b"gzip", gzip.compress(PAGE[:9])[:-3], gzip.compress(PAGE[:9])[-3:] + b"\x1f",
                                          gzip.compress(PAGE[9:])[1:], b"\0\0")),
    _ok("gzip_without_its_trailer", _coded("gzip", GZIP[:-8])),
    _ok("gzip_with_half_its_trailer", _coded("gzip", GZIP[:-3])),
    _ok("zlib_without_its_trailer", _coded("deflate", ZLIB[:-4])),
    _ok("gzip_without_its_trailer_in_chunks",
        _page(raw(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + _chunks(GZIP[:-8])))),
    _ok("gzip_that_ends_with_a_flush", _coded("gzip", FLUSHED)),
    Case("gzip_that_ends_with_a_flush_until_close",
         _page(raw(HTML + b"Content-Encoding: gzip\r\n\r\n" + FLUSHED, then="close")), "bad_encoding", 200, reason=CUT),
    Case("gzip_without_its_trailer_until_close",
         _page(raw(HTML + b"Content-Encoding: gzip\r\n\r\n" + GZIP[:-8], then="close")), "bad_encoding", 200,
         reason=CUT),
    Case("gzip_without_its_trailer_and_shorter_than_its_length",
         _page(raw(HTML + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(GZIP) + GZIP[:-8],
                   then="close")), "protocol_error", reason=BROKEN),
    Case("gzip_cut_before_its_trailer", _coded("gzip", GZIP[:-9]), "bad_encoding", 200, reason=CUT),
    Case("gzip_with_half_a_wrong_checksum", _coded("gzip", GZIP[:-8] + b"12"), "bad_encoding", 200, reason=CUT),
    Case("zlib_with_bad_checksum", _coded("deflate", ZLIB[:-4] + b"1234"), "bad_encoding", 200,
         reason="broken deflate data"),
    *(Case(f"robots_{name}_with_a_tail", _robots(reply(encode(DENY.encode()) + TAIL, content_encoding=name)),
           "robots_disallowed", reason="robots.txt")
      for name, encode in (("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress))),
    Case("robots_gzip_without_its_trailer",
         _robots(reply(gzip.compress(DENY.encode())[:-8], content_encoding="gzip")), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_gzip_with_bad_checksum",
         _robots(reply(gzip.compress(DENY.encode())[:-8] + b"12345678", content_encoding="gzip")),
         "robots_unreachable", reason="robots.txt: bad_encoding"),
    Case("tdmrep_brotli_with_a_tail", _tdmrep(reply(brotli.compress(TDM_ALL) + TAIL, content_encoding="br")),
         "opt_out_tdm", reason="tdmrep.json"),
]  # fmt: skip

NO_CODINGS = "utf-8 UTF-8 none 7bit 8bit binary text/html charset=utf-8 aws-chunked , x-magic".split()
CODINGS = [
    *(_ok(f"no_coding_{name}", _coded(name, PAGE)) for name in NO_CODINGS),
    *(_ok(f"no_coding_beside_gzip_{form}", _coded(form, GZIP))
      for form in ("gzip,", ",gzip", "aws-chunked, gzip", "gzip;q=1", "utf-8,gzip", "gzip, identity")),
    *(_ok(f"no_coding_beside_{form}_of_a_plain_page", _coded(form, PAGE)) for form in ("gzip,", "deflate,", ",br")),
    _ok("no_coding_in_two_headers", _page(raw(HTML + b"Content-Encoding: utf-8\r\nContent-Encoding: gzip\r\n"
                                              b"Content-Length: %d\r\n\r\n" % len(GZIP) + GZIP))),
    _ok("no_coding_in_pieces", _sized(b"none", PAGE[:1], PAGE[1:5], PAGE[5:])),
    *(Case(f"no_coding_{name}_of_compressed_data", _coded(name, GZIP), "bad_encoding", 200, reason=UNNAMED)
      for name in ("utf-8", "none", "aws-chunked", ",")),
    *(Case(f"no_coding_of_{name}", _coded("none", data), "bad_encoding", 200, reason=UNNAMED)
      for name, data in (("zlib", ZLIB), ("zstd", zstandard.compress(PAGE)), ("bzip2", bz2.compress(PAGE)))),
    *(Case(f"encoding_{name}", _coded(name, PAGE), "bad_encoding", 200, reason=UNASKED)
      for name in ("compress", "x-compress", "dcb", "dcz", "exi", "aes128gcm", "pack200-gzip", "sdch", "xz", "bzip2",
                   "base64", "utf-8, zstd")),
    Case("robots_with_no_coding", _robots(reply(DENY.encode(), content_encoding="utf-8")), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_gzip_with_a_comma", _robots(reply(gzip.compress(DENY.encode()), content_encoding="gzip,")),
         "robots_disallowed", reason="robots.txt"),
    Case("robots_plain_named_gzip_with_a_comma", _robots(reply(DENY.encode(), content_encoding="gzip,")),
         "robots_disallowed", reason="robots.txt"),
    Case("robots_with_no_coding_of_compressed_data",
         _robots(reply(gzip.compress(DENY.encode()), content_encoding="none")), "robots_unreachable",
         reason="robots.txt: bad_encoding"),
]  # fmt: skip

LENGTHS = [
    Case("length_too_large_at_once", _page(raw(HTML + b"Content-Length: 99000000\r\n\r\n", then="hang")), "too_large",
         200, reason="more than 10000000 bytes"),
    Case("length_is_a_lie_too_long", _page(raw(LENGTH_100, then="close")), "protocol_error", reason=BROKEN),
    Case("length_is_a_lie_too_short", _page(raw(HTML + b"Content-Length: 9\r\n\r\n" + PAGE)), "ok", 200, body=PAGE[:9]),
    Case("length_missing", _page(raw(HTML + b"\r\n" + PAGE, then="hang")), "timeout", 200, SHORT, SILENT),
    Case("length_twice_the_same", _head(b"Content-Length: %d" % len(PAGE)), "protocol_error", reason=BROKEN),
    Case("length_twice_different", _head(b"Content-Length: 3"), "protocol_error", reason=BROKEN),
    Case("length_is_a_list", _page(reply(content_length="60, 60")), "protocol_error", reason=BROKEN),
    Case("length_is_no_number", _page(reply(content_length="many")), "protocol_error", reason=BROKEN),
    Case("length_is_negative", _page(reply(content_length="-1")), "protocol_error", reason=BROKEN),
    Case("length_is_hex", _page(reply(content_length="0x3c")), "protocol_error", reason=BROKEN),
    Case("length_overflows", _page(reply(content_length="9" * 40)), "protocol_error", reason=BROKEN),
    Case("length_and_chunks", _head(b"Transfer-Encoding: chunked", body=b"3\r\n<p>\r\n0\r\n\r\n"), "protocol_error",
         reason=BROKEN),
    Case("transfer_encoding_unknown", _page(raw(HTML + b"Transfer-Encoding: gzip\r\n\r\n" + PAGE, then="close")), "ok",
         200),
    Case("chunk_size_broken", _page(raw(CHUNKED + b"zz\r\nabc\r\n", then="close")), "protocol_error", reason=BROKEN),
    Case("chunk_size_negative", _page(raw(CHUNKED + b"-3\r\nabc\r\n", then="close")), "protocol_error", reason=BROKEN),
    Case("chunk_size_overflows", _page(raw(CHUNKED + b"f" * 17 + b"\r\nabc\r\n", then="close")), "protocol_error",
         reason=BROKEN),
    Case("chunk_longer_than_its_size", _page(raw(CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", then="close")),
         "protocol_error", reason=BROKEN),
    Case("chunk_cut_off", _page(raw(CHUNKED + b"ff\r\nabc", then="close")), "protocol_error", reason=BROKEN),
    Case("chunks_without_end", _page(raw(CHUNKED + b"3\r\nabc\r\n", then="close")), "protocol_error", reason=BROKEN),
    Case("chunks_endless", _page(drip(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n", 0)), "too_large", 200, SMALL, WIRE),
    Case("chunk_extension_endless", _page(drip(CHUNKED + b"3;", b"a" * 4096, 0)), "protocol_error", reason=BROKEN),
    Case("chunks_of_little_in_much", _page(drip(CHUNKED, (b"1;" + b"a" * 500 + b"\r\nx\r\n") * 20, 0)), "too_large",
         200,
         SMALL, WIRE),
    Case("trailers_endless", _page(drip(CHUNKED + b"3\r\n<p>\r\n0\r\n", b"X: a\r\n" * 100, 0)), "protocol_error",
         reason=BROKEN),
    Case("trailer_endless", _page(drip(CHUNKED + b"3\r\n<p>\r\n0\r\nX: ", b"a" * 65_536, 0)), "protocol_error", None,
         SHORT,
         BROKEN),
    Case("body_endless", _page(drip(HTML + b"\r\n", b"x" * 4096, 0)), "too_large", 200, SMALL, WIRE),
    Case("body_endless_gzip", _page(drip(HTML + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b""), 0)), "too_large",
         200, SMALL, WIRE),
]  # fmt: skip

SPEEDS = [
    Case("byte_by_byte", _page(drip(HTML + b"\r\n", b"x", 0.05)), "too_slow", 200, SLOW,
         "fewer than 500 bytes a second"),
    Case("byte_by_byte_too_long", _page(drip(HTML + b"\r\n", b"x", 0.05)), "timeout", 200, SHORT, LONG),
    Case("byte_by_byte_gzip", _page(drip(HTML + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(PAGE)[:20], b"\0",
         0.05)),
         "bad_encoding", 200, SLOW, "broken gzip data"),
    Case("slow_but_fast_enough", _page(raw(HTML + b"Content-Length: 60\r\n\r\n", *[PAGE[:10]] * 6, pause_s=0.1)), "ok",
         200,
         {"slow_after_s": 0.4, "min_bytes_per_s": 10}),
    Case("silent", _page(raw(b"", then="hang")), "timeout", None, SHORT, SILENT),
    Case("silent_in_status_line", _page(raw(b"HTTP/1.1 2", then="hang")), "timeout", None, SHORT, SILENT),
    Case("silent_in_headers", _page(raw(HTML, then="hang")), "timeout", None, SHORT, SILENT),
    Case("silent_in_body", _page(raw(LENGTH_100, then="hang")), "timeout", 200, SHORT, SILENT),
    Case("silent_between_chunks", _page(raw(CHUNKED + b"3\r\nabc\r\n", then="hang")), "timeout", 200, SHORT, SILENT),
    Case("headers_byte_by_byte", _page(drip(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05)), "timeout", None, SHORT, LONG),
    Case("continue_endless", _page(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)), "timeout", None, SHORT, LONG),
    Case("continue_endless_and_fast", _page(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500, 0)), "protocol_error",
         None, SHORT,
         BROKEN),
    Case("blank_lines_endless", _page(drip(b"", b"\r\n" * 500, 0)), "protocol_error", None, SHORT, BROKEN),
]  # fmt: skip

PROTOCOL = [
    Case("http_1_0", _page(raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE, then="close")), "ok", 200,
         body=PAGE),
    Case("http_1_0_with_length",
         _page(raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: 60\r\n\r\n" + PAGE)),
         "ok", 200, body=PAGE),
    Case("http_0_9", _page(raw(PAGE, then="close")), "protocol_error", reason=BROKEN),
    Case("http_2_preface", _page(raw(b"\0\0\x12\x04\0\0\0\0\0", then="close")), "protocol_error", reason=BROKEN),
    Case("http_9_9", _page(raw(b"HTTP/9.9 200 OK\r\n\r\n", then="close")), "protocol_error", reason=BROKEN),
    Case("not_http", _page(raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", then="close")), "protocol_error", reason=BROKEN),
    Case("tls_alert_on_port_80", _page(raw(b"\x15\x03\x01\0\x02\x02\x46", then="close")), "protocol_error",
         reason=BROKEN),
    Case("status_without_reason",
         _page(raw(b"HTTP/1.1 200\r\nContent-Type: text/html\r\nContent-Length: 60\r\n\r\n" + PAGE)),
         "ok", 200),
    Case("status_of_two_digits", _page(raw(b"HTTP/1.1 20 OK\r\n\r\n", then="close")), "protocol_error", reason=BROKEN),
    Case("status_000", _page(raw(b"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n")), "http_other", 0, reason="0"),
    Case("status_reason_not_utf8", _page(reply(status="200 \udcff\udcfe")), "ok", 200),
    Case("early_hints_first", _page(raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + HTML
                                        + b"Content-Length: 60\r\n\r\n" + PAGE)), "ok", 200, body=PAGE),
    Case("switching_protocols", _page(raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")),
         "protocol_error", reason=BROKEN),
    Case("header_of_100_kB", _head(b"X: " + b"a" * 100_000), "protocol_error", reason=BROKEN),
    Case("header_name_of_100_kB", _head(b"X" * 100_000 + b": a"), "protocol_error", reason=BROKEN),
    Case("status_line_of_100_kB", _page(reply(status="200 " + "a" * 100_000)), "ok", 200),
    Case("status_line_endless", _page(drip(b"HTTP/1.1 200 ", b"a" * 4096, 0)), "protocol_error", reason=BROKEN),
    Case("header_of_20_kB_100_times", _head(*[b"X: " + b"a" * 20_000] * 100), "ok", 200),
    Case("header_10000_times", _head(*[b"X: a"] * 10_000), "protocol_error", reason=BROKEN),
    Case("headers_endless", _page(drip(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 100, 0)), "protocol_error",
         reason=BROKEN),
    Case("header_endless", _page(drip(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4096, 0)), "protocol_error", reason=BROKEN),
    Case("header_with_nul", _head(b"X: a\0b"), "protocol_error", reason=BROKEN),
    Case("header_without_colon", _head(b"nonsense"), "protocol_error", reason=BROKEN),
    Case("header_with_space_before_colon", _head(b"X : a"), "protocol_error", reason=BROKEN),
    Case("header_folded", _head(b"X: a", b" b"), "ok", 200),
    Case("header_not_ascii", _head(b"X: \xff\xfe", b"\xc3\xa4: b"), "protocol_error", reason=BROKEN),
    Case("lines_end_with_lf_only", _page(raw(HTML.replace(b"\r", b"") + b"Content-Length: 60\n\n" + PAGE)), "ok", 200),
    Case("cookie_that_is_broken", _head(b"Set-Cookie: \x01;;;=\xff", b"Set-Cookie: a=b; Domain=com"), "ok", 200),
    Case("reset_after_request", _page(raw(b"", then="reset")), "protocol_error", reason=BROKEN),
    Case("reset_in_status_line", _page(raw(b"HTTP/1.1 2", then="reset")), "protocol_error", reason=BROKEN),
    Case("reset_in_headers", _page(raw(HTML, then="reset")), "protocol_error", reason=BROKEN),
    Case("reset_in_body", _page(raw(LENGTH_100, then="reset")), "protocol_error", reason=BROKEN),
    Case("reset_between_chunks", _page(raw(CHUNKED + b"3\r\nabc\r\n", then="reset")), "protocol_error", reason=BROKEN),
    Case("reset_of_a_body_without_length", _page(raw(HTML + b"\r\n<p>", then="reset")), "protocol_error",
         reason=BROKEN),
    Case("closed_after_request", _page(raw(b"", then="close")), "protocol_error", reason=BROKEN),
    Case("closed_in_status_line", _page(raw(b"HTTP/1.1 2", then="close")), "protocol_error", reason=BROKEN),
    Case("closed_in_headers", _page(raw(HTML, then="close")), "protocol_error", reason=BROKEN),
    Case("two_answers_to_one_request", _page(raw((HTML + b"Content-Length: 60\r\n\r\n" + PAGE) * 2)), "ok", 200,
         body=PAGE),
]  # fmt: skip

ANSWERS = [
    Case("no_content_204", _page(raw(b"HTTP/1.1 204 No Content\r\n\r\n")), "http_other", 204, reason="204"),
    Case("partial_206", _status("206 Partial Content"), "http_other", 206, reason="206"),
    Case("choices_300", _status("300 Choices"), "http_other", 300, reason="300"),
    Case("not_modified_unasked", _page(raw(b"HTTP/1.1 304 Not Modified\r\n\r\n")), "http_other", 304, reason="304"),
    Case("use_proxy_305", _page(redirect("http://127.0.0.1/", "305 Use Proxy")), "http_other", 305, reason="305"),
    Case("bad_request_400", _status("400 Bad"), "client_error", 400, reason="400"),
    Case(
        "unauthorized_401",
        _page(reply(b"", "401 No", www_authenticate="Basic realm=x")),
        "client_error",
        401,
        reason="401",
    ),
    Case("forbidden_403", _status("403 Forbidden"), "client_error", 403, reason="403"),
    Case("not_found", _status("404 Not Found"), "not_found", 404, reason="404"),
    Case("gone", _status("410 Gone"), "gone", 410, reason="410"),
    Case("rate_limited", _status("429 Too Many Requests"), "rate_limited", 429, reason="429"),
    Case("legal_451", _status("451 No"), "client_error", 451, reason="451"),
    Case("server_error", _status("500 Oops"), "server_error", 500, reason="500"),
    Case("unavailable", _status("503 Later"), "server_error", 503, reason="503"),
    Case("status_599", _status("599 What"), "server_error", 599, reason="599"),
    Case("status_999", _status("999 Denied"), "http_other", 999, reason="999"),
]

REDIRECTS = [
    Case("redirect_inside_host", _chain(3), "ok", 200),
    Case("redirect_inside_domain", _to("http://old.site.example/x") | {"old.site.example/x": reply()}, "ok", 200),
    Case("redirect_relative", _to("../other?q=1") | {"www.site.example/other?q=1": reply()}, "ok", 200),
    Case("redirect_without_scheme", _to("//www.site.example/b", b=reply()), "ok", 200),
    Case("redirect_303", _page(redirect("/b", "303 See")) | {"www.site.example/b": reply()}, "ok", 200),
    Case("redirect_307", _page(redirect("/b", "307 Temporary")) | {"www.site.example/b": reply()}, "ok", 200),
    Case("redirect_308", _page(redirect("/b", "308 Permanent")) | {"www.site.example/b": reply()}, "ok", 200),
    Case("redirect_with_endless_body", _page(raw(b"HTTP/1.1 301 Moved\r\nLocation: /b\r\n\r\nabc", then="hang"))
         | {"www.site.example/b": reply()}, "ok", 200),
    Case("redirect_with_spaces", _to("  /b \t", b=reply()), "ok", 200),
    Case("redirect_with_backslashes", _to("http:\\\\www.site.example\\b", b=reply()), "ok", 200),
    Case("redirect_with_two_locations", _page(raw(b"HTTP/1.1 302 F\r\nLocation: /b\r\nLocation: ftp://x/\r\n"
                                                  b"Content-Length: 0\r\n\r\n")) | {"www.site.example/b": reply()},
         "ok", 200),
    Case("redirect_to_itself_with_a_parameter", _to("/page?utm_source=self")
         | {"www.site.example/page?utm_source=self": reply()}, "ok", 200),
    Case("redirect_by_meta_refresh_is_not_followed",
         _page(reply(b"<meta http-equiv=refresh content='0;url=http://127.0.0.1/'>")), "ok", 200),
    Case("redirect_header_of_a_page_is_not_followed", _page(reply(location="http://127.0.0.1/")), "ok", 200),
    Case("redirects_at_the_limit", _chain(20), "ok", 200, HOPS_20),
    Case("redirects_21", _chain(21), "redirect_limit", 302, HOPS_20, "http://www.site.example/end"),
    Case("redirects_over_the_default_limit", _chain(9), "redirect_limit", 302, reason="http://www.site.example/end"),
    Case("redirect_to_itself", _to(URL), "redirect_loop", 302, reason=URL),
    Case("redirect_to_its_fragment", _to("#top"), "redirect_loop", 302, reason=URL),
    Case("redirect_location_empty", _page(raw(b"HTTP/1.1 302 F\r\nLocation:\r\nContent-Length: 0\r\n\r\n")),
         "redirect_loop",
         302, reason=URL),
    Case("redirect_loop", _to("/b", b=redirect("/page#again")), "redirect_loop", 302, reason=URL),
    Case("redirect_loop_over_two_domains", _to("http://other.example/") | {"other.example/": redirect(URL)},
         "redirect_loop", 302, reason=URL),
    Case("redirect_without_location", _page(reply(b"", "302 Found")), "redirect_bad", 302, reason="no Location"),
    Case("redirect_to_ftp", _to("ftp://www.site.example/x"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_file", _to("file:///etc/passwd"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_gopher", _to("gopher://127.0.0.1:6379/_FLUSHALL"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_dict", _to("dict://127.0.0.1:11211/stats"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_data", _to("data:text/html,<p>x"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_blob", _to("blob:http://www.site.example/1"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_javascript", _to("javascript:alert(1)"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_with_credentials", _to("http://u:p@www.site.example/x"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_with_a_user", _to("http://www.site.example@127.0.0.1/"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_not_a_url", _to("http://[::1/"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_without_host", _to("http://"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_port_99999", _to("http://www.site.example:99999/"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_in_latin_1", _to("/caf\udce9?q=\udcfc#\udcff") | {"www.site.example/caf%E9?q=%FC": reply()}, "ok",
         200),
    Case("redirect_in_latin_1_and_utf_8", _to("/\u00e9\udce9") | {"www.site.example/%C3%A9%E9": reply()}, "ok", 200),
    Case("redirect_in_latin_1_to_another_domain", _to("http://other.example/\udce9") | {"other.example/%E9": reply()},
         "ok", 200),
    Case("redirect_in_latin_1_to_itself", _to("/page#\udce9"), "redirect_loop", 302, reason=URL),
    Case("redirect_to_a_host_in_latin_1", _to("http://caf\udce9.example/"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_of_20_kB", _to("/" + "x" * 20_000), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_label_of_64", _to("http://" + "x" * 64 + ".site.example/"), "redirect_bad", 302, reason=NO_URL),
    Case("redirect_to_blocked_domain", _to("http://blocked.example/"), "redirect_bad", 302, reason="blocked_domain"),
    Case("redirect_target_404", _to("/gone"), "not_found", 404, reason="404"),
    Case("redirect_target_disallowed", _to("/private/x", private_x=reply())
         | {"www.site.example/robots.txt": rules("User-agent: *\nDisallow: /private")}, "robots_disallowed",
         reason="robots.txt"),
    Case("redirect_to_a_host_that_disallows", _to("http://no.site.example/x")
         | {"no.site.example/x": reply(), "no.site.example/robots.txt": rules("User-agent: *\nDisallow: /")},
         "robots_disallowed", reason="robots.txt"),
    Case("redirect_to_a_domain_that_disallows", _to("http://other.example/x")
         | {"other.example/x": reply(), "other.example/robots.txt": rules("User-agent: *\nDisallow: /")},
         "robots_disallowed", reason="robots.txt"),
]  # fmt: skip

TIMEOUT = "robots.txt: timeout"
NOWHERE = "robots.txt: redirect_bad"
ROBOTS = [
    Case("robots_allows", _rules("User-agent: *\nDisallow: /private"), "ok", 200),
    Case("robots_empty", _rules(""), "ok", 200),
    Case("robots_disallows", _rules("User-agent: *\nDisallow: /pa"), "robots_disallowed", reason="robots.txt"),
    Case("robots_disallows_with_percents", _rules("User-agent: *\nDisallow: /p%61ge"), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_for_us", _rules("User-agent: *\nDisallow:\n\nUser-agent: webtextbot\nDisallow: /"),
         "robots_disallowed", reason="robots.txt"),
    Case("robots_for_us_with_version", _rules("User-agent: WebTextBot/9.9\nDisallow: /"), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_for_us_before_all", _rules(DENY + "\n\nUser-agent: WebTextBot\nAllow: /"), "ok", 200),
    Case("robots_for_others", _rules("User-agent: OtherBot\nDisallow: /"), "ok", 200),
    Case("robots_for_a_prefix_of_us", _rules("User-agent: WebText\nDisallow: /"), "ok", 200),
    Case("robots_for_a_longer_name", _rules("User-agent: WebTextBotX\nDisallow: /"), "ok", 200),
    Case("robots_longest_match_allows", _rules("User-agent: *\nDisallow: /\nAllow: /page"), "ok", 200),
    Case("robots_longest_match_disallows", _rules("User-agent: *\nAllow: /\nDisallow: /page"), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_wildcard", _rules("User-agent: *\nDisallow: /*age$"), "robots_disallowed", reason="robots.txt"),
    Case("robots_wildcard_that_ends_too_early", _rules("User-agent: *\nDisallow: /*ag$"), "ok", 200),
    Case("robots_wildcards_of_a_hostile_kind", _rules("User-agent: *\nDisallow: /" + "*a" * 200 + "$"), "ok", 200),
    Case("robots_with_bom", _rules("\ufeffUser-agent: *\nDisallow: /"), "robots_disallowed", reason="robots.txt"),
    Case("robots_with_cr_only", _rules("User-agent: *\rDisallow: /"), "robots_disallowed", reason="robots.txt"),
    Case("robots_gzip", _robots(reply(gzip.compress(DENY.encode()), content_encoding="gzip")), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_is_html", _robots(reply()), "ok", 200),
    Case("robots_is_html_with_rules", _robots(reply(b"<pre>\n" + DENY.encode())), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_binary", _robots(reply(bytes(range(256)) * 20)), "ok", 200),
    Case("robots_204", _robots(raw(b"HTTP/1.1 204 None\r\n\r\n")), "ok", 200),
    Case("robots_401", _robots(reply(status="401 No")), "ok", 200),
    Case("robots_403", _robots(reply(status="403 No")), "ok", 200),
    Case("robots_404", _robots(reply(DENY.encode(), status="404 No")), "ok", 200),
    Case("robots_429", _robots(reply(status="429 Slow")), "robots_unreachable", reason="robots.txt: 429"),
    Case("robots_500", _robots(reply(status="500 Oops")), "robots_unreachable", reason="robots.txt: 500"),
    Case("robots_503", _robots(reply(status="503 Later")), "robots_unreachable", reason="robots.txt: 503"),
    Case("robots_503_then_allows", _robots(in_turn(reply(status="503 Later"), rules(""))), "ok", 200),
    Case("robots_503_then_disallows", _robots(in_turn(reply(status="503 Later"), rules(DENY))), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_silent", _robots(raw(b"", then="hang")), "robots_unreachable", None, SHORT, TIMEOUT),
    Case("robots_byte_by_byte", _robots(drip(HTML + b"\r\n", b"#", 0.05)), "robots_unreachable", None, SLOW,
         "robots.txt: too_slow"),
    Case("robots_endless", _robots(drip(HTML + b"\r\n" + DENY.encode() + b"\n", b"#" * 4096, 0)), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_reset", _robots(raw(b"", then="reset")), "robots_unreachable", reason="robots.txt: protocol_error"),
    Case("robots_not_http", _robots(raw(b"hello\r\n\r\n", then="close")), "robots_unreachable",
         reason="robots.txt: protocol_error"),
    Case("robots_cut_off", _robots(raw(LENGTH_100, then="close")), "robots_unreachable",
         reason="robots.txt: protocol_error"),
    Case("robots_of_1_MB", _rules(DENY + "\n" + "#" * 1_000_000), "robots_disallowed", reason="robots.txt"),
    Case("robots_of_1_MB_of_rules", _rules("User-agent: *\n" + "Disallow: /x\n" * 30_000 + "Disallow: /page\n"
                                           + "Disallow: /y\n" * 50_000), "robots_disallowed", reason="robots.txt"),
    Case("robots_rule_beyond_500_KiB", _rules("User-agent: *\n" + "#" * 600_000 + "\nDisallow: /"), "ok", 200),
    Case("robots_rule_cut_at_the_limit", _rules("User-agent: *\n" + "#" * (511_999 - 26) + "\nDisallow: /pageant"),
         "ok", 200),
    Case("robots_bomb", _robots(reply(gzip.compress(DENY.encode() + b"\n" + BOMB), content_encoding="gzip")),
         "robots_disallowed", reason="robots.txt"),
    Case("robots_bad_encoding", _robots(reply(b"x", content_encoding="gzip")), "robots_unreachable",
         reason="robots.txt: bad_encoding"),
    Case("robots_redirect", _robots(redirect("http://other.example/r.txt")) | {"other.example/r.txt": rules(DENY)},
         "robots_disallowed", reason="robots.txt"),
    Case("robots_redirect_chain_of_5", _robots_chain(5), "robots_disallowed", reason="robots.txt"),
    Case("robots_redirect_chain_of_6", _robots_chain(6), "ok", 200),
    Case("robots_redirect_loop", _robots(redirect("/robots.txt")), "ok", 200),
    Case("robots_redirect_to_404", _robots(redirect("/none")), "ok", 200),
    Case("robots_redirect_to_503", _robots(redirect("/later")) | {"www.site.example/later": reply(status="503 Later")},
         "robots_unreachable", reason="robots.txt: 503"),
    Case("robots_redirect_to_private", _robots(redirect("http://127.0.0.1/robots.txt")), "robots_unreachable",
         reason="robots.txt: forbidden_address"),
    Case("robots_redirect_to_file", _robots(redirect("file:///etc/passwd")), "robots_unreachable", reason=NOWHERE),
    Case("robots_redirect_without_location", _robots(reply(b"", "302 Found")), "robots_unreachable", reason=NOWHERE),
    Case("robots_redirect_location_empty",
         _robots(raw(b"HTTP/1.1 302 F\r\nLocation:\r\nContent-Length: 0\r\n\r\n")), "robots_unreachable",
         reason=NOWHERE),
    Case("robots_redirect_not_a_url", _robots(redirect("http://[::1/")), "robots_unreachable", reason=NOWHERE),
    Case("robots_redirect_in_latin_1", _robots(redirect("/r\udce9gles")) | {"www.site.example/r%E9gles": rules(DENY)},
         "robots_disallowed", reason="robots.txt"),
    Case("robots_with_a_partial_bom", _robots(reply(b"\xef\xbb" + DENY.encode())), "robots_disallowed",
         reason="robots.txt"),
    Case("robots_in_utf_16", _robots(reply(DENY.encode("utf-16"))), "robots_disallowed", reason="robots.txt"),
    Case("robots_crawl_delay_in_words", _rules("User-agent: *\nCrawl-delay: 40 seconds"), "crawl_delay_too_long",
         reason="crawl-delay 40"),
    Case("robots_crawl_delay_with_a_comma", _rules("User-agent: *\nCrawl-delay: 30,5"), "crawl_delay_too_long",
         reason="crawl-delay 30.5"),
    Case("robots_crawl_delay_twice", _rules("User-agent: *\nCrawl-delay: 60\nCrawl-delay: 1"),
         "crawl_delay_too_long", reason="crawl-delay 60"),
    Case("robots_redirect_to_a_host_that_is_not", _robots(redirect("http://none.invalid/robots.txt")),
         "robots_unreachable",
         None, {}, "robots.txt: dns_failure"),
    Case("robots_crawl_delay_0", _rules("User-agent: *\nCrawl-delay: 0"), "ok", 200),
    Case("robots_crawl_delay_small", _rules("User-agent: *\nCrawl-delay: 0.01"), "ok", 200),
    Case("robots_crawl_delay_negative", _rules("User-agent: *\nCrawl-delay: -5"), "ok", 200),
    Case("robots_crawl_delay_nonsense", _rules("User-agent: *\nCrawl-delay: soon"), "ok", 200),
    Case("robots_crawl_delay_infinite", _rules("User-agent: *\nCrawl-delay: inf"), "ok", 200),
    Case("robots_crawl_delay_nan", _rules("User-agent: *\nCrawl-delay: nan"), "ok", 200),
    Case("robots_crawl_delay_86400", _rules("User-agent: *\nCrawl-delay: 86400"), "crawl_delay_too_long",
         reason="crawl-delay 86400"),
]  # fmt: skip

TDM_OTHER = b'[{"location":"/x","tdm-reservation":1}]'
HTML_HEAD = b"<!doctype html><head>%b</head><body><p>Words"
OPT_OUTS = [
    Case("tag_noindex", _page(reply(x_robots_tag="noindex")), "opt_out_x_robots_tag", 200, reason="noindex"),
    Case("tag_none", _page(reply(x_robots_tag="nofollow, NONE")), "opt_out_x_robots_tag", 200, reason="none"),
    Case("tag_noai", _page(reply(x_robots_tag="noai, noimageai")), "opt_out_x_robots_tag", 200, reason="noai"),
    Case("tag_noml", _page(reply(x_robots_tag="noml")), "opt_out_x_robots_tag", 200, reason="noml"),
    Case("tag_to_us", _page(reply(x_robots_tag="webtextbot: noindex")), "opt_out_x_robots_tag", 200, reason="noindex"),
    Case("tag_to_another_robot", _page(reply(x_robots_tag="otherbot: noindex")), "ok", 200),
    Case("tag_in_the_second_header", _head(b"X-Robots-Tag: nosnippet", b"X-Robots-Tag: noai"), "opt_out_x_robots_tag",
         200, reason="noai"),
    Case("tag_about_other_uses", _page(reply(x_robots_tag="noarchive, nofollow, noimageai, max-snippet:-1")), "ok",
         200),
    Case("tag_unavailable_since", _page(reply(x_robots_tag="unavailable_after: 25 Jun 2010 15:00:00 PST")),
         "opt_out_x_robots_tag", 200, reason="unavailable_after"),
    Case("tag_unavailable_later", _page(reply(x_robots_tag="unavailable_after: 2999-01-01")), "ok", 200),
    Case("tag_of_a_missing_page", _page(reply(status="404 No", x_robots_tag="noindex")), "not_found", 404,
         reason="404"),
    Case("tag_of_a_redirect_is_not_the_pages", _page(reply(b"", "302 F", location="/b", x_robots_tag="noindex"))
         | {"www.site.example/b": reply()}, "ok", 200),
    Case("tag_of_the_redirects_target", _to("/b", b=reply(x_robots_tag="noindex")), "opt_out_x_robots_tag", 200,
         reason="noindex"),
    Case("meta_noindex", _page(reply(HTML_HEAD % b"<meta name=robots content=noindex>")), "opt_out_meta_robots", 200,
         reason="noindex"),
    Case("meta_noai", _page(reply(HTML_HEAD % b"<META content='noai' name='ROBOTS'>")), "opt_out_meta_robots", 200,
         reason="noai"),
    Case("meta_noml", _page(reply(HTML_HEAD % b"<meta name=robots content=noml>")), "opt_out_meta_robots", 200,
         reason="noml"),
    Case("tdmrep_with_a_partial_bom", _tdmrep(reply(b"\xef\xbb" + TDM_ALL)), "opt_out_tdm", reason="tdmrep.json"),
    Case("tdmrep_with_a_bom_and_more_rules_than_are_read",
         _tdmrep(reply(b"\xef\xbb\xbf" + TDM_OTHER.replace(b"]", b"," + b" " * 60_000 + b"]"))), "opt_out_tdm",
         reason="tdmrep.json"),
    Case("meta_to_us", _page(reply(HTML_HEAD % b"<meta name=webtextbot content=none>")), "opt_out_meta_robots", 200,
         reason="none"),
    Case("meta_to_another_robot", _page(reply(HTML_HEAD % b"<meta name=otherbot content=noindex>")), "ok", 200),
    Case("meta_in_a_comment", _page(reply(HTML_HEAD % b"<!-- <meta name=robots content=noindex> -->")), "ok", 200),
    Case("meta_gzip", _coded("gzip", gzip.compress(HTML_HEAD % b"<meta name=robots content=noindex>")),
         "opt_out_meta_robots", 200, reason="noindex"),
    Case("meta_without_content_type", _page(reply(HTML_HEAD % b"<meta name=robots content=noindex>", content_type="")),
         "opt_out_meta_robots", 200, reason="noindex"),
    Case("signal_header", _page(reply(content_signal="search=yes, ai-train=no")), "opt_out_content_signal", 200,
         reason="content-signal"),
    Case("signal_header_that_allows", _page(reply(content_signal="search=no, ai-train=yes")), "ok", 200),
    Case("usage_header", _page(reply(content_usage="train-ai=n")), "opt_out_content_signal", 200,
         reason="content-usage"),
    Case("signal_in_robots", _rules("User-agent: *\nContent-Signal: ai-train=no\nAllow: /"), "opt_out_content_signal",
         reason="robots.txt"),
    Case("signal_in_robots_for_another_path", _rules("User-agent: *\nContent-Signal: /x ai-train=no"), "ok", 200),
    Case("tdm_header", _page(reply(tdm_reservation="1")), "opt_out_tdm", 200, reason="header"),
    Case("tdm_header_0", _page(reply(tdm_reservation="0")), "ok", 200),
    Case("tdm_meta", _page(reply(HTML_HEAD % b"<meta name=tdm-reservation content=1>")), "opt_out_tdm", 200,
         reason="meta"),
    Case("tdmrep", _tdmrep(reply(TDM_ALL, content_type="application/json")), "opt_out_tdm", reason="tdmrep.json"),
    Case("tdmrep_for_another_path", _tdmrep(reply(TDM_OTHER)), "ok", 200),
    Case("tdmrep_is_html", _tdmrep(reply()), "ok", 200),
    Case("tdmrep_empty", _tdmrep(reply(b"")), "ok", 200),
    Case("tdmrep_is_a_long_page", _tdmrep(reply(PROSE[:40_000])), "ok", 200),
    Case("tdmrep_of_nested_lists", _tdmrep(reply(b"[" * 9_000)), "ok", 200),
    Case("tdmrep_with_more_rules_than_are_read", _tdmrep(reply(TDM_OTHER.replace(b"]", b"," + b" " * 60_000 + b"]"))),
         "opt_out_tdm", reason="tdmrep.json"),
    Case("tdmrep_500", _tdmrep(reply(status="500 Oops")), "ok", 200),
    Case("tdmrep_redirect_to_private", _tdmrep(redirect("http://127.0.0.1/")), "ok", 200),
    Case("tdmrep_endless", _tdmrep(drip(HTML + b"\r\n", b" " * 4096, 0)), "ok", 200),
    Case("tdmrep_bomb", _tdmrep(reply(gzip.compress(BOMB), content_encoding="gzip")), "ok", 200),
    Case("tdmrep_bad_encoding", _tdmrep(reply(content_encoding="gzip")), "ok", 200),
    Case("tdmrep_not_http", _tdmrep(raw(b"hello\r\n\r\n", then="close")), "ok", 200),
    Case("tdmrep_silent", _tdmrep(raw(b"", then="hang")), "ok", 200, SHORT),
    Case("tdmrep_byte_by_byte", _tdmrep(drip(HTML + b"\r\n", b" ", 0.05)), "ok", 200, SLOW),
    Case("tdmrep_that_robots_forbids", _tdmrep(reply(TDM_ALL))
         | {"www.site.example/robots.txt": rules("User-agent: *\nDisallow: /.well-known")}, "ok", 200),
]  # fmt: skip

CASES = [*BODIES, *TRANSFERS, *ENDS, *CODINGS, *LENGTHS, *SPEEDS, *PROTOCOL, *ANSWERS, *REDIRECTS, *ROBOTS, *OPT_OUTS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_hostile_answer_has_its_exact_outcome(case: Case, web: Web, crawl: Crawler) -> None:
    for url, handler in case.pages.items():
        web[url] = handler
    names = Names(web, {"none.invalid": [OSError("no such name")]})
    row = crawl.end(case.url, resolver=names, **case.settings)
    found = row["status"], row["http_status"], row["reason"]
    assert found == (case.status, case.http_status, case.reason), f"{found}"
    assert (row["warc_file"] is None) == (row["payload_digest"] is None) == (case.status != "ok")
    if case.body is not None:
        assert crawl.body(row) == case.body
    if case.status.startswith(("robots", "crawl_delay")) and not case.name.startswith("redirect"):
        assert "/page" not in web.asked("www.site.example")


def test_hostile_hosts_do_not_affect_each_other(web: Web, crawl: Crawler) -> None:
    """Every case runs on a separate host, in one task."""
    cases = [case for case in CASES if not case.settings and case.url == URL and "redirect_to_" not in case.name]
    expected = {}
    for n, case in enumerate(cases):
        host = f"www.site{n}.example"
        for url, handler in case.pages.items():
            web[url.replace("www.site.example", host)] = _moved(handler, host)
        expected[f"http://{host}/page"] = (case.status, case.http_status)
    fetched = crawl(*expected, resolver=Names(web, {"none.invalid": [OSError("no such name")]}))
    found = {row["canonical_url"]: (row["status"], row["http_status"]) for row in fetched.rows}
    gone = {handoff["canonical_url"] for handoff in fetched.handoffs}
    assert len(found) + len(gone) == len(expected) > 200
    names = {f"http://www.site{n}.example/page": case.name for n, case in enumerate(cases)}
    wrong = {names[url]: outcome for url, outcome in found.items() if outcome != expected[url]}
    assert wrong == {}


def _moved(handler: Handler, host: str) -> Handler:
    """The handler with URL's host replaced in its output."""

    async def moved(request: Request, writer: asyncio.StreamWriter) -> None:
        write = writer.write
        writer.write = lambda data: write(data.replace(b"www.site.example", host.encode()))  # type: ignore[method-assign]
        try:
            await handler(request, writer)
        finally:
            writer.write = write  # type: ignore[method-assign]

    return moved


def test_opted_out_pages_are_not_kept(web: Web, crawl: Crawler) -> None:
    """The WARC files hold nothing of them, not even their headers."""
    secret = b"<p>not for you"
    web["www.site.example/0"] = reply(secret, x_robots_tag="noai")
    web["www.site.example/1"] = reply(b"<head><meta name=robots content=noindex></head>" + secret)
    web["www.site.example/2"] = reply(secret, tdm_reservation="1")
    web["www.site.example/3"] = reply()
    crawl(*host_urls("www.site.example", n=4))
    (warc,) = (crawl.folder / "lake" / "pages" / "s1").glob("*.warc.gz")
    content = gzip.decompress(warc.read_bytes())
    assert PAGE in content
    assert secret not in content
    assert content.count(b"WARC-Type: response") == 1
