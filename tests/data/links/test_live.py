"""Live sources against a server in their formats: windows, slices, watermarks, resuming."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.lake.store import Lake
from data.links import reddit, watermarks
from data.links import stage as links
from data.links.live import SETTLE_S, Window
from tests.data.links.services import DAY, DEC_1, NETWORK, NOV_1, NOW, Services, links_of, refresh, story, submission

# ---------------------------------------------------------------------------------------------------- windows


def test_a_window_is_split_at_midnight() -> None:
    assert [(day.start - NOV_1, day.end - NOV_1) for day in Window(NOV_1 - 5, NOV_1 + DAY + 7).days()] == [
        (-5, 0),
        (0, DAY),
        (DAY, DAY + 7),
    ]
    assert Window(NOV_1, NOV_1 + DAY).days() == [Window(NOV_1, NOV_1 + DAY)]
    assert Window(NOV_1 + 3, NOV_1 + 4).days() == [Window(NOV_1 + 3, NOV_1 + 4)]
    assert Window(5, 5).days() == []


# ---------------------------------------------------------------------------------------------------- Algolia


def test_a_month_is_read_completely_and_once(services: Services, tmp_path: Path) -> None:
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
    rows = links_of(tmp_path, "s")
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
    assert watermarks.read(Lake(tmp_path)) == {}  # an explicit month moves no watermark


def test_more_stories_in_one_second_than_a_query_shows_is_an_error(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOV_1 + 4_000) for n in range(1_000)]
    assert refresh(tmp_path, "s", ["hn:2026-11"], services).rows_in == 1_000
    services.stories.append(story(1_000, NOV_1 + 4_000))
    with pytest.raises(InputError, match=rf"1,001 stories in the second {NOV_1 + 4_000}, of which .* shows 1,000"):
        refresh(tmp_path, "t", ["hn:2026-11"], services)


def test_stories_that_the_search_counts_but_never_shows_are_counted(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOV_1 + 700 * n) for n in range(40)]
    whole = refresh(tmp_path / "whole", "s", ["hn:2026-11"], services)
    assert "not_shown" not in whole.extra
    phantoms = {NOV_1 + 7_000, NOV_1 + 7_001, NOV_1 + 20 * DAY}  # beside a story, next to one, alone

    def with_phantoms(start: int, end: int) -> int:
        return sum(start <= at < end for at in phantoms)

    services.phantoms = with_phantoms
    manifest = refresh(tmp_path / "lake", "s", ["hn:2026-11"], services)
    assert manifest.extra["not_shown"] == 3
    assert manifest.counts == whole.counts == {"merged": 0, "ok": 40}
    assert links_of(tmp_path / "lake", "s") == links_of(tmp_path / "whole", "s")
    again = refresh(tmp_path / "again", "s", ["hn:2026-11"], services)
    assert again.digest == manifest.digest


def test_a_title_that_is_no_text_costs_no_story(services: Services, tmp_path: Path) -> None:
    services.stories = [story(1, NOV_1), story(2, NOV_1 + 1, title="cut \ud83d emoji")]
    assert refresh(tmp_path, "s", ["hn:2026-11"], services).counts == {"merged": 0, "ok": 2}


def test_a_failing_service_is_retried_and_a_later_run_resumes(services: Services, tmp_path: Path) -> None:
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
    assert (
        min(start for start, _ in services.windows()) == NOV_1 + 3 * DAY
    )  # the first three days are not requested again
    assert len(services.asked) == 27


def test_a_killed_run_loses_only_the_slice_in_flight(services: Services, tmp_path: Path) -> None:
    services.stories = [story(n, NOV_1 + n * DAY // 2) for n in range(60)]
    whole = refresh(tmp_path / "whole", "s", ["hn:2026-11"], services)
    services.asked.clear()
    program = (
        "import sys; from data.links import stage as links; from data.config import LinksConfig; "
        "from data.lake.store import Lake; "
        "from tests.data.links.services import NETWORK; "
        f"links.run(Lake(sys.argv[1]), 's', ['hn:2026-11'], LinksConfig(hn_search_url={services.base + '/api/v1'!r}), "
        f"network=NETWORK, clock=lambda: {NOW})"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cut")], cwd=Path(__file__).parents[3])

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
    assert len(set(services.windows())) == 30  # the twelfth is requested twice


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}), "the answer is not JSON"),
        ((404, {}), "answered 404; check the source's name"),
        ((302, {"Location": "/elsewhere"}), "answered 302"),
        ((429, {"Retry-After": "86400"}), "answered 429 and asks to wait 86400 s, more than max_retry_after_s"),
    ],
)
def test_useless_answers_are_errors(
    answer: tuple[int, dict[str, str]], message: str, services: Services, tmp_path: Path
) -> None:
    services.before = lambda _: answer
    with pytest.raises(InputError, match=message) as caught:
        refresh(tmp_path, "s", ["hn:2026-11"], services)
    assert "\n" not in str(caught.value)
    assert len(services.asked) == 1


def test_json_in_the_format_of_another_service_is_an_error(services: Services, tmp_path: Path) -> None:
    services.answer = lambda *_: (200, {}, b'{"kind": "Listing"}')  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"not an answer of Algolia's search \(KeyError\('nbHits'\)\)"):
        refresh(tmp_path, "s", ["hn:2026-11"], services)


def test_retry_after_is_honoured(services: Services, tmp_path: Path) -> None:
    services.before = lambda _: (429, {"Retry-After": "1"}) if len(services.asked) == 1 else None
    started = time.monotonic()
    refresh(tmp_path, "s", ["hn:2026-11"], services, now=NOV_1 + 60)
    assert time.monotonic() - started >= 1.0
    assert len(services.asked) == 2


def test_requests_to_a_service_respect_the_delay(services: Services, tmp_path: Path) -> None:
    at: list[float] = []
    services.before = lambda _: at.append(time.monotonic())  # type: ignore[func-returns-value]
    network = PagesConfig(allow_net=("127.0.0.0/8",), host_delay_s=0.3)
    refresh(tmp_path, "s", ["hn:2026-11"], services, now=NOV_1 + 2 * DAY + 60, network=network)
    assert len(at) == 3
    assert all(later - earlier >= 0.3 for earlier, later in pairwise(at))


def test_the_guard_applies_to_services(services: Services, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="forbidden_address"):
        refresh(tmp_path, "s", ["hn:2026-11"], services, network=PagesConfig(host_delay_s=0.0))
    assert services.asked == []


# ---------------------------------------------------------------------------------------------------- watermarks


def test_a_refresh_reads_new_and_unsettled_submissions(services: Services, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    services.stories = [
        story(1, NOW - 20 * DAY, points=5),
        story(2, NOW - SETTLE_S - 1, points=2),  # settled: never read again
        story(3, NOW - SETTLE_S, points=2),
        story(4, NOW - 60, points=40),
        story(5, NOW - 31 * DAY, points=50),  # before the first window
    ]
    first = refresh(tmp_path, "s1", ["hn:"], services)
    assert first.inputs == {"live:hn:": f"{NOW - 30 * DAY}..{NOW}"}
    assert {row["submission_ids"][0]: row["status"] for row in links_of(tmp_path, "s1").values()} == {
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
    rows = {row["submission_ids"][0]: row for row in links_of(tmp_path, "s2").values()}
    assert {number: row["karma"] for number, row in rows.items()} == {"3": 30, "4": 30, "6": 9}
    assert rows["3"]["status"] == "ok"
    assert rows["3"]["score_observed_at"] == datetime.fromtimestamp(NOW + DAY, UTC)
    assert watermarks.read(lake) == {"hn:": NOW + DAY - SETTLE_S}
    assert lake.names("state", "watermarks") == ["00000001.json", "00000002.json"]

    services.asked.clear()
    refresh(tmp_path, "s1", ["hn:"], services, now=NOW + 2 * DAY)  # done; no watermark moves back
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


def test_a_dry_run_reads_from_the_watermark_without_moving_it(services: Services, tmp_path: Path) -> None:
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


def test_items_are_read_by_number(services: Services, tmp_path: Path) -> None:
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
    row = links_of(tmp_path, "s")["https://a.example/"]
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
    row = links_of(tmp_path, "s1")["https://site17.example/?a=1&b=2"]
    assert (row["karma"], row["source"], row["subreddits"]) == (5, "reddit:news", ["news"])
    assert row["score_observed_at"] == datetime.fromtimestamp(NOW, UTC)

    services.asked.clear()
    services.listings["/r/news/new.json"] = [submission(1_000, NOW + 1_800.0), *posts]
    again = refresh(tmp_path, "s2", ["reddit:news"], services, now=NOW + 3_600)
    assert len(services.asked) == 1  # the first page reaches beyond the watermark
    numbers = sorted(int(row["submission_ids"][0][1:]) for row in links_of(tmp_path, "s2").values())
    assert numbers == [*(n for n in range(36) if n not in (3, 4)), 1_000]
    assert again.inputs == {"live:reddit:news": f"{NOW - SETTLE_S}..{NOW + 3_600}"}


def test_a_listing_that_ends_too_early_is_counted(services: Services, tmp_path: Path) -> None:
    services.listings["/r/news/new.json"] = [submission(n, NOW - 60.0 - n) for n in range(1_000)]
    manifest = refresh(tmp_path, "s", ["reddit:news"], services)
    assert (manifest.rows_in, manifest.extra["listings_cut"]) == (1_000, 1)


def test_any_listing_is_read_by_its_url(services: Services, tmp_path: Path) -> None:
    services.listings["/r/all/top.json"] = [submission(n, 1_200_000_000.0 + n) for n in range(120)]
    url = f"{services.base}/r/all/top.json?t=month"
    manifest = refresh(tmp_path, "s", [url], services)
    assert manifest.rows_out == 120
    assert manifest.inputs == {f"live:{url}": "whole"}
    assert services.asked == [
        "/r/all/top.json?t=month&limit=100",
        "/r/all/top.json?t=month&limit=100&after=t3_r99",
    ]


def test_an_endless_listing_is_an_error(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reddit, "MAX_PAGES", 3)
    services.listings["/r/news/new.json"] = [submission(n, NOW - 60.0 - n) for n in range(900)]
    with pytest.raises(InputError, match=r"the listing has no end \(after=t3_r299\)"):
        refresh(tmp_path, "s", ["reddit:news"], services)
    services.items = {1: {}}
    with pytest.raises(InputError, match=r"not a listing of Reddit's API \(KeyError\('kind'\)\)"):
        refresh(tmp_path, "t", [f"{services.base}/v0/item/1.json"], services)


def test_a_saved_listing_is_read_as_a_dump(services: Services, tmp_path: Path) -> None:
    posts = [{"kind": "t3", "data": submission(n, NOW)} for n in range(3)]
    listing = {"kind": "Listing", "data": {"after": None, "children": [*posts, {"kind": "more", "data": {}}]}}
    (tmp_path / "top.json").write_bytes(orjson.dumps(listing))
    manifest = refresh(tmp_path / "lake", "s", [str(tmp_path / "top.json")], services)
    assert manifest.counts == {"merged": 0, "not_a_submission": 1, "ok": 3}


# ---------------------------------------------------------------------------------------------------- looks


def test_the_latest_score_of_a_submission_and_the_highest_of_a_url_count(services: Services, tmp_path: Path) -> None:
    looks = [
        submission(1, 1.0, 50, url="http://a.example/", retrieved_on=1_600_000_000),
        submission(1, 1.0, 7, url="http://a.example/", retrieved_on=1_700_000_000),  # votes were taken back
        submission(1, 1.0, 90, url="http://a.example/"),  # the score's time is unknown
        submission(2, 1.0, 5, url="http://a.example/", retrieved_on=1_800_000_000),
    ]
    (tmp_path / "dump.ndjson").write_bytes(b"".join(orjson.dumps(look) + b"\n" for look in looks))
    refresh(tmp_path / "lake", "s", [str(tmp_path / "dump.ndjson")], services)
    (row,) = links_of(tmp_path / "lake", "s").values()
    assert (row["karma"], row["karma_sum"]) == (7, 12)
    assert row["score_observed_at"] == datetime.fromtimestamp(1_700_000_000, UTC)


# ---------------------------------------------------------------------------------------------------- settings


def test_settings_of_the_services_do_not_affect_the_result() -> None:
    from data.config import content_settings

    assert content_settings(LinksConfig(reddit_url="http://a.example", workers=7)) == content_settings(LinksConfig())
