"""Parts as task runs on a real Prefect server: recorded, limited in number, resumed, failing with their own error."""

import errno
import os
import signal
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from data.config import TokensConfig
from data.errors import InputError, KilledError, StoreError, stopping
from data.lake.manifest import Part
from data.lake.store import Lake, write_parquet
from data.stage import run_stage
from flows import services
from tests.flows.serving import task_states

NAMES = [f"part-{index:05d}" for index in range(12)]


def make_one(root: str, name: str) -> Part:
    """Seal a part with one row, the part's number."""
    table = pa.table({"value": [int(name[-5:])]})
    dataset = Lake(root).dataset("tokens", "demo")
    with dataset.lake.scratch() as folder:
        write_parquet(table, folder / "rows.parquet")
        return dataset.seal(name, {f"{name}.parquet": folder / "rows.parquet"}, table, counts={"ok": 1})


def run_as_flow(root: Path, make, at_once: int, flow_name: str):
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.parts import prefect_mapper

    dataset = Lake(root).dataset("tokens", "demo")

    @flow(name=flow_name, task_runner=ThreadPoolTaskRunner(max_workers=at_once), persist_result=False)
    def stage_flow():
        return run_stage(dataset, TokensConfig(), {}, lambda: [NAMES], make, prefect_mapper("tokens", "demo", at_once))

    return stage_flow()


def test_a_bar_names_the_round_of_its_parts() -> None:
    from flows.parts import _round

    rounds = [["part-00000", "part-00001"], ["part-1-00000"], [], ["sig-part-00000"], ["order"], ["buckets-000"]]
    assert [_round("select", names) for names in rounds] == [
        *("select", "select", "select"),
        *("select, sig", "select, order", "select, buckets"),
    ]


def test_every_part_is_a_task_run_and_at_most_three_run_at_once(servers: services.Servers, tmp_path: Path) -> None:
    running = 0
    most = 0
    lock = threading.Lock()
    three = threading.Barrier(3, timeout=120)  # each part waits until two others run

    def make(name: str) -> Part:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        three.wait()
        part = make_one(str(tmp_path), name)
        with lock:
            running -= 1
        return part

    outcome = run_as_flow(tmp_path, make, 3, "parts-all")
    assert [part.name for part in outcome.manifest.parts] == NAMES
    assert most == 3
    assert task_states("parts-all") == {f"tokens demo {name}": "Completed" for name in NAMES}


def test_a_failing_part_keeps_the_others_and_raises_its_error(servers: services.Servers, tmp_path: Path) -> None:
    def make(name: str) -> Part:
        if name == "part-00004":
            raise InputError("dump.zst: truncated")
        return make_one(str(tmp_path), name)

    with pytest.raises(InputError, match=r"dump\.zst: truncated"):
        run_as_flow(tmp_path, make, 2, "parts-failing")
    dataset = Lake(tmp_path).dataset("tokens", "demo")
    assert {"part-00000", "part-00003"} <= dataset.sealed().keys()
    assert "part-00004" not in dataset.sealed()
    assert dataset.manifest() is None
    outcome = run_as_flow(tmp_path, partial(make_one, str(tmp_path)), 2, "parts-resumed")
    assert outcome.manifest.rows_out == len(NAMES)
    made_before = len(NAMES) - len(task_states("parts-resumed"))
    assert made_before >= 4


def test_a_full_disk_is_not_retried(servers: services.Servers, tmp_path: Path) -> None:
    tries = []

    def make(name: str) -> Part:
        tries.append(name)
        raise OSError(errno.ENOSPC, "No space left on device", "part-00000.parquet")

    with pytest.raises(OSError, match="No space left") as caught:
        run_as_flow(tmp_path, make, 1, "parts-full")
    assert caught.value.errno == errno.ENOSPC
    assert tries == ["part-00000"]


def test_a_part_whose_children_were_killed_is_made_again(servers: services.Servers, tmp_path: Path) -> None:
    tries = []

    def make(name: str) -> Part:
        tries.append(name)
        if len(tries) == 1:
            raise KilledError("a child was killed")
        return make_one(str(tmp_path), name)

    outcome = run_as_flow(tmp_path, make, 1, "parts-killed")
    assert tries == [NAMES[0], *NAMES]
    assert outcome.manifest.rows_out == len(NAMES)


def test_a_flow_that_is_terminated_seals_nothing_more(servers: services.Servers, tmp_path: Path) -> None:
    """A cancelled flow of a worker: Prefect waits for its threads, which go on."""
    from prefect.exceptions import TerminationSignal

    def make(name: str) -> Part:
        if name == NAMES[3]:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopping.wait(120)
        return make_one(str(tmp_path), name)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect sends the signal again, for this handler
    try:
        with pytest.raises(TerminationSignal):
            run_as_flow(tmp_path, make, 1, "parts-terminated")
    finally:
        signal.signal(signal.SIGTERM, before)
        stopping.clear()
    dataset = Lake(tmp_path).dataset("tokens", "demo")
    assert sorted(dataset.sealed()) == NAMES[:3]
    assert dataset.manifest() is None


def test_a_part_is_made_again_after_an_outage_and_not_after_a_refusal(
    servers: services.Servers, tmp_path: Path
) -> None:
    tries: list[str] = []

    def make(name: str) -> Part:
        tries.append(name)
        if len(tries) == 1:
            raise StoreError("s3://corpus/lake", "the object store does not answer", may_pass=True)
        if name == NAMES[1]:
            raise StoreError("s3://corpus/lake", "the object store refuses access")
        return make_one(str(tmp_path), name)

    with pytest.raises(StoreError, match="refuses access"):
        run_as_flow(tmp_path, make, 1, "parts-outage")
    assert tries == [NAMES[0], NAMES[0], NAMES[1]]
    assert list(Lake(tmp_path).dataset("tokens", "demo").sealed()) == [NAMES[0]]
