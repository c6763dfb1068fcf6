"""A Reddit submission dump that links to the local web, in the format of Pushshift's monthly files.

Like the real dumps it is newline-delimited JSON, compressed with zstd and a window of 2 GiB, which a reader must allow.
It has their peculiarities: one URL in several subreddits with different scores, crossposts, tracking parameters, HTML
entities in URLs, ``created_utc`` as integer, float or string, absent ``is_self``, lines that are not JSON. The writer
returns the counts that the links stage must find with its default settings.

Scores: every page but ``LOW_KARMA_PAGES`` has a submission of 3 or more. Originals score above ``ORIGINAL_SCORE`` and
their copies below, so that the original survives deduplication.

Cost: 0.5 s. Format: arxiv.org/abs/2001.08435 (the Pushshift Reddit dataset).
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zstandard

from data.schema import LinkStatus
from flows.localweb.site import Site, host_of

LOW_KARMA_PAGES = 40
ORIGINAL_SCORE = 1_000
WINDOW_LOG = 31  # 2 GiB, as in the dumps from 2019 on
_OCTOBER_2026 = 1_790_812_800  # UTC
_MONTH_S = 31 * 86_400
_FIRST_ID = 36**6 + 1_234_567
_SUBREDDITS = ("programming", "Python", "math", "technology", "science", "compsci", "todayilearned", "books")
_TRACKING = ("utm_source=reddit&utm_medium=social", "utm_campaign=oct26", "fbclid=IwAR0xKq", "gclid=Cj0KCQ")
_BAD_URLS = (
    "mailto:editor@quietharbor.example",
    "ftp://files.quietharbor.example/readme",
    "javascript:void(0)",
    "http://",
    "http://reader:secret@quietharbor.example/",
    "not a link at all",
    "http://[::1",
    "magnet:?xt=urn:btih:0",
)
_MALFORMED = (
    b"this line is no JSON",
    b'{"id": "cut", "score": 12, "title": "a line that was cut o',
    b'["id", "score", "url"]',
    b'"just a string"',
    b"42",
    b'{"id": "bytes", "title": "\xff\xfe"}',
    b"{'id': 'quotes', 'score': 5}",
)


@dataclass(frozen=True)
class DumpCounts:
    """The contents of a dump. ``by_status`` has every value of LinkStatus and sums to ``lines``.

    ``lines`` leaves out blank lines. ``low_karma_pages`` are the pages of the site without a submission of score 3. The
    other counts overlap.
    """

    lines: int
    blank_lines: int
    by_status: dict[str, int]
    crossposts: int
    tracked: int
    low_karma_pages: list[str]


def write_dump(site: Site, path: Path) -> DumpCounts:
    """Write the dump. The same site gives the same bytes."""
    writer = _Writer(site)
    writer.site_links()
    writer.other_links()
    lines = writer.in_order()
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=WINDOW_LOG, write_checksum=True)
    with path.open("wb") as file, zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as out:
        for line in lines:
            out.write(line + b"\n")
    n_blank = sum(not line for line in lines)
    by_status = {str(status): writer.counts[status] for status in LinkStatus}
    assert sum(by_status.values()) == len(lines) - n_blank
    return DumpCounts(
        len(lines) - n_blank, n_blank, by_status, writer.crossposts, writer.tracked, writer.low_karma_pages
    )


class _Writer:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.rng = random.Random("the dump")
        self.submissions: list[dict[str, Any]] = []
        self.counts: Counter[LinkStatus] = Counter()
        self.crossposts = 0
        self.tracked = 0
        ordinary = site.urls("article")
        self.low_karma_pages = sorted(self.rng.sample(ordinary, LOW_KARMA_PAGES))

    def site_links(self) -> None:
        low = set(self.low_karma_pages)
        for url, route in self.site.routes.items():
            if route.kind == "hop":
                continue
            title = self.site.article(url).title if route.article >= 0 else f"Interesting: {route.kind}"
            if url in low:
                best = self.rng.randint(-3, 2)
                status = LinkStatus.LOW_KARMA
            else:
                tail = int(self.rng.paretovariate(0.7)) + 2
                is_original = route.kind == "original"
                best = ORIGINAL_SCORE + min(tail, 80_000) if is_original else min(tail, ORIGINAL_SCORE - 1)
                status = LinkStatus.OK
            self._link(url, title, best, status)

    def other_links(self) -> None:
        """Add links that never become pages."""
        rng = self.rng
        hosts = sorted(self.site.hosts)
        for n in range(150):
            self._link(
                f"http://{rng.choice(hosts)}/unseen/{n}", f"Nobody liked {n}", rng.randint(-3, 2), LinkStatus.LOW_KARMA
            )
        for n in range(40):
            for url in (
                f"https://en.wikipedia.org/wiki/Topic_{n}",
                f"https://i.imgur.com/a{n}b",
                f"https://youtu.be/v{n}",
            ):
                self._link(url, f"Look at this, {n}", self._score(), LinkStatus.BLOCKED_DOMAIN)
        for n, ending in enumerate((".jpg", ".png", ".mp4", ".zip", ".GIF", ".jpeg?x=1") * 8):
            url = f"http://{rng.choice(hosts)}/files/{n}{ending}"
            self._link(url, f"A picture, {n}", self._score(), LinkStatus.BLOCKED_EXTENSION)
        for n in range(80):
            url = f"http://afterdark{n % 7}.example/{n}"
            self._submit(url, f"Not for work, {n}", self._score(), LinkStatus.OVER_18, over_18=True)
        for n in range(400):
            subreddit = rng.choice(_SUBREDDITS)
            url = f"https://www.reddit.com/r/{subreddit}/comments/{_base36(_FIRST_ID - n)}/a_question/"
            made = self._submit(
                url, f"A question, {n}", self._score(), LinkStatus.SELF_POST, is_self=True, selftext="Well?"
            )
            made |= {"subreddit": subreddit, "domain": f"self.{subreddit}"}
            if n % 8 == 0:
                del made["is_self"]
        for n in range(40):
            url = (f"https://i.redd.it/pic{n}.jpg", f"https://www.reddit.com/r/books/comments/{n}x/", "/r/math/wiki")[
                n % 3
            ]
            self._submit(url, f"Elsewhere on the site, {n}", self._score(), LinkStatus.SELF_POST)
        for n, value in enumerate((None, "", " ", ...) * 3):
            made = self._submit(value, f"No link, {n}", self._score(), LinkStatus.NO_URL)
            if value is ...:
                del made["url"]
        for url in _BAD_URLS * 2:
            self._submit(url, "How do I open this?", self._score(), LinkStatus.BAD_URL)

    def in_order(self) -> list[bytes]:
        """All lines in the order of the file: by time, with malformed and blank lines in between."""
        self.submissions.sort(key=lambda item: (int(float(item["created_utc"])), item["id"]))
        lines = [orjson.dumps(item) for item in self.submissions]
        for bad in _MALFORMED * 4:
            lines.insert(self.rng.randrange(len(lines)), bad)
            self.counts[LinkStatus.MALFORMED_LINE] += 1
        for _ in range(9):
            lines.insert(self.rng.randrange(len(lines)), b"")
        return lines

    def _score(self) -> int:
        return int(self.rng.paretovariate(0.9)) - 4 if self.rng.random() < 0.5 else self.rng.randint(3, 400)

    def _link(self, url: str, title: str, best: int, status: LinkStatus) -> None:
        """Add a URL's submission with its highest score and, for some URLs, repeats with lower scores."""
        rng = self.rng
        first = self._submit(url, title, best, status)
        if rng.random() > 0.25:
            return
        for _ in range(rng.randint(1, 4)):
            spelling = self._respelled(url) if rng.random() < 0.6 else url
            score = rng.randint(-3, max(-3, best - 1))
            again = self._submit(spelling, title, score, LinkStatus.MERGED)
            again["subreddit"] = rng.choice([name for name in _SUBREDDITS if name != first["subreddit"]])
            if rng.random() < 0.4:
                again["crosspost_parent"] = f"t3_{first['id']}"
                self.crossposts += 1

    def _respelled(self, url: str) -> str:
        """The URL as people paste it: with tracking parameters, a fragment, in another case, with the default port."""
        if self.rng.random() < 0.5:
            self.tracked += 1
            separator = "&" if "?" in url else "?"
            joined = f"{url}{separator}{self.rng.choice(_TRACKING)}"
            return joined.replace("&", "&amp;") if self.rng.random() < 0.3 else joined
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        port = "443" if scheme == "https" else "80"
        return self.rng.choice(
            (f"{url}#comments", f"{scheme}://{host.upper()}/{path}", f"{scheme}://{host}:{port}/{path}")
        )

    def _submit(self, url: Any, title: str, score: int, status: LinkStatus, **fields: Any) -> dict[str, Any]:
        """Add a submission that counts as ``status``. The caller may still change it."""
        rng = self.rng
        number = len(self.submissions)
        self.counts[status] += 1
        subreddit = rng.choice(_SUBREDDITS)
        identity = _base36(_FIRST_ID + number)
        created = _OCTOBER_2026 + rng.randrange(_MONTH_S)
        item = {
            "id": identity,
            "name": f"t3_{identity}",
            "author": f"reader_{rng.randrange(5_000)}",
            "author_flair_text": None,
            "author_premium": False,
            "archived": False,
            "created_utc": rng.choices((created, float(created), str(created)), (7, 2, 1))[0],
            "retrieved_on": created + 90_000,
            "domain": host_of(url) if isinstance(url, str) and url.startswith("http://") else "",
            "edited": False,
            "gilded": 0,
            "hidden": False,
            "hide_score": False,
            "is_robot_indexable": True,
            "is_self": False,
            "is_video": False,
            "locked": False,
            "media": None,
            "num_comments": rng.randrange(200),
            "num_crossposts": 0,
            "over_18": False,
            "permalink": f"/r/{subreddit}/comments/{identity}/",
            "quarantine": False,
            "score": score,
            "selftext": "",
            "spoiler": False,
            "stickied": False,
            "subreddit": subreddit,
            "subreddit_id": f"t5_{_base36(40_000 + _SUBREDDITS.index(subreddit))}",
            "subreddit_type": "public",
            "thumbnail": "default",
            "title": title,
            "total_awards_received": 0,
            "upvote_ratio": round(0.5 + rng.random() / 2, 2),
            "url": None if url is ... else url,
        } | fields
        if status in (LinkStatus.OK, LinkStatus.MERGED) and rng.random() < 0.05:
            del item["is_self"]
        self.submissions.append(item)
        return item


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
