"""The archive round of pages: looks dead links up in web archives (data/archives/lookup.py).

A capture is kept like any other page and marked in the ``archive`` column. The opt-outs in it are honoured. A link that
no archive has keeps its row, and the row's reason says whether the archives have no capture or did not answer.

The parts of this round run one at a time, because every archive is one host. A thousand links take an hour or more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

from multidict import CIMultiDict, CIMultiDictProxy

from data.archives.host import ArchiveUnavailable
from data.archives.lookup import DEAD, Archives, Capture
from data.errors import first_error
from data.http.client import Client, Network
from data.pages.job import Job
from data.pages.optout import header_opt_out, meta_opt_out
from data.pages.progress import Progress
from data.pages.segments import PageRow
from data.schema import PageStatus
from data.urls.canonical import domain_of
from data.warc import payload_digest

LOOKED_UP = frozenset(str(status) for status in DEAD)
_AT_ONCE = 4  # links in progress; each host of an archive still gets one request at a time


def look_up(rows: list[PageRow], submitted: Mapping[str, datetime], job: Job) -> None:
    """Settle rows of dead links in ``job.segments``, durable at the end. ``submitted`` is by canonical URL."""
    try:
        asyncio.run(_look_up(rows, submitted, job))
    except BaseExceptionGroup as group:
        raise first_error(group) from group


async def _look_up(rows: list[PageRow], submitted: Mapping[str, datetime], job: Job) -> None:
    client = Client(Network.of(job.config, job.scratch, job.resolver))
    progress = Progress(job, client.network.traffic)
    waiting = iter(rows)
    job.stats.links = len(rows)
    archives = Archives(job.config, client, now=job.now, rng=job.rng)

    async def work() -> None:
        for row in waiting:
            over = progress.what_is_over()
            job.settle(_kept(row, f"not looked up in archives: {over}") if over else await find(row))
            progress.seal_if_due()

    async def find(row: PageRow) -> PageRow:
        url = row["canonical_url"]
        try:
            capture = await archives.find(url, submitted.get(url))
        except ArchiveUnavailable as error:
            return _kept(row, f"archives: {error}")
        return _kept(row, "in no archive") if capture is None else _revived(row, capture, job)

    try:
        async with progress.running(), asyncio.TaskGroup() as workers:
            for _ in range(min(_AT_ONCE, len(rows))):
                workers.create_task(work())
        await job.segments.settle_all()
    finally:
        await client.close()


def _kept(row: PageRow, why: str) -> PageRow:
    return {**row, "reason": f"{row['reason']}; {why}" if row["reason"] else why}


def _revived(row: PageRow, capture: Capture, job: Job) -> PageRow:
    headers = CIMultiDictProxy(CIMultiDict(capture.headers))
    agent = job.config.user_agent
    now = job.now().astimezone(UTC)
    settled = {
        **row,
        "final_url": capture.url,
        "domain": domain_of(capture.url),
        "http_status": capture.http_status,
        "archive": capture.label,
        "fetched_at": now.replace(microsecond=0),
    }
    refusal = header_opt_out(headers, agent) or meta_opt_out(capture.body, agent)
    if refusal is not None:
        return {**settled, "status": str(refusal[0]), "reason": refusal[1]}
    warc_file, offset = job.segments.capture(capture, now)
    return {
        **settled,
        "status": str(PageStatus.OK),
        "reason": "",
        "payload_digest": payload_digest(capture.sha1),
        "content_type": capture.content_type(),
        "warc_file": warc_file,
        "warc_offset": offset,
    }
