"""The ``pretrain`` flow: train GPT-2 on a corpus of snapshots, in a supervised child process (torchrun)."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from data.errors import InputError
from data.lake.store import Lake
from flows import artifacts, services
from flows.interrupt import tag_own_run
from flows.progress import Bar, duration, say
from flows.settings import EXPERIMENT, Settings
from flows.supervise import run_child, spec_file
from model.config import TrainSpec
from model.events import Failed, Started, StepDone, Stopped, TrainEvent, TrainSummary, Warned, to_json, train_event


@flow(name="pretrain", persist_result=False, on_running=[tag_own_run])
def pretrain(
    corpus: list[str],
    preset: str = "124M",
    run: str | None = None,
    lake: str | None = None,
    steps: int | None = None,
    device: str = "auto",
    overrides: dict[str, str] | None = None,
    processes: int = 1,
    init_from: str | None = None,
) -> TrainSummary:
    """Train ``preset`` on the snapshots in ``corpus``. If the run exists, training resumes.

    ``init_from`` is a directory that transformers loads: a new run starts from its weights.
    """
    settings = Settings()
    store = Lake(lake or settings.lake)
    for snapshot in corpus:
        store.dataset("tokens", snapshot).require()
    servers = services.ensure(settings)
    spec = TrainSpec(
        lake=lake or settings.lake,
        corpus=tuple(corpus),
        run=run or default_run(preset, corpus),
        preset=preset,
        overrides=overrides or {},
        steps=steps,
        device=device,
        init_from=None if init_from is None else str(Path(init_from).absolute()),
        cache_dir=str(settings.home.absolute() / "cache"),
        tracking_uri=servers.mlflow_uri,
        experiment=EXPERIMENT,
        tags={"prefect_flow_run_id": str(flow_run.get_id())},
    )
    summary = train(spec, processes, settings.home.absolute())
    artifacts.table("training", spec.run, [{"what": key, "value": value} for key, value in to_json(summary).items()])
    return summary


@task(name="train", task_run_name="train {spec.run}", cache_policy=NO_CACHE, persist_result=False)
def train(spec: TrainSpec, processes: int, home: Path) -> TrainSummary:
    """Train one run to its end. If it is stopped early, it saves a checkpoint, and InputError is raised."""
    folder = home / "runs" / spec.run
    bar: Bar | None = None

    def on_event(event: TrainEvent) -> None:
        nonlocal bar
        match event:
            case Started():
                how = f"{event.precision}, up to {event.micro_batch_size} sequences at once"
                say(f"train: on {event.device}: {how}{', compiled: the first step takes longer' * event.compile}")
            case StepDone():
                if bar is None:
                    bar = Bar("train", event.steps, "steps")
                rate = f"{event.tokens_per_s:,.0f} tokens/s MFU {event.mfu:.0%}"
                # The bar's own estimate gives up when a step takes half a minute.
                left = f"{duration(event.eta_s)} left"
                bar.update(event.step, f"loss {event.loss:.3f} {rate}, {left}")
            case Failed(message=message) if processes > 1:  # the others may wait for it until they are killed
                say(f"train: {message}; waiting for the other processes to end")
            case Warned(message=message):
                say(f"train: {message}")

    try:
        with spec_file(spec.to_json(), folder) as file:
            arguments = ["--processes", str(processes), "--spec", str(file)]
            result = run_child("model.launch", arguments, folder / "train.log", train_event, on_event)
    finally:
        if bar is not None:
            bar.close()
    if isinstance(result, Stopped):
        raise InputError(f"run {spec.run} was stopped at step {result.step}; run the same command again to go on")
    assert isinstance(result, TrainSummary), result
    return result


def default_run(preset: str, corpus: list[str]) -> str:
    """Such as ``124M-2026-10_2026-11``: the same arguments name the same run, and so resume it."""
    return f"{preset}-{'_'.join(corpus)}".replace("@", "-")
