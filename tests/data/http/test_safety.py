"""Links, redirects, name servers and environments that point into the machine or its network: none gets there.

A local service listens on loopback addresses that are not allowed, at an allowed port. It must never see a connection.
Each kind of test also shows that it would see one without the guard.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from data.http import guard
from data.http.client import resolve_redirect
from data.urls.canonical import canonical_url
from tests.data.http.hostile import HTML, PAGE, TDMREP, Names, Web, in_turn, redirect, reply, rules
from tests.data.pages.crawling import URL, Crawler, Fetched, as_link, host_urls

NOT_PUBLIC, BAD_PORT = "the address is not public", "the port is not 80 or 443"
INSIDE = ("127.0.0.1", "127.66.0.1")
EVERYTHING = ("0.0.0.0/0", "::/0")


@dataclass
class Service:
    """A local service at one port of several addresses. It answers everything, and records who connected."""

    port: int = 0
    connections: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service. Its port is allowed, so only the address decides."""
    service = Service()
    listening: list[socket.socket] = []
    answer = b"%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (HTML, len(PAGE), PAGE)

    def serve(listener: socket.socket, address: str) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            service.connections.append(address)
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                connection.sendall(answer)

    for address in (*INSIDE, *(["::1"] if _has_ipv6() else [])):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, service.port))
        listener.listen()
        service.port = listener.getsockname()[1]
        listening.append(listener)
        threading.Thread(target=serve, args=(listener, address), daemon=True).start()
    monkeypatch.setattr(guard, "PORTS", guard.PORTS | {service.port})
    yield service
    for listener in listening:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# Spellings of an address of this machine in a link. Those marked True are reached when allowed: without the guard the
# attack would work.
HOSTS = {
    "loopback": ("127.0.0.1", True),
    "loopback_other": ("127.66.0.1", True),
    "decimal": ("2130706433", True),
    "hex": ("0x7f000001", True),
    "hex_parts": ("0x7f.0x0.0x0.0x1", True),
    "octal": ("0177.0.0.1", True),
    "octal_whole": ("017700000001", True),
    "short_of_two": ("127.1", True),
    "short_of_three": ("127.0.1", True),
    "mixed_bases": ("0x7f.0.1", True),
    "zeros_before": ("0000177.0.0.01", True),
    "trailing_dot": ("127.0.0.1.", True),
    "full_width_digits": ("１２７.0.0.1", True),
    "circled_digits": ("①②⑦.0.0.1", True),
    "ideographic_stops": ("127。0。0。1", True),
    "percent_encoded": ("%31%32%37.0.0.1", True),
    "zero": ("0", True),
    "zeros": ("0.0.0.0", True),
    "ipv6_loopback": ("[::1]", True),
    "ipv6_loopback_long": ("[0:0:0:0:0:0:0:1]", True),
    "ipv6_unspecified": ("[::]", True),
    "ipv6_mapped": ("[::ffff:127.0.0.1]", True),
    "ipv6_mapped_hex": ("[::ffff:7f00:1]", True),
    "ipv6_compatible": ("[::127.0.0.1]", False),
    "ipv6_nat64": ("[64:ff9b::7f00:1]", False),
    "ipv6_6to4": ("[2002:7f00:1::1]", False),
    "ipv6_teredo": ("[2001:0:7f00:1::]", False),
    "ipv6_link_local": ("[fe80::1]", False),
    "ipv6_unique_local": ("[fd00:ec2::254]", False),
    "ipv6_multicast": ("[ff02::1]", False),
    "private_10": ("10.0.0.1", False),
    "private_172": ("172.16.0.1", False),
    "private_192": ("192.168.1.1", False),
    "link_local": ("169.254.0.1", False),
    "metadata": ("169.254.169.254", False),
    "metadata_decimal": ("2852039166", False),
    "metadata_of_alibaba": ("100.100.100.200", False),
    "metadata_of_azure": ("168.63.129.16", False),
    "carrier_grade_nat": ("100.64.0.1", False),
    "multicast": ("224.0.0.251", False),
    "broadcast": ("255.255.255.255", False),
    "benchmark_net": ("198.18.0.1", False),
    "documentation": ("192.0.2.1", False),
}
QUICK = {"connect_timeout_s": 0.5, "max_attempts": 1}


@pytest.mark.parametrize("spelling", HOSTS)
def test_private_address_in_a_link_is_refused(inside: Service, crawl: Crawler, spelling: str) -> None:
    host, is_reachable = HOSTS[spelling]
    url = canonical_url(f"http://{host}:{inside.port}/x")
    row = crawl.one(url, **QUICK)
    assert (row["status"], row["reason"], row["http_status"]) == ("forbidden_address", NOT_PUBLIC, None)
    assert inside.connections == []
    if is_reachable and ("[" not in url or _has_ipv6()):
        assert crawl.one(url, **QUICK, allow_net=EVERYTHING)["status"] == "ok"
        assert inside.connections


@pytest.mark.parametrize("spelling", HOSTS)
def test_private_address_in_a_redirect_is_refused(inside: Service, web: Web, crawl: Crawler, spelling: str) -> None:
    host, _ = HOSTS[spelling]
    web[URL] = redirect(f"http://{host}:{inside.port}/x")
    row = crawl.end(URL, **QUICK)
    assert (row["status"], row["reason"], row["http_status"]) == ("forbidden_address", NOT_PUBLIC, None)
    assert inside.connections == []


ADDRESSES = {
    "loopback": "127.0.0.1",
    "loopback_other": "127.66.0.1",
    "unspecified": "0.0.0.0",
    "private_10": "10.1.2.3",
    "private_172": "172.31.255.255",
    "private_192": "192.168.0.1",
    "metadata": "169.254.169.254",
    "metadata_of_alibaba": "100.100.100.200",
    "metadata_of_azure": "168.63.129.16",
    "carrier_grade_nat": "100.127.255.254",
    "multicast": "239.1.2.3",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "ipv6_loopback": "::1",
    "ipv6_unspecified": "::",
    "ipv6_mapped": "::ffff:127.0.0.1",
    "ipv6_mapped_private": "::ffff:10.0.0.1",
    "ipv6_compatible": "::127.0.0.1",
    "ipv6_translated": "::ffff:0:127.0.0.1",
    "ipv6_nat64": "64:ff9b::169.254.169.254",
    "ipv6_nat64_local": "64:ff9b:1::10.0.0.1",
    "ipv6_6to4": "2002:a9fe:a9fe::1",
    "ipv6_teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "ipv6_site_local": "fec0::1",
    "ipv6_link_local": "fe80::1",
    "ipv6_link_local_with_zone": "fe80::1%lo",
    "ipv6_unique_local": "fc00::1",
    "ipv6_metadata": "fd00:ec2::254",
    "ipv6_multicast": "ff02::1",
}


@pytest.mark.parametrize("family", ADDRESSES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_address_from_a_name_server_is_refused(
    inside: Service, web: Web, crawl: Crawler, family: str, scheme: str
) -> None:
    """This holds for every link of the host, its robots.txt and its pages, and over TLS too."""
    names = Names(web, {"evil.example": [[ADDRESSES[family]]]})
    row = crawl.one(f"{scheme}://evil.example/x", resolver=names, **QUICK)
    assert (row["status"], row["reason"]) == ("forbidden_address", NOT_PUBLIC)
    assert names.asked == ["evil.example"]


def _names(web: Web, inside: Service, *answers: list[str]) -> Names:
    """A name server with these answers for www.evil.example; addresses of NET are the web's."""

    class Ports(Names):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> Any:
            found = await super().resolve(host, port, family)
            for record in found:
                record["port"] = web.port if record["host"].startswith("127.1.") else inside.port
            return found

    return Ports(web, {"www.evil.example": list(answers)})


PUBLIC, PRIVATE = "127.1.0.1", "127.66.0.1"
EVIL = "http://www.evil.example/page"


def _uncached(web: Web) -> None:
    """Each request opens a new connection, so that the name is looked up each time."""
    web["www.evil.example/robots.txt"] = reply(b"", connection="close")
    web["www.evil.example" + TDMREP] = reply(b"", connection="close")
    web[EVIL] = reply(connection="close")


@pytest.mark.parametrize("n_public", [1, 2])
def test_dns_rebinding_is_refused(inside: Service, web: Web, crawl: Crawler, n_public: int) -> None:
    """The name leads to a public address at first, and to a private one at the next look-up."""
    _uncached(web)
    names = _names(web, inside, *[[PUBLIC]] * n_public, [PRIVATE])
    row = crawl.one(EVIL, resolver=names, **QUICK)
    assert (row["status"], row["reason"]) == ("forbidden_address", NOT_PUBLIC)
    assert inside.connections == []
    assert crawl.one(EVIL, resolver=names, **QUICK, allow_net=EVERYTHING)["status"] == "ok"
    assert inside.connections[0] == PRIVATE


@pytest.mark.parametrize("order", [[PUBLIC, PRIVATE], [PRIVATE, PUBLIC], [PRIVATE, "::1", PUBLIC, "10.0.0.1"]], ids=str)
def test_only_the_public_one_of_several_records_is_used(
    inside: Service, web: Web, crawl: Crawler, order: list[str]
) -> None:
    """Only the public address is connected to; no other is even tried."""
    _uncached(web)
    row = crawl.one(EVIL, resolver=_names(web, inside, order), **QUICK)
    assert row["status"] == "ok"
    assert inside.connections == []
    assert {request.address for request in web.log} == {PUBLIC}


def test_private_record_is_not_reached_when_the_public_one_is_dead(inside: Service, web: Web, crawl: Crawler) -> None:
    row = crawl.one(EVIL, resolver=_names(web, inside, ["127.1.9.9", PRIVATE]), **QUICK)
    assert row["status"] in ("connect_failure", "forbidden_address")
    assert inside.connections == []


# Redirects whose Location a careless parser reads as another host, and where they lead.
TRICKS = {
    "user_that_looks_like_a_host": ("http://www.site.example@{inside}/", "redirect_bad"),
    "user_and_password": ("http://www.site.example:80@{inside}/", "redirect_bad"),
    "user_with_an_encoded_at": ("http://www.site.example%40{inside}/", "redirect_bad"),
    "at_after_backslash": ("http://{inside}\\@www.site.example/", "forbidden_address"),
    "at_in_the_fragment": ("http://{inside}#@www.site.example/", "forbidden_address"),
    "at_in_the_query": ("http://{inside}?@www.site.example/", "forbidden_address"),
    "backslashes": ("http:\\\\{inside}\\", "forbidden_address"),
    "three_slashes": ("http:///{inside}/", "forbidden_address"),
    "no_slashes_other_scheme": ("https:{inside}/", "forbidden_address"),
    "relative_to_scheme": ("//{inside}/", "forbidden_address"),
    "tab_in_the_scheme": ("ht\ttp://{inside}/", "forbidden_address"),
    "upper_case": ("HTTP://{inside}/", "forbidden_address"),
    "localhost": ("http://localhost:{port}/", "forbidden_address"),
    "localhost_upper_case_and_dot": ("http://LOCALHOST.:{port}/", "forbidden_address"),
    "zone_id": ("http://[fe80::1%25lo]:{port}/", "redirect_bad"),
    "zone_id_plain": ("http://[fe80::1%lo]:{port}/", "redirect_bad"),
    "host_with_space": ("http://127.0.0.1 .example:{port}/", "redirect_bad"),
    "host_with_nul": ("http://127.0.0.1%00.example:{port}/", "redirect_bad"),
    "too_many_parts": ("http://127.0.0.0.1:{port}/", "redirect_bad"),
    "number_too_large": ("http://4294967297:{port}/", "redirect_bad"),
    "file": ("file:///etc/passwd", "redirect_bad"),
    "gopher": ("gopher://127.0.0.1:{port}/_GET", "redirect_bad"),
    "ftp": ("ftp://{inside}/", "redirect_bad"),
    "jar": ("jar:http://{inside}/!/", "redirect_bad"),
    "view_source": ("view-source:http://{inside}/", "redirect_bad"),
    "websocket": ("ws://{inside}/", "redirect_bad"),
    "unix_socket": ("http+unix://%2Fvar%2Frun%2Fdocker.sock/", "redirect_bad"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_in_a_location_lead_nowhere_private(inside: Service, web: Web, crawl: Crawler, trick: str) -> None:
    location, status = TRICKS[trick]
    web[URL] = redirect(location.format(inside=f"127.0.0.1:{inside.port}", port=inside.port))
    names = Names(web, {"localhost": [["127.0.0.1"]]})
    row = crawl.end(URL, resolver=names, **QUICK)
    assert row["status"] == status
    assert inside.connections == []


@pytest.mark.parametrize("trick", [name for name, (_, status) in TRICKS.items() if status == "redirect_bad"])
def test_tricks_in_a_link_lead_nowhere_private(inside: Service, trick: str) -> None:
    """A target that is invalid in a redirect is invalid as a link too."""
    with pytest.raises(ValueError, match=r".+"):
        canonical_url(TRICKS[trick][0].format(inside=f"127.0.0.1:{inside.port}", port=inside.port))


@pytest.mark.parametrize("port", [1, 22, 25, 53, 6379, 8080, 65_535])
def test_ports_other_than_80_and_443_are_refused(web: Web, crawl: Crawler, port: int) -> None:
    """Public hosts too, in a link and in a redirect: only 80 and 443, for either scheme."""
    url = f"http://8.8.8.8:{port}/"
    web[URL] = redirect(url)
    for row in (crawl.one(url), crawl.end(URL), crawl.one(url.replace("http", "https"))):
        assert (row["status"], row["reason"]) == ("forbidden_address", BAD_PORT)


def test_port_0_is_refused(web: Web, crawl: Crawler) -> None:
    web[URL] = redirect("http://8.8.8.8:0/")
    assert crawl.end(URL)["status"] in ("forbidden_address", "redirect_bad")


def test_redirect_from_public_to_private_within_a_domain_is_refused(inside: Service, web: Web, crawl: Crawler) -> None:
    """There is no handoff: the next turn of the same task is refused before it creates a socket."""
    web["www.evil.example/page"] = redirect("http://in.evil.example/secret")
    names = Names(web, {"in.evil.example": [["127.0.0.1"]]})
    row = crawl.one(EVIL, resolver=names)
    assert (row["status"], row["reason"]) == ("forbidden_address", NOT_PUBLIC)
    assert row["final_url"] == "http://in.evil.example/secret"
    assert inside.connections == []


@pytest.mark.parametrize("path", ["/robots.txt", TDMREP])
def test_side_requests_are_guarded(inside: Service, web: Web, crawl: Crawler, path: str) -> None:
    web["www.site.example" + path] = redirect(inside.url)
    web[URL] = reply()
    assert crawl.one()["status"] == ("robots_unreachable" if path == "/robots.txt" else "ok")
    assert inside.connections == []


def test_allow_net_opens_only_its_network(inside: Service, crawl: Crawler) -> None:
    """--allow-net opens the named network and nothing else."""
    assert crawl.one(inside.url, allow_net=("127.0.0.1/32",))["status"] == "ok"
    n_connections = len(inside.connections)
    assert crawl.one(f"http://127.66.0.1:{inside.port}/", allow_net=("127.0.0.1/32",))["status"] == "forbidden_address"
    assert len(inside.connections) == n_connections


def test_connect_to_opens_only_its_name(inside: Service, web: Web, crawl: Crawler) -> None:
    to = (f"*.staging.example=127.0.0.1:{inside.port}",)
    assert crawl.one("http://a.staging.example/", connect_to=to)["status"] == "ok"
    names = Names(web, {"evil.example": [["127.66.0.1"]]})
    assert crawl.one("http://evil.example/", connect_to=to, resolver=names)["status"] == "forbidden_address"
    assert set(inside.connections) == {"127.0.0.1"}


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_proxies_of_the_environment_are_ignored(
    inside: Service, web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, inside.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    web[URL] = reply()
    assert crawl.one()["status"] == "ok"
    assert inside.connections == []
    assert all(not request.path.startswith("http") for request in web.log)


def test_netrc_is_not_read(web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = crawl.folder / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    web[URL] = in_turn(reply(b"", "401 No", www_authenticate="Basic realm=x"), reply())
    assert crawl.one()["status"] == "client_error"
    assert not any("authorization" in request.headers for request in web.log)


def test_no_state_passes_between_requests(web: Web, crawl: Crawler) -> None:
    """No cookies, no referrer, no credentials: hosts cannot tell which pages we visited before."""
    for host in ("www.site.example", "a.site.example", "b.example"):
        web[f"{host}/0"] = reply(set_cookie="id=1; Path=/; Domain=example", refresh="0; url=http://b.example/track")
    web["www.site.example/1"] = redirect("http://a.site.example/0")
    web["a.site.example/1"] = redirect("http://b.example/0")
    urls = host_urls("www.site.example", "a.site.example", "b.example", n=2)
    fetched: Fetched = crawl(*urls)
    crawl(*(as_link(handoff) for handoff in fetched.handoffs))
    assert len(web.log) > 9
    for request in web.log:
        assert request.headers.keys() <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert "track" not in request.path


def test_no_url_splits_a_request(web: Web, crawl: Crawler) -> None:
    """No URL or header value adds a line or a second request."""
    for location in ("/a\rb", "/a%0d%0aX: y", "/a b", "/\u00e4", "/a?b=\tc", "/%00"):
        web[URL] = redirect(location)
        crawl.end(URL)
    assert len(web.log) > 6
    for request in web.log:
        assert request.path.isascii()
        assert not set(request.path) & set(" \t\r\n\0")
        assert "x" not in request.headers


@pytest.mark.parametrize(
    "location", ["http://h.example/\r\nX: y", "http://u@h.example/", "javascript:x", "http://[::1%25lo]/", "//", ""]
)
def test_resolve_redirect_returns_a_safe_url_or_none(location: str) -> None:
    target = resolve_redirect("http://www.site.example/", location)
    assert target is None or (target.isascii() and target.isprintable() and "@" not in target.split("/")[2])


def test_robots_txt_of_a_public_address_does_not_open_a_private_one(inside: Service, web: Web, crawl: Crawler) -> None:
    """A robots.txt at a public address that allows everything does not open a private address of the same name."""
    web["www.evil.example/robots.txt"] = rules("User-agent: *\nAllow: /")
    web["www.evil.example" + TDMREP] = reply(b"", "404 No", connection="close")
    names = _names(web, inside, [PUBLIC], [PRIVATE])
    row = crawl.one(EVIL, resolver=names, **QUICK)
    assert row["status"] == "forbidden_address"
    assert web.asked("www.evil.example") == ["/robots.txt", TDMREP]
    assert inside.connections == []
