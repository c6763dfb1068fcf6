"""The archive round of pages: links that ended dead are looked up in web archives (data/archives/lookup.py).

The page of a capture is kept like any other, marked in the ``archive`` column; what the page's own server said about
its use when it was captured is honoured. A link that no archive has keeps its row, and the row's reason says whether
the archives have no capture or could not be asked.

One part at a time: an archive is one host, and is asked as politely as any. A thousand links take an hour or more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy

from data.archives.host import ArchiveUnavailable
from data.archives.lookup import DEAD, Archives, Capture
from data.errors import first_error
from data.http.client import Client, Network
from data.pages.job import Job
from data.pages.optout import header_opt_out, meta_opt_out
from data.schema import PageStatus
from data.urls.canonical import domain_of
from data.warc import payload_digest

LOOKED_UP = frozenset(str(status) for status in DEAD)
_AT_ONCE = 4  # links; the archives' own hosts are asked one request at a time whatever this is

Row = dict[str, Any]


def look_up(rows: list[Row], submitted: Mapping[str, datetime], job: Job) -> None:
    """Settle rows of dead links in ``job.segments``, durable at the end. ``submitted`` is by canonical URL."""
    try:
        asyncio.run(_look_up(rows, submitted, job))
    except BaseExceptionGroup as group:
        raise first_error(group) from group


async def _look_up(rows: list[Row], submitted: Mapping[str, datetime], job: Job) -> None:
    network = Network.of(job.config, job.scratch, job.resolver)
    client = Client(network)
    started = time.monotonic()
    waiting = iter(rows)
    job.stats.links = len(rows)
    archives = Archives(job.config, client, now=job.now, rng=job.rng)

    def what_is_over() -> str:
        budget = job.budget
        if budget.deadline_s is not None and time.monotonic() - started >= budget.deadline_s:
            return "the deadline"
        is_spent = budget.wire_bytes is not None and network.traffic.wire_bytes >= budget.wire_bytes
        return "max_bytes" if is_spent else ""

    def count() -> None:
        job.segments.count(
            network.traffic.requests - job.stats.requests, network.traffic.wire_bytes - job.stats.wire_bytes
        )
        job.stats.requests, job.stats.wire_bytes = network.traffic.requests, network.traffic.wire_bytes

    async def work() -> None:
        for row in waiting:
            over = what_is_over()
            settled = _kept(row, f"not looked up in archives: {over}") if over else await one(row)
            job.segments.settle(settled)
            job.stats.settled += 1
            job.stats.pages += settled["status"] == PageStatus.OK
            job.stats.by_status[settled["status"]] += 1
            if job.segments.is_due():
                count()
                job.segments.rotate()

    async def one(row: Row) -> Row:
        url = row["canonical_url"]
        try:
            capture = await archives.find(url, submitted.get(url))
        except ArchiveUnavailable as error:
            return _kept(row, f"archives: {error}")
        return _kept(row, "in no archive") if capture is None else _revived(row, capture, job)

    async def tick() -> None:
        while True:
            count()
            job.log.progress(job.stats)
            await job.segments.check()
            await asyncio.sleep(1.0)

    try:
        job.log.event(job.stats, "begin")
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(tick())
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(_AT_ONCE, len(rows))):
                    workers.create_task(work())
            ticker.cancel()
        count()
        job.log.event(job.stats, "end")
        await job.segments.settle_all()
    finally:
        await client.close()


def _kept(row: Row, why: str) -> Row:
    return {**row, "reason": f"{row['reason']}; {why}" if row["reason"] else why}


def _revived(row: Row, capture: Capture, job: Job) -> Row:
    headers = CIMultiDictProxy(CIMultiDict(capture.headers))
    agent, now = job.config.user_agent, job.now().astimezone(UTC)
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
