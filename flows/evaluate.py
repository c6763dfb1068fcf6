"""The ``evaluate`` flow: zero-shot scores of a run, a checkpoint or a transformers directory, in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts, services
from flows.progress import Bar, say
from flows.settings import EXPERIMENT, Settings
from flows.supervise import Event, run_child, spec_file
from model.evals import EvalSpec


@flow(name="evaluate", persist_result=False)
def evaluate(
    run: str | None = None,
    checkpoint: str | None = None,
    hf: str | None = None,
    corpus: list[str] | None = None,
    tasks: list[str] | None = None,
    eval_data: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    lake: str | None = None,
) -> dict[str, Any]:
    """Score exactly one of ``run`` (its newest checkpoint), ``checkpoint`` and ``hf``; by default on all tasks.

    ``corpus`` names the snapshots whose held-out documents are used; by default those that the run was trained on.
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
        eval_data=eval_data,
        limit=limit,
        device=device,
        tracking_uri=servers.mlflow_uri,
        experiment=EXPERIMENT,
    )
    name = artifacts.slug(run or Path(str(checkpoint or hf)).name)
    result = score(name, spec.to_json(), settings.home.absolute())
    artifacts.table("scores", result["model"], [{"task": name, **score} for name, score in result["scores"].items()])
    return result


@task(name="evaluate", task_run_name="evaluate {name}", cache_policy=NO_CACHE, persist_result=False)
def score(name: str, spec: dict[str, Any], home: Path) -> dict[str, Any]:
    """One model's scores, task by task."""
    folder = home / "runs" / name
    bars: dict[str, Bar] = {}

    def on_event(event: Event) -> None:
        if event.get("event") == "task":
            task_name = str(event["task"])
            bar = bars.get(task_name)
            if bar is None:
                for earlier in bars.values():
                    earlier.close()
                bar = bars[task_name] = Bar(task_name, int(event["total"]), "examples")
            bar.update(int(event["done"]))
        elif "message" in event and event.get("event") != "error":  # which is raised at the end
            say(f"eval: {event['message']}")

    try:
        with spec_file(spec, folder) as file:
            result = run_child("model.evaluate", ["--spec", str(file)], folder / "eval.log", on_event)
    finally:
        for bar in bars.values():
            bar.close()
    result.pop("event", None)
    return result
