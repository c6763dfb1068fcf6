"""Our model behind lm-evaluation-harness's interface, beside its own HFLM on the same weights and questions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.evalsets.files import find
from data.evalsets.questions import read_questions
from model import hf
from model.config import ModelConfig
from model.evals import harness
from model.evals.task import NotScored, Subject
from model.evals.tasks import TASKS
from model.gpt2 import GPT2

pytest.importorskip("lm_eval", reason="lm-eval comes with the extra harness")
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
FILES = {
    "hellaswag": "hellaswag_val.first500.jsonl",
    "arc_challenge": "arc_challenge_val.first300.jsonl",
    "piqa": "piqa_val.first300.jsonl",
    "lambada": "lambada/lambada_test.first500.jsonl",
}
LIMIT = 12
WINOGRANDE = [
    {"sentence": f"The {a} saw the {b} because _ was {n}.", "option1": f"the {a}", "option2": b, "answer": "12"[n % 2]}
    for n, (a, b) in enumerate([("cat", "dog"), ("man", "old woman"), ("sun", "moon"), ("ship", "harbour")] * 4)
]  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(ModelConfig(layers=1, heads=2, width=16, context=256, position_std=0.3))
    with torch.no_grad():
        model.tokens.weight.mul_(30)
    return model.eval()


@pytest.fixture(scope="module")
def hflm(ours: GPT2, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("exported") / "model"
    hf.export(ours, folder)
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first lines of the official files, and questions in WinoGrande's form."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "winogrande_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in WINOGRANDE))
    for name in FILES.values():
        if (SHARED / name).is_file():
            lines = (SHARED / name).read_bytes().splitlines(keepends=True)[:30]
            (folder / Path(name).name).write_bytes(b"".join(lines))
    return {name: file.path for name, file in find(folder).items()}


def subject(model: GPT2, files: dict[str, Path]) -> Subject:
    return Subject(model, None, files, LIMIT, lambda _done, _total: None)


@pytest.mark.parametrize("evalset", harness.CONFIGS)
def test_our_numbers_equal_those_of_the_harness(evalset: str, ours: GPT2, hflm: Any, files: dict[str, Path]) -> None:
    if evalset not in files:
        pytest.skip(f"{FILES[evalset]} is not there")
    scored = subject(ours, files)
    found = TASKS[f"harness/{evalset}"].run(scored)
    task = harness.task_of(evalset, files[evalset])
    chosen = [int(item["item"]) for item in scored.items]
    assert len(chosen) == found["n"] == LIMIT
    theirs = harness.samples_of(hflm, task, chosen)
    assert found["accuracy"] == pytest.approx(np.mean([sample["acc"] for sample in theirs]))
    assert [item["accuracy"] for item in scored.items] == [sample["acc"] for sample in theirs]
    assert ("accuracy_norm" in found) == (evalset != "winogrande")
    if "accuracy_norm" in found:
        assert [item["accuracy_norm"] for item in scored.items] == [sample["acc_norm"] for sample in theirs]
    mine = harness.samples_of(harness.as_lm(subject(ours, files)), task, chosen)
    answers = [[float(answer[0]) for sample in of for answer in sample["filtered_resps"]] for of in (mine, theirs)]
    np.testing.assert_allclose(*answers, atol=1e-4)
    assert np.std(answers[0]) > 1


def test_our_lambada_equals_that_of_the_harness(ours: GPT2, hflm: Any, files: dict[str, Path]) -> None:
    import datasets
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    if "lambada" not in files:
        pytest.skip(f"{FILES['lambada']} is not there")
    rows = datasets.Dataset.from_list([json.loads(line) for line in files["lambada"].read_bytes().splitlines()])
    config = load_yaml(Path(str(lm_eval.__file__)).parent / "tasks/lambada/lambada_openai.yaml")
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: {"test": rows}, "num_fewshot": 0})
    every = harness.samples_of(hflm, task, list(range(len(rows))))
    everything = Subject(ours, None, files, len(rows), lambda _done, _total: None)
    found = TASKS["harness/lambada_openai"].run(everything)
    assert found["accuracy"] == pytest.approx(np.mean([float(sample["acc"]) for sample in every]))
    nats = [-float(sample["filtered_resps"][0][0]) for sample in every]
    assert found["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)


def test_texts_and_long_documents_equal_those_of_the_harness(ours: GPT2, hflm: Any) -> None:
    from lm_eval.api.instance import Instance

    def asked(kind: Any, *arguments: Any) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)]

    mine = harness.as_lm(subject(ours, {}))
    for prompt in ("The cat sat on", "Question: why?\nAnswer:"):
        how = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
        (written,) = mine.generate_until(asked("generate_until", prompt, dict(how)))
        (theirs,) = hflm.generate_until(asked("generate_until", prompt, dict(how)), disable_tqdm=True)
        assert written == theirs
        stop = {**how, "until": [written[3:6]]}
        (cut,) = mine.generate_until(asked("generate_until", prompt, dict(stop)))
        assert cut == written[: written.index(written[3:6])]
        assert [cut] == hflm.generate_until(asked("generate_until", prompt, dict(stop)), disable_tqdm=True)
    text = " ".join(f"word {n}" for n in range(300))  # longer than the context
    (found,) = mine.loglikelihood_rolling(asked("loglikelihood_rolling", text))
    (expected,) = hflm.loglikelihood_rolling(asked("loglikelihood_rolling", text), disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-5)
    (found,) = mine.loglikelihood(asked("loglikelihood", "", "Hello there"))
    (expected,) = hflm.loglikelihood(asked("loglikelihood", "", "Hello there"), disable_tqdm=True)
    assert found[0] == pytest.approx(expected[0], abs=1e-4)


def test_official_forms_of_arc_and_piqa_are_read(tmp_path: Path) -> None:
    choices = [{"text": "ice", "label": "A"}, {"text": "steam", "label": "B"}]
    row = {"id": "x", "question": {"stem": "What is hot?", "choices": choices}, "answerKey": "B"}
    (tmp_path / "ARC-Challenge-Test.jsonl").write_text(json.dumps(row) + "\n")
    folder = tmp_path / "physicaliqa-train-dev"
    folder.mkdir()
    (folder / "dev.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 2)
    (folder / "dev-labels.lst").write_text("1\n0\n")
    found = find(tmp_path)
    (arc,) = read_questions("arc_challenge", found["arc_challenge"].path)
    assert arc.row["choices"] == {"text": ["ice", "steam"], "label": ["A", "B"]}
    assert arc.text == "What is hot?\nice\nsteam"
    assert [question.row["label"] for question in read_questions("piqa", found["piqa"].path)] == [1, 0]


@pytest.mark.parametrize(
    ("evalset", "line"),
    [
        ("hellaswag", '{"ctx_a": "x"}'),
        ("arc_challenge", '{"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "C"}'),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b"}'),
        ("winogrande", '{"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}'),
        ("winogrande", '{"sentence": "a _ b", "option1": "a", "option2": "b", "answer": ""}'),
    ],
)
def test_a_bad_question_is_named(evalset: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=f"dev.jsonl line 1: not a question of {evalset}"):
        read_questions(evalset, path)


@pytest.mark.parametrize("ending", ["", "\n\n", "\r\n\r\n"])
def test_traces_of_editors_are_removed(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}' + ending.encode())
    (question,) = read_questions("piqa", path)
    assert question.row["label"] == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [("1\n0\n1\n", "2 questions, but 3 labels"), ("<html>\n", "dev-labels.lst: not one label per line")],
)
def test_labels_that_do_not_belong_to_the_questions_are_refused(labels: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 2)
    (tmp_path / "dev-labels.lst").write_text(labels)
    with pytest.raises(InputError, match=message):
        read_questions("piqa", path)


def test_an_empty_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hellaswag_val.jsonl"
    row = {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", " ", "e", "f"], "label": 0}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"line 1: not a question of hellaswag .*an answer is empty"):
        read_questions("hellaswag", path)


def test_a_file_with_another_count_or_other_labels_is_another_file(ours: GPT2, tmp_path: Path) -> None:
    folder = tmp_path / "physicaliqa-train-dev"
    folder.mkdir()
    (folder / "dev.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 4)
    (folder / "dev-labels.lst").write_text("1\n0\n0\n1\n")
    paths = {name: file.path for name, file in find(tmp_path).items()}
    strict = Subject(ours, None, paths, LIMIT, lambda _done, _total: None, any_file=False)
    with pytest.raises(NotScored, match="the file has 4 examples, the official one 1,838"):
        TASKS["harness/piqa"].run(strict)
    assert TASKS["harness/piqa"].also(paths) == [folder / "dev-labels.lst"]


def test_a_prompt_that_does_not_fit_is_cut_and_counted_or_refused(ours: GPT2) -> None:
    from lm_eval.api.instance import Instance

    scored = subject(ours, {})
    mine = harness.as_lm(scored)
    prompt = "word " * 400
    for how in ({"max_new_tokens": 3, "until": []}, {"max_gen_toks": ours.config.context, "until": []}):
        asked = [Instance(request_type="generate_until", doc={}, arguments=(prompt, how), idx=0)]
        if "max_new_tokens" in how:
            mine.generate_until(asked)
            assert scored.truncated == 1
        else:
            with pytest.raises(
                InputError, match="max_new_tokens 256: must be at least 1 and less than the model's context of 256"
            ):
                mine.generate_until(asked)
