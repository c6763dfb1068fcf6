"""``harness/hellaswag``, ``harness/arc_challenge``, ``harness/piqa``, ``harness/winogrande``: by lm-evaluation-harness.

Prompts, answers and metrics are those of the installed lm-evaluation-harness (the extra ``webtext[harness]``). Its
configuration of the task is read, and only its source of questions is replaced by the file of ``--eval-data``. The
model answers through the harness's ``LM`` interface. So the numbers are the ones that ``lm_eval --model hf`` finds for
the same questions without shots (tests/model/test_harness.py). ``accuracy`` is its ``acc``. ``accuracy_norm`` is its
``acc_norm``, where the log-probability of an answer is divided by its length in characters; WinoGrande has none.

All other tasks of the harness run on a model through ``as_lm`` too:

    subject = Subject(model, None, {}, 0, lambda done, total: None)
    lm_eval.simple_evaluate(model=as_lm(subject), tasks=["sciq"])

``harness/lambada_openai`` needs no harness (model/evals/lambada.py). Baseline: a guess among the answers.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.evalsets.questions import labels_of, read_questions
from model.evals import stats
from model.evals.heldout import choose
from model.evals.task import SCORES, NotScored, Subject, Task, require_clusters, result
from model.gpt2 import GPT2
from model.scoring import Request, rolling

CONFIGS = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
}
"""Where the harness has the configuration of each task."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
MAX_NEW_TOKENS = 256  # of the harness's HFLM, for a task that does not say


def as_lm(subject: Subject) -> Any:
    """The subject's model as an ``LM`` of lm-evaluation-harness."""
    from lm_eval.api.model import TemplateLM

    class OurLM(TemplateLM):  # type: ignore[misc, unused-ignore]
        """Texts become tokens as with HFLM, by the harness's own rules; all else is our engine."""

        @property
        def eot_token_id(self) -> int:
            return subject.tokenizer.start

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            special = subject.tokenizer.encode_special
            if special is None or add_special_tokens is False:
                return subject.encode(string)
            tokens: list[int] = special(string).tolist()
            return tokens

        def _loglikelihood_tokens(
            self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
        ) -> list[tuple[float, bool]]:
            for (before, after), context, continuation in requests:
                if len(continuation) > subject.model.config.context:
                    raise NotScored(
                        f"has an answer of {len(continuation)} tokens, and the model a context of "
                        f"{subject.model.config.context}"
                    )
                if not context or not continuation:
                    raise InputError(f"nothing to score: the context {before[-40:]!r}, the continuation {after[:40]!r}")
            scores = subject.score([Request(context, continuation) for _, context, continuation in requests])
            return [(score.log_likelihood, score.is_greedy) for score in scores]

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            context = subject.model.config.context
            found = []
            for request in requests:
                windows = rolling(self.tok_encode(request.args[0]), context, context, subject.tokenizer.start)
                found.append(sum(score.log_likelihood for score in subject.score(windows)))
            return found

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            return _write(subject, [request.args for request in requests])

    return OurLM()


def _write(subject: Subject, requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What greedy decoding writes after each prompt, up to the first of its strings ``until``."""
    if not isinstance(subject.model, GPT2):
        raise InputError("texts are written by a GPT-2 only; choose tasks that compare probabilities")
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for index, (_, how) in enumerate(requests):
        if how.get("do_sample") or how.get("temperature"):
            raise InputError(f"this task draws its texts ({how}); only greedy decoding is supported")
        until = how.get("until", [])
        stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
        length = next((int(how[name]) for name in LENGTHS if how.get(name) is not None), MAX_NEW_TOKENS)
        alike.setdefault((length, stops), []).append(index)
    texts = [""] * len(requests)
    for (length, stops), indices in alike.items():
        prompts = [subject.encode(requests[index][0]) or [subject.tokenizer.start] for index in indices]

        def is_over(text: str, stops: tuple[str, ...] = stops) -> bool:
            return any(stop in text for stop in stops)

        for index, one in zip(indices, subject.write(prompts, length, is_over), strict=True):
            ends = [one.text.index(stop) for stop in stops if stop in one.text]
            texts[index] = one.text[: min(ends, default=len(one.text))]
    return texts


def task_of(evalset: str, path: Path) -> Any:
    """The harness's task with the questions of a file as its only split."""
    import datasets
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    rows = datasets.Dataset.from_list([question.row for question in read_questions(evalset, path)])
    config = load_yaml(Path(str(lm_eval.__file__)).parent / "tasks" / CONFIGS[evalset])
    splits = {"training_split": None, "validation_split": "validation", "test_split": None}
    ours = {"dataset_path": str(path), "dataset_name": None, "custom_dataset": lambda **_: {"validation": rows}}
    return ConfigurableTask(config={**config, **splits, **ours, "num_fewshot": 0})


def run(subject: Subject, evalset: str) -> SCORES:
    if importlib.util.find_spec("lm_eval") is None:
        raise NotScored("needs lm-evaluation-harness; install webtext[harness]")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task = task_of(evalset, subject.files[evalset])
    available = len(task.eval_docs)
    subject.check_count(evalset, available)
    chosen = sorted(choose([f"{evalset}/{i}" for i in range(available)], subject.limit))
    require_clusters(chosen, "questions")
    samples = samples_of(as_lm(subject), task, chosen)
    earned = {
        name: [float(sample[theirs]) for sample in samples]
        for name, theirs in (("accuracy", "acc"), ("accuracy_norm", "acc_norm"))
        if theirs in samples[0]
    }
    n_choices = [len(sample["arguments"]) for sample in samples]
    for i, sample in enumerate(samples):
        numbers = {name: of_one[i] for name, of_one in earned.items()}
        subject.keep(str(sample["doc_id"]), **numbers, choices=n_choices[i])
    return result(
        subject,
        "accuracy",
        {name: stats.accuracy(of_one, chosen) for name, of_one in earned.items()},
        len(samples),
        {"chance": stats.accuracy([1 / n for n in n_choices], chosen)},
        unit="question",
        available=available,
        lm_eval=importlib.metadata.version("lm_eval"),
    )


def samples_of(lm: Any, task: Any, chosen: list[int]) -> list[dict[str, Any]]:
    """What the harness found for each of the chosen questions, in their order."""
    from lm_eval.evaluator import evaluate

    name = task.config.task
    tasks: Any = {"tasks": {name: task}, "groups": {}, "group_map": {}}
    found = evaluate(lm, tasks, samples={name: chosen}, bootstrap_iters=0)
    return sorted(found["samples"][name], key=lambda sample: sample["doc_id"])  # type: ignore[index]


def _also(files: Mapping[str, Path], evalset: str) -> list[Path]:
    labels = labels_of(files[evalset]) if evalset == "piqa" and evalset in files else None
    return [labels] if labels else []


ALL = 1_000_000  # the whole file
TASKS = tuple(
    Task(
        f"harness/{evalset}",
        1,
        evalset,
        ALL,
        64,
        functools.partial(run, evalset=evalset),
        also=functools.partial(_also, evalset=evalset),
        any_tokenizer=True,
    )
    for evalset in CONFIGS
)
