"""The pages stage: every kept link is fetched, and ends in one row.

    links/<snapshot>/part-00007.parquet  ->  pages/<snapshot>/part-00007.parquet           a row for each link settled
                                                              part-00007.warc.gz            the pages received whole
                                                              handoff/part-00007.parquet    links gone to another domain

Links are partitioned by registrable domain, so a domain is asked from one part alone and politeness needs no state that
is shared. A redirect to another domain therefore leaves its part: it is handed off to the next round, whose parts
(``part-1-00000`` ...) are again whole domains, of the targets. At most ``max_redirects`` rounds follow. Over all rounds
each link has exactly one row, so ``rows_in`` of pages is ``rows_out`` of links.

Cost: see data/fetch.py; a round's part reads the whole round's handoffs once, file by file.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.fetch import BlockReason, Budget, Fetched, Job, Task, fetch_part
from data.guard import Guard
from data.lake import Dataset, Lake, code_version, part_name, write_parquet
from data.manifest import Manifest, Part
from data.schema import PAGES
from data.stage import Mapper, Outcome, in_turn, run_stage
from data.urls import block_reason, domain_of, partition_of
from data.warc import WarcWriter

HANDOFF = pa.schema(
    [
        ("canonical_url", pa.string()),
        ("target_url", pa.string()),
        ("karma", pa.int64()),
        ("seen", pa.list_(pa.string())),  # the URLs that led to target_url, oldest first; its length is the hops
    ]
)
ROUND_PART_LINKS = 20_000  # handed-off links a part of a later round aims at, as LinksConfig.part_links for the first
_NAME = re.compile(r"part-(?:(\d+)-)?(\d{5,})")


def run(lake: Lake, snapshot: str, config: PagesConfig, mapper: Mapper = in_turn) -> Outcome:
    """Fetch the links of a snapshot. Raises InputError if there are none, or for a setting that cannot be read."""
    Guard.of(config)
    links = lake.dataset("links", snapshot).require()
    dataset = lake.dataset("pages", snapshot)
    deadline_at = None if config.deadline_s is None else time.time() + config.deadline_s

    def rounds() -> Iterator[list[str]]:
        yield _link_parts(links)
        for round_ in range(1, config.max_redirects + 1):
            yield [part_name(index, round_) for index in range(_n_parts(_parts_of_round(dataset, round_ - 1)))]
        n_rows = sum(part.rows_in for part in dataset.sealed().values())
        if n_rows != links.rows_out:
            raise InputError(
                f"{dataset.label}: {n_rows} rows for {links.rows_out} links; an earlier part was lost and fetched anew "
                f"after later ones were made from it; remove {dataset.label} and run again"
            )

    make = partial(make_part, lake.root, snapshot, config, deadline_at)
    return run_stage(dataset, config, {"links": links.digest}, rounds, make, mapper)


def make_part(lake_root: str, snapshot: str, config: PagesConfig, deadline_at: float | None, name: str) -> Part:
    """Fetch and seal one part; ``deadline_at`` is in seconds since the epoch. May run in any thread or process."""
    lake = Lake(lake_root)
    dataset, links = lake.dataset("pages", snapshot), lake.dataset("links", snapshot)
    with lake.scratch() as folder:
        warc_file, table_file = f"{name}.warc.gz", f"{name}.parquet"
        info = {"software": f"webtext/{code_version()}", "format": "WARC File Format 1.1", "robots": "obey"}
        with (folder / warc_file).open("wb") as file:
            job = Job(
                config=config,
                scratch=folder,
                warc=WarcWriter(file, warc_file, info),
                warc_file=warc_file,
                block_reason=_block_reason(links.require()),
                budget=_budget(dataset, config, deadline_at),
            )
            fetched = fetch_part(_tasks(dataset, links, name), job)
        pages, handoffs = _tables(fetched)
        write_parquet(pages, folder / table_file)
        write_parquet(handoffs, folder / "handoff.parquet")
        return dataset.seal(
            name,
            {
                warc_file: folder / warc_file,
                _handoff_file(name): folder / "handoff.parquet",
                table_file: folder / table_file,
            },
            [pages, handoffs],
            counts=dict(Counter(row["status"] for row in fetched.rows)),
            rows={table_file: len(pages), _handoff_file(name): len(handoffs)},
            extra={
                "handed_off": len(handoffs),
                "requests": fetched.traffic.requests,
                "wire_bytes": fetched.traffic.wire_bytes,
            },
        )


def _tasks(dataset: Dataset, links: Dataset, name: str) -> list[Task]:
    """The links that a part of that name fetches."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    if match[1] is None:
        table = links.read(f"{name}.parquet", ["canonical_url", "karma", "status"])
        table = table.filter(pc.equal(table["status"], "ok"))
        return [Task(row["canonical_url"], row["canonical_url"], row["karma"]) for row in table.to_pylist()]
    round_, index = int(match[1]), int(match[2])
    sources = _parts_of_round(dataset, round_ - 1)
    n_parts = _n_parts(sources)
    tasks = []
    for part in sources:
        for row in dataset.read(_handoff_file(part.name)).to_pylist():
            if _partition(domain_of(row["target_url"]), n_parts) == index:
                tasks.append(Task(row["canonical_url"], row["target_url"], row["karma"], tuple(row["seen"])))
    return tasks


def _tables(fetched: Fetched) -> tuple[pa.Table, pa.Table]:
    handoffs = [
        {"canonical_url": t.canonical_url, "target_url": t.target_url, "karma": t.karma, "seen": t.seen}
        for t in fetched.handoffs
    ]
    return pa.Table.from_pylist(fetched.rows, schema=PAGES), pa.Table.from_pylist(handoffs, schema=HANDOFF)


def _link_parts(links: Manifest) -> list[str]:
    """The parts of links that hold rows to fetch; others hold what was counted while reading the sources."""
    return [part.name for part in links.parts if _NAME.fullmatch(part.name)]


def _parts_of_round(dataset: Dataset, round_: int) -> list[Part]:
    found = []
    for name, part in sorted(dataset.sealed().items()):
        match = _NAME.fullmatch(name)
        if match is not None and int(match[1] or 0) == round_:
            found.append(part)
    return found


def _n_parts(sources: list[Part]) -> int:
    """How many parts a later round has, from the parts of the round before it."""
    return -(-sum(part.extra["handed_off"] for part in sources) // ROUND_PART_LINKS)


def _partition(domain: str, n_parts: int) -> int:
    """The part of a later round that a domain belongs to, the same everywhere."""
    return partition_of(domain) * n_parts >> 64


def _handoff_file(name: str) -> str:
    return f"handoff/{name}.parquet"


def _budget(dataset: Dataset, config: PagesConfig, deadline_at: float | None) -> Budget:
    """What is left of the refresh when a part begins. Parts that run at the same time do not see each other's bytes."""
    left_s = None if deadline_at is None else max(0.0, deadline_at - time.time())
    if config.max_bytes is None:
        return Budget(left_s)
    spent = sum(part.extra["wire_bytes"] for part in dataset.sealed().values())
    return Budget(left_s, max(0, config.max_bytes - spent))


def _block_reason(links: Manifest) -> BlockReason:
    """The block rules that the links were chosen by hold for what they redirect to."""
    settings = links.settings
    rules = LinksConfig(profile=settings["profile"], block_domains=tuple(settings["block_domains"]))
    return lambda url: block_reason(url, rules)
