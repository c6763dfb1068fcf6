"""Live sources against a server that speaks their formats: windows, slices, watermarks, resume, downloads, deferral."""

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from data import download, links, reddit, watermarks
from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.lake import Lake, write_parquet
from data.live import SETTLE_S, Window
from data.manifest import Manifest
from data.schema import PAGES
from tests.data.services import NETWORK, Services, serving, story, submission

DAY = 86_400
NOV_1 = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
DEC_1 = NOV_1 + 30 * DAY
NOW = DEC_1 + 5 * DAY


@pytest.fixture
def services() -> Iterator[Services]:
    with serving(Services()) as running:
        yield running


def refresh(
    lake: Path,
    snapshot: str,
    specs: Sequence[str],
    services: Services,
    now: int = NOW,
    network: PagesConfig = NETWORK,
    **settings: Any,
) -> Manifest:
    config = services.config(**settings)
    return links.run(Lake(lake), snapshot, specs, config, network=network, clock=lambda: now).manifest


def rows_of(lake: Path, snapshot: str) -> dict[str, dict[str, Any]]:
    dataset = Lake(lake).dataset("links", snapshot)
    names = [part.name for part in dataset.require().parts if part.name.startswith("part-")]
    rows = [row for name in names for row in dataset.read(f"{name}.parquet").to_pylist()]
    return {row["canonical_url"]: row for row in rows}


# ---------------------------------------------------------------------------------------------------- windows


def test_a_window_is_cut_at_midnights() -> None:
    assert [(day.start - NOV_1, day.end - NOV_1) for day in Window(NOV_1 - 5, NOV_1 + DAY + 7).days()] == [
        (-5, 0),
        (0, DAY),
        (DAY, DAY + 7),
    ]
    assert Window(NOV_1, NOV_1 + DAY).days() == [Window(NOV_1, NOV_1 + DAY)]
    assert Window(NOV_1 + 3, NOV_1 + 4).days() == [Window(NOV_1 + 3, NOV_1 + 4)]
    assert Window(5, 5).days() == []


# ---------------------------------------------------------------------------------------------------- Algolia


def test_a_month_is_read_whole_and_once(services: Services, tmp_path: Path) -> None:
    random_ = random.Random(1)
    inside = [story(n, NOV_1 + random_.randrange(30 * DAY), points=n % 7) for n in range(400)]
    burst = [story(1_000 + n, NOV_1 + 3 * DAY + n % 1_800, points=5) for n in range(2_600)]  # 2,600 in half an hour
    outside = [story(9_000, NOV_1 - 1), story(9_001, DEC_1)]
    asks = [story(9_100, NOV_1, url=None, title="Ask HN"), story(9_101, NOV_1, url="https://news.ycombinator.com/x")]
    services.stories = [*inside, *burst, *outside, *asks]
    manifest = refresh(tmp_path, "s", ["hn:2026-11"], services)
    assert manifest.rows_in == sum(manifest.counts.values()) == len(inside) + len(burst) + len(asks)
    assert manifest.counts["no_url"] == manifest.counts["self_post"] == 1
    assert manifest.inputs == {"live:hn:2026-11": f"{NOV_1}..{DEC_1}"}
    rows = rows_of(tmp_path, "s")
    assert {row["submission_ids"][0]: row["karma"] for row in rows.values()} == {
        item["objectID"]: item["points"] for item in [*inside, *burst]
    }
    row = rows["https://site17.example/story"]
    assert row["submitted_at"] == datetime.fromtimestamp(inside[17]["created_at_i"], UTC)
    assert row["score_observed_at"] == datetime.fromtimestamp(NOW, UTC)
    assert (row["source"], row["subreddits"], row["karma"]) == ("hn:2026-11", [], 17 % 7)
    assert max(end - start for start, end in services.windows()) == DAY
    assert min(end - start for start, end in services.windows()) < 1_800
    assert all(header["Accept"] == "application/json" for header in services.headers)
    n_asked = len(services.asked)
    assert manifest.extra["requests"] == n_asked
    assert links.run(Lake(tmp_path), "s", ["hn:2026-11"], services.config(), network=NETWORK).skipped
    assert len(services.asked) == n_asked
    assert watermarks.read(Lake(tmp_path)) == {}  # an explicit month moves none


def test_a_second_of_more_stories_than_are_shown_is_an_error(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOV_1 + 4_000) for n in range(1_000)]
    assert refresh(tmp_path, "s", ["hn:2026-11"], services).rows_in == 1_000
    services.stories.append(story(1_000, NOV_1 + 4_000))
    with pytest.raises(InputError, match=rf"1,001 stories in the second {NOV_1 + 4_000}, of which .* shows 1,000"):
        refresh(tmp_path, "t", ["hn:2026-11"], services)


def test_a_service_that_fails_is_asked_again_and_then_resumed_from(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOV_1 + n * DAY // 2) for n in range(60)]
    whole = refresh(tmp_path / "whole", "s", ["hn:2026-11"], services)
    services.asked.clear()
    busy = {"left": 2}

    def twice_busy(_: str) -> tuple[int, dict[str, str]] | None:
        busy["left"] -= 1
        return (503, {}) if busy["left"] >= 0 else None

    services.before = twice_busy
    assert refresh(tmp_path / "busy", "s", ["hn:2026-11"], services).digest == whole.digest
    assert len(services.asked) == 32

    services.asked.clear()
    services.before = lambda path: (500, {}) if str(NOV_1 + 3 * DAY) in path.partition("%2C")[0] else None
    with pytest.raises(InputError, match=r"answered 500, 6 times; run the same command again later") as caught:
        refresh(tmp_path / "cut", "s", ["hn:2026-11"], services)
    assert "\n" not in str(caught.value)
    assert len(services.asked) == 3 + 6
    services.before = lambda _: None
    services.asked.clear()
    assert refresh(tmp_path / "cut", "s", ["hn:2026-11"], services).digest == whole.digest
    assert min(start for start, _ in services.windows()) == NOV_1 + 3 * DAY  # the first three days are not asked again
    assert len(services.asked) == 27


def test_kill_9_in_the_middle_loses_the_slice_in_flight_only(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOV_1 + n * DAY // 2) for n in range(60)]
    whole = refresh(tmp_path / "whole", "s", ["hn:2026-11"], services)
    services.asked.clear()
    program = (
        "import sys; from data import links; from data.config import LinksConfig; from data.lake import Lake; "
        "from tests.data.services import NETWORK; "
        f"links.run(Lake(sys.argv[1]), 's', ['hn:2026-11'], LinksConfig(hn_search_url={services.base + '/api/v1'!r}), "
        f"network=NETWORK, clock=lambda: {NOW})"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cut")], cwd=Path(__file__).parents[2])

    def kill(_: str) -> tuple[int, dict[str, str]] | None:
        if len(services.asked) == 12:
            os.kill(child.pid, signal.SIGKILL)
        return None

    services.before = kill
    assert child.wait(60) == -signal.SIGKILL
    services.before = lambda _: None
    Lake(tmp_path / "cut").sweep()
    assert refresh(tmp_path / "cut", "s", ["hn:2026-11"], services).digest == whole.digest
    assert len(services.windows()) == 31
    assert len(set(services.windows())) == 30  # the twelfth is asked twice


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}), "the answer is not JSON"),
        ((404, {}), "answered 404; check the source's name"),
        ((302, {"Location": "/elsewhere"}), "answered 302"),
        ((429, {"Retry-After": "86400"}), "answered 429 and asks to wait 86400 s, more than max_retry_after_s"),
    ],
)
def test_answers_that_are_none(
    answer: tuple[int, dict[str, str]], message: str, services: Services, tmp_path: Path
) -> None:
    services.before = lambda _: answer
    with pytest.raises(InputError, match=message) as caught:
        refresh(tmp_path, "s", ["hn:2026-11"], services)
    assert "\n" not in str(caught.value)
    assert len(services.asked) == 1


def test_json_of_another_service_is_an_error(services: Services, tmp_path: Path) -> None:
    services.answer = lambda *_: (200, {}, b'{"kind": "Listing"}')  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"not an answer of Algolia's search \(KeyError\('nbHits'\)\)"):
        refresh(tmp_path, "s", ["hn:2026-11"], services)


def test_retry_after_is_waited_for(services: Services, tmp_path: Path) -> None:
    services.before = lambda _: (429, {"Retry-After": "1"}) if len(services.asked) == 1 else None
    started = time.monotonic()
    refresh(tmp_path, "s", ["hn:2026-11"], services, now=NOV_1 + 60)
    assert time.monotonic() - started >= 1.0
    assert len(services.asked) == 2


def test_requests_to_a_service_keep_the_delay(services: Services, tmp_path: Path) -> None:
    at: list[float] = []
    services.before = lambda _: at.append(time.monotonic())  # type: ignore[func-returns-value]
    network = PagesConfig(allow_net=("127.0.0.0/8",), host_delay_s=0.3)
    refresh(tmp_path, "s", ["hn:2026-11"], services, now=NOV_1 + 2 * DAY + 60, network=network)
    assert len(at) == 3
    assert all(later - earlier >= 0.3 for earlier, later in pairwise(at))


def test_the_guard_holds_for_services(services: Services, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="forbidden_address"):
        refresh(tmp_path, "s", ["hn:2026-11"], services, network=PagesConfig(host_delay_s=0.0))
    assert services.asked == []


# ---------------------------------------------------------------------------------------------------- watermarks


def test_a_refresh_reads_what_is_new_and_what_had_not_settled(services: Services, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    services.stories = [
        story(1, NOW - 20 * DAY, points=5),
        story(2, NOW - SETTLE_S - 1, points=2),  # settled: never looked at again
        story(3, NOW - SETTLE_S, points=2),
        story(4, NOW - 60, points=40),
        story(5, NOW - 31 * DAY, points=50),  # before the first window
    ]
    first = refresh(tmp_path, "s1", ["hn:"], services)
    assert first.inputs == {"live:hn:": f"{NOW - 30 * DAY}..{NOW}"}
    assert {row["submission_ids"][0]: row["status"] for row in rows_of(tmp_path, "s1").values()} == {
        "1": "ok",
        "2": "low_karma",
        "3": "low_karma",
        "4": "ok",
    }
    assert watermarks.read(lake) == {"hn:": NOW - SETTLE_S}
    assert lake.read_json("state", "watermarks", "00000001.json")["hn:"]["snapshot"] == "s1"

    for item in services.stories[1:4]:
        item["points"] = 30
    services.stories.append(story(6, NOW + 60, points=9))
    services.asked.clear()
    refresh(tmp_path, "s2", ["hn:"], services, now=NOW + DAY)
    assert min(start for start, _ in services.windows()) == NOW - SETTLE_S
    rows = {row["submission_ids"][0]: row for row in rows_of(tmp_path, "s2").values()}
    assert {number: row["karma"] for number, row in rows.items()} == {"3": 30, "4": 30, "6": 9}
    assert rows["3"]["status"] == "ok"
    assert rows["3"]["score_observed_at"] == datetime.fromtimestamp(NOW + DAY, UTC)
    assert watermarks.read(lake) == {"hn:": NOW + DAY - SETTLE_S}
    assert lake.names("state", "watermarks") == ["00000001.json", "00000002.json"]

    services.asked.clear()
    refresh(tmp_path, "s1", ["hn:"], services, now=NOW + 2 * DAY)  # done; nothing moves back
    assert services.asked == []
    assert watermarks.read(lake) == {"hn:": NOW + DAY - SETTLE_S}


def test_a_run_that_failed_keeps_its_window_and_moves_no_watermark(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOW - n * DAY - 60) for n in range(10)]
    services.before = lambda _: (500, {}) if len(services.asked) > 4 else None
    with pytest.raises(InputError, match="answered 500"):
        refresh(tmp_path, "s", ["hn:"], services)
    assert watermarks.read(Lake(tmp_path)) == {}
    services.before = lambda _: None
    manifest = refresh(tmp_path, "s", ["hn:"], services, now=NOW + 3 * DAY)
    assert manifest.inputs == {"live:hn:": f"{NOW - 30 * DAY}..{NOW}"}
    assert manifest.rows_in == 10
    assert watermarks.read(Lake(tmp_path)) == {"hn:": NOW - SETTLE_S}


def test_a_dry_run_reads_from_the_watermark_and_leaves_it(services: Services, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    watermarks.advance(lake, "s0", {"hn:": NOW - DAY})
    services.stories = [story(1, NOW - 2 * DAY), story(2, NOW - 60)]
    config = services.config()
    dry = Lake(tmp_path / "dry")
    manifest = links.run(dry, "plan", ["hn:"], config, network=NETWORK, state=lake, clock=lambda: NOW).manifest
    assert manifest.rows_in == 1
    assert watermarks.read(lake) == {"hn:": NOW - DAY}
    assert watermarks.read(dry) == {}


def test_watermarks_never_go_back(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    watermarks.advance(lake, "a", {"hn:": 10, "reddit:news": 5})
    watermarks.advance(lake, "b", {"hn:": 9, "reddit:news": 6})
    watermarks.advance(lake, "c", {"hn:": 10})
    assert watermarks.read(lake) == {"hn:": 10, "reddit:news": 6}
    assert len(lake.names("state", "watermarks")) == 2


# ---------------------------------------------------------------------------------------------------- Firebase


def test_items_by_number(services: Services, tmp_path: Path) -> None:
    def item(number: int, **fields: Any) -> dict[str, Any]:
        return {"id": number, "type": "story", "by": "a", "time": NOV_1, "score": 8} | fields

    services.items = {
        10: item(10, url="https://a.example/"),
        11: item(11, url="https://b.example/", score=1),
        12: None,
        13: {"id": 13, "type": "story", "deleted": True, "time": NOV_1},
        14: item(14, url="https://spam.example/", dead=True),
        15: {"id": 15, "type": "comment", "by": "b", "text": "x", "time": NOV_1},
        16: item(16, title="Ask HN"),
        17: item(17, type="job", url="https://job.example/"),
        19: item(19, url="https://c.example/"),
    }
    manifest = refresh(tmp_path, "s", ["hn-items:10-"], services)
    assert manifest.inputs == {"live:hn-items:10-": "10..19"}
    assert manifest.counts == {"low_karma": 1, "merged": 0, "no_url": 1, "ok": 2}
    missing = {name: n for name, n in manifest.extra.items() if name.startswith("items_")}
    assert missing == {"items_missing": 2, "items_deleted": 1, "items_dead": 1, "items_no_story": 2}
    row = rows_of(tmp_path, "s")["https://a.example/"]
    assert (row["karma"], row["submission_ids"]) == (8, ["10"])
    assert row["score_observed_at"] == datetime.fromtimestamp(NOW, UTC)
    services.asked.clear()
    assert refresh(tmp_path, "s", ["hn-items:10-"], services).digest == manifest.digest
    assert services.asked == []
    assert refresh(tmp_path, "t", ["hn-items:10-11"], services).rows_in == 2
    services.items[10]["id"] = 7
    with pytest.raises(InputError, match=r"item/10\.json: not the item of that number"):
        refresh(tmp_path, "u", ["hn-items:10-10"], services)


# ---------------------------------------------------------------------------------------------------- Reddit


def test_subreddits_are_read_back_to_the_watermark(services: Services, tmp_path: Path) -> None:
    posts = [submission(n, NOW - 60 - n * 3_600.0, score=n % 6) for n in range(250)]
    posts[3] |= {"is_self": True}
    posts[4] |= {"_kind": "t1"}
    services.listings["/r/news/new.json"] = posts
    services.listings["/r/science/new.json"] = [submission(999, NOW - 60)]
    manifest = refresh(tmp_path, "s1", ["reddit:News,science"], services)
    assert sorted(manifest.inputs) == ["live:reddit:news", "live:reddit:science"]
    assert manifest.rows_in == 250
    assert manifest.counts["self_post"] == 1
    assert (manifest.extra["requests"], manifest.extra["items_no_submission"]) == (4, 1)
    assert manifest.extra["listings_cut"] == 0
    row = rows_of(tmp_path, "s1")["https://site17.example/?a=1&b=2"]
    assert (row["karma"], row["source"], row["subreddits"]) == (5, "reddit:news", ["news"])
    assert row["score_observed_at"] == datetime.fromtimestamp(NOW, UTC)

    services.asked.clear()
    services.listings["/r/news/new.json"] = [submission(1_000, NOW + 1_800.0), *posts]
    again = refresh(tmp_path, "s2", ["reddit:news"], services, now=NOW + 3_600)
    assert len(services.asked) == 1  # the first page reaches beyond the watermark
    numbers = sorted(int(row["submission_ids"][0][1:]) for row in rows_of(tmp_path, "s2").values())
    assert numbers == [*(n for n in range(36) if n not in (3, 4)), 1_000]
    assert again.inputs == {"live:reddit:news": f"{NOW - SETTLE_S}..{NOW + 3_600}"}


def test_a_listing_that_ends_too_early_is_said(services: Services, tmp_path: Path) -> None:
    services.listings["/r/news/new.json"] = [submission(n, NOW - 60.0 - n) for n in range(1_000)]
    manifest = refresh(tmp_path, "s", ["reddit:news"], services)
    assert (manifest.rows_in, manifest.extra["listings_cut"]) == (1_000, 1)


def test_any_listing_by_its_url(services: Services, tmp_path: Path) -> None:
    services.listings["/r/all/top.json"] = [submission(n, 1_200_000_000.0 + n) for n in range(120)]
    url = f"{services.base}/r/all/top.json?t=month"
    manifest = refresh(tmp_path, "s", [url], services)
    assert manifest.rows_out == 120
    assert manifest.inputs == {f"live:{url}": "whole"}
    assert services.asked == [
        "/r/all/top.json?t=month&limit=100",
        "/r/all/top.json?t=month&limit=100&after=t3_r99",
    ]


def test_a_listing_without_end_is_an_error(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reddit, "MAX_PAGES", 3)
    services.listings["/r/news/new.json"] = [submission(n, NOW - 60.0 - n) for n in range(900)]
    with pytest.raises(InputError, match=r"the listing has no end \(after=t3_r299\)"):
        refresh(tmp_path, "s", ["reddit:news"], services)
    services.items = {1: {}}
    with pytest.raises(InputError, match=r"not a listing of Reddit's API \(KeyError\('kind'\)\)"):
        refresh(tmp_path, "t", [f"{services.base}/v0/item/1.json"], services)


def test_a_saved_listing_is_a_dump(services: Services, tmp_path: Path) -> None:
    posts = [{"kind": "t3", "data": submission(n, NOW)} for n in range(3)]
    listing = {"kind": "Listing", "data": {"after": None, "children": [*posts, {"kind": "more", "data": {}}]}}
    (tmp_path / "top.json").write_bytes(orjson.dumps(listing))
    manifest = refresh(tmp_path / "lake", "s", [str(tmp_path / "top.json")], services)
    assert manifest.counts == {"malformed_line": 1, "merged": 0, "ok": 3}


# ---------------------------------------------------------------------------------------------------- looks


def test_the_latest_look_at_a_submission_counts_and_the_highest_of_a_url(services: Services, tmp_path: Path) -> None:
    looks = [
        submission(1, 1.0, 50, url="http://a.example/", retrieved_on=1_600_000_000),
        submission(1, 1.0, 7, url="http://a.example/", retrieved_on=1_700_000_000),  # votes were taken back
        submission(1, 1.0, 90, url="http://a.example/"),  # nobody knows when
        submission(2, 1.0, 5, url="http://a.example/", retrieved_on=1_800_000_000),
    ]
    (tmp_path / "dump.ndjson").write_bytes(b"".join(orjson.dumps(look) + b"\n" for look in looks))
    refresh(tmp_path / "lake", "s", [str(tmp_path / "dump.ndjson")], services)
    (row,) = rows_of(tmp_path / "lake", "s").values()
    assert (row["karma"], row["karma_sum"]) == (7, 12)
    assert row["score_observed_at"] == datetime.fromtimestamp(1_700_000_000, UTC)


# ---------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def dump(services: Services, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(download, "PIECE_BYTES", 1_000)
    rows = [submission(n, 1.0, title=random.Random(n).randbytes(20).hex()) for n in range(100)]
    body = gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows), mtime=0)
    services.files["/RS_2017-01.gz"] = body
    return body


def test_a_dump_by_its_url(services: Services, dump: bytes, tmp_path: Path) -> None:
    url = f"{services.base}/RS_2017-01.gz"
    manifest = refresh(tmp_path, "s", [url], services)
    assert manifest.rows_out == 100
    assert manifest.inputs == {f"url:{url}": "whole"}
    assert len(services.asked) == 1 + -(-len(dump) // 1_000)
    assert next(iter(rows_of(tmp_path, "s").values()))["source"] == "RS_2017-01.gz"
    kept = tmp_path / "links" / "s" / "live-00000-00000.RS_2017-01.gz"
    assert kept.read_bytes() == dump
    services.asked.clear()
    assert refresh(tmp_path, "s", [url], services).digest == manifest.digest
    assert services.asked == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_download_goes_on_where_it_was(services: Services, dump: bytes, tmp_path: Path) -> None:
    url = f"{services.base}/RS_2017-01.gz"
    services.before = lambda _: (404, {}) if len(services.asked) == 4 else None
    with pytest.raises(InputError, match="answered 404"):
        refresh(tmp_path, "s", [url], services)
    services.headers.clear()
    services.before = lambda _: None
    assert refresh(tmp_path, "s", [url], services).rows_out == 100
    assert services.headers[1]["Range"] == "bytes=2000-2999"


def test_a_download_of_another_version_begins_anew(services: Services, dump: bytes, tmp_path: Path) -> None:
    url = f"{services.base}/RS_2017-01.gz"
    services.before = lambda _: (404, {}) if len(services.asked) == 4 else None
    with pytest.raises(InputError, match="answered 404"):
        refresh(tmp_path, "s", [url], services)
    services.headers.clear()
    services.before = lambda _: None
    services.etag = '"2"'
    assert refresh(tmp_path, "s", [url], services).rows_out == 100
    assert services.headers[1]["Range"] == "bytes=0-999"


def test_a_download_without_ranges_and_by_a_redirect(services: Services, dump: bytes, tmp_path: Path) -> None:
    services.ranges = False
    services.before = lambda path: (302, {"Location": "/RS_2017-01.gz"}) if path == "/latest.gz" else None
    assert refresh(tmp_path, "s", [f"{services.base}/latest.gz"], services).rows_out == 100


def test_downloads_that_fail(services: Services, dump: bytes, tmp_path: Path) -> None:
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


# ---------------------------------------------------------------------------------------------------- patterns


def test_a_pattern_leaves_out_what_an_earlier_snapshot_has_read(services: Services, tmp_path: Path) -> None:
    def month(number: int) -> None:
        rows = [submission(number * 10 + n, 1.0) for n in range(3)]
        (tmp_path / f"RS_{number}.ndjson").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    lake, pattern = tmp_path / "lake", str(tmp_path / "RS_*.ndjson")
    month(1)
    month(2)
    first = refresh(lake, "s1", [pattern], services)
    assert sorted(first.inputs) == ["source:RS_1.ndjson", "source:RS_2.ndjson"]
    month(3)
    (tmp_path / "RS_1.ndjson").rename(tmp_path / "RS_0.ndjson")  # known by its hash, not by its name
    second = refresh(lake, "s2", [pattern], services)
    assert sorted(second.inputs) == ["source:RS_3.ndjson"]
    assert second.extra["consumed_files"] == 2
    listed = Lake(lake).read_json("links", "s2", "part-00000.consumed.json")
    assert [(Path(file["path"]).name, file["snapshot"]) for file in listed] == [
        ("RS_0.ndjson", "s1"),
        ("RS_2.ndjson", "s1"),
    ]
    month(4)
    (tmp_path / "RS_0.ndjson").rename(tmp_path / "RS_1.ndjson")
    assert refresh(lake, "s1", [pattern], services).digest == first.digest  # done; a new file is the next one's
    third = refresh(lake, "s3", [pattern, str(tmp_path / "RS_2.ndjson")], services)
    assert sorted(third.inputs) == ["source:RS_2.ndjson", "source:RS_4.ndjson"]  # named, so it is read again
    empty = refresh(lake, "s4", [pattern], services)
    assert (empty.rows_in, empty.extra["consumed_files"]) == (0, 4)


# ---------------------------------------------------------------------------------------------------- deferred


def crawl(lake: Lake, snapshot: str, deferred: set[str]) -> None:
    """A pages dataset in which these links are deferred and all others are pages."""
    rows = [
        {"canonical_url": url, "status": "deferred" if url in deferred else "ok"}
        for url, row in rows_of(Path(lake.base), snapshot).items()
        if row["status"] == "ok"
    ]
    table = pa.Table.from_pylist([{name: row.get(name) for name in PAGES.names} for row in rows], PAGES)
    dataset = lake.dataset("pages", snapshot)
    assert dataset.begin({}, {"links": lake.dataset("links", snapshot).require().digest}) is None
    with lake.scratch() as folder:
        write_parquet(table, folder / "part.parquet")
        n_deferred = sum(row["status"] == "deferred" for row in rows)
        dataset.seal(
            "part-00000",
            {"part-00000.parquet": folder / "part.parquet"},
            table,
            counts={"deferred": n_deferred, "ok": len(rows) - n_deferred},
        )
    dataset.finish(["part-00000"], {}, 0.0)


def test_deferred_links_are_in_the_next_refresh_once(services: Services, tmp_path: Path) -> None:
    def write(name: str, *rows: dict[str, Any]) -> str:
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return str(tmp_path / name)

    lake = Lake(tmp_path / "lake")
    shared = "https://shared.example/"
    one = write(
        "one.ndjson",
        submission(1, 1.0, 10),
        submission(2, 1.0, 20),
        submission(3, 1.0, 4, url=shared, subreddit="a"),
        submission(4, 1.0, 1, url=shared, subreddit="b"),
        submission(5, 1.0, 2),
    )
    refresh(tmp_path / "lake", "s1", [one], services)
    crawl(lake, "s1", {"https://site1.example/?a=1&b=2", shared})

    two = write("two.ndjson", submission(6, 1.0, 6), submission(7, 2.0, 9, url=shared, subreddit="c"))
    second = refresh(tmp_path / "lake", "s2", [two], services)
    assert second.inputs["deferred:s1"] == lake.dataset("pages", "s1").require().digest
    rows = rows_of(tmp_path / "lake", "s2")
    assert {url: row["deferred_from"] for url, row in rows.items()} == {
        "https://site1.example/?a=1&b=2": "s1",
        shared: "s1",
        "https://site6.example/?a=1&b=2": None,
    }
    merged = rows[shared]
    assert (merged["karma"], merged["karma_sum"]) == (9, 14)
    assert merged["submission_ids"] == ["r3", "r4", "r7"]
    assert merged["subreddits"] == ["a", "b", "c"]
    assert rows["https://site1.example/?a=1&b=2"]["source"] == "one.ndjson"
    assert second.rows_in == sum(second.counts.values()) == second.extra["lines"] == 2 + 2
    assert second.counts == {"merged": 1, "ok": 3}

    crawl(lake, "s2", {shared})  # deferred again
    again = refresh(tmp_path / "lake", "s2", [two], services)  # goes on with what it was begun with
    assert again.digest == second.digest
    third = refresh(tmp_path / "lake", "s3", [one], services)
    assert [name for name in third.inputs if name.startswith("deferred:")] == ["deferred:s2"]
    rows = rows_of(tmp_path / "lake", "s3")
    assert {url for url, row in rows.items() if row["deferred_from"]} == {shared}
    assert rows[shared]["deferred_from"] == "s2"
    assert rows[shared]["karma_sum"] == 14  # submissions 3 and 4 are named again, and counted once
    assert third.rows_in == 5 + 1

    crawl(lake, "s3", set())
    fourth = refresh(tmp_path / "lake", "s4", [one], services)
    assert not [name for name in fourth.inputs if name.startswith("deferred:")]


def test_deferred_links_whose_links_were_made_anew_are_an_error(services: Services, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(orjson.dumps(submission(1, 1.0)) + b"\n")
    lake = Lake(tmp_path / "lake")
    refresh(tmp_path / "lake", "s1", [str(tmp_path / "a.ndjson")], services)
    crawl(lake, "s1", {"https://site1.example/?a=1&b=2"})
    lake.remove("links", "s1")
    (tmp_path / "a.ndjson").write_bytes(orjson.dumps(submission(2, 1.0)) + b"\n")
    refresh(tmp_path / "lake", "s1", [str(tmp_path / "a.ndjson")], services)
    with pytest.raises(InputError, match="pages/s1: 1 links are deferred, 0 of them are in links/s1"):
        refresh(tmp_path / "lake", "s2", [str(tmp_path / "a.ndjson")], services)


def test_settings_of_the_services_do_not_decide_the_result() -> None:
    from data.config import content_settings

    assert content_settings(LinksConfig(reddit_url="http://a.example", workers=7)) == content_settings(LinksConfig())
