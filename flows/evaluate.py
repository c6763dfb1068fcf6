"""The ``evaluate`` flow: score a run, a checkpoint or a transformers directory zero-shot, in a child process."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts, services
from flows.interrupt import tag_own_run
from flows.progress import Bar, say
from flows.settings import EXPERIMENT, Settings
from flows.supervise import Event, run_child, spec_file
from model.evals import EvalSpec
from model.events import Ablation, EvalEvent, EvalResult, TaskProgress, Warned, eval_event, to_json


@flow(name="evaluate", persist_result=False, on_running=[tag_own_run])
def evaluate(
    run: str | None = None,
    checkpoint: str | None = None,
    hf: str | None = None,
    corpus: list[str] | None = None,
    tasks: list[str] | None = None,
    eval_data: str | None = None,
    limit: int | None = None,
    control: bool = False,
    any_file: bool = False,
    stride: int | None = None,
    device: str = "auto",
    batch_tokens: int | None = None,
    promote: str | None = None,
    lake: str | None = None,
) -> EvalResult:
    """Score exactly one of ``run`` (its newest checkpoint), ``checkpoint`` and ``hf``; by default on all tasks.

    The official files are read from ``eval_data``, by default from where ``webtext eval --fetch`` puts them.
    A benchmark file that is not the official one is refused unless ``any_file``. ``stride`` moves the window of a text.
    ``corpus`` names the snapshots that the held-out documents come from; by default the run's own corpus.
    ``control`` also scores every answer after another example's context, which doubles the cost.
    ``batch_tokens`` are the positions of one forward pass; by default as many as the device holds. ``promote`` names a
    task: a run that is better at it than the champion in MLflow, with p < 0.05, takes its place.
    """
    settings = Settings()
    servers = services.ensure(settings)
    spec = EvalSpec(
        lake=lake or settings.lake,
        run=run,
        checkpoint=checkpoint,
        hf=hf,
        corpus=tuple(corpus or ()),
        tasks=tuple(tasks or ()),
        eval_data=eval_data or settings.fetched_eval_data(),
        limit=limit,
        control=control,
        any_file=any_file,
        stride=stride,
        device=device,
        batch_tokens=batch_tokens,
        promote=promote,
        tracking_uri=servers.mlflow_uri,
        experiment=EXPERIMENT,
    )
    name = artifacts.slug(run or Path(str(checkpoint or hf)).name)
    result = score(name, spec, settings.home.absolute())
    rows = [{"task": task_name, **to_json(one)} for task_name, one in result.scores.items()]
    artifacts.table("scores", result.model, rows)
    return result


@task(name="evaluate", task_run_name="evaluate {name}", cache_policy=NO_CACHE, persist_result=False)
def score(name: str, spec: EvalSpec, home: Path) -> EvalResult:
    """Score one model, task by task."""
    result = _run(name, spec, home)
    assert isinstance(result, EvalResult), result
    return result


@flow(name="ablate", persist_result=False, on_running=[tag_own_run])
def ablate(
    task_name: str,
    run: str | None = None,
    checkpoint: str | None = None,
    hf: str | None = None,
    eval_data: str | None = None,
    limit: int | None = None,
    any_file: bool = False,
    device: str = "auto",
    batch_tokens: int | None = None,
    lake: str | None = None,
) -> Ablation:
    """Score one model on one task by all combinations of the task's choices. Nothing is kept but the flow's table."""
    settings = Settings()
    services.ensure(settings)
    spec = EvalSpec(
        lake=lake or settings.lake,
        run=run,
        checkpoint=checkpoint,
        hf=hf,
        ablate=task_name,
        eval_data=eval_data or settings.fetched_eval_data(),
        limit=limit,
        any_file=any_file,
        device=device,
        batch_tokens=batch_tokens,
    )
    result = compare(artifacts.slug(run or Path(str(checkpoint or hf)).name), spec, settings.home.absolute())
    rows = [
        {**row.choices, result.metric: row.value, "n": row.n, "published": row.published or row.missing}
        for row in result.rows
    ]
    artifacts.table("ablation", f"{result.model}: {task_name}", rows)
    return result


@task(name="ablate", task_run_name="ablate {name}", cache_policy=NO_CACHE, persist_result=False)
def compare(name: str, spec: EvalSpec, home: Path) -> Ablation:
    """Score one model on one task by all combinations of the task's choices."""
    result = _run(name, spec, home)
    assert isinstance(result, Ablation), result
    return result


def _run(name: str, spec: EvalSpec, home: Path) -> Event:
    folder = home / "runs" / name
    bars: dict[str, Bar] = {}

    def on_event(event: EvalEvent) -> None:
        match event:
            case TaskProgress():
                bar = bars.get(event.task)
                if bar is None or bar.total != event.total:
                    for earlier in bars.values():
                        earlier.close()
                    bar = bars[event.task] = Bar(event.task, event.total, "examples")
                bar.update(event.done)
            case Warned(message=message):
                say(f"eval: {message}")

    try:
        with spec_file(spec.to_json(), folder) as file:
            return run_child("model.evaluate", ["--spec", str(file)], folder / "eval.log", eval_event, on_event)
    finally:
        for bar in bars.values():
            bar.close()
