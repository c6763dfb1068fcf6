"""What a crawl needs around it: a log, the totals of its live view, enough open files, and a contact."""

from __future__ import annotations

import dataclasses
import resource
from collections import Counter
from pathlib import Path

from data.config import PagesConfig
from data.errors import InputError
from data.http.guard import Guard
from data.lake.manifest import add_counts
from data.lake.names import base_snapshot, is_part_name
from data.lake.store import Lake
from data.pages.segments import PREFIX
from flows.crawlview import Whole
from flows.settings import Settings

CRAWL_TASKS = 4  # parts fetched at once; a registrable domain is in only one of them
FILES_PER_CONNECTION = 2  # the socket, and a body too large for memory or a name server's socket
FILES_RESERVED = 500  # for everything else: the lake, Prefect, libraries


def log_path(settings: Settings, snapshot: str) -> Path:
    """The log of a snapshot's crawl; see data/pages/crawllog.py."""
    return settings.home.absolute() / "logs" / f"crawl-{base_snapshot(snapshot)}.jsonl"


def whole_crawl(lake: Lake, snapshot: str, pages: PagesConfig) -> Whole:
    """The totals that the live view compares with. Call it before the crawl begins or resumes."""
    sealed = lake.dataset("pages", snapshot).sealed()
    # A kill may have left the segments of a sealed part behind: they do not count again.
    parts = [
        part
        for name, part in sealed.items()
        if is_part_name(name) or name.removeprefix(PREFIX).rpartition("-")[0] not in sealed
    ]
    return Whole(
        links=lake.dataset("links", snapshot).require().rows_out,
        by_status=Counter(add_counts([part.counts for part in parts])),
        wire_bytes=sum(part.extra["wire_bytes"] for part in parts),
        deadline_s=pages.deadline_s,
        max_bytes=pages.max_bytes,
    )


def files_needed(max_connections: int) -> int:
    """The open files that one process with all crawl tasks may need."""
    return CRAWL_TASKS * max_connections * FILES_PER_CONNECTION + FILES_RESERVED


def allow_files(pages: PagesConfig) -> PagesConfig:
    """Raise this process's soft limit of open files to what the crawl may need; returns the settings to use.

    If the hard limit is too low, the settings get fewer ``max_connections``: without a free file a connection would
    fail, and the crawl would blame its host. Raises InputError if the limit is too low for a single connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_needed(pages.max_connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return pages
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit >= needed:
        return pages
    fit = (limit - FILES_RESERVED) // (CRAWL_TASKS * FILES_PER_CONNECTION)
    if fit < 1:
        raise InputError(f"a crawl needs {files_needed(1)} open files, the limit is {limit}; raise `ulimit -Hn`")
    return dataclasses.replace(pages, max_connections=fit)


def lacks_contact(pages: PagesConfig) -> bool:
    """Whether the crawl would reach other people's sites without the operator's contact in the User-Agent."""
    if pages.contact != PagesConfig.contact:
        return False
    targets = Guard.of(pages).connect_to
    return not targets or not all(to.address.is_loopback for to in targets)
