"""The ``pretrain`` flow: GPT-2 on a corpus of snapshots, in a supervised child process (torchrun)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from data.errors import InputError
from data.lake.store import Lake
from flows import artifacts, services
from flows.progress import Bar, duration, say
from flows.settings import EXPERIMENT, Settings
from flows.supervise import Event, run_child, spec_file
from model.config import TrainSpec


@flow(name="pretrain", persist_result=False)
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
) -> dict[str, Any]:
    """Train ``preset`` on the snapshots in ``corpus``; resumes when the run exists. Returns the run's summary.

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
    result = train(spec.to_json(), processes, settings.home.absolute())
    artifacts.table("training", spec.run, [{"what": key, "value": value} for key, value in result.items()])
    return result


@task(name="train", task_run_name="train {spec[run]}", cache_policy=NO_CACHE, persist_result=False)
def train(spec: dict[str, Any], processes: int, home: Path) -> dict[str, Any]:
    """One training run to its end. Raises InputError if it was asked to stop, after it has saved a checkpoint."""
    folder = home / "runs" / spec["run"]
    bar: Bar | None = None

    def on_event(event: Event) -> None:
        nonlocal bar
        if event.get("event") == "step":
            if bar is None:
                bar = Bar("train", int(event["steps"]), "steps")
            rate = f"{event['tokens_per_s']:,.0f} tokens/s MFU {event['mfu']:.0%}"
            left = f"{duration(event['eta_s'])} left"  # a bar's own estimate gives up on steps of half a minute
            bar.update(int(event["step"]), f"loss {event['loss']:.3f} {rate}, {left}")
        elif event.get("event") == "error":
            if processes > 1:  # the others may hang in a collective until they are killed
                say(f"train: {event['message']}; waiting for the other processes to end")
        elif "message" in event:
            say(f"train: {event['message']}")

    try:
        with spec_file(spec, folder) as file:
            arguments = ["--processes", str(processes), "--spec", str(file)]
            result = run_child("model.launch", arguments, folder / "train.log", on_event)
    finally:
        if bar is not None:
            bar.close()
    if result.pop("event") == "stopped":
        message = f"run {spec['run']} was stopped at step {result['step']}; the same command goes on from there"
        raise InputError(message)
    return result


def default_run(preset: str, corpus: list[str]) -> str:
    """Such as ``124M-2026-10_2026-11``: the same arguments are the same run, and resume it."""
    return f"{preset}-{'_'.join(corpus)}".replace("@", "-")
