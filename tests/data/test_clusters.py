"""The largest clusters of duplicates, what their members have in common, and the report that lists them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data import clusters
from data.clusters import EXAMPLES, LARGE, LISTED, SAMPLE, Cluster, largest_clusters, warning
from data.config import SelectConfig
from data.lake.store import Lake
from data.links import stage as links
from data.select import stage as select
from flows.cli import main as cli
from tests.data.links.dumps import CONFIG, dump, post
from tests.data.select.test_stage import Row, add_text, prose, row
from tests.data.test_duplicates import word_ngrams

WALL = [f"{prose(n, 40)} cookies" for n in range(10)]


def cookie_wall(k: int) -> str:
    """The same ten lines on each site, with a line of its own."""
    return "\n".join([*WALL[:5], f"welcome to {prose(1_000 + k, 6)}", *WALL[5:]])


def judged(lake: Lake, snapshot: str, rows: list[Row], n_parts: int = 3) -> Lake:
    add_text(lake, snapshot, {f"part-{k:05d}": rows[k::n_parts] for k in range(n_parts)})
    select.run(lake, snapshot, None, SelectConfig())
    return lake


def test_clusters_are_listed_by_size_with_domains_and_examples(tmp_path: Path) -> None:
    rows = [row(prose(9), "alone", karma=9)]
    for size in (3, 1, 2):
        names = [f"c{size}-{k}" for k in range(size + 1)]
        rows += [row(prose(size), name, karma=9 - k, domain=f"d{k % 2}.example") for k, name in enumerate(names)]
    lake = judged(Lake(tmp_path), "s", rows)
    found = largest_clusters(lake, "s")
    assert [(c.copies, c.url, c.kept_by, c.shared) for c in found] == [
        (size, f"http://c{size}-0.example/", "s", None) for size in (3, 2, 1)
    ]
    assert found[0].domains == [("d1.example", 2), ("d0.example", 1)]
    assert found[0].n_domains == 2
    assert sorted(found[0].examples) == [f"http://c3-{k}.example/" for k in (1, 2, 3)]
    assert [warning("s", cluster) for cluster in found] == [None] * 3


def test_only_the_largest_are_listed_in_an_order_without_chance(tmp_path: Path) -> None:
    rows = [row(prose(n), f"n{n}-{k}", karma=2 - k) for n in range(LISTED + 3) for k in (0, 1)]
    rng = np.random.default_rng(1)
    shuffled = [rows[k] for k in rng.permutation(len(rows))]
    found = largest_clusters(judged(Lake(tmp_path / "a"), "s", rows), "s")
    assert [c.doc_id for c in found] == sorted(r["doc_id"].hex() for r in rows if r["karma"] == 2)[:LISTED]
    assert largest_clusters(judged(Lake(tmp_path / "b"), "s", shuffled), "s") == found


def test_a_copy_of_an_earlier_snapshot_counts_where_it_was_dropped(tmp_path: Path) -> None:
    lake = judged(Lake(tmp_path), "2026-01", [row(prose(1), "first"), row(prose(1), "again", 1)])
    judged(lake, "2026-02", [row(prose(1), f"later{k}") for k in range(2)])
    (cluster,) = largest_clusters(lake, "2026-02")
    assert (cluster.url, cluster.kept_by, cluster.copies) == ("http://first.example/", "2026-01", 2)
    lake.remove("select", "2026-01")
    (cluster,) = largest_clusters(lake, "2026-02")
    assert (cluster.url, cluster.kept_by, cluster.copies) == (None, None, 2)


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Cluster]:
    """A cookie wall on LARGE + 1 sites, and a cluster that is just too small for a warning."""
    folder = tmp_path_factory.mktemp("wall")
    lake = Lake(folder / "lake")
    rows = [row(cookie_wall(k), f"w{k}", karma=1_000 - k, domain=f"site{k}.example") for k in range(LARGE + 1)]
    rows += [row(prose(3), f"p{k}", karma=1_000 - k) for k in range(LARGE)]
    sources = [dump(folder / "a.ndjson", [post(n, url=r["url"]) for n, r in enumerate(rows)])]
    links.run(lake, "s", sources, CONFIG)
    judged(lake, "s", rows)
    large, small = largest_clusters(lake, "s")
    assert (large.copies, small.copies, small.shared) == (LARGE, LARGE - 1, None)
    return lake, large


def test_a_large_cluster_says_what_is_common_to_its_members(wall: tuple[Lake, Cluster]) -> None:
    cluster = wall[1]
    assert cluster.n_domains == LARGE
    assert len(cluster.domains) == len(cluster.examples) == EXAMPLES
    shared = cluster.shared
    assert shared is not None
    assert shared.sampled == SAMPLE + 1  # and the kept one
    assert shared.lines == sorted(WALL, key=lambda line: (-len(line), line))[:EXAMPLES]
    assert shared.n_lines == len(WALL)
    first, *others = (word_ngrams(cookie_wall(k)) for k in range(LARGE + 1))
    assert shared.shingle_share == pytest.approx(len(first.intersection(*others)) / len(first))
    assert 0.9 < shared.shingle_share < 1


def test_the_sample_is_spread_evenly_over_the_members() -> None:
    for copies in (LARGE, 777, 800_000):
        members = clusters._Members(copies)
        for number in range(copies):
            members.add(number, "u", "d")  # type: ignore[arg-type]
        steps = np.diff(np.array(members.sample))
        assert len(members.sample) == SAMPLE
        assert set(steps) <= {copies // SAMPLE, -(-copies // SAMPLE)}


def test_the_report_lists_clusters_and_warns_of_a_large_one(wall: tuple[Lake, Cluster], tmp_path: Path) -> None:
    lake, cluster = wall
    page = tmp_path / "index.html"
    result = CliRunner().invoke(
        cli.app, ["report", "--snapshot", "s", "--to", str(page), "--lake", lake.root, "--json"]
    )
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout.splitlines()[-1])
    assert [found["copies"] for found in written["clusters"]["s"]] == [LARGE, LARGE - 1]
    (warned,) = written["warnings"]
    assert warned.startswith(f"select/s: {LARGE:,} documents were dropped as copies of http://w0.example/")
    assert f"from {LARGE:,} domains (site" in warned
    assert f"the {SAMPLE + 1} that were compared share 9" in warned
    assert f"10 lines, such as {cluster.shared.lines[0]!r}" in warned  # type: ignore[union-attr]
    assert f"warning: {warned}" in result.stderr
    html = page.read_text()
    assert "documents with the most copies" in html
    assert html.count('<p class="warning">') == 1
    assert cluster.doc_id in html
