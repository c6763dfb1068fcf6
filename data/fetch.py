"""The asynchronous fetching of one part: who is asked when, and what became of each link.

Links are grouped by registrable domain and host. A worker takes one host at a time and asks for its links in turn; up
to ``max_hosts`` workers run, at most ``max_hosts_per_domain`` on one domain. Every request, robots.txt included, waits
for its host's turn: one at a time, and ``host_delay_s`` (or the crawl-delay) between the end of one and the start of
the next. A part begins with one such delay, so the limit also holds after a restart and between rounds.

What a domain needs (connections, robots.txt, delays) is kept while its links are worked on and then dropped, so memory
and sockets follow the domains that are active and not the size of the part.

A redirect inside the registrable domain is followed here, with the other host's robots.txt and turn; one that leaves it
is handed off, to be fetched in the part that holds the target's domain. An answer that never began because the
connection was lost (a server that closes an idle connection) is asked for once more after the delay; nothing else is.

Cost: 1.4 ms of CPU a page of 60 kB on loopback, about half of it for the WARC record.
Sources: RFC 9309; the politeness rules of Apache Nutch.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver

from data.client import (
    REDIRECTS,
    Answer,
    Client,
    FetchError,
    Limits,
    Network,
    Traffic,
    Wants,
    origin_of,
    resolve_redirect,
)
from data.config import PagesConfig
from data.robots import Robots, fetch_robots
from data.schema import PageStatus
from data.urls import domain_of, host_of
from data.warc import WarcWriter

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(frozen=True)
class Task:
    """A link to fetch. ``seen`` holds the URLs that led to ``target_url`` by redirects, oldest first."""

    canonical_url: str
    target_url: str
    karma: int
    seen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """When to stop asking: links whose turn has not come by then are deferred."""

    deadline_s: float | None = None  # from the start of the part
    wire_bytes: int | None = None


@dataclass
class Fetched:
    """What a part gave: rows of schema.PAGES, and links that redirect to another domain. Both sorted by link."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    handoffs: list[Task] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)


BlockReason = Callable[[str], str | None]
"""Why a redirect target's domain or file type is not wanted; None if it is."""


@dataclass(frozen=True)
class Job:
    """What fetching one part needs. ``resolver`` and ``now`` are for tests."""

    config: PagesConfig
    scratch: Path
    warc: WarcWriter
    warc_file: str
    block_reason: BlockReason
    budget: Budget = Budget()
    resolver: AbstractResolver | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def fetch_part(tasks: Iterable[Task], job: Job) -> Fetched:
    """Fetch all tasks; each ends in exactly one row or handoff. Blocks; may be called in any thread.

    Raises only what is no outcome of a link: a full disk, InputError for settings, KeyboardInterrupt.
    """
    by_domain: dict[str, dict[str, list[Task]]] = {}
    for task in sorted(tasks, key=lambda t: t.canonical_url):
        hosts = by_domain.setdefault(domain_of(task.target_url), {})
        hosts.setdefault(host_of(task.target_url), []).append(task)
    n_tasks = sum(len(links) for hosts in by_domain.values() for links in hosts.values())
    try:
        fetched = asyncio.run(_fetch_all(by_domain, job)) if n_tasks else Fetched()
    except BaseExceptionGroup as group:  # the workers' task group wraps what one of them raised
        raise group.exceptions[0] from group
    assert len(fetched.rows) + len(fetched.handoffs) == n_tasks
    fetched.rows.sort(key=lambda row: row["canonical_url"])
    fetched.handoffs.sort(key=lambda task: task.canonical_url)
    return fetched


async def _fetch_all(by_domain: dict[str, dict[str, list[Task]]], job: Job) -> Fetched:
    config = job.config
    # getaddrinfo blocks a thread; with one for each host worked on, slow name servers hold up no other host.
    with ThreadPoolExecutor(config.max_hosts, thread_name_prefix="resolver") as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        network = Network.of(config, job.scratch, job.resolver)
        crawl = _Crawl(job, network, Fetched(traffic=network.traffic))
        await asyncio.sleep(config.host_delay_s)
        ready: deque[_Domain] = deque()
        for name in sorted(by_domain):
            domain = _Domain(name, crawl, deque(by_domain[name].values()))
            ready.extend([domain] * min(len(domain.hosts_waiting), config.max_hosts_per_domain))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(config.max_hosts, len(ready))):
                group.create_task(_worker(ready))
    return crawl.fetched


async def _worker(ready: deque[_Domain]) -> None:
    """Takes a domain's next host, again and again; the entries of a domain in ``ready`` bound its hosts at once."""
    while ready:
        domain = ready.popleft()
        await domain.crawl_host()
        if domain.hosts_waiting:
            ready.appendleft(domain)  # a domain that was begun is finished first: its state is dropped the sooner


class _Crawl:
    """What all domains of a part share."""

    def __init__(self, job: Job, network: Network, fetched: Fetched) -> None:
        self.job, self.network, self.fetched = job, network, fetched
        self.started = time.monotonic()

    def is_over(self) -> bool:
        budget = self.job.budget
        if budget.deadline_s is not None and time.monotonic() - self.started >= budget.deadline_s:
            return True
        return budget.wire_bytes is not None and self.network.traffic.wire_bytes >= budget.wire_bytes

    def add_row(self, task: Task, url: str, status: PageStatus, reason: str, **columns: Any) -> None:
        row = {
            "canonical_url": task.canonical_url,
            "final_url": url,
            "status": str(status),
            "reason": reason,
            "fetched_at": self.job.now().replace(microsecond=0),
            "domain": domain_of(url),
            "karma": task.karma,
        }
        self.fetched.rows.append(row | columns)


class _Host:
    """One host's turns: one request at a time, with a delay after each."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.lock = asyncio.Lock()
        self.free_at = 0.0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self.lock:
            while (wait_s := self.free_at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            try:
                yield
            finally:
                self.free_at = time.monotonic() + self.delay_s


class _Origin:
    """One origin's robots.txt, fetched when it is first asked for."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.robots: Robots | None = None


class _Domain:
    """One registrable domain: its hosts that wait, and what is known and open of it while it is worked on."""

    def __init__(self, name: str, crawl: _Crawl, hosts_waiting: deque[list[Task]]) -> None:
        self.name, self.crawl, self.hosts_waiting = name, crawl, hosts_waiting
        self.hosts_active = 0
        self.client: Client | None = None
        self.hosts: dict[str, _Host] = {}
        self.origins: dict[str, _Origin] = {}
        config = crawl.job.config
        self.page_limits = Limits(config.max_wire_bytes, config.max_decoded_bytes)
        self.robots_limits = Limits(config.max_robots_bytes, config.max_robots_bytes, cut=True)

    async def crawl_host(self) -> None:
        """Settle all links of the next host that waits."""
        if not self.hosts_waiting:
            return
        tasks = self.hosts_waiting.popleft()
        self.hosts_active += 1
        if self.client is None:
            self.client = Client(self.crawl.network)
        try:
            for task in tasks:
                await self._settle(task)
        except BaseException:
            self.hosts_waiting.clear()  # the part is given up
            raise
        finally:
            self.hosts_active -= 1
            if not self.hosts_active and not self.hosts_waiting:
                await self.client.close()
                self.client = None
                self.hosts.clear()
                self.origins.clear()

    async def _settle(self, task: Task) -> None:
        """Follow one link until it has a row or is handed off."""
        crawl, config = self.crawl, self.crawl.job.config
        if crawl.is_over():
            crawl.add_row(task, task.target_url, PageStatus.DEFERRED, "", fetched_at=None)
            return
        url, seen, left_s = task.target_url, [*task.seen], config.total_timeout_s
        while True:
            seen.append(url)
            http_status: int | None = None
            try:
                answer, left_s = await self._page(url, left_s)
                http_status = answer.http_status
                with answer:
                    if http_status not in REDIRECTS:
                        self._keep(task, answer)
                        return
                    target = self._redirect_target(answer, seen)
            except FetchError as error:
                code = error.http_status or http_status
                crawl.add_row(task, url, error.status, error.reason, http_status=code)
                return
            if domain_of(target) != self.name:
                crawl.fetched.handoffs.append(Task(task.canonical_url, target, task.karma, tuple(seen)))
                return
            url = target

    async def _page(self, url: str, left_s: float) -> tuple[Answer, float]:
        """Ask for a page if its robots.txt allows it; also the seconds that are left for the link after it."""
        robots = await self._robots(url)
        refusal = robots.refusal(url)
        if refusal is not None:
            raise FetchError(*refusal)
        return await self._request(url, left_s, _wants_html, self.page_limits)

    async def _robots(self, url: str) -> Robots:
        origin = self.origins.setdefault(origin_of(url), _Origin())
        async with origin.lock:
            if origin.robots is None:
                config = self.crawl.job.config

                async def get(robots_url: str) -> Answer:
                    timeout_s = config.total_timeout_s
                    answer, _ = await self._request(robots_url, timeout_s, _wants_robots, self.robots_limits)
                    return answer

                origin.robots = await fetch_robots(origin_of(url), get, config)
                host = self._host(url)
                host.delay_s = max(host.delay_s, origin.robots.crawl_delay_s)
                host.free_at = max(host.free_at, time.monotonic() + origin.robots.crawl_delay_s)
        return origin.robots

    def _host(self, url: str) -> _Host:
        return self.hosts.setdefault(host_of(url), _Host(self.crawl.job.config.host_delay_s))

    async def _request(self, url: str, left_s: float, wants: Wants, limits: Limits) -> tuple[Answer, float]:
        """One request at the host's turn, and once more if its connection was lost. Waiting is not timed."""
        assert self.client is not None
        for is_last in (False, True):
            if left_s <= 0:
                break
            async with self._host(url).turn():
                started = time.monotonic()
                try:
                    answer = await self.client.get(url, timeout_s=left_s, wants=wants, limits=limits)
                    return answer, left_s - (time.monotonic() - started)
                except FetchError as error:
                    left_s -= time.monotonic() - started
                    if is_last or not error.lost:
                        raise
        raise FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s")

    def _redirect_target(self, answer: Answer, seen: list[str]) -> str:
        """The URL to go on with. Raises FetchError if the link ends here."""
        location = answer.headers.get("Location")
        if location is None:
            raise FetchError(PageStatus.REDIRECT_BAD, "no Location")
        target = resolve_redirect(answer.url, location.strip())
        if target is None:
            raise FetchError(PageStatus.REDIRECT_BAD, "Location is not a URL that can be fetched")
        blocked = self.crawl.job.block_reason(target)
        if blocked is not None:
            raise FetchError(PageStatus.REDIRECT_BAD, blocked)
        try:
            domain_of(target)
        except ValueError as error:
            raise FetchError(PageStatus.REDIRECT_BAD, "Location is not a URL that can be fetched") from error
        if target in seen:
            raise FetchError(PageStatus.REDIRECT_LOOP, target)
        if len(seen) > self.crawl.job.config.max_redirects:
            raise FetchError(PageStatus.REDIRECT_LIMIT, target)
        return target

    def _keep(self, task: Task, answer: Answer) -> None:
        """The row of an answer that is no redirect, and its WARC record if it is a page. Raises FetchError if not."""
        if answer.http_status != 200:
            raise FetchError(_status_of(answer.http_status), str(answer.http_status))
        content_type = answer.content_type()
        if answer.body is None:
            raise FetchError(PageStatus.NOT_HTML, _media_type(content_type))
        if not answer.body_bytes:
            raise FetchError(PageStatus.EMPTY_BODY, "")
        body = answer.body.read()
        # What declares no type is HTML if it begins as markup does; decided on the whole body, not on its first packet.
        if not content_type and not body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
            raise FetchError(PageStatus.NOT_HTML, "no content type")
        job, now = self.crawl.job, self.crawl.job.now()
        response = (answer.status_line, answer.raw_headers)
        offset = job.warc.write_page(answer.url, now, answer.request, response, body, answer.sha1)
        self.crawl.add_row(
            task,
            answer.url,
            PageStatus.OK,
            "",
            http_status=200,
            payload_digest=f"sha1:{base64.b32encode(answer.sha1).decode()}",
            content_type=content_type,
            warc_file=job.warc_file,
            warc_offset=offset,
            fetched_at=now.replace(microsecond=0),
        )


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _wants_html(http_status: int, headers: Any) -> bool:
    return http_status == 200 and _media_type(headers.get("Content-Type", "")) in HTML_TYPES | {""}


def _wants_robots(http_status: int, _headers: Any) -> bool:
    return 200 <= http_status < 300


def _status_of(http_status: int) -> PageStatus:
    exact = {404: PageStatus.NOT_FOUND, 410: PageStatus.GONE, 429: PageStatus.RATE_LIMITED}
    by_class = {4: PageStatus.CLIENT_ERROR, 5: PageStatus.SERVER_ERROR}
    return exact.get(http_status) or by_class.get(http_status // 100, PageStatus.HTTP_OTHER)
