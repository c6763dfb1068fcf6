"""Watermarks: how far each live source has been read, in the state folder of the lake.

    state/watermarks/00000012.json    {"hn:": {"until": 1762300800, "snapshot": "2026-w45"}, ..}

Each change writes a new version beside the older ones, so a reader always finds a whole file. A watermark advances when
the links of its snapshot are published, and never goes back. If a run ends in between, the next one reads its window
again, which costs only requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from data.lake.store import Lake


class Mark(TypedDict):
    """``until`` is seconds since 1970; the links of ``snapshot`` advanced it."""

    until: int
    snapshot: str


_FOLDER = ("state", "watermarks")


def read(lake: Lake) -> dict[str, int]:
    """Seconds since 1970 by source."""
    return {source: mark["until"] for source, mark in _latest(lake)[1].items()}


def advance(lake: Lake, snapshot: str, marks: Mapping[str, int]) -> None:
    """Move the watermarks of these sources forward, never back."""
    if not marks:
        return
    with lake.lock("watermarks"):
        version, state = _latest(lake)
        newer: dict[str, Mark] = {
            source: {"until": until, "snapshot": snapshot}
            for source, until in marks.items()
            if source not in state or state[source]["until"] < until
        }
        if newer:
            lake.publish_json(state | newer, *_FOLDER, f"{version + 1:08d}.json")


def _latest(lake: Lake) -> tuple[int, dict[str, Mark]]:
    names = lake.names(*_FOLDER)
    if not names:
        return 0, {}
    state: dict[str, Mark] = lake.read_json(*_FOLDER, names[-1])
    return int(names[-1].removesuffix(".json")), state
