"""Prefect tasks over the parts of a stage: one task run per part, which takes seconds to minutes."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.tasks import Task

from data.errors import KilledError, StoreError, stopping
from data.lake.manifest import Part
from data.stage import MakePart, Mapper
from flows.progress import Bar

_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS)


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help: with most errors of a disk or an object store, and after a child process was killed;
    not with a full disk or bad input.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, KilledError):
        return not stopping.is_set()
    if isinstance(error, StoreError):
        return error.may_pass
    return isinstance(error, OSError) and error.errno not in _LASTING


@task(
    task_run_name="{stage} {snapshot} {name}",
    cache_policy=NO_CACHE,  # whether a part is done is read from the lake
    persist_result=False,
    retries=4,  # the lake itself waits out a minute each time
    retry_delay_seconds=[5, 30, 60, 120],
    retry_condition_fn=_is_transient,
)
def part(stage: str, snapshot: str, name: str, make_part: MakePart) -> dict[str, Any]:  # noqa: ARG001 - in its name
    """Make and seal one part; returns its name, counts and digest."""
    made: Part = make_part(name)
    return {"name": made.name, "counts": made.counts, "digest": made.digest}


def _round(stage: str, names: Sequence[str]) -> str:
    """What a bar says: the stage, and which of its rounds makes parts with these names, such as ``select, compare``."""
    kind = names[0].partition("-")[0] if names else "part"
    return stage if kind == "part" else f"{stage}, {kind}"


def prefect_mapper(stage: str, snapshot: str, at_once: int, *, with_bar: bool = True) -> Mapper:
    """A mapper that makes each part in a task run, at most ``at_once`` at a time.

    When a part fails, no further parts start, the running ones finish, and the first error is raised. When this process
    is asked to stop, the running ones seal nothing more.
    """

    def mapper(make_part: MakePart, names: Sequence[str]) -> None:
        try:
            run_all(make_part, names)
        except Exception:
            raise
        except BaseException:  # Prefect's TerminationSignal, or Ctrl-C; Prefect waits for the threads of the parts
            stopping.set()
            raise

    def run_all(make_part: MakePart, names: Sequence[str]) -> None:
        slots = threading.BoundedSemaphore(at_once)
        futures: list[PrefectFuture[dict[str, Any]]] = []
        failed = threading.Event()
        with Bar(_round(stage, names), len(names), "parts") if with_bar else contextlib.nullcontext() as bar:

            def done(future: PrefectFuture[dict[str, Any]]) -> None:
                assert isinstance(future, PrefectConcurrentFuture)
                error = future.wrapped_future.exception()  # Prefect's own error; future.result() raises it again
                # The local state counts: the server's lags behind.
                if error is None and future.wrapped_future.result().is_completed():
                    if bar is not None:
                        bar.advance()
                else:
                    failed.set()
                slots.release()

            for name in names:
                slots.acquire()
                if failed.is_set():
                    break
                future: PrefectFuture[dict[str, Any]] = part.with_options(name=stage).submit(
                    stage, snapshot, name, make_part
                )
                future.add_done_callback(done)
                futures.append(future)
            for future in futures:
                future.result()

    return mapper
