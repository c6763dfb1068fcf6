"""Which requests are sent again, and after what pause. The crawl, the live sources and the archive look-up use it.

The random factor keeps requests that failed together from being repeated together.

Sources: RFC 9110, section 10.2.3; the back-off of crawlee.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from data.config import PagesConfig
from data.schema import PageStatus

TRANSIENT = frozenset({PageStatus.RATE_LIMITED, PageStatus.SERVER_ERROR})
"""A link with one of these is fetched again."""


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """The seconds in a Retry-After header: 0 for a date in the past, None if the header is missing or invalid.

    ``now`` is our clock (aware). The RFC allows only digits for seconds, so ``-5`` and ``1.5`` are invalid.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])  # 12 digits are 30,000 years
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


def backoff_s(attempt: int, config: PagesConfig, rng: random.Random) -> float:
    """The pause after failed attempt number ``attempt`` (1, 2, ...)."""
    return config.backoff_s * 2.0 ** min(attempt - 1, 16) * rng.uniform(0.5, 1.5)
