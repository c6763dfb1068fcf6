"""Connections that are lost, refused or untrustworthy, and hosts without any: what becomes of their links."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.data.http.hostile import HTML, PAGE, TDMREP, Handler, Names, Web, in_turn, raw, reply, rules, serving
from tests.data.http.tls import issue_certificate
from tests.data.pages.crawling import URL, Crawler, fill, host_urls

BROKEN = "not valid HTTP, or cut off"


@pytest.mark.parametrize("n_lost", [1, 2, 3])
def test_a_reset_on_connect_is_retried(web: Web, crawl: Crawler, n_lost: int) -> None:
    """The page is requested over new connections, each reset before any byte is sent, at most three times."""
    web["www.site.example/robots.txt"] = reply(b"", connection="close")
    web["www.site.example" + TDMREP] = reply(b"", connection="close")
    web[URL] = reply()
    web.resets = set(range(2, 2 + n_lost))
    row = crawl.one()
    assert (row["status"], row["reason"]) == (("ok", "") if n_lost < 3 else ("protocol_error", BROKEN))
    assert len(web.opened) == min(2 + n_lost + 1, 5)


def test_a_host_that_resets_every_connection_fails(web: Web, crawl: Crawler) -> None:
    web.resets = set(range(1000))
    fetched = crawl(*host_urls(*(f"www.site{n}.example" for n in range(40)), n=2), read_timeout_s=5.0)
    assert {(row["status"], row["reason"]) for row in fetched.rows} == {
        ("robots_unreachable", "robots.txt: protocol_error")
    }


def test_an_idle_connection_that_the_server_closes_is_replaced(web: Web, crawl: Crawler) -> None:
    """The server closes without ``Connection: close``. We notice before the next request, or retry once."""
    urls = fill(web, host_urls("www.site.example", n=5), raw(HTML + b"Content-Length: 60\r\n\r\n" + PAGE, then="close"))
    fetched = crawl(*urls, host_delay_s=0.03)
    assert fetched.by_status() == {"ok": ["/0", "/1", "/2", "/3", "/4"]}
    assert sorted(web.asked("www.site.example")[2:]) == ["/0", "/1", "/2", "/3", "/4"]


def test_robots_redirect_over_a_closed_connection_is_followed_again(web: Web, crawl: Crawler) -> None:
    """A connection lost while idle is not an answer: robots.txt must be requested again."""
    closing = raw(b"HTTP/1.1 302 Found\r\nLocation: /rules\r\nContent-Length: 0\r\n\r\n")
    web["www.site.example/robots.txt"] = closing
    web["www.site.example/rules"] = in_turn(raw(b"", then="close"), rules(""))
    web[URL] = reply()
    assert crawl.one()["status"] == "ok"


def test_an_unsolicited_answer_is_ignored(web: Web, crawl: Crawler) -> None:
    """Bytes between two requests do not count as the answer to the second."""
    fake = HTML + b"Content-Length: 4\r\n\r\nFAKE"
    web["www.site.example/0"] = raw(HTML + b"Content-Length: 60\r\n\r\n" + PAGE, fake, pause_s=0.05)
    web["www.site.example/1"] = reply(PAGE + b"second")
    fetched = crawl(*host_urls("www.site.example", n=2), host_delay_s=0.2)
    assert [crawl.body(row) for row in fetched.rows] == [PAGE, PAGE + b"second"]


SECURE = "https://www.secure.example/"


@pytest.mark.parametrize(
    ("host", "days", "status", "reason"),
    [
        ("www.secure.example", (-1, 1), "ok", ""),
        ("other.example", (-1, 1), "tls_failure", "certificate: Hostname mismatch"),
        ("*.example", (-1, 1), "tls_failure", "certificate: Hostname mismatch"),
        ("www.secure.example", (-9, -1), "tls_failure", "certificate: certificate has expired"),
        ("www.secure.example", (1, 9), "tls_failure", "certificate: certificate is not yet valid"),
        ("www.secure.example", None, "tls_failure", "certificate: self-signed certificate"),
    ],
    ids=["valid", "of_another_host", "wildcard_too_wide", "expired", "not_yet_valid", "self_signed"],
)
def test_tls_certificates_are_verified(
    crawl: Crawler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    days: tuple[int, int] | None,
    status: str,
    reason: str,
) -> None:
    from_day, to_day = days or (-1, 1)
    context, authority = issue_certificate(tmp_path, host, from_day=from_day, to_day=to_day)
    if days is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with serving(Web(), context) as secure:
        secure[SECURE] = reply()
        row = crawl.one(SECURE, resolver=Names(secure))
    assert row["status"] == status
    assert row["reason"].startswith(reason)
    assert len(secure.log) == (3 if status == "ok" else 0)


@pytest.mark.parametrize(
    ("greeting", "status", "reason"),
    [
        (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", then="close"), "tls_failure", "WRONG_VERSION_NUMBER"),
        (raw(b"\x15\x03\x01\0\x02\x02\x28", then="close"), "tls_failure", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        (raw(b"", then="hang"), "connect_failure", "no connection within connect_timeout_s"),
        (raw(b"", then="reset"), "connect_failure", "ECONNRESET"),
        (raw(b"", then="close"), "connect_failure", "ECONNRESET"),
    ],
    ids=["plain_http", "alert", "silent", "reset", "closed"],
)
def test_a_failed_tls_handshake_has_its_status(
    web: Web, crawl: Crawler, greeting: Handler, status: str, reason: str
) -> None:
    web.greeting, web.tls_port = greeting, web.port
    row = crawl.one(SECURE, connect_timeout_s=0.5)
    assert (row["status"], row["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("records", "settings", "status", "reason"),
    [
        (OSError("no such name"), {}, "dns_failure", "the host name does not resolve"),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), {}, "dns_failure", "the host name does not resolve"),
        (UnicodeError("label too long"), {}, "dns_failure", "the host name does not resolve"),
        ([], {}, "dns_failure", "the host name does not resolve"),
        (None, {"connect_timeout_s": 0.2}, "dns_failure", "the host name does not resolve"),
        (["127.1.9.9"], {}, "connect_failure", "ECONNREFUSED"),
        (["127.1.9.9", "127.1.9.8"], {}, "connect_failure", "ECONNREFUSED"),
    ],
    ids=["no_name", "server_failure", "not_a_name", "no_address", "silent", "refused", "two_refused"],
)
def test_an_unreachable_host_is_tried_once_for_all_links(
    web: Web, crawl: Crawler, records: Any, settings: dict[str, Any], status: str, reason: str
) -> None:
    """One look-up or connection, whose failure applies to all links of the host."""
    names = Names(web, {"dead.example": [records]}, at_server=True)
    fetched = crawl(*host_urls("dead.example", n=50), resolver=names, **settings)
    outcomes = {(row["status"], row["reason"].replace("failed", "ECONNREFUSED")) for row in fetched.rows}
    assert (outcomes, len(fetched.rows)) == ({(status, reason)}, 50)
    assert len(names.asked) == 1
