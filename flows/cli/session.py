"""What a command does before its own work: the settings of the environment, signals, and the servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from typer import BadParameter

from flows.settings import Settings


def chosen_settings(lake: str | None) -> Settings:
    """The settings of the environment, with ``--lake`` if it was given. Raises BadParameter if there is no lake."""
    settings = Settings()
    if lake is None and not settings.lake.strip():
        raise BadParameter("WEBTEXT_LAKE is empty; unset it or name a directory")
    return settings if lake is None else settings.model_copy(update={"lake": lake})


@contextlib.contextmanager
def session(
    settings: Settings, while_servers_start: contextlib.AbstractContextManager[None] | None = None
) -> Iterator[None]:
    """Handle signals, start the servers, mark killed runs and tag our own. Enter it before Prefect is imported."""
    from flows import services
    from flows.stop import stop_on_signals

    stop_on_signals(settings.home)
    with while_servers_start or contextlib.nullcontext():
        services.ensure(settings)

    from flows.interrupt import crash_killed_runs, tagged

    crash_killed_runs(settings)
    with tagged():
        yield
