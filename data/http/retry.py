"""When a request is sent again, and after what pause: for the crawl, the live sources and the web archives alike.

The random factor keeps requests that failed together from being sent again together.

Sources: RFC 9110, section 10.2.3; the back-off of crawlee.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from data.config import PagesConfig
from data.schema import PageStatus

TRANSIENT = frozenset({PageStatus.RATE_LIMITED, PageStatus.SERVER_ERROR})
"""A link with one of these is asked again."""


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """The seconds a Retry-After header asks for: 0 for a date in the past; None if it says nothing that is valid.

    ``now`` is our clock (aware). Seconds are digits only, as the RFC has it; so ``-5`` and ``1.5`` say nothing.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])  # more digits are more than any life
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


def backoff_s(attempt: int, config: PagesConfig, rng: random.Random) -> float:
    """The pause before attempt 2, 3, ... (``attempt`` failed ones so far: 1, 2, ...)."""
    return config.backoff_s * 2.0 ** min(attempt - 1, 16) * rng.uniform(0.5, 1.5)
