"""One turn of a host: the request that its next link needs now, for robots.txt, tdmrep.json or the page.

A turn returns what came of it (data/pages/results.py) and leaves the consequences to data/pages/settlement.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping

from data.http.client import NO_HEADERS, REDIRECTS, Client, fast_host_of, origin_of
from data.http.exchange import Answer, FetchError, Limits, Wants
from data.pages.answers import (
    NOT_MODIFIED,
    Known,
    page_body,
    redirect_target,
    require_no_opt_out,
    wants_html,
    wants_success,
)
from data.pages.frontier import Domain, Frontier, Host, Link
from data.pages.job import Job
from data.pages.optout import BOM_BYTES, TdmRule, parse_tdmrep, tdmrep_opt_out
from data.pages.results import (
    Failure,
    NotYet,
    Page,
    Redirect,
    Refused,
    ReservationsRead,
    RobotsRead,
    TurnResult,
    Unchanged,
)
from data.pages.robots import Robots, RobotsCache, fetch_robots
from data.schema import PageStatus

MAX_TDMREP_BYTES = 16_384  # a longer tdmrep.json is cut off, so it reserves everything
ALL_RESERVED = parse_tdmrep(b'[{"location": "*", "tdm-reservation": 1}]')
MAX_FOREIGN = 10_000  # hosts of other domains whose last request is remembered (redirects of robots.txt)


class Turns:
    """Takes turns. A turn changes its host's times and the link's time left, and nothing else."""

    def __init__(self, job: Job, client: Client, frontier: Frontier, robots: RobotsCache) -> None:
        config = job.config
        self.job = job
        self.config = config
        self.client = client
        self.frontier = frontier
        self.robots = robots
        self.foreign: OrderedDict[str, Host] = OrderedDict()
        self.page_limits = Limits(config.max_wire_bytes, config.max_decoded_bytes, config.max_ratio)
        self.robots_limits = Limits(config.max_robots_bytes, config.max_robots_bytes, cut=True)
        self.tdmrep_limits = Limits(MAX_TDMREP_BYTES, MAX_TDMREP_BYTES, cut=True)

    async def turn(self, host: Host) -> TurnResult:
        """Take the host's next link one step further.

        A request that failed while this process was stopped says nothing about the host, so it is sent again.
        """
        left_s = host.queue[-1].left_s if host.queue else 0.0
        n_pauses = self.client.n_pauses
        result = await self._turn(host)
        if self.client.n_pauses == n_pauses or result.link is None:
            return result
        result.link.left_s = left_s
        is_unknown = isinstance(result, (Failure, ReservationsRead)) and not result.answered
        return NotYet(result.link) if is_unknown else result

    async def _turn(self, host: Host) -> TurnResult:
        if not host.queue:  # emptied before the turn began
            return NotYet(None)
        link = host.queue.pop()
        origin = origin_of(link.url)
        robots = host.robots_of(origin) or self.robots.get(origin)
        if robots is None:
            return await self._ask_robots(host, link, origin)
        refusal = robots.refusal(link.url)
        if refusal is None:
            if host.reservations is None or origin not in host.reservations:
                return await self._ask_reservations(host, link, origin, robots)
            refusal = tdmrep_opt_out(host.reservations[origin], link.url[len(origin) :])
        if refusal is not None:
            return Refused(link, *refusal)
        return await self._ask_page(host, link)

    async def _ask_robots(self, host: Host, link: Link, origin: str) -> TurnResult:
        async def get(url: str) -> Answer:
            return await self._get(host, url, self.config.total_timeout_s, wants_success, self.robots_limits)

        robots = await fetch_robots(origin, get, self.config)
        if robots.failure is not None and robots.is_failure:
            status, reason = robots.failure
            return Failure(link, status, reason, robots.http_status, robots.is_lost, robots.retry_after, robots)
        return RobotsRead(link, robots)

    async def _ask_reservations(self, host: Host, link: Link, origin: str, robots: Robots) -> TurnResult:
        """Ask for tdmrep.json, once per origin with a page that we may fetch. Without the file nothing is reserved."""
        url = f"{origin}/.well-known/tdmrep.json"
        if robots.refusal(url) is not None:
            return ReservationsRead(link, ())
        try:
            answer = await self._get(host, url, self.config.total_timeout_s, wants_success, self.tdmrep_limits)
        except FetchError:
            return ReservationsRead(link, ())  # if the host is down, the request for the page will show it
        with answer:
            body = answer.body if answer.http_status == 200 else None
            rules = () if body is None else _reservations(body.read())
            return ReservationsRead(link, rules, answer.http_status, answer.headers.get("Retry-After"), answered=True)

    async def _ask_page(self, host: Host, link: Link) -> TurnResult:
        host.pinned = None
        known = self.job.known.get(link.url)
        conditions = NO_HEADERS if known is None else known.conditions()
        keep = bool(host.queue)  # the connection, for the host's next link
        began = time.monotonic()
        try:
            answer = await self._get(host, link.url, link.left_s, wants_html, self.page_limits, conditions, keep=keep)
        except FetchError as error:
            return Failure.of(link, error)
        finally:
            link.left_s -= time.monotonic() - began
        with answer:
            try:
                return self._read(link, answer, known)
            except FetchError as error:
                failure = Failure.of(link, error)
                retry_after = answer.headers.get("Retry-After")
                return failure._replace(http_status=answer.http_status, retry_after=retry_after, answered=True)

    def _read(self, link: Link, answer: Answer, known: Known | None) -> TurnResult:
        """What an answer means for its link. Raises FetchError if it is of no use."""
        if answer.http_status in REDIRECTS:
            seen = (*link.seen, link.url)
            return Redirect(link, redirect_target(answer, seen, self.config.max_redirects, self.job.block_reason))
        if answer.http_status == NOT_MODIFIED and known is not None:
            require_no_opt_out(answer, self.config.user_agent)
            return Unchanged(link, answer, known)
        return Page(link, answer, page_body(answer, self.config.user_agent))

    async def _get(
        self,
        host: Host,
        url: str,
        timeout_s: float,
        wants: Wants,
        limits: Limits,
        extra: Mapping[str, str] = NO_HEADERS,
        *,
        keep: bool = True,
    ) -> Answer:
        """One exchange with the host, or with another one that its robots.txt redirects to. Then the delay begins."""
        if timeout_s <= 0:
            raise FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s")
        name = fast_host_of(url)
        asked = host if name == host.name else self.frontier.hosts.get(name) or self._foreign_host(name)
        if asked.lock is None:
            asked.lock = asyncio.Lock()
        await self._wait_for(asked)
        host.asked_at = time.monotonic()
        try:
            return await self.client.get(url, timeout_s=timeout_s, wants=wants, limits=limits, extra=extra, keep=keep)
        finally:
            asked.free_at = time.monotonic() + asked.delay_s
            asked.lock.release()

    async def _wait_for(self, host: Host) -> None:
        """Lock the host when nobody else uses it and its delay is over, which is usually at once."""
        assert host.lock is not None
        if not host.lock.locked() and host.free_at <= time.monotonic():
            await host.lock.acquire()
            return
        try:
            async with asyncio.timeout(self.config.total_timeout_s):
                await host.lock.acquire()
                try:
                    await asyncio.sleep(max(0.0, host.free_at - time.monotonic()))
                except BaseException:
                    host.lock.release()
                    raise
        except TimeoutError as error:
            raise FetchError(PageStatus.TIMEOUT, "too many others ask the host") from error

    def _foreign_host(self, name: str) -> Host:
        """A host of another domain that a robots.txt redirects to. The same delay applies to it."""
        found = self.foreign.pop(name, None) or Host(name, Domain(name), self.config.host_delay_s)
        self.foreign[name] = found
        if len(self.foreign) > MAX_FOREIGN:
            first, oldest = next(iter(self.foreign.items()))
            if oldest.lock is None or not oldest.lock.locked():
                del self.foreign[first]
        return found


def _reservations(body: bytes) -> tuple[TdmRule, ...]:
    """The rules of a tdmrep.json. A web page in its place has none; JSON that was cut off reserves everything."""
    is_cut = len(body) >= MAX_TDMREP_BYTES and body.lstrip(BOM_BYTES).lstrip().startswith((b"[", b"{"))
    return ALL_RESERVED if is_cut else parse_tdmrep(body)
