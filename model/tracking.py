"""A training run in MLflow: parameters, corpus, metrics by step, checkpoints as LoggedModels, scores.

Only this module imports MLflow, and it does not import torch: checkpoints arrive as directories of safetensors, so
nothing is pickled. A training run is one MLflow run across all restarts: a tag finds it again, and steps that were
logged before are not logged again. Metrics are buffered and sent in batches: 1,000 calls of ``log_metric`` take 18 to
57 s, one ``log_batch`` of as many takes 0.2 s.

No credentials are recorded: user and password are removed from URIs.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output holds JSON
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # a lost server must not stall training for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from data.errors import InputError

ARTIFACTS = ("model.safetensors", "config.json")
"""The files of a checkpoint that are artifacts of its LoggedModel: weights and shape, not the optimizer."""

MAX_BATCH = 1_000  # metrics per request, MLflow's limit
MAX_BUFFERED_S = 15.0
AWAY_S = 60.0  # after a failed request no other is sent for this long,
AWAY_SHARE = 10.0  # or for this many times what the request took, if that is longer
_KEY_TAG = "webtext.run_key"
_STEP_TAG = "webtext.step"
_DIGEST_TAG = "webtext.digest"
_RUN_TAG = "webtext.run"
CHAMPION = "champion"
"""The alias of the best version of the registered model."""
_CREDENTIALS = re.compile(r"//[^/\s]*@")  # user and password of a URI
Status = Literal["FINISHED", "FAILED", "KILLED", "RUNNING"]


@dataclass(frozen=True)
class DatasetRef:
    """A dataset of the lake as MLflow shows it."""

    name: str  # tokens/2026-11
    digest: str  # the manifest's
    source: str  # where the lake is
    context: str = "training"


@dataclass(frozen=True)
class Champion:
    """A version of the registered model, and the checkpoint that it is."""

    run: str
    step: int
    version: str

    def __str__(self) -> str:
        return f"{self.run} at step {self.step:,} (version {self.version})"


def without_credentials(uri: str) -> str:
    """The URI without user, password and query, which may hold secrets."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


Point = tuple[str, float, int, int]
"""A metric's key, value, time in milliseconds, and step."""


class TrackingError(InputError):
    """The MLflow server is away or refuses. Unsent metrics stay in the buffer for the next flush."""


class Tracker:
    """Writes one MLflow run. Use ``open_tracker``, or ``resume_tracker`` for a run whose id is known."""

    def __init__(self, client: MlflowClient, run: Run, clock: Callable[[], float] = time.time) -> None:
        self.run_id: str = run.info.run_id
        self._client = client
        self._experiment_id = run.info.experiment_id
        self._clock = clock
        self._buffer: list[Metric] = []
        self._flushed_at = clock()
        self._away_until = -math.inf
        # The run has each metric's last step; fetching histories would take minutes on a long run.
        self._logged = {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters. MLflow keeps the first value of each; the new value of a changed one becomes a tag."""
        with self._translated("the parameters"):
            known = self._client.get_run(self.run_id).data.params
            new = [Param(key, str(value)) for key, value in params.items() if key not in known]
            changed = [RunTag(f"changed.{k}", str(v)) for k, v in params.items() if k in known and known[k] != str(v)]
            self._client.log_batch(self.run_id, params=new, tags=changed)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        with self._translated("the tags"):
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_dataset(self, dataset: DatasetRef) -> None:
        """Record a dataset that the run reads. Logging it again changes nothing."""
        tags = [InputTag("mlflow.data.context", dataset.context), InputTag(_DIGEST_TAG, dataset.digest)]
        with self._translated(f"the dataset {dataset.name}"):
            self._client.log_inputs(self.run_id, [DatasetInput(_entity(dataset), tags)])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Buffer the metrics of a step, unless they were logged before, and flush the buffer when due."""
        timestamp_ms = int(self._clock() * 1000)
        for key, value in metrics.items():
            if step > self._logged.get(key, -1):
                self._logged[key] = step
                self._buffer.append(Metric(key, float(value), timestamp_ms, step))
        is_due = len(self._buffer) >= MAX_BATCH or self._clock() - self._flushed_at > MAX_BUFFERED_S
        if is_due and not self.is_away:
            self.flush()

    @property
    def is_away(self) -> bool:
        """Whether a request failed lately: callers that can wait should."""
        return time.monotonic() < self._away_until

    def unsent(self) -> list[Point]:
        return [(metric.key, metric.value, metric.timestamp, metric.step) for metric in self._buffer]

    def remember(self, key: str, value: float, timestamp_ms: int, step: int) -> None:
        """Buffer a point that an earlier process could not send, unless it was logged. Steps of a key must ascend."""
        if step > self._logged.get(key, -1):
            self._logged[key] = step
            self._buffer.append(Metric(key, value, timestamp_ms, step))

    def flush(self) -> None:
        """Send the buffer. Raises TrackingError if the server does not take it; the rest stays in the buffer."""
        self._flushed_at = self._clock()
        while self._buffer:
            batch = self._buffer[:MAX_BATCH]
            with self._translated("the metrics"):
                self._client.log_batch(self.run_id, metrics=batch)
            del self._buffer[: len(batch)]

    def log_checkpoint(self, step: int, metrics: Mapping[str, float], directory: Path | None) -> str:
        """Record a checkpoint as a LoggedModel with its step and metrics; returns the model's id.

        With a ``directory``, its weights and shape are copied to the model's artifacts; without, a later call can add
        them. A step that is already recorded keeps its model.
        """
        with self._translated(f"the checkpoint of step {step}"):
            return self._log_checkpoint(step, metrics, directory)

    def _log_checkpoint(self, step: int, metrics: Mapping[str, float], directory: Path | None) -> str:
        model_id = self.models().get(step)
        if model_id is None:
            run = self._client.get_run(self.run_id)
            name = re.sub(r"[^A-Za-z0-9_-]", "-", f"{run.info.run_name}-step-{step}")
            model = self._client.create_logged_model(
                self._experiment_id,
                name=name,
                source_run_id=self.run_id,
                tags={_STEP_TAG: str(step)},
                params={"step": str(step)},
                model_type="gpt2",
            )
            model_id = str(model.model_id)
        self._attach(model_id, metrics, step, None)
        for key in metrics:
            self._logged[key] = max(step, self._logged.get(key, -1))
        if directory is not None:
            have = {file.path for file in self._client.list_logged_model_artifacts(model_id)}
            for name in (name for name in ARTIFACTS if name not in have):
                self._client.log_model_artifact(model_id, str(directory / name))
        self._client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        return model_id

    def tag_checkpoint(self, model_id: str, tags: Mapping[str, str]) -> None:
        with self._translated("the tags of a checkpoint"):
            self._client.set_logged_model_tags(model_id, dict(tags))

    @property
    def metric_names(self) -> set[str]:
        """The names of all metrics that the run has or will be sent."""
        return set(self._logged)

    def models(self) -> dict[int, str]:
        """The ids of the run's LoggedModels, by step."""
        found = {}
        token = None
        while True:
            page = self._client.search_logged_models(
                [self._experiment_id], filter_string=f"source_run_id = '{self.run_id}'", page_token=token
            )
            found.update({int(m.tags[_STEP_TAG]): str(m.model_id) for m in page if _STEP_TAG in m.tags})
            token = page.token
            if not token:
                return found

    def log_scores(
        self, model_id: str, scores: Mapping[str, float], step: int, dataset: DatasetRef | None = None
    ) -> None:
        """Attach scores, and the dataset they were measured on, to a checkpoint's LoggedModel and so to the run.

        A score that the model already has, with the same value and dataset, is not logged again.
        """
        if dataset:
            self.log_dataset(dataset)
        with self._translated("the scores"):
            self._attach(model_id, scores, step, dataset)

    def _attach(self, model_id: str, metrics: Mapping[str, float], step: int, dataset: DatasetRef | None) -> None:
        timestamp_ms = int(self._clock() * 1000)
        name, digest = (dataset.name, dataset.digest[:32]) if dataset else (None, None)
        known = {
            (metric.key, metric.value, metric.dataset_name, metric.dataset_digest)
            for metric in self._client.get_logged_model(model_id).metrics or []
        }
        entries = [
            Metric(key, float(value), timestamp_ms, step, model_id=model_id, dataset_name=name, dataset_digest=digest)
            for key, value in metrics.items()
            if (key, float(value), name, digest) not in known
        ]
        self._client.log_batch(self.run_id, metrics=entries)

    def champion(self, name: str) -> Champion | None:
        """The version of the registered model ``name`` that has the alias CHAMPION; None if there is none."""
        with self._translated("a question about the champion"):
            models = self._client.search_registered_models(f"name = '{name}'")
            alias = models[0].aliases.get(CHAMPION) if models else None
            if alias is None:
                return None
            found = self._client.get_model_version(name, str(alias))
        if not {_RUN_TAG, _STEP_TAG} <= found.tags.keys():
            raise TrackingError(f"version {found.version} of the registered model {name} was not made by webtext")
        return Champion(found.tags[_RUN_TAG], int(found.tags[_STEP_TAG]), str(found.version))

    def promote(self, name: str, model_id: str, run: str, step: int, description: str, tags: Mapping[str, str]) -> None:
        """Give the alias CHAMPION to the version of ``name`` that is this LoggedModel, registered if necessary."""
        every = {_RUN_TAG: run, _STEP_TAG: str(step), **{f"webtext.{key}": value for key, value in tags.items()}}
        client = self._client
        with self._translated("the champion"):
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            source = f"models:/{model_id}"
            known = [one for one in client.search_model_versions(f"name = '{name}'") if one.source == source]
            made = known[0] if known else client.create_model_version(name, source, self.run_id, model_id=model_id)
            version = str(made.version)
            client.update_model_version(name, version, description)
            for key, value in every.items():
                client.set_model_version_tag(name, version, key, value)
            client.set_registered_model_alias(name, CHAMPION, version)  # last: a killed promotion is repeated

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except (MlflowException, OSError) as error:  # OSError: the artifact store
            now = time.monotonic()
            self._away_until = now + max(AWAY_S, AWAY_SHARE * (now - began))
            reason = _CREDENTIALS.sub("//", str(error).splitlines()[0])
            raise TrackingError(f"MLflow does not take {what}: {reason[:300]}") from error
        self._away_until = -math.inf

    def set_status(self, status: Status) -> None:
        """Set the run's status; KILLED is for a run that was stopped and can be resumed."""
        self.flush()
        with self._translated(f"the status {status}"):
            if status == "RUNNING":
                self._client.update_run(self.run_id, status)
            else:
                self._client.set_terminated(self.run_id, status)


def open_tracker(
    tracking_uri: str, experiment: str, run_name: str, key: str, tags: Mapping[str, str], clock: Callable[[], float]
) -> Tracker:
    """The MLflow run tagged with ``key``, created if needed. Raises InputError if the server does not answer."""
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        experiment_id = _experiment_id(client, experiment)
        found = client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
        if found:
            run = client.get_run(found[0].info.run_id)
        else:
            run = client.create_run(experiment_id, run_name=run_name, tags={_KEY_TAG: key})
        tracker = Tracker(client, run, clock)
        tracker.log_tags(tags)
        tracker.set_status("RUNNING")
    except MlflowException as error:
        raise _unreachable(tracking_uri, error) from error
    return tracker


def resume_tracker(tracking_uri: str, run_id: str, clock: Callable[[], float] = time.time) -> Tracker:
    """The tracker of an existing run, for scores. Raises InputError if the server or the run is missing."""
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        return Tracker(client, client.get_run(run_id), clock)
    except MlflowException as error:
        raise _unreachable(tracking_uri, error) from error


def metric_history(tracking_uri: str, run_id: str, keys: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """``(step, value)`` of each metric, ascending. Raises InputError if the server or the run is missing."""
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        found = {key: client.get_metric_history(run_id, key) for key in keys}
    except MlflowException as error:
        raise _unreachable(tracking_uri, error) from error
    return {key: sorted((metric.step, metric.value) for metric in metrics) for key, metrics in found.items()}


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another process may have created it meanwhile
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise InputError(f"MLflow experiment {name!r} was deleted; restore it or choose another name")
    return str(found.experiment_id)


def _unreachable(tracking_uri: str, error: MlflowException) -> InputError:
    reason = str(error.message).splitlines()[0].replace(tracking_uri, without_credentials(tracking_uri))
    return InputError(f"MLflow at {without_credentials(tracking_uri)}: {reason[:300]}; is the server up?")


def _entity(dataset: DatasetRef) -> Dataset:
    source = f'{{"uri": "{without_credentials(dataset.source)}"}}'
    return Dataset(name=dataset.name, digest=dataset.digest[:32], source_type="lake", source=source)
