"""One writer at a time: on disk, on S3 (with conditional writes), and in a store without conditional writes."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from data.lake import locks
from data.lake.store import Lake

TAKEN = "another webtext process is writing it"
LOST = "refresh-demo: this process lost its lock"


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> Lake:
    """A lake in an object store."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return Lake(f"{request.param}://corpus/{uuid.uuid4().hex}")


@pytest.fixture(params=["disk", "s3", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "s3":
        request.getfixturevalue("s3")
    return Lake(tmp_path if request.param == "disk" else f"{request.param}://corpus/{uuid.uuid4().hex}")


def lease_path(lake: Lake) -> str:
    return lake.path("locks", "refresh-demo.json")


def lease_of(lake: Lake) -> dict[str, Any]:
    lease: dict[str, Any] = json.loads(lake.fs.cat_file(lease_path(lake)))
    return lease


def write_lease(lake: Lake, owner: str, age: float) -> dict[str, Any]:
    lease = {"owner": owner, "renewed": time.time() - age}
    lake.fs.pipe_file(lease_path(lake), json.dumps(lease).encode())
    return lease


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.02)


def test_a_lock_has_one_holder_and_is_released(lake: Lake) -> None:
    with lake.lock("refresh-demo"):
        with pytest.raises(InputError, match=TAKEN), lake.lock("refresh-demo"):
            pass
        with lake.lock("refresh-other"):
            pass
    with lake.lock("refresh-demo"), pytest.raises(InputError, match=TAKEN), lake.lock("refresh-demo"):
        pass


def test_an_error_releases_the_lock_and_is_kept(lake: Lake) -> None:
    with pytest.raises(KeyError), lake.lock("refresh-demo"):
        raise KeyError
    with lake.lock("refresh-demo"):
        lake.publish_json({}, "state", "a.json")
    assert lake.read_json("state", "a.json") == {}


def test_a_held_lease_is_renewed(store: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 2.0)
    with store.lock("refresh-demo"):
        first = lease_of(store)
        wait_until(lambda: lease_of(store)["renewed"] > first["renewed"], "a renewal")
        assert lease_of(store)["owner"] == first["owner"]
        store.publish_json({}, "state", "a.json")


def test_a_stale_lease_is_taken_over_and_a_fresh_one_is_not(store: Lake) -> None:
    write_lease(store, "killed", age=locks.LEASE_S - 20)
    with pytest.raises(InputError, match=TAKEN), store.lock("refresh-demo"):
        pass
    assert lease_of(store)["owner"] == "killed"
    write_lease(store, "killed", age=locks.LEASE_S + 1)
    with store.lock("refresh-demo"):
        assert lease_of(store)["owner"] != "killed"


def test_a_renewal_never_overwrites_another_lease_and_publishing_fails(
    store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 1.0)

    def is_refused() -> bool:
        try:
            store.publish_json({}, "state", "a.json")
        except InputError as error:
            return LOST in str(error)
        return False

    with contextlib.suppress(InputError), store.lock("refresh-demo"):
        theirs = write_lease(store, "another", age=0)
        wait_until(is_refused, "a publication that is refused")
    assert lease_of(store) == theirs


def test_the_end_never_releases_the_lease_of_another_holder(store: Lake) -> None:
    with pytest.raises(InputError, match=LOST), store.lock("refresh-demo"):
        theirs = write_lease(store, "another", age=0)  # long before the first renewal
    assert lease_of(store) == theirs


def test_a_lease_that_was_deleted_is_lost(store: Lake) -> None:
    with pytest.raises(InputError, match=LOST), store.lock("refresh-demo"):
        store.fs.rm_file(lease_path(store))
    assert not store.exists("locks", "refresh-demo.json")


def test_the_error_of_the_work_is_not_hidden_by_a_lost_lease(store: Lake) -> None:
    def work() -> None:
        write_lease(store, "another", age=0)
        raise KeyError

    with pytest.raises(KeyError), store.lock("refresh-demo"):
        work()


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("before", ["nothing", "a stale lease"])
def test_one_of_two_processes_that_take_a_lease_at_once_succeeds(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster process takes the lease after the slower one read the store and before it writes."""
    lake = Lake(f"s3://corpus/{uuid.uuid4().hex}")
    if before == "a stale lease":
        write_lease(lake, "killed", age=locks.LEASE_S + 1)
    write = lake.fs.pipe_file
    with contextlib.ExitStack() as faster:

        def write_late(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.undo()
            faster.enter_context(lake.lock("refresh-demo"))
            return write(*args, **kwargs)

        monkeypatch.setattr(lake.fs, "pipe_file", write_late)
        with pytest.raises(InputError, match=TAKEN), lake.lock("refresh-demo"):
            pass
        lake.publish_json({}, "state", "a.json")  # the faster process still holds it


@pytest.mark.usefixtures("s3")
def test_a_renewal_overtaken_by_another_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease changes after its owner read it and before the owner writes it."""
    lake = Lake(f"s3://corpus/{uuid.uuid4().hex}")
    write = lake.fs.pipe_file
    theirs: dict[str, Any] = {}

    def write_late(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        theirs.update(write_lease(lake, "another", age=0))
        return write(*args, **kwargs)

    with pytest.raises(InputError, match=LOST), lake.lock("refresh-demo"):
        monkeypatch.setattr(lake.fs, "pipe_file", write_late)
    assert theirs
    assert lease_of(lake) == theirs


@pytest.fixture
def holder(s3: dict[str, str]) -> Iterator[tuple[Lake, subprocess.Popen[str]]]:
    """A process that holds a lease of one second, and publishes when it reads a line."""
    lake = Lake(f"s3://corpus/{uuid.uuid4().hex}")
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from data.lake import locks
from data.lake.store import Lake
locks.LEASE_S = 1.0
lake = Lake({lake.root!r})
with lake.lock("refresh-demo"):
    print("held", flush=True)
    sys.stdin.readline()
    lake.publish_json({{}}, "state", "late.json")
"""
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield lake, process
    finally:
        process.kill()
        process.communicate()


def test_a_suspended_process_publishes_nothing_after_losing_its_lease(
    holder: tuple[Lake, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, process = holder
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)

    with contextlib.ExitStack() as mine:

        def take() -> bool:
            with contextlib.suppress(InputError):
                mine.enter_context(lake.lock("refresh-demo"))
                return True
            return False

        wait_until(take, "a takeover")
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate("go on\n", timeout=60)
        assert process.returncode == 1
        assert LOST in errors
        assert not lake.exists("state", "late.json")
        lake.publish_json({}, "state", "mine.json")


def test_a_killed_process_blocks_the_next_one_for_the_length_of_a_lease(
    holder: tuple[Lake, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, process = holder
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    with pytest.raises(InputError, match=TAKEN), lake.lock("refresh-demo"):
        pass
    monkeypatch.setattr(locks, "LEASE_S", time.time() - lease_of(lake)["renewed"])
    with lake.lock("refresh-demo"):
        pass
