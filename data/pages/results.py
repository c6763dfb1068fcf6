"""What came of one turn of a host: a page, a redirect, a refusal, a failure, or nothing yet.

data/pages/turns.py returns one of these, and data/pages/settlement.py applies it. ``answered`` says whether the host
answered a request of the turn, which proves that our network works (data/pages/outage.py).
"""

from __future__ import annotations

from typing import NamedTuple

from data.http.exchange import Answer, FetchError
from data.pages.answers import Known
from data.pages.frontier import Link
from data.pages.optout import TdmRule
from data.pages.robots import Robots
from data.schema import PageStatus

UNREACHED = frozenset({PageStatus.DNS_FAILURE, PageStatus.CONNECT_FAILURE, PageStatus.TIMEOUT})


class Page(NamedTuple):
    """The page arrived whole, and we may keep it."""

    link: Link
    answer: Answer
    body: bytes
    answered: bool = True


class Unchanged(NamedTuple):
    """304: the page is the one that an earlier refresh fetched."""

    link: Link
    answer: Answer
    known: Known
    answered: bool = True


class Redirect(NamedTuple):
    """The page is at another URL."""

    link: Link
    target: str
    answered: bool = True


class Refused(NamedTuple):
    """robots.txt or tdmrep.json forbids the page, so no request was sent for it."""

    link: Link
    status: PageStatus
    reason: str
    answered: bool = False


class RobotsRead(NamedTuple):
    """Not yet: the turn fetched robots.txt, and the link is still in line."""

    link: Link
    robots: Robots
    answered: bool = True


class ReservationsRead(NamedTuple):
    """Not yet: the turn dealt with tdmrep.json, and the link is still in line."""

    link: Link
    rules: tuple[TdmRule, ...]
    http_status: int | None = None  # None: no answer, or robots.txt forbids to ask
    retry_after: str | None = None
    answered: bool = False


class NotYet(NamedTuple):
    """Not yet: the turn did nothing. ``link`` goes back in line; None if the queue was empty."""

    link: Link | None
    answered: bool = False


class Failure(NamedTuple):
    """The exchange failed, or its answer is of no use."""

    link: Link
    status: PageStatus
    reason: str
    http_status: int | None = None
    lost: bool = False  # the connection ended before an answer began
    retry_after: str | None = None
    robots: Robots | None = None  # set if the request was for robots.txt
    answered: bool = False
    held_at: float = 0.0  # time.monotonic() when the outage began to hold it back; 0: never

    @classmethod
    def of(cls, link: Link, error: FetchError) -> Failure:
        return cls(link, error.status, error.reason, error.http_status, error.lost)

    @property
    def is_unreached(self) -> bool:
        """Whether our own network may be to blame."""
        is_robots_timeout = self.robots is not None and self.reason.endswith(PageStatus.TIMEOUT)
        return self.status in UNREACHED or self.lost or is_robots_timeout


TurnResult = Page | Unchanged | Redirect | Refused | RobotsRead | ReservationsRead | NotYet | Failure
