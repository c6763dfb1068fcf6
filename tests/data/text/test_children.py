"""What the end of a child says about its page: nothing at first, and nothing ever if the end came from outside."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from data.config import TextConfig
from data.errors import KilledError, stopping
from data.schema import TextStatus
from data.text import children
from data.text.extract import Extracted
from data.text.stage import extract_all


def ok(text: str = "") -> Extracted:
    return Extracted(TextStatus.OK, None, text)


def burn(seconds: float) -> None:
    """Use this much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def is_first(folder: Path) -> bool:
    """Whether this page is tried for the first time."""
    try:
        (folder / "tried").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def kills_itself(number: int) -> Extracted:
    os.kill(os.getpid(), number)
    time.sleep(60)
    return ok()


def kills_itself_once(folder: Path, number: int) -> Extracted:
    return kills_itself(number) if is_first(folder) else ok(str(os.getpid()))


def leaves() -> Extracted:
    os._exit(7)


def too_slow(folder: Path | None) -> Extracted:
    if folder is None or is_first(folder):
        burn(60)
    return ok()


def out_of_memory_once(folder: Path) -> Extracted:
    return Extracted(TextStatus.CRASHED, "memory limit") if is_first(folder) else ok(str(os.getpid()))


def alone(folder: Path, number: int) -> Extracted:
    """Killed at the first try; at the second, the text is the number of pages in progress."""
    if is_first(folder):
        return kills_itself(number)
    return ok(str(len(list(folder.glob("busy-*")))))


def beside(folder: Path) -> Extracted:
    mark = folder / f"busy-{os.getpid()}"
    mark.touch()
    burn(0.1)
    mark.unlink()
    return ok()


def quick() -> Extracted:
    return ok(str(os.getpid()))


def stands_still(folder: Path | None) -> Extracted:
    if folder is None or is_first(folder):
        os.kill(os.getpid(), signal.SIGSTOP)
    return ok()


def interrupts_itself() -> Extracted:
    os.kill(os.getpid(), signal.SIGINT)
    return ok()


def sleeps(seconds: float) -> Extracted:
    time.sleep(seconds)
    return ok()


def one(work: children.Work, **settings: float) -> Extracted:
    (extracted,) = extract_all([work], TextConfig(workers=1, **settings))  # type: ignore[arg-type]
    return extracted


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_page_that_crashes_two_children_is_crashed(number: signal.Signals) -> None:
    expected = Extracted(TextStatus.CRASHED, f"the extracting process ended by {number.name}")
    assert one(functools.partial(kills_itself, number)) == expected


def test_a_page_that_ends_two_children_is_crashed() -> None:
    assert one(leaves) == Extracted(TextStatus.CRASHED, "the extracting process ended with exit code 7")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_page_that_loses_one_child_gets_a_second_one(number: signal.Signals, tmp_path: Path) -> None:
    assert one(functools.partial(kills_itself_once, tmp_path, number)).status == TextStatus.OK


def test_a_page_at_the_memory_limit_is_tried_in_a_fresh_child(tmp_path: Path) -> None:
    """What earlier pages left in the child may be to blame."""
    works: list[children.Work] = [quick, functools.partial(out_of_memory_once, tmp_path)]
    before, after = (extracted.text for extracted in extract_all(works, TextConfig(workers=1)))
    assert before
    assert after
    assert before != after


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_children_ended_from_outside_fail_the_part(number: signal.Signals) -> None:
    with pytest.raises(KilledError, match=rf"by {number.name}, twice in a row .*run the same command again"):
        one(functools.partial(kills_itself, number))


def test_ctrl_c_in_the_terminal_does_not_reach_a_page() -> None:
    assert one(interrupts_itself).status == TextStatus.OK


def test_only_time_that_a_page_computes_counts() -> None:
    assert one(functools.partial(sleeps, 1.5), timeout_s=0.5).status == TextStatus.OK
    assert one(functools.partial(too_slow, None), timeout_s=0.5) == Extracted(TextStatus.TIMEOUT, "more than 0.5 s")


def test_the_second_try_decides_whether_a_page_is_too_slow(tmp_path: Path) -> None:
    assert one(functools.partial(too_slow, tmp_path), timeout_s=0.5).status == TextStatus.OK


def test_after_a_crash_a_page_is_tried_with_no_other_beside_it(tmp_path: Path) -> None:
    works: list[children.Work] = [functools.partial(beside, tmp_path) for _ in range(40)]
    works.insert(3, functools.partial(alone, tmp_path, signal.SIGKILL))
    texts = [extracted.text for extracted in extract_all(works, TextConfig(workers=3))]
    assert texts.pop(3) == "0"
    assert texts == [""] * 40


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STILL_S", 0.5)


def test_a_stopped_child_is_replaced(impatient: None, tmp_path: Path) -> None:
    assert one(functools.partial(stands_still, tmp_path)).status == TextStatus.OK


def test_children_that_are_stopped_again_and_again_fail_the_part(impatient: None) -> None:
    with pytest.raises(KilledError, match="by SIGKILL, twice in a row"):
        one(functools.partial(stands_still, None))


def processes() -> list[psutil.Process]:
    """Living extractors of this process."""
    servers = [one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline())]
    return [one for server in servers for one in server.children() if one.status() != psutil.STATUS_ZOMBIE]


def test_an_error_of_the_reader_ends_children_and_waiting_pages(tmp_path: Path) -> None:
    def works() -> Iterator[Callable[[], Extracted]]:
        yield functools.partial(too_slow, None)
        yield functools.partial(too_slow, None)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(extract_all(works(), TextConfig(workers=1)))
    assert processes() == []


def test_no_page_is_begun_once_the_process_is_asked_to_stop(tmp_path: Path) -> None:
    def works() -> Iterator[Callable[[], Extracted]]:
        yield quick
        stopping.set()
        for _ in range(50):
            yield functools.partial(kills_itself_once, tmp_path, signal.SIGTERM)

    try:
        with pytest.raises(KilledError, match="asked to stop"):
            list(extract_all(works(), TextConfig(workers=2)))
    finally:
        stopping.clear()
    assert not (tmp_path / "tried").exists()


def test_a_killed_fork_server_costs_no_page(tmp_path: Path) -> None:
    works: list[children.Work] = [functools.partial(beside, tmp_path) for _ in range(30)]
    results = extract_all(works, TextConfig(workers=2))
    found = [next(results)]
    server = next(one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline()))
    server.kill()
    found += results
    assert [extracted.status for extracted in found] == [TextStatus.OK] * 30
