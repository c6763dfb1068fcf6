"""Benchmark files from a server on loopback: whole, resumed, verified, or not there at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.config import PagesConfig
from data.errors import InputError
from data.evalfetch import FOLDER, FetchedSet, fetch
from data.evalsets import files, registry
from data.evalsets.registry import SETS, BenchmarkSet, Download, OfficialFile
from data.http import download
from tests.data.links.services import NETWORK, Services, serving

BODY = random.Random(0).randbytes(9_500)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr(download, "PIECE_BYTES", 1_000)
    with serving(Services()) as services:
        yield services


def make(name: str, *made: OfficialFile, note: str = "") -> BenchmarkSet:
    return dataclasses.replace(SETS[name], files=made, note=note)


def plain(server: Services, body: bytes = BODY, known: str | None = sha256(BODY)) -> BenchmarkSet:
    server.files["/ptb.txt"] = body
    return make("ptb_test", OfficialFile("ptb.test.txt", (Download(f"{server.base}/ptb.txt"),), known))


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"wikitext-2/{name}", content)
    return file.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_found(server: Services, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    (found,) = fetch(tmp_path, [plain(server)], NETWORK, lambda *numbers: told.append(numbers))
    assert found == FetchedSet("ptb_test", "fetched", "ptb.test.txt: verified")
    assert left(tmp_path) == ["ptb.test.txt"]
    assert not (tmp_path / FOLDER).exists()
    assert (tmp_path / "ptb.test.txt").read_bytes() == BODY
    assert told[0] == ("ptb.txt", 1_000, 9_500)
    assert told[-1] == ("ptb.txt", 9_500, 9_500)
    assert files.find(tmp_path)["ptb_test"].path == tmp_path / "ptb.test.txt"


def test_a_file_that_is_there_is_not_fetched(server: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = plain(server)
    monkeypatch.setitem(SETS, "ptb_test", one)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ptb.test.txt").write_bytes(BODY)
    assert fetch(tmp_path, [one], NETWORK) == [FetchedSet("ptb_test", "there", "sub/ptb.test.txt")]
    (tmp_path / "sub" / "ptb.test.txt").write_bytes(b"mine")
    (found,) = fetch(tmp_path, [one], NETWORK)
    assert found.outcome == "failed"
    assert "sub/ptb.test.txt is not the official file; remove it" in found.detail
    assert (tmp_path / "sub" / "ptb.test.txt").read_bytes() == b"mine"
    assert server.asked == []


def test_another_form_of_a_set_of_two_files_is_enough(tmp_path: Path) -> None:
    (tmp_path / "piqa_val.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}\n')
    (found,) = fetch(tmp_path, [SETS["piqa"]], NETWORK)
    assert (found.outcome, found.detail) == ("there", "piqa_val.jsonl")


def test_an_interrupted_transfer_is_resumed(server: Services, tmp_path: Path) -> None:
    one = plain(server)
    server.before = lambda _: (404, {}) if len(server.asked) == 4 else None
    (found,) = fetch(tmp_path, [one], NETWORK)
    assert found.outcome == "failed"
    assert "answered 404" in found.detail
    assert not (tmp_path / "ptb.test.txt").exists()
    assert files.find(tmp_path) == {}
    server.before = lambda _: None
    server.headers.clear()
    assert fetch(tmp_path, [one], NETWORK)[0].outcome == "fetched"
    assert server.headers[1]["Range"] == "bytes=2000-2999"
    assert (tmp_path / "ptb.test.txt").read_bytes() == BODY


FETCHING = """
import sys
from pathlib import Path
from data import evalfetch
from data.evalsets.registry import SETS, Download, OfficialFile
from data.http import download
from tests.data.links.services import NETWORK
from tests.data.test_evalfetch import make
download.PIECE_BYTES = 1_000
file = OfficialFile("ptb.test.txt", (Download(sys.argv[2]),), sys.argv[3])
print(evalfetch.fetch(Path(sys.argv[1]), [make("ptb_test", file)], NETWORK)[0].outcome)
"""


def test_a_killed_fetch_goes_on_where_it_was(server: Services, tmp_path: Path) -> None:
    plain(server)
    arguments = [sys.executable, "-c", FETCHING, str(tmp_path), f"{server.base}/ptb.txt", sha256(BODY)]
    child = subprocess.Popen(arguments)

    def kill(_: str) -> tuple[int, dict[str, str]] | None:
        if len(server.asked) == 6:
            os.kill(child.pid, signal.SIGKILL)
        return None

    server.before = kill
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "ptb.test.txt").exists()
    server.before = lambda _: None
    server.headers.clear()
    again = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert again.stdout == "fetched\n"
    assert server.headers[1]["Range"] == "bytes=4000-4999"
    assert (tmp_path / "ptb.test.txt").read_bytes() == BODY


def test_another_file_is_refused_and_leaves_nothing(server: Services, tmp_path: Path) -> None:
    one = plain(server, BODY[:-1])
    (found,) = fetch(tmp_path, [one], NETWORK)
    assert found.outcome == "failed"
    assert f"the official file has the digest {sha256(BODY)}, this one {sha256(BODY[:-1])}" in found.detail
    assert left(tmp_path) == []
    plain(server)
    assert fetch(tmp_path, [one], NETWORK)[0].outcome == "fetched"


def test_mirrors_are_tried_in_order(server: Services, tmp_path: Path) -> None:
    server.files |= {"/wrong.txt": b"wrong", "/right.txt": BODY}
    urls = [f"{server.base}/{name}" for name in ("none.txt", "wrong.txt", "right.txt")]
    file = OfficialFile("ptb.test.txt", tuple(map(Download, urls)), sha256(BODY))
    assert fetch(tmp_path, [make("ptb_test", file)], NETWORK)[0].outcome == "fetched"
    assert left(tmp_path) == ["ptb.test.txt"]


def test_two_sets_share_an_archive(server: Services, tmp_path: Path) -> None:
    archive = zipped(**{"wiki.test.tokens": b" a \n", "wiki.valid.tokens": b" b \n"})
    server.files["/w.zip"] = archive
    url = f"{server.base}/w.zip"
    sets = [
        make(
            f"wikitext2_{split}",
            OfficialFile(
                f"wikitext-2/wiki.{split}.tokens",
                (Download(url, f"wikitext-2/wiki.{split}.tokens", sha256(archive)),),
                sha1=hashlib.sha1(content).hexdigest(),
            ),
        )
        for split, content in (("test", b" a \n"), ("valid", b" b \n"))
    ]
    assert [one.outcome for one in fetch(tmp_path, sets, NETWORK)] == ["fetched", "fetched"]
    assert left(tmp_path) == ["wikitext-2/wiki.test.tokens", "wikitext-2/wiki.valid.tokens"]
    assert (tmp_path / "wikitext-2" / "wiki.valid.tokens").read_bytes() == b" b \n"
    assert [headers.get("Range") for headers in server.headers] == [
        "bytes=0-0",
        f"bytes=0-{len(archive) - 1}",
        "bytes=0-0",
    ]


def test_archives_are_unpacked_and_their_member_is_verified(server: Services, tmp_path: Path) -> None:
    server.files["/x.tgz"] = tarred("./data/ptb.test.txt", BODY)
    right = Download(f"{server.base}/x.tgz", "data/ptb.test.txt")
    wrong = make("ptb_test", OfficialFile("ptb.test.txt", (right,), sha256(b"other")))
    assert "the official file has the digest" in fetch(tmp_path, [wrong], NETWORK)[0].detail
    absent = make("ptb_test", OfficialFile("ptb.test.txt", (dataclasses.replace(right, member="x"),)))
    assert fetch(tmp_path, [absent], NETWORK)[0].detail == f"{server.base}/x.tgz: no x in it"
    assert not (tmp_path / "ptb.test.txt").exists()
    unknown = make("ptb_test", OfficialFile("ptb.test.txt", (right,)))
    assert (
        fetch(tmp_path, [unknown], NETWORK)[0].detail == "ptb.test.txt: its hash is not known, so it was not verified"
    )
    assert (tmp_path / "ptb.test.txt").read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "content"), [("x.tgz", tarred("a", BODY)[:-900]), ("x.zip", b"<html>"), ("x.tgz", b"")]
)
def test_a_damaged_archive_is_an_error(server: Services, tmp_path: Path, name: str, content: bytes) -> None:
    server.files[f"/{name}"] = content
    one = make("ptb_test", OfficialFile("ptb.test.txt", (Download(f"{server.base}/{name}", "a"),)))
    (found,) = fetch(tmp_path, [one], NETWORK)
    assert found.outcome == "failed"
    assert name in found.detail
    assert not (tmp_path / "ptb.test.txt").exists()


def test_a_set_without_url_says_what_to_do_and_others_go_on(server: Services, tmp_path: Path) -> None:
    found = fetch(tmp_path, [SETS["cnndm"], plain(server)], NETWORK)
    assert [one.outcome for one in found] == ["by_hand", "fetched"]
    assert (
        "put cnndm_test.jsonl there: made by hand: the stories come from https://github.com/abisee" in found[0].detail
    )


def test_private_addresses_and_unwritable_folders_are_refused(server: Services, tmp_path: Path) -> None:
    (found,) = fetch(tmp_path, [plain(server)], PagesConfig(backoff_s=0.01))
    assert found.outcome == "failed"
    assert "forbidden" in found.detail
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name a directory that can be written"):
        fetch(tmp_path / "file", [], NETWORK)


def test_every_registered_url_can_be_asked_for() -> None:
    for one in registry.SETS.values():
        for file in one.files:
            for mirror in file.downloads:
                assert mirror.url.startswith(("http://", "https://"))
                assert mirror.url.isascii()
