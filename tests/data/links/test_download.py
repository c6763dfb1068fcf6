"""Dumps by URL: downloaded in pieces, resumed, and refused."""

import gzip
import random
from pathlib import Path

import orjson
import pytest

from data.errors import InputError
from data.http import download
from tests.data.links.services import Services, links_of, refresh, submission


@pytest.fixture
def dump(services: Services, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(download, "PIECE_BYTES", 1_000)
    rows = [submission(n, 1.0, title=random.Random(n).randbytes(20).hex()) for n in range(100)]
    body = gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows), mtime=0)
    services.files["/RS_2017-01.gz"] = body
    return body


def test_a_dump_is_downloaded_by_its_url(services: Services, dump: bytes, tmp_path: Path) -> None:
    url = f"{services.base}/RS_2017-01.gz"
    manifest = refresh(tmp_path, "s", [url], services)
    assert manifest.rows_out == 100
    assert manifest.inputs == {f"url:{url}": "whole"}
    assert len(services.asked) == 1 + -(-len(dump) // 1_000)
    assert next(iter(links_of(tmp_path, "s").values()))["source"] == "RS_2017-01.gz"
    kept = tmp_path / "links" / "s" / "live-00000-00000.RS_2017-01.gz"
    assert kept.read_bytes() == dump
    services.asked.clear()
    assert refresh(tmp_path, "s", [url], services).digest == manifest.digest
    assert services.asked == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("etag", "asked"), [('"1"', "bytes=2000-2999"), ('"2"', "bytes=0-999")])
def test_a_download_resumes_and_restarts_when_the_file_has_changed(
    services: Services, dump: bytes, tmp_path: Path, etag: str, asked: str
) -> None:
    url = f"{services.base}/RS_2017-01.gz"
    services.before = lambda _: (404, {}) if len(services.asked) == 4 else None
    with pytest.raises(InputError, match="answered 404"):
        refresh(tmp_path, "s", [url], services)
    services.headers.clear()
    services.before = lambda _: None
    services.etag = etag
    assert refresh(tmp_path, "s", [url], services).rows_out == 100
    assert services.headers[1]["Range"] == asked


def test_a_download_works_without_ranges_and_through_a_redirect(
    services: Services, dump: bytes, tmp_path: Path
) -> None:
    services.ranges = False
    services.before = lambda path: (302, {"Location": "/RS_2017-01.gz"}) if path == "/latest.gz" else None
    assert refresh(tmp_path, "s", [f"{services.base}/latest.gz"], services).rows_out == 100


def test_failed_downloads_are_errors(services: Services, dump: bytes, tmp_path: Path) -> None:
    url = f"{services.base}/RS_2017-01.gz"
    with pytest.raises(InputError, match=r"RS_2017-01\.gz: [\d,]+ bytes, more than max_download_bytes 10"):
        refresh(tmp_path, "a", [url], services, max_download_bytes=10)
    with pytest.raises(InputError, match="answered 404"):
        refresh(tmp_path, "b", [f"{services.base}/none.zst"], services)
    with pytest.raises(InputError, match=r"dns_failure|connect_failure"):
        refresh(tmp_path, "c", ["http://no-such-host.invalid/RS.zst"], services)
    services.before = lambda path: (302, {"Location": path})
    with pytest.raises(InputError, match="more than 10 redirects"):
        refresh(tmp_path, "d", [url], services)
    services.before = lambda _: None
    services.files["/cut.gz"] = dump[:-20]
    with pytest.raises(InputError, match=r"cut\.gz: damaged or cut off after"):
        refresh(tmp_path, "e", [f"{services.base}/cut.gz"], services)
