"""An object store that is away, busy, or refuses: waited for, reported in one line, never taken for missing data."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from data import warc
from data.errors import InputError, StoreError, told
from data.lake import locks, objects
from data.lake.names import MANIFEST
from data.lake.store import Lake, write_parquet
from tests.data.lake.parts import make_part

LOST = "refresh-demo: this process lost its lock"
AWAY = "the object store does not answer"


class Store:
    """A server that speaks S3 on loopback, keeps its content while it is stopped, and comes back on its port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the client's own retries take ten seconds
    monkeypatch.setattr(objects, "WAITS_S", ())
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield monkeypatch
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def store(environment: pytest.MonkeyPatch) -> Iterator[Store]:
    found = Store()
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
    with contextlib.suppress(FileExistsError):  # moto keeps it between two servers of one process
        fsspec.filesystem("s3").mkdir("outage")
    yield found
    found.stop()


@pytest.fixture
def lake(store: Store) -> Lake:
    return Lake(f"s3://outage/{uuid.uuid4().hex}")


@pytest.fixture
def answering(environment: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str]]]:
    """A server that gives the listed answers (status, code of S3) one after the other, then the last one for ever."""
    answers: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, code = answers.pop(0) if len(answers) > 1 else answers[0]
            error = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            body = b"" if self.command == "HEAD" or status == 200 else error
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")  # the request's body is not read
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the names that http.server calls
        do_PUT = do_GET  # noqa: N815
        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield answers
        server.shutdown()


class OnRetry(logging.Handler):
    """Calls ``act`` when the lake says that it will try again."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if len(self.messages) == 1:
            self.act()


@contextlib.contextmanager
def on_retry(act: Callable[[], None]) -> Iterator[list[str]]:
    handler = OnRetry(act)
    logger = logging.getLogger("data.lake.objects")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


def take_over(lake: Lake) -> dict[str, object]:
    lease = {"owner": "another", "renewed": time.time()}
    lake.fs.pipe_file(lake.path("locks", "refresh-demo.json"), json.dumps(lease).encode())
    return lease


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.05)


def publish(lake: Lake) -> str:
    """Publish a file; returns the error's line, or an empty string."""
    try:
        lake.publish_json({}, "state", "a.json")
    except StoreError as error:
        return told(error)
    except InputError as error:
        return str(error)
    return ""


def read_all(lake: Lake) -> list[object]:
    return [
        lake.exists("state", "a.json"),
        lake.names("state"),
        lake.read_json("state", "a.json"),
        lake.size("state", "a.json"),
    ]


def test_an_outage_is_waited_for(store: Store, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "WAITS_S", (0.1, 0.1))
    acts: list[Callable[[], object]] = [
        lambda: lake.publish_json({"a": 1}, "state", "a.json"),
        lambda: read_all(lake),
        lambda: lake.remove("state", "a.json"),
    ]
    for act in acts:
        store.stop()
        with on_retry(store.start) as messages:
            act()
        assert len(messages) == 1
        assert "trying again in" in messages[0]
    assert not lake.exists("state", "a.json")


def test_a_lasting_outage_is_never_taken_for_a_missing_file(store: Store, lake: Lake) -> None:
    dataset = lake.dataset("text", "demo")
    dataset.begin({}, {})
    make_part(dataset, [1], "part-00000")
    dataset.finish(["part-00000"], {}, 0.0)
    store.stop()
    acts: list[Callable[[], object]] = [
        dataset.manifest,
        dataset.verify,
        dataset.sealed,
        lambda: dataset.begin({}, {}),
        lambda: dataset.read("part-00000.parquet"),
        lambda: lake.snapshots("text"),
        lambda: lake.remove("text", "demo"),
    ]
    for act in acts:
        with pytest.raises(StoreError, match=AWAY) as caught:
            act()
        assert caught.value.may_pass
        assert "AWS_ENDPOINT_URL" in told(caught.value)
        assert str(store.port) in told(caught.value)
        assert "\n" not in told(caught.value)
    store.start()
    dataset.verify()


READERS: dict[str, Callable[[BinaryIO], object]] = {
    "bytes": lambda file: file.read(),
    "parquet": pq.ParquetFile,
    "warc": lambda file: warc.read_payload(file, 0),
}


@pytest.mark.parametrize("reader", list(READERS))
def test_an_outage_while_a_file_is_read_is_no_damage(store: Store, lake: Lake, tmp_path: Path, reader: str) -> None:
    table = pa.table({"value": [1, 2, 3]})
    write_parquet(table, tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    lake.publish(tmp_path / "rows.parquet", "text", "demo", "rows.parquet")
    with lake.open("text", "demo", "rows.parquet") as file:
        store.stop()
        with pytest.raises(StoreError, match=AWAY):
            READERS[reader](file)
        store.start()
        file.seek(0)
        assert file.read() == content
        file.seek(0)
        assert pq.ParquetFile(file, pre_buffer=False).read().equals(table)


def test_a_missing_bucket_is_named(store: Store) -> None:
    lake = Lake("s3://nowhere/lake")
    for act in (lambda: lake.names("links"), lambda: lake.publish_json({}, "state", "a.json"), lambda: enter(lake)):
        with pytest.raises(StoreError, match="no such bucket: create it, or correct --lake") as caught:
            act()
        assert not caught.value.may_pass
        assert told(caught.value).startswith("s3://nowhere/lake")


def enter(lake: Lake) -> None:
    with lake.lock("refresh-demo"):
        pass


def test_missing_credentials_and_bad_endpoints_say_what_to_set(store: Store, environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        Lake("s3://outage/one").names("links")
    environment.setenv("AWS_PROFILE", "absent")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="AWS_PROFILE"):
        Lake("s3://outage/two").names("links")
    environment.delenv("AWS_PROFILE")
    environment.setenv("AWS_ENDPOINT_URL", "not a url")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="set AWS_ENDPOINT_URL to an address"):
        Lake("s3://outage/three").names("links")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "refuses access .*AccessDenied.*check the credentials"),
        (403, "SignatureDoesNotMatch", "refuses access .*check the credentials"),
        (400, "IllegalLocationConstraintException", "set AWS_DEFAULT_REGION"),
        (400, "InvalidRequest", "refused the request .*InvalidRequest"),
        (501, "NotImplemented", "refused the request .*NotImplemented"),
    ],
)
def test_a_refusal_is_reported_at_once(
    answering: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str
) -> None:
    monkeypatch.setattr(objects, "WAITS_S", (0.1,))
    answering.append((status, code))
    with on_retry(lambda: None) as messages, pytest.raises(StoreError, match=message) as caught:
        Lake("s3://outage/lake").publish_json({}, "state", "a.json")
    assert not caught.value.may_pass
    assert not messages


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (503, "ServiceUnavailable")])
def test_a_busy_store_is_asked_again(
    answering: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    lake = Lake("s3://outage/lake")
    answering.append((status, code))
    with pytest.raises(StoreError, match=f"busy or out of order .*{code}.*run the same command again later") as caught:
        lake.publish_json({}, "state", "a.json")
    assert caught.value.may_pass
    monkeypatch.setattr(objects, "WAITS_S", (0.1, 0.1))

    def recover() -> None:
        answering[:] = [(200, "OK")]

    with on_retry(recover) as messages:
        lake.publish_json({}, "state", "a.json")
    assert len(messages) == 1


def test_a_command_ends_in_one_line(
    store: Store, lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.main import main

    store.stop()
    monkeypatch.setattr(sys, "argv", ["webtext", "why", "https://example.org/a", "--lake", lake.root])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"webtext: error: {lake.root}/links: {AWAY}")
    assert line.endswith("run the same command again later")
    store.start()


def test_a_store_error_crosses_processes() -> None:
    error = StoreError("s3://a/b", "it is away", may_pass=True)
    found = pickle.loads(pickle.dumps(error))
    assert (told(found), found.may_pass, found.is_conflict) == ("s3://a/b: it is away", True, False)


def test_a_manifest_is_never_overwritten(lake: Lake) -> None:
    """Two writers that both think they hold the lock: the second one learns of the first."""
    lake.publish_json({"by": "one"}, "text", "demo", MANIFEST)
    lake.publish_json({"by": "one"}, "text", "demo", MANIFEST)  # as after a put whose answer was lost
    with pytest.raises(StoreError, match="another process changed it meanwhile"):
        lake.publish_json({"by": "two"}, "text", "demo", MANIFEST)
    assert lake.read_json("text", "demo", MANIFEST) == {"by": "one"}
    lake.publish_json({"by": "one"}, "state", "a.json")
    lake.publish_json({"by": "two"}, "state", "a.json")
    assert lake.read_json("state", "a.json") == {"by": "two"}


def test_a_holder_that_cannot_renew_writes_nothing_until_it_has_renewed(
    store: Store, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 2.0)
    with lake.lock("refresh-demo"):
        store.stop()
        time.sleep(locks.LEASE_S)  # the lease is stale now
        assert AWAY in publish(lake)
        store.start()
        assert publish(lake) == ""
        first = lake.read_json("locks", "refresh-demo.json")["renewed"]
        wait_until(lambda: lake.read_json("locks", "refresh-demo.json")["renewed"] > first, "the thread goes on")
    assert lake.read_json("locks", "refresh-demo.json")["renewed"] == 0


def test_a_holder_whose_lease_was_taken_during_an_outage_writes_and_removes_nothing(
    store: Store, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 2.0)
    lake.publish_json({}, "state", "kept.json")
    theirs: dict[str, object] = {}

    def work() -> None:
        with lake.lock("refresh-demo"):
            store.stop()
            time.sleep(locks.LEASE_S)
            store.start()
            theirs.update(take_over(lake))
            part = Lake(lake.root)  # as a part has, which is made in another thread
            assert LOST in publish(part)
            with pytest.raises(InputError, match=LOST):
                part.remove("state", "kept.json")
            with pytest.raises(InputError, match=LOST):
                make_part(part.dataset("text", "demo"), [1], "part-00000")

    with pytest.raises(InputError, match=LOST):
        work()
    assert lake.names("state") == ["kept.json"]
    assert lake.names("text") == []
    assert lake.read_json("locks", "refresh-demo.json") == theirs
    assert publish(lake) == ""  # it holds nothing any more


def test_an_outage_at_the_end_hides_neither_the_work_nor_its_error(store: Store, lake: Lake) -> None:
    with lake.lock("refresh-one"):
        store.stop()
    store.start()

    def work() -> None:
        store.stop()
        raise KeyError

    with pytest.raises(KeyError), lake.lock("refresh-two"):
        work()
    store.start()


def test_a_refusal_says_how_long_to_wait(lake: Lake) -> None:
    lease = {"owner": "killed", "renewed": time.time() - 20}
    lake.fs.pipe_file(lake.path("locks", "refresh-demo.json"), json.dumps(lease).encode())
    with pytest.raises(InputError, match=r"another webtext process is writing it .*its lock ends in (40|39|3\d) s"):
        enter(lake)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"owner": "a"}'])
def test_a_damaged_lease_says_what_to_do(lake: Lake, content: bytes) -> None:
    lake.fs.pipe_file(lake.path("locks", "refresh-demo.json"), content)
    with pytest.raises(InputError, match=r"refresh-demo\.json: damaged; .*remove this file"):
        enter(lake)
