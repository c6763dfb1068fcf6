"""The scores of checkpoints in the lake: one JSON file per task, and what came of every item beside it.

    lake/scores/<run or model>/step-XXXXXXXX/<task>.json      a ``Record``
                                             <task>.parquet   one row per item (``Subject.keep`` names the columns)

In a file's name a dot stands for the slash of the task's name: ``paper/lambada`` is ``paper.lambada.json``. The items
are published first, and the JSON, which holds their sha256, after them. So a reader sees a whole score or none: if a
writer was killed between the two, the items do not match the old JSON, and the task is scored again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from data.errors import InputError
from data.lake.store import Lake, write_parquet
from model.runs import step_name

FORMAT = 2
_STEP = re.compile(r"step-(\d{8,})")
_CODE = (
    "model.evals",
    "model.scoring",
    "model.completion",
    "model.trees",
    "model.causal",
    "model.tokenizer",
    "data.evalsets",
)  # packages and modules that decide a score


@dataclass(frozen=True)
class Items:
    """The Parquet file beside a score."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class MeasuredOn:
    """The file of a benchmark with its sha256, or the snapshots of the held-out documents with the corpus's digest."""

    name: str
    digest: str


@dataclass(frozen=True)
class Record:
    """A task's score of one checkpoint, with all that it depends on."""

    task: str
    version: int
    task_hash: str  # of the code, see ``code_hash``
    key: str  # of task, version, weights, data and limit: a score with the same key is not computed again
    data: MeasuredOn
    model: str  # the run, or the name of the directory
    step: int
    checkpoint: str
    weights_digest: str
    code_version: str
    commit: str | None
    settings: dict[str, Any]  # the limit, and what does not decide the score: device, batch
    seconds: float
    score: dict[str, Any]  # as a task returns it
    items: Items
    mlflow_run_id: str | None = None  # None: not attached to a checkpoint in MLflow yet
    format: int = FORMAT

    @property
    def metric(self) -> str:
        return str(self.score["metric"])

    @property
    def value(self) -> float:
        return float(self.score[self.metric])

    @property
    def lower_is_better(self) -> bool:
        return bool(self.score.get("lower_is_better", False))


_RECORD = TypeAdapter(Record)


def file_stem(task: str) -> str:
    """``paper.lambada`` for ``paper/lambada``."""
    return task.replace("/", ".")


def steps(lake: Lake, model: str) -> list[int]:
    """The steps of a run that have scores, ascending."""
    return sorted(int(match[1]) for name in lake.names("scores", model) if (match := _STEP.fullmatch(name)))


def read_all(lake: Lake, model: str, step: int) -> dict[str, Record]:
    """The records of a checkpoint by task, in the order of their names. Raises InputError for a damaged one."""
    names = (name for name in lake.names("scores", model, step_name(step)) if name.endswith(".json"))
    records = (_read(lake, model, step, name) for name in names)
    return {record.task: record for record in records}


def newest(lake: Lake, model: str) -> dict[str, Record]:
    """The records of the newest scored checkpoint. Raises InputError if the run was never scored."""
    found = steps(lake, model)
    if not found:
        raise InputError(f"{model}: no scores in {lake.path('scores', model)}; run webtext eval --run {model}")
    return read_all(lake, model, found[-1])


def read_items(lake: Lake, record: Record) -> pa.Table:
    """The items of a record. Raises InputError if the file is missing or not the one that the record describes."""
    names = _names(record, ".parquet")
    content = lake.read(*names)
    if hashlib.sha256(content).hexdigest() != record.items.sha256:
        raise InputError(f"{lake.path(*names)}: not the items of the score beside it; score {record.task} again")
    return pq.read_table(io.BytesIO(content))


def has_items(lake: Lake, record: Record) -> bool:
    try:
        read_items(lake, record)
    except InputError:
        return False
    return True


def publish(lake: Lake, record: Record, rows: list[dict[str, Any]]) -> Record:
    """Publish a score and its items; returns the record with the sha256 of the items."""
    with lake.scratch() as folder:
        path = folder / "items.parquet"
        write_parquet(pa.Table.from_pylist(rows), path)
        items = Items(len(rows), hashlib.sha256(path.read_bytes()).hexdigest())
        lake.publish(path, *_names(record, ".parquet"))
    record = dataclasses.replace(record, items=items)
    update(lake, record)
    return record


def update(lake: Lake, record: Record) -> None:
    """Publish a record whose items are published."""
    lake.publish_json(dataclasses.asdict(record), *_names(record, ".json"))


def remove_others(lake: Lake, model: str, step: int, weights_digest: str) -> None:
    """Remove the scores of other weights under the same name and step: a run that was trained anew, for example."""
    for record in read_all(lake, model, step).values():
        if record.weights_digest != weights_digest:
            for suffix in (".json", ".parquet"):
                lake.remove(*_names(record, suffix))


def code_hash(run: Any) -> str:
    """The sha256 of what computes a score: the module of ``run``, its arguments, and the evaluation's modules it uses.

    Any change to these files changes the hash, so an equal hash proves equal code. A changed hash need not mean changed
    scores: that is what a task's version says.
    """
    arguments: Mapping[str, Any] = {}
    if isinstance(run, functools.partial):
        arguments = {name: getattr(value, "__qualname__", value) for name, value in run.keywords.items()}
        run = run.func
    found: dict[str, ModuleType] = {}
    _collect(sys.modules[run.__module__], found)
    sources = {name: Path(str(module.__file__)).read_text() for name, module in sorted(found.items())}
    text = orjson.dumps([run.__qualname__, arguments, sources], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(text).hexdigest()


def _collect(module: ModuleType, found: dict[str, ModuleType]) -> None:
    """Add the module and those of ``_CODE`` that it uses to ``found``."""
    found[module.__name__] = module
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.startswith(_CODE) and name not in found and name in sys.modules:
            _collect(sys.modules[name], found)


@functools.cache
def code_commit() -> str | None:
    """The commit of this program's checkout, with ``-dirty`` if files were changed; None if it is installed."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _names(record: Record, suffix: str) -> tuple[str, ...]:
    return ("scores", record.model, step_name(record.step), file_stem(record.task) + suffix)


def _read(lake: Lake, model: str, step: int, name: str) -> Record:
    names = ("scores", model, step_name(step), name)
    try:
        return _RECORD.validate_python(lake.read_json(*names))
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise InputError(f"{lake.path(*names)}: not a score ({problem}); remove it and score again") from error
