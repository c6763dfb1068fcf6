"""One turn of a host: robots.txt, the reservations of its origin, or a page; whatever comes first in its queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Mapping

from data.http.client import REDIRECTS, Client
from data.http.exchange import Answer, FetchError, Limits, Wants
from data.pages.answers import NOT_MODIFIED, wants_html, wants_success
from data.pages.frontier import Domain, Frontier, Host, Link
from data.pages.job import Failure, Job
from data.pages.optout import TdmRule, parse_tdmrep, tdmrep_opt_out
from data.pages.outage import Outage
from data.pages.outcomes import Outcomes, fast_host_of
from data.pages.politeness import note_success
from data.pages.robots import Robots, RobotsCache, fetch_robots
from data.schema import PageStatus

MAX_TDMREP_BYTES = 16_384  # a longer one is not understood, and so reserves everything
ALL_RESERVED = parse_tdmrep(b'[{"location": "*", "tdm-reservation": 1}]')
MAX_FOREIGN = 10_000  # hosts of other domains whose last request is remembered (redirects of robots.txt)

Held = tuple[Host, Link, Failure]


class Turns:
    """Takes turns; each ends with the host given back to the frontier, or held back by the outage."""

    def __init__(
        self,
        job: Job,
        client: Client,
        frontier: Frontier,
        robots: RobotsCache,
        outage: Outage[Held],
        outcomes: Outcomes,
    ) -> None:
        self.job, self.config, self.client = job, job.config, client
        self.frontier, self.robots, self.outage, self.outcomes = frontier, robots, outage, outcomes
        self.n_active = 0  # turns under way, counted by the caller
        self.held_since = 0.0
        self.foreign: OrderedDict[str, Host] = OrderedDict()
        config = job.config
        self.page_limits = Limits(config.max_wire_bytes, config.max_decoded_bytes, config.max_ratio)
        self.robots_limits = Limits(config.max_robots_bytes, config.max_robots_bytes, cut=True)
        self.tdmrep_limits = Limits(MAX_TDMREP_BYTES, MAX_TDMREP_BYTES, cut=True)

    async def turn(self, host: Host) -> None:
        while host.queue:
            link = host.queue.pop()
            origin = _origin_of(link.url)
            robots = host.robots_of(origin) or self.robots.get(origin)
            if robots is None:
                return await self._ask_robots(host, link, origin)
            refusal = robots.refusal(link.url)
            if refusal is None:
                if host.reservations is None or origin not in host.reservations:
                    return await self._ask_reservations(host, link, origin, robots)
                path = link.url[len(origin) :]
                refusal = tdmrep_opt_out(host.reservations[origin], path)
            if refusal is None:
                return await self._ask_page(host, link, origin)
            self.outcomes.settle(host, link, *refusal)
            if self.job.segments.is_due():
                break
        return self.outcomes.give_back(host)

    async def _ask_robots(self, host: Host, link: Link, origin: str) -> None:
        async def get(url: str) -> Answer:
            return await self._get(host, url, self.config.total_timeout_s, wants_success, self.robots_limits)

        robots = await fetch_robots(origin, get, self.config)
        if robots.failure is not None and robots.is_failure:
            failure = Failure(
                *robots.failure, robots.http_status, robots.is_lost, robots.retry_after, robots=robots, origin=origin
            )
            return await self._failed(host, link, failure)
        await self._answered(host, origin)
        self.outcomes.learn(host, origin, robots)
        self.frontier.requeue(link, host)
        return self.outcomes.give_back(host)

    async def _ask_reservations(self, host: Host, link: Link, origin: str, robots: Robots) -> None:
        """tdmrep.json, once for each origin of which a page may be fetched; whatever is none reserves nothing."""
        if host.reservations is None:
            host.reservations = {}
        host.reservations[origin] = ()
        url = f"{origin}/.well-known/tdmrep.json"
        if robots.refusal(url) is None:
            with contextlib.suppress(FetchError):  # a host that is down shows when its page is asked for
                timeout_s = self.config.total_timeout_s
                answer = await self._get(host, url, timeout_s, wants_success, self.tdmrep_limits)
                with answer:
                    if answer.http_status == 200 and answer.body is not None:
                        host.reservations[origin] = _reservations(answer.body.read())
                await self._answered(host, origin)
                if answer.http_status in (429, 503):
                    asked_s = await self.outcomes.noted_wait_s(host, answer.headers.get("Retry-After"))
                    if asked_s is not None and asked_s > self.config.max_retry_after_s:
                        return self.outcomes.defer_host(host, link, answer.http_status)
                    host.free_at = max(host.free_at, time.monotonic() + (asked_s or 0.0))
        self.frontier.requeue(link, host)
        return self.outcomes.give_back(host)

    async def _ask_page(self, host: Host, link: Link, origin: str) -> None:
        host.pinned = None
        known = self.job.known.get(link.url)
        began = time.monotonic()
        try:
            conditions = known.conditions() if known is not None else {}
            answer = await self._get(
                host, link.url, link.left_s, wants_html, self.page_limits, conditions, bool(host.queue)
            )
        except FetchError as error:
            link.left_s -= time.monotonic() - began
            failure = Failure(error.status, error.reason, error.http_status, error.lost)
            return await self._failed(host, link, failure)
        link.left_s -= time.monotonic() - began
        with answer:
            await self._answered(host, origin)
            try:
                if answer.http_status in REDIRECTS:
                    return self.outcomes.follow(host, link, answer)
                if answer.http_status == NOT_MODIFIED and known is not None:
                    self.outcomes.keep_known(host, link, answer, known)
                else:
                    self.outcomes.keep(host, link, answer)
            except FetchError as error:
                retry_after = answer.headers.get("Retry-After")
                failure = Failure(error.status, error.reason, answer.http_status, retry_after=retry_after)
                return await self._failed(host, link, failure)
        if note_success(host):
            self.job.log.event(self.job.stats, "breaker_closed", host=host.name)
        return self.outcomes.give_back(host)

    async def _get(
        self,
        host: Host,
        url: str,
        timeout_s: float,
        wants: Wants,
        limits: Limits,
        extra: Mapping[str, str] | None = None,
        has_more: bool = True,
    ) -> Answer:
        """One exchange, with the host or another that it redirects to; whose delay begins when it ends."""
        if timeout_s <= 0:
            raise FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s")
        name = fast_host_of(url)
        asked = host if name == host.name else self.frontier.hosts.get(name) or self._foreign_host(name)
        if asked.lock is None:
            asked.lock = asyncio.Lock()
        await self._wait_for(asked)
        host.asked_at = time.monotonic()
        try:
            return await self.client.get(
                url, timeout_s=timeout_s, wants=wants, limits=limits, extra=extra or {}, keep=has_more
            )
        finally:
            asked.free_at = time.monotonic() + asked.delay_s
            asked.lock.release()

    async def _wait_for(self, host: Host) -> None:
        """Until nobody asks the host and its delay is over; then it is ours. As a rule that is now."""
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
        """A host of another domain, which a robots.txt redirects to: it is asked no more often than any other."""
        found = self.foreign.pop(name, None) or Host(name, Domain(name), self.config.host_delay_s)
        self.foreign[name] = found
        if len(self.foreign) > MAX_FOREIGN:
            first, oldest = next(iter(self.foreign.items()))
            if oldest.lock is None or not oldest.lock.locked():
                del self.foreign[first]
        return found

    async def _answered(self, host: Host, origin: str) -> None:
        """A host has answered, so failures that were held back are what they look like."""
        began = host.asked_at
        for held in self.outage.answered(host.domain.name, origin, lambda held: held[2].at <= began):
            await self.outcomes.judge(*held)

    async def _failed(self, host: Host, link: Link, failure: Failure) -> None:
        """The turn failed: it is judged, or held back until it is known whether it was the network's fault."""
        if failure.is_unreached and self.outage.may_hold:
            if not self.outage.held:
                self.held_since = time.monotonic()
            self.outage.held.append((host, link, failure._replace(at=time.monotonic())))
        else:
            await self.outcomes.judge(host, link, failure)


def _reservations(body: bytes) -> tuple[TdmRule, ...]:
    """What a tdmrep.json says; a web page in its place says nothing, and JSON that was cut reserves everything."""
    is_cut = len(body) >= MAX_TDMREP_BYTES and body.lstrip().startswith((b"[", b"{"))
    return ALL_RESERVED if is_cut else parse_tdmrep(body)


def _origin_of(url: str) -> str:
    """``https://host:port`` of a URL as a parser writes it."""
    return url[: url.index("/", 8)]
