"""A synthetic submission dump with the shape of a real one: real rows of two months and of the API, values varied.

The rows have the fields of Pushshift's rows for June and July 2005 (54 to 58 fields, 1.4 kB on average). Titles, URLs
and texts come from these months and from API submissions of 2005 to 2026. Ids, times, authors, subreddits, scores and
the numbers in URLs vary. Half of the links keep the hosts of the sampled links (images and videos of Reddit and Imgur,
YouTube, news). The other half go to OpenAI's thousand most linked domains, weighted by their counts, and to a tail of
400,000 others. The shares of text posts and of low scores are close to the dumps of 2016 to 2018.
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard

SELF_SHARE = 0.40
LOW_SHARE = 0.62  # below 3 points
OVER_18_SHARE = 0.08
ELSEWHERE_SHARE = 0.5  # of the links, to the most linked domains and the tail
TAIL_SHARE = 0.35  # of the links elsewhere
_COME_AND_GO = ("is_self", "brand_safe", "rte_mode", "no_follow", "send_replies", "whitelist_status")
_SEED = 20170101
_BLOCK_BYTES = 2**20


def write_dump(path: Path, rows: int, links: Path) -> int:
    """Write ``rows`` submissions to ``path`` as zstd with a window of 2 GiB; returns the uncompressed bytes.

    ``links`` is the folder of the real dumps. The same number of rows gives the same file.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    n_bytes, block = 0, bytearray()
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file, zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as out:
        for line in _lines(rows, links):
            block += line
            n_bytes += len(line)
            if len(block) > _BLOCK_BYTES:
                out.write(bytes(block))
                block.clear()
        out.write(bytes(block))
    partial.replace(path)
    return n_bytes


def _lines(rows: int, links: Path) -> Iterator[bytes]:
    rng = random.Random(_SEED)
    months = [lzma.decompress((links / f"RS_v2_2005-{month}.xz").read_bytes()) for month in ("06", "07")]
    shapes = [orjson.loads(line) for body in months for line in body.splitlines()]
    api = [orjson.loads(line) for line in (links / "reddit_api_submissions.ndjson").read_bytes().splitlines()]
    posts = [item for item in api if item["is_self"]]
    urls = [item["url"] for item in (*shapes, *api) if not item.get("is_self") and item["url"].startswith("http")]
    counted = [line.split() for line in (links / "webtext_top1000_domains.txt").read_text().splitlines()]
    names, counts = zip(
        *((name, int(count)) for count, name in (pair for pair in counted if len(pair) == 2)), strict=True
    )
    tops = rng.choices(names, counts, k=100_000)
    for number in range(rows):
        row: dict[str, Any] = {"title": "", **rng.choice(shapes)}
        row["id"] = f"{number + 36**5:x}"
        row["author"] = f"user{rng.randrange(200_000)}"
        row["created_utc"] = 1_483_228_800 + number * 2
        row["retrieved_on"] = row["created_utc"] + 86_400 * rng.randrange(30, 60)
        row["subreddit"] = f"sub{int(rng.paretovariate(0.7)) % 30_000}"
        is_low = rng.random() < LOW_SHARE
        row["score"] = rng.choice((0, 1, 1, 1, 1, 2)) if is_low else min(int(2 + rng.paretovariate(0.6)), 90_000)
        row["num_comments"] = rng.randrange(300)
        row["over_18"] = rng.random() < OVER_18_SHARE
        row["permalink"] = f"/r/{row['subreddit']}/comments/{row['id']}/{row['title'][:40].lower()}/"
        if rng.random() < SELF_SHARE:
            post = rng.choice(posts)
            row |= {"title": post["title"], "selftext": post["selftext"], "is_self": True}
            row |= {"domain": f"self.{row['subreddit']}", "url": f"https://www.reddit.com{row['permalink']}"}
        else:
            host, slash, path = rng.choice(urls).partition("://")[2].partition("/")
            if rng.random() < ELSEWHERE_SHARE:
                tail = f"www.site{int(rng.paretovariate(0.35)) % 400_000}.com"
                host = tail if rng.random() < TAIL_SHARE else f"{tops[number % len(tops)]}.com"
            row |= {"is_self": False, "domain": host.removeprefix("www.")}
            row["url"] = f"http{rng.choice(('', 's'))}://{host}{slash}{_varied(path, rng)}"
        for name in _COME_AND_GO[number % 100 :]:
            if name != "is_self" or not row["is_self"]:
                row.pop(name, None)
        yield orjson.dumps(row) + b"\n"


def _varied(path: str, rng: random.Random) -> str:
    head, dot, tail = path.rpartition(".")
    number = rng.randrange(10**6)
    return f"{head}-{number}{dot}{tail}" if dot else f"{path}{number}" if path else path
