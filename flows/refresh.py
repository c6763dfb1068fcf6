"""The ``refresh`` flow: links to tokens for one snapshot. Each stage is a subflow, each part of it a task run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from data import tokens as tokens_stage
from data.config import LinksConfig, PagesConfig, SelectConfig, TextConfig, TokensConfig
from data.lake.manifest import Manifest
from data.lake.store import Lake, base_snapshot, check_name
from data.links import stage as links_stage
from data.pages import stage as pages_stage
from data.schema import STAGES
from data.select import stage as select_stage
from data.stage import Mapper, StageResult
from data.text import stage as text_stage
from flows import artifacts
from flows.crawl import CRAWL_TASKS, allow_files, lacks_contact, log_path, whole_crawl
from flows.crawlview import CrawlView
from flows.parts import prefect_mapper
from flows.progress import say
from flows.settings import Settings

CPU_TASKS = os.cpu_count() or 1

AT_ONCE = {
    "links": 1,
    "pages": CRAWL_TASKS,
    "text": 1,  # a part keeps all cores busy with child processes of its own
    "select": CPU_TASKS,
    "tokens": CPU_TASKS,
}


@flow(name="refresh", persist_result=False)
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
) -> dict[str, Any]:
    """Bring a snapshot from its link sources to token shards; what is done already is verified and not done again.

    ``snapshot`` defaults to the ISO week, such as ``2026-w47``, so that a weekly schedule needs no argument.
    ``history`` names the snapshots that near-duplicates are looked for in; by default all that are published.
    """
    name = snapshot or datetime.now(UTC).strftime("%G-w%V")
    settings = Settings()
    if settings.contact:
        pages = dataclasses.replace(pages, contact=settings.contact)
    store = Lake(lake or settings.lake)
    base = base_snapshot(check_name("snapshot", name))
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
    result = {"snapshot": name, "stages": {stage: stage_summary(outcome) for stage, outcome in outcomes.items()}}
    artifacts.table("funnel", name, _funnel_rows(result))
    return result


def stage_summary(outcome: StageResult) -> dict[str, Any]:
    """What the command line's JSON says of a stage."""
    manifest: Manifest = outcome.manifest
    return {
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "by_status": manifest.counts,
        "extra": manifest.extra,
        "digest": manifest.digest,
        "seconds": manifest.seconds,
        "skipped": outcome.skipped,
    }


def _crawl(
    store: Lake, snapshot: str, pages: PagesConfig, history: list[str] | None, settings: Settings, mapper: Mapper
) -> StageResult:
    """The pages stage with its view. Runs inside the stage's flow, which the view's artifacts belong to."""
    if store.dataset("pages", snapshot).manifest() is not None:
        return pages_stage.run(store, snapshot, pages, mapper, history=history)
    fitting = allow_files(pages)
    if fitting != pages:
        say(f"pages: max_connections {fitting.max_connections}: no more files may be open here; `ulimit -Hn` raises it")
    if lacks_contact(pages):
        say("pages: site owners cannot reach you: set WEBTEXT_CONTACT to a page or address of your own")
    log = log_path(settings, snapshot)
    with CrawlView(log, whole_crawl(store, snapshot, pages), artifacts.CrawlArtifacts(snapshot).publish):
        return pages_stage.run(store, snapshot, fitting, mapper, history=history, log=log)


def _as_subflow(stage: str, snapshot: str, run: Callable[[Mapper], StageResult]) -> StageResult:
    mapper = prefect_mapper(stage, snapshot, AT_ONCE[stage], with_bar=stage != "pages")  # which has a view of its own
    runner: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE[stage])

    @flow(name=stage, task_runner=runner, persist_result=False)
    def stage_flow() -> StageResult:
        return run(mapper)

    outcome: StageResult = stage_flow()
    manifest = outcome.manifest
    lost = ", ".join(f"{status} {count:,}" for status, count in manifest.counts.items() if status != "ok")
    state = "found done" if outcome.skipped else f"done in {manifest.seconds:.0f} s"
    say(f"{stage}: {manifest.rows_in:,} -> {manifest.rows_out:,}, {state}" + (f" ({lost})" if lost else ""))
    return outcome


def _funnel_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "status": status, "rows": count}
        for stage, summary in result["stages"].items()
        for status, count in summary["by_status"].items()
    ]
