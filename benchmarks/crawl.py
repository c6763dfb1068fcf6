"""The crawler: pages per CPU second side by side with Scrapy and a bare aiohttp loop, memory, and slow hosts.

    python -m benchmarks.crawl [--only speed,memory,queue,slow] [--quick] [--folder DIR]

Everything runs on loopback. The server (benchmarks/crawl_server.py) and each crawl run in their own processes. Every
host is an address of 127.0.0.0/8 and counts as its own registrable domain. The server also serves robots.txt.

    speed    200 hosts, 60 kB pages, no delay, one connection per host. Three turns of: a bare aiohttp loop, which
             discards the bodies; Scrapy, which discards them too but obeys robots.txt; and our pages stage, WARC files
             included. CPU time is the user and system time of the crawling process without its imports. Ratios are
             taken within each turn and their median is reported, so a change of load between turns favours nobody.
    memory   100,000 links on 5,000 hosts, 60 kB pages, one task: resident memory during the crawl
    queue    1,000,000 links on 50,000 hosts, one task: the task builds the queue, fetches pages until a deadline and
             defers the rest; reports the peak of resident memory
    slow     One host in a hundred sends one byte/s; half of these send robots.txt and headers that slowly too. Reports
             how much longer the crawl takes than with fast hosts only. A delay of one second per host stretches the
             crawl to two minutes. Pages are small, so the delays dominate.

``--quick`` runs everything in seconds to check that it works; its numbers mean nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.machine import machine

ROOT = Path(__file__).parents[1]
SCENARIOS = ("speed", "memory", "queue", "slow")
GOALS = {"vs_scrapy": 2.5, "vs_bare": 0.30, "memory_mb": 600, "queue_mb": 1500, "slow_time": 1.10}
SLOW_NET = "127.200.0.0/16"
PEERS = {"bare": "benchmarks.crawl_peers.bare", "scrapy": "benchmarks.crawl_peers.scrapy_spider"}
OURS = "benchmarks.crawl_peers.ours"

_SAMPLE_S = 0.2
_LONGEST_S = 3600.0

Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The size of each scenario, which crawls hosts x links_per_host links. Every link has a page."""

    turns: int = 3
    speed_hosts: int = 200
    speed_links_per_host: int = 100
    page_bytes: int = 60_000
    memory_hosts: int = 5_000
    memory_links_per_host: int = 20
    queue_hosts: int = 50_000
    queue_links_per_host: int = 20
    queue_deadline_s: float = 120.0
    slow_hosts: int = 4  # of slow_all_hosts
    slow_all_hosts: int = 400
    slow_links_per_host: int = 120
    slow_page_bytes: int = 5_000
    slow_settings: tuple[tuple[str, Any], ...] = (("host_delay_s", 1.0),)


QUICK = Size(
    turns=1,
    speed_hosts=4,
    speed_links_per_host=5,
    memory_hosts=10,
    memory_links_per_host=5,
    queue_hosts=50,
    queue_links_per_host=10,
    queue_deadline_s=0.0,
    slow_hosts=2,
    slow_all_hosts=10,
    slow_links_per_host=2,
    slow_settings=(("host_delay_s", 0.1), ("slow_after_s", 0.5), ("total_timeout_s", 1.0), ("breaker_pause_s", 0.2)),
)


class CrawlServer:
    """A running server process; see crawl_server.py."""

    def __init__(self, page_bytes: int, slow: str | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.crawl_server", "--page-bytes", str(page_bytes)]
        self.process = subprocess.Popen(
            command + (["--slow", slow] if slow else []), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the benchmark's server did not start")
        self.port = int(line)

    def __enter__(self) -> CrawlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)

    def served(self) -> int:
        """The number of requests answered so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/served", timeout=30) as answer:
            return int(answer.read())

    def urls(self, hosts: int, links_per_host: int, slow_hosts: int = 0) -> Iterator[str]:
        """The links of every host; the first ``slow_hosts`` hosts are in SLOW_NET."""
        addresses = [f"127.200.0.{n + 1}" for n in range(slow_hosts)]
        addresses += [f"127.{1 + n // 50_000}.{n // 250 % 200}.{1 + n % 250}" for n in range(hosts - slow_hosts)]
        for number in range(links_per_host):
            for address in addresses:
                yield f"http://{address}:{self.port}/2026/11/{number:05d}-what-the-news-say-today.html"


def run(module: str, *arguments: str) -> Result:
    """Run a crawl in its own process; returns the JSON of its last line."""
    return _finish(_start(module, *arguments), module)


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], module: str) -> Result:
    output, _ = process.communicate(timeout=_LONGEST_S)
    if process.returncode:
        raise SystemExit(f"{module} failed with exit code {process.returncode}")
    result: Result = json.loads(output.splitlines()[-1])
    return result


def run_sampled(web: CrawlServer, module: str, *arguments: str) -> tuple[Result, list[tuple[int, float]]]:
    """Like ``run``, but five times per second also sample requests served and resident MB of the process tree."""
    process = _start(module, *arguments)
    samples = []
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            crawl = psutil.Process(process.pid)
            rss = sum(one.memory_info().rss for one in [crawl, *crawl.children(recursive=True)])
            if rss:  # 0 if the process has just ended
                samples.append((web.served(), rss / 2**20))
        time.sleep(_SAMPLE_S)
    return _finish(process, module), samples


def make_links(folder: Path, urls: Iterator[str]) -> tuple[Path, Path]:
    """Write a list of the URLs, and a lake that holds their links in one part."""
    listed, lake = folder / "urls.txt", folder / "lake"
    with listed.open("w") as file:
        file.writelines(f"{url}\n" for url in urls)
    run(OURS, str(lake), "--links", str(listed))
    return listed, lake


def crawl(lake: Path, **settings: Any) -> list[str]:
    """Copy the lake and return the arguments of our crawl of the copy."""
    fresh = lake.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(lake, fresh)
    return [str(fresh), json.dumps({"host_delay_s": 0.0, "allow_net": ["127.0.0.0/8"]} | settings)]


def speed(size: Size, folder: Path) -> dict[str, list[Result]]:
    """Each crawler's results, turn by turn. Exits if a crawler did not get every page."""
    expected = size.speed_hosts * size.speed_links_per_host
    results: dict[str, list[Result]] = {"bare": [], "scrapy": [], "ours": []}
    with CrawlServer(size.page_bytes) as web:
        listed, lake = make_links(folder, web.urls(size.speed_hosts, size.speed_links_per_host))
        for _ in range(size.turns):
            for name, module in PEERS.items():
                results[name].append(run(module, str(listed), str(size.speed_hosts)))
            results["ours"].append(run(OURS, *crawl(lake, max_connections=size.speed_hosts)))
    for name, turns in results.items():
        for result in turns:
            if result["pages"] != expected:
                raise SystemExit(f"{name} got {result['pages']} of {expected} pages: {result}")
            result["pages_per_cpu_s"] = round(expected / result["cpu_s"], 1)
    return results


def memory(size: Size, folder: Path) -> Result:
    """Crawl many hosts; ``rss_mb_at`` maps a share of the requests served to the resident MB at that time."""
    with CrawlServer(size.page_bytes) as web:
        _, lake = make_links(folder, web.urls(size.memory_hosts, size.memory_links_per_host))
        result, samples = run_sampled(web, OURS, *crawl(lake))
    expected = size.memory_hosts * size.memory_links_per_host
    if result["pages"] != expected:
        raise SystemExit(f"ours got {result['pages']} of {expected} pages: {result}")
    return result | {"rss_mb_at": curve(samples), "links": expected, "hosts": size.memory_hosts}


def curve(samples: list[tuple[int, float]]) -> dict[str, float]:
    """From samples (requests served, MB): the MB at which a share of all requests had been served."""
    total = max(served for served, _ in samples)
    shares = (5, 25, 50, 75, 100)
    return {
        f"{share}%": round(next(rss for served, rss in samples if served * 100 >= total * share), 1) for share in shares
    }


def queue(size: Size, folder: Path) -> Result:
    """Crawl a very long queue and defer most of it."""
    with CrawlServer(size.page_bytes) as web:
        _, lake = make_links(folder, web.urls(size.queue_hosts, size.queue_links_per_host))
        result = run(OURS, *crawl(lake, deadline_s=size.queue_deadline_s))
    expected = size.queue_hosts * size.queue_links_per_host
    if sum(result["counts"].values()) != expected:
        raise SystemExit(f"ours settled {result['counts']} of {expected} links")
    return result | {"links": expected, "hosts": size.queue_hosts}


def slow(size: Size, folder: Path) -> dict[str, Result]:
    """The same crawl twice: slow hosts slow, then slow hosts fast."""
    results = {}
    for name, net in (("with", SLOW_NET), ("without", None)):
        with CrawlServer(size.slow_page_bytes, net) as web:
            urls = web.urls(size.slow_all_hosts, size.slow_links_per_host, size.slow_hosts)
            scenario = folder / name
            scenario.mkdir()
            _, lake = make_links(scenario, urls)
            results[name] = run(OURS, *crawl(lake, **dict(size.slow_settings)))
    fast = (size.slow_all_hosts - size.slow_hosts) * size.slow_links_per_host
    for name, expected in (("with", fast), ("without", size.slow_all_hosts * size.slow_links_per_host)):
        if results[name]["pages"] != expected:
            raise SystemExit(f"{name} slow hosts: {results[name]['pages']} of {expected} pages: {results[name]}")
    return results


def _middle(turns: list[Result]) -> Result:
    """A crawler's numbers: medians over its turns."""
    names = ("pages_per_cpu_s", "cpu_s", "wall_s", "peak_rss_mb")
    return {"pages": turns[0]["pages"]} | {name: round(median(turn[name] for turn in turns), 3) for name in names}


def report(only: list[str], size: Size, folder: Path) -> Result:
    """Run the scenarios, print their tables, and return the JSON line."""
    ratios: dict[str, float] = {}
    ours: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    peaks = []
    for name in only:
        scenario = folder / name
        scenario.mkdir()
        if name == "speed":
            turns = speed(size, scenario)
            rates = {crawler: [turn["pages_per_cpu_s"] for turn in of] for crawler, of in turns.items()}
            for peer in PEERS:
                pairs = zip(rates["ours"], rates[peer], strict=True)
                ratios[f"pages_per_cpu_s_vs_{peer}"] = round(median(own / other for own, other in pairs), 3)
                peers[peer] = _middle(turns[peer])
            ours["speed"] = _middle(turns["ours"]) | {"warc_bytes": turns["ours"][0]["warc_bytes"]}
            peaks.append(ours["speed"]["peak_rss_mb"])
            print(f"speed: {ours['speed']['pages']} pages of {size.page_bytes} bytes on {size.speed_hosts} hosts")
            for crawler, of in rates.items():
                print(f"  {crawler:8}{median(of):9.0f} pages per CPU second   (turns: {of})")
            for peer, goal in (("scrapy", GOALS["vs_scrapy"]), ("bare", GOALS["vs_bare"])):
                print(f"  ours / {peer:7}{ratios[f'pages_per_cpu_s_vs_{peer}']:8.2f}   (goal: at least {goal})")
        elif name == "memory":
            ours["memory"] = found = memory(size, scenario)
            ratios["rss_at_100%_vs_25%"] = round(found["rss_mb_at"]["100%"] / found["rss_mb_at"]["25%"], 3)
            peaks.append(found["peak_rss_mb"])
            print(f"memory: {found['links']} links on {found['hosts']} hosts in {found['wall_s']:.0f} s")
            print(f"  peak {found['peak_rss_mb']:.0f} MB (goal: below {GOALS['memory_mb']}); MB by share of requests:")
            print(f"  {found['rss_mb_at']}")
        elif name == "queue":
            ours["queue"] = found = queue(size, scenario)
            peaks.append(found["peak_rss_mb"])
            print(f"queue: {found['links']} links on {found['hosts']} hosts, settled {found['counts']}")
            print(f"  peak {found['peak_rss_mb']:.0f} MB (goal: below {GOALS['queue_mb']})")
        else:
            found = slow(size, scenario)
            ours["slow"] = {f"{key}_slow_hosts": value for key, value in found.items()}
            ratios["time_with_slow_hosts"] = round(found["with"]["wall_s"] / found["without"]["wall_s"], 3)
            peaks.append(max(one["peak_rss_mb"] for one in found.values()))
            print(f"slow: {size.slow_hosts} of {size.slow_all_hosts} hosts at one byte a second")
            print(f"  {found['with']['wall_s']:.1f} s with, {found['without']['wall_s']:.1f} s without: ", end="")
            print(f"{ratios['time_with_slow_hosts']:.3f} times (goal: at most {GOALS['slow_time']})")
            print(f"  settled: {found['with']['counts']}")
        shutil.rmtree(scenario)
    return {
        "bench": "crawl",
        "ratios": ratios,
        "ours": ours,
        "peers": peers,
        "peak_rss_mb": max(peaks),
        "machine": machine(),
        "size": dataclasses.asdict(size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"scenarios to run, from {','.join(SCENARIOS)}")
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes to check that it works; the numbers mean nothing"
    )
    parser.add_argument("--folder", type=Path, help="directory for temporary lakes (about 4 GB)")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    unknown = sorted(set(only) - set(SCENARIOS))
    if unknown:
        parser.error(f"--only {unknown[0]}: no such scenario; choose from {', '.join(SCENARIOS)}")
    if "speed" in only and not all(map(importlib.util.find_spec, ("scrapy", "uvloop"))):
        parser.error("Scrapy or uvloop is not installed: pip install -c constraints.txt -e '.[bench]'")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="webtext-bench-") as folder:
        print(json.dumps(report(only, QUICK if arguments.quick else Size(), Path(folder))))


if __name__ == "__main__":
    main()
