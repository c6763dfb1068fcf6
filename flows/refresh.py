"""The ``refresh`` flow: links to tokens for one snapshot. Each stage is a subflow, each of its parts a task run."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from data.config import DEFAULT_PROFILE, LinksConfig, PagesConfig, SelectConfig, TextConfig, TokensConfig
from data.errors import stopping
from data.lake.names import base_snapshot, check_name, check_variant
from data.lake.store import Lake
from data.links import stage as links_stage
from data.pages import stage as pages_stage
from data.schema import STAGES
from data.select import stage as select_stage
from data.stage import Mapper, StageResult
from data.text import stage as text_stage
from data.tokens import stage as tokens_stage
from flows import artifacts
from flows.crawl import CRAWL_TASKS, allow_files, lacks_contact, log_path, whole_crawl
from flows.crawlview import CrawlView
from flows.interrupt import tag_own_run
from flows.parts import prefect_mapper
from flows.progress import say
from flows.settings import Settings
from flows.signals import before_prefect

CPU_TASKS = os.cpu_count() or 1

AT_ONCE = {
    "links": 1,
    "pages": CRAWL_TASKS,
    "text": 1,  # a part's own child processes keep all cores busy
    "select": CPU_TASKS,
    "tokens": CPU_TASKS,
}


@dataclass(frozen=True)
class StageSummary:
    """What a stage did with its rows."""

    rows_in: int
    rows_out: int
    by_status: dict[str, int]
    extra: dict[str, int]
    digest: str
    seconds: float
    skipped: bool  # the stage was done before

    @classmethod
    def of(cls, outcome: StageResult) -> StageSummary:
        manifest = outcome.manifest
        return cls(
            rows_in=manifest.rows_in,
            rows_out=manifest.rows_out,
            by_status=manifest.counts,
            extra=manifest.extra,
            digest=manifest.digest,
            seconds=manifest.seconds,
            skipped=outcome.skipped,
        )

    def lost(self) -> str:
        """``blocked_domain 120, low_karma 40``: the rows that ended here, by status, most frequent first."""
        lost = Counter({status: count for status, count in self.by_status.items() if status != "ok"})
        return ", ".join(f"{status} {count:,}" for status, count in lost.most_common())


@dataclass(frozen=True)
class RefreshResult:
    """A snapshot's stages, in their order."""

    snapshot: str
    stages: dict[str, StageSummary]


@flow(name="refresh", persist_result=False, on_running=[tag_own_run])
def refresh(
    sources: list[str],
    snapshot: str | None = None,
    lake: str | None = None,
    links: LinksConfig = LinksConfig(),  # noqa: B008 - frozen
    pages: PagesConfig = PagesConfig(),  # noqa: B008
    text: TextConfig = TextConfig(),  # noqa: B008
    select: SelectConfig = SelectConfig(),  # noqa: B008
    tokens: TokensConfig = TokensConfig(),  # noqa: B008
    history: list[str] | None = None,
) -> RefreshResult:
    """Bring a snapshot from its link sources to token shards. Finished work is verified, not repeated.

    ``snapshot`` defaults to the ISO week, such as ``2026-w47``, so that a weekly schedule needs no argument. With
    another profile of select than webtext it is a variant, such as ``2026-w47@gopher``.
    ``history`` names the earlier snapshots to compare with for near-duplicates; by default all published ones.
    """
    name = check_variant(check_name("snapshot", snapshot or _this_week(select)), select.profile)
    settings = Settings()
    if settings.contact:
        pages = dataclasses.replace(pages, contact=settings.contact)
    store = Lake(lake or settings.lake)
    base = base_snapshot(name)
    store.sweep()
    with store.lock(f"refresh-{base}"):  # variants write their base's first stages
        runs: list[tuple[str, Callable[[Mapper], StageResult]]] = [
            ("links", lambda mapper: links_stage.run(store, base, sources, links, mapper, network=pages)),
            ("pages", lambda mapper: _crawl(store, base, pages, history, settings, mapper)),
            ("text", lambda mapper: text_stage.run(store, base, text, mapper)),
            ("select", lambda mapper: select_stage.run(store, name, history, select, mapper)),
            ("tokens", lambda mapper: tokens_stage.run(store, name, tokens, mapper)),
        ]
        assert [stage for stage, _ in runs] == list(STAGES)
        outcomes = {stage: _as_subflow(stage, name, run) for stage, run in runs}
    result = RefreshResult(name, {stage: StageSummary.of(outcome) for stage, outcome in outcomes.items()})
    artifacts.table("funnel", name, _funnel_rows(result))
    return result


def _this_week(select: SelectConfig) -> str:
    week = datetime.now(UTC).strftime("%G-w%V")
    return week if select.profile == DEFAULT_PROFILE else f"{week}@{select.profile}"


def _crawl(
    store: Lake, snapshot: str, pages: PagesConfig, history: list[str] | None, settings: Settings, mapper: Mapper
) -> StageResult:
    """Run the pages stage with its view. Call it inside the stage's flow, to which the view's artifacts belong."""
    if store.dataset("pages", snapshot).manifest() is not None:
        return pages_stage.run(store, snapshot, pages, mapper, history=history)
    fitting = allow_files(pages)
    if fitting != pages:
        say(f"pages: max_connections lowered to {fitting.max_connections}: too few open files; raise `ulimit -Hn`")
    if lacks_contact(pages):
        say("pages: site owners cannot reach you: set WEBTEXT_CONTACT to a page or address of your own")
    log = log_path(settings, snapshot)
    with CrawlView(log, whole_crawl(store, snapshot, pages), artifacts.CrawlArtifacts(snapshot).publish):
        return pages_stage.run(store, snapshot, fitting, mapper, history=history, log=log)


def _as_subflow(stage: str, snapshot: str, run: Callable[[Mapper], StageResult]) -> StageResult:
    mapper = prefect_mapper(stage, snapshot, AT_ONCE[stage], with_bar=stage != "pages")  # pages has CrawlView
    runner: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE[stage])

    @flow(name=stage, task_runner=runner, persist_result=False, on_running=[tag_own_run])
    def stage_flow() -> StageResult:
        with before_prefect():
            return run(mapper)

    try:
        outcome: StageResult = stage_flow()
    finally:
        stopping.clear()  # the stage's threads have ended
    summary = StageSummary.of(outcome)
    state = "found done" if summary.skipped else f"done in {summary.seconds:.0f} s"
    lost = summary.lost()
    say(f"{stage}: {summary.rows_in:,} -> {summary.rows_out:,}, {state}" + (f" ({lost})" if lost else ""))
    return outcome


def _funnel_rows(result: RefreshResult) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "status": status, "rows": count}
        for stage, summary in result.stages.items()
        for status, count in summary.by_status.items()
    ]
