"""Bare trafilatura on the pages of WARC files, in two processes that take one page after the other. Writes nothing.

python -m benchmarks.data_peers.bare FOLDER '{"include_comments": false, ...}'     options of bare_extraction
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import trafilatura
from fastwarc.warc import ArchiveIterator, WarcRecordType

from data.process import die_with_parent

WORKERS = 2

Place = tuple[str, int]


def find_pages(folder: Path) -> list[Place]:
    """File and offset of each response."""
    places = []
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as file:
            records = ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=False)
            places += [(str(path), record.stream_pos) for record in records]
    return places


def work(places: list[Place], turn: Any, totals: Any, options: dict[str, Any]) -> None:
    """Extract pages until none is left; add to the totals: pages with text, characters."""
    die_with_parent()
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    logging.getLogger("htmldate").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        files: dict[str, Any] = {}
        while True:
            with turn.get_lock():
                number = turn.value
                turn.value += 1
            if number >= len(places):
                return
            name, offset = places[number]
            if name not in files:
                files[name] = stack.enter_context(Path(name).open("rb"))
            files[name].seek(offset)
            record = next(iter(ArchiveIterator(files[name])))
            url = record.headers["WARC-Target-URI"]
            try:
                document = trafilatura.bare_extraction(record.reader.read(), url=url, **options)
            except Exception:  # the row of ours says `failed`
                with totals.get_lock():
                    totals[2] += 1
                continue
            text = document.text if document is not None else None
            if text:
                with totals.get_lock():
                    totals[0] += 1
                    totals[1] += len(text)


def main() -> None:
    die_with_parent()
    places = find_pages(Path(sys.argv[1]))
    context = multiprocessing.get_context("fork")  # the children need not import trafilatura again
    turn, totals = context.Value("q", 0), context.Array("q", 3)
    arguments = (places, turn, totals, json.loads(sys.argv[2]))
    children = [context.Process(target=work, args=arguments) for _ in range(WORKERS)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode:
            raise SystemExit(f"a child ended with exit code {child.exitcode}")
    print(
        json.dumps({"pages": len(places), "documents": totals[0], "chars": totals[1], "failed": totals[2]}), flush=True
    )


if __name__ == "__main__":
    main()
