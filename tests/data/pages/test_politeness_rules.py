"""How failures are counted, and what is remembered about a host."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from data.config import PagesConfig
from data.errors import InputError
from data.http.breaker import Breaker
from data.http.retry import backoff_s, retry_after_s
from data.lake.store import Lake
from data.pages.frontier import Domain, Host
from data.pages.politeness import HostMemory, note_failure
from data.schema import PageStatus

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
CONFIG = PagesConfig()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("00120", 120.0),
        ("9" * 500, 999_999_999_999.0),
        ("Mon, 23 Nov 2026 12:02:00 GMT", 120.0),
        ("Monday, 23-Nov-26 12:02:00 GMT", 120.0),  # RFC 850
        ("Mon Nov 23 12:02:00 2026", 120.0),  # asctime
        ("Mon, 23 Nov 2026 13:02:00 +0100", 120.0),
        ("Mon, 23 Nov 2026 12:02:00 -0000", 120.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_613_172_799.0 + 0.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("0x10", None),
        ("soon", None),
        ("120 seconds", None),
        ("1, 2", None),
        ("\u0661\u0662", None),  # digits of another script
        ("\u00b2", None),
        ("Mon, 23 Nov 99999 12:00:00 GMT", None),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 23 Nov 2026 25:61:61 GMT", None),
        ("Mon, 23 Nov 2026 12:00:00 +99999999999999", None),
        ("\udcff\0", None),
    ],
)
def test_retry_after_is_parsed(header: str | None, seconds: float | None) -> None:
    found = retry_after_s(header, NOW)
    if header is not None and "9999 23" in header:
        assert found is not None
        assert found > 200_000_000_000
    else:
        assert found == seconds


def test_back_off_doubles_with_a_random_spread() -> None:
    """Between half and one and a half times backoff_s x 2**n, so that two hosts that failed together drift apart."""
    rng = random.Random(1)
    for attempt, least_s in ((1, 2.5), (2, 5.0), (3, 10.0), (4, 20.0)):
        found = [backoff_s(attempt, CONFIG, rng) for _ in range(500)]
        assert least_s <= min(found) < 1.05 * least_s
        assert 2.95 * least_s < max(found) <= 3 * least_s
    assert backoff_s(10_000, CONFIG, rng) < 5.0 * 2**17  # no overflow


def _host() -> Host:
    return Host("www.site.example", Domain("site.example"), 1.0)


def _notes(*statuses: PageStatus) -> list[str]:
    host = _host()
    return [note_failure(host, status, CONFIG) for status in statuses]


def test_breaker_opens_after_five_failures_and_gives_up_after_the_next() -> None:
    error = PageStatus.SERVER_ERROR
    assert _notes(*[error] * 6) == ["closed"] * 4 + ["opened", "given_up"]


def test_failure_that_occupies_a_connection_counts_twice() -> None:
    assert _notes(*[PageStatus.TIMEOUT] * 4) == ["closed", "closed", "opened", "given_up"]
    assert _notes(PageStatus.TOO_SLOW, PageStatus.SERVER_ERROR, PageStatus.TIMEOUT) == ["closed", "closed", "opened"]


@pytest.mark.parametrize("status", [PageStatus.NOT_FOUND, PageStatus.GONE, PageStatus.NOT_HTML, PageStatus.TOO_LARGE])
def test_failure_of_a_single_page_resets_the_count(status: PageStatus) -> None:
    error = PageStatus.SERVER_ERROR
    assert _notes(error, error, error, error, status, *[error] * 5) == ["closed"] * 9 + ["opened"]
    assert _notes(*[error] * 5, status, *[error] * 5) == ["closed"] * 4 + ["opened"] + ["closed"] * 5 + ["opened"]


def test_success_reports_whether_it_closed_the_breaker() -> None:
    host = _host()
    assert not host.breaker.succeed()
    for _ in range(5):
        note_failure(host, PageStatus.RATE_LIMITED, CONFIG)
    assert host.breaker.succeed()
    assert not host.breaker.succeed()
    assert host.breaker == Breaker(failures=0, was_opened=False)


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


FILE = ("state", "hosts", "s1", "part-00000.json")


async def test_a_noted_wait_is_durable(lake: Lake) -> None:
    clock = Clock()
    memory = HostMemory(lake, "s1", "part-00000", clock)
    await memory.note_wait("a.example", 120.0)
    assert lake.read_json(*FILE) == {"a.example": {"until": clock.at + 120.0, "wait_s": 120.0}}
    clock.at += 50.0
    again = HostMemory(lake, "s1", "part-00000", clock)
    assert again.wait_s("a.example") == 70.0
    assert again.wait_s("b.example") == 0.0


async def test_simultaneous_waits_share_a_file(lake: Lake) -> None:
    writes = 0
    publish = lake.publish_json

    def counting(*arguments: object) -> None:
        nonlocal writes
        writes += 1
        publish(*arguments)  # type: ignore[arg-type]

    lake.publish_json = counting  # type: ignore[method-assign]
    memory = HostMemory(lake, "s1", "part-00000", Clock())
    await asyncio.gather(*(memory.note_wait(f"h{n}.example", 10.0 + n) for n in range(200)))
    assert writes <= 2
    assert len(lake.read_json(*FILE)) == 200


async def test_a_wait_noted_during_a_write_goes_into_the_next_file(lake: Lake) -> None:
    memory = HostMemory(lake, "s1", "part-00000", Clock())

    async def note(n: int) -> None:
        await asyncio.sleep(0.03 * n)
        await memory.note_wait(f"h{n}.example", 100.0)
        assert f"h{n}.example" in lake.read_json(*FILE)

    await asyncio.gather(*(note(n) for n in range(20)))


@pytest.mark.parametrize(("jump_s", "left_s"), [(-1e9, 120.0), (-1.0, 120.0), (60.0, 60.0), (1e9, 0.0)])
async def test_a_clock_that_jumps_does_not_lengthen_a_wait(lake: Lake, jump_s: float, left_s: float) -> None:
    clock = Clock()
    memory = HostMemory(lake, "s1", "part-00000", clock)
    await memory.note_wait("a.example", 120.0)
    clock.at += jump_s
    assert memory.wait_s("a.example") == left_s


async def test_waits_are_remembered_for_a_month_at_most(lake: Lake) -> None:
    memory = HostMemory(lake, "s1", "part-00000", Clock())
    await memory.note_wait("a.example", 1e15)
    assert memory.wait_s("a.example") == 30 * 86_400.0


async def test_crawl_delays_belong_to_a_task_and_waits_to_all_tasks(lake: Lake) -> None:
    clock = Clock()
    first = HostMemory(lake, "s1", "part-00000", clock)
    first.note_delay("a.example", 5.0)
    await first.note_wait("b.example", 60.0)
    assert HostMemory(lake, "s1", "part-00000", clock).delay_s("a.example") == 5.0
    for other in (HostMemory(lake, "s1", "part-1-00000", clock), HostMemory(lake, "s2", "part-00000", clock)):
        assert (other.delay_s("a.example"), other.wait_s("b.example")) == (0.0, 60.0)


async def test_the_longest_of_several_waits_counts(lake: Lake) -> None:
    """The names of the tasks that noted them do not matter."""
    clock = Clock()
    await HostMemory(lake, "s1", "part-00000", clock).note_wait("a.example", 500.0)
    await HostMemory(lake, "s1", "part-00001", clock).note_wait("a.example", 20.0)
    assert HostMemory(lake, "s2", "part-00000", clock).wait_s("a.example") == 500.0


async def test_a_finished_task_keeps_the_waits_that_have_not_ended(lake: Lake) -> None:
    clock = Clock()
    memory = HostMemory(lake, "s1", "part-00000", clock)
    memory.note_delay("a.example", 5.0)
    await memory.note_wait("a.example", 60.0)
    await memory.note_wait("b.example", 600.0)
    clock.at += 100.0
    await memory.close()
    assert list(lake.read_json(*FILE)) == ["b.example"]
    clock.at += 1000.0
    await HostMemory(lake, "s1", "part-00000", clock).close()
    assert not lake.exists(*FILE)


@pytest.mark.parametrize("body", ["[]", '{"a": 1}', '{"a": {"until": "x"}}', '{"a": {"until": 5}}', "{", ""])
def test_an_error_names_the_damaged_file(lake: Lake, body: str) -> None:
    path = Path(lake.path(*FILE))
    path.parent.mkdir(parents=True)
    path.write_text(body)
    with pytest.raises(InputError, match=r"part-00000\.json: .*damaged"):
        HostMemory(lake, "s2", "part-00000", Clock())
