"""Results as artifacts in the Prefect UI, beside the run that made them."""

from __future__ import annotations

import json
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.crawlview import Numbers


def table(what: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Create the table artifact ``<what>-<name>``, without nested values."""
    flat = [{key: value for key, value in row.items() if not isinstance(value, (dict, list))} for row in rows]
    create_table_artifact(key=slug(f"{what}-{name}"), table=flat, description=f"{what} of {name}")


def slug(name: str) -> str:
    """The name in lower-case letters, digits and dashes, as Prefect's keys require."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower())


class CrawlArtifacts:
    """A crawl's progress and its outcomes by status, as two artifacts that are created once and then updated.

    Use it inside a flow or task run: the artifacts belong to that run.
    """

    def __init__(self, snapshot: str) -> None:
        self._snapshot = snapshot
        self._progress: UUID | None = None
        self._outcomes: UUID | None = None

    def publish(self, numbers: Numbers) -> None:
        """Create or update both artifacts. Errors of Prefect's client pass through."""
        percent = numbers.percent
        line = numbers.line()
        if self._progress is None:
            key = slug(f"crawl-{self._snapshot}")
            self._progress = cast(UUID, create_progress_artifact(progress=percent, key=key, description=line))
        else:
            update_progress_artifact(self._progress, progress=percent, description=line)
        rows = [{"status": status, "links": count} for status, count in sorted(numbers.by_status.items())]
        if self._outcomes is None:
            key = slug(f"crawl-outcomes-{self._snapshot}")
            made = create_table_artifact(key=key, table=rows, description=f"outcomes of {self._snapshot}")
            self._outcomes = cast(UUID, made)
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._outcomes, ArtifactUpdate(data=json.dumps(rows)))
