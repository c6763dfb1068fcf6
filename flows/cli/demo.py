"""``webtext demo``: the whole pipeline on the bundled local web, in about four minutes on two fast cores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from data.config import LinksConfig, PagesConfig, TokensConfig
from data.lake.store import Lake
from flows.evaluate import evaluate
from flows.localweb import server as localweb
from flows.pretrain import pretrain
from flows.refresh import RefreshResult, refresh
from flows.settings import Settings
from model.events import EvalResult, TrainSummary

SNAPSHOT = "demo"
RUN = "demo"
PRESET = "nano"

LINKS = LinksConfig(part_links=500)
TOKENS = TokensConfig(val_share=0.05)  # a small corpus: held-out tasks need a few hundred documents


@dataclass(frozen=True)
class DemoResult:
    """The results of the three flows, where their files are, and whether everything was done before."""

    refresh: RefreshResult
    train: TrainSummary
    eval: EvalResult
    where: dict[str, str]
    skipped: bool
    seconds: float


def pages_config(connect_to: tuple[str, ...]) -> PagesConfig:
    """Short delays and limits: this machine serves every page, and the local web's slow hosts take seconds."""
    return PagesConfig(
        host_delay_s=0.02,
        total_timeout_s=6.0,
        read_timeout_s=3.0,
        connect_timeout_s=3.0,
        slow_after_s=2.0,
        backoff_s=0.2,
        breaker_pause_s=1.0,
        connect_to=connect_to,
    )


def run_demo(settings: Settings) -> DemoResult:
    """Crawl, train and score."""
    started = time.monotonic()
    home = settings.home.absolute()
    with localweb.running(home) as web:
        refreshed = refresh(
            [str(web.dump)],
            SNAPSHOT,
            settings.lake,
            links=LINKS,
            pages=pages_config(web.connect_to),
            tokens=TOKENS,
        )
    trained = pretrain([SNAPSHOT], PRESET, RUN, settings.lake)
    scored = evaluate(run=RUN, lake=settings.lake)
    lake = Lake(settings.lake)
    is_crawled = all(stage.skipped for stage in refreshed.stages.values())
    return DemoResult(
        refresh=refreshed,
        train=trained,
        eval=scored,
        where=_where(lake, home),
        skipped=is_crawled and trained.skipped and scored.skipped,
        seconds=round(time.monotonic() - started, 1),
    )


def _where(lake: Lake, home: Path) -> dict[str, str]:
    return {
        "token shards": lake.path("tokens", SNAPSHOT),
        "what became of each link": f"{lake.path('links', SNAPSHOT)} .. {lake.path('select', SNAPSHOT)}",
        "fetched pages (WARC)": lake.path("pages", SNAPSHOT),
        "checkpoints": lake.path("checkpoints", RUN),
        "scores": lake.path("scores", RUN),
        "servers, caches, logs": str(home),
    }
