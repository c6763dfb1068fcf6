"""One task by all combinations of its choices."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from data.bpe import encode
from data.errors import InputError
from data.evalsets.files import find
from flows.cli import show
from model import hf
from model.ablate import ablate
from model.evals import EvalSpec
from model.evals.task import Subject
from model.evals.tasks import TASKS
from model.evaluate import main
from model.events import Ablation, Variant, eval_event, to_line
from model.gpt2 import GPT2
from model.scoring import Request, Score
from tests.model.corpora import Liking, Uniform, config
from tests.model.running import Events, ignore
from tests.model.test_choices import cbt_file, question

LINES = ("I saw the dog", "you saw the cat", "we saw “the the", "we saw Dschemila", "he ran over “the")
PLAIN = "i do n't see the dog\n`` we , '' he said , saw the the\nshe saw Dschemila\n"


def subject(model: GPT2, files: Path, limit: int = 1_000) -> Subject:
    found = {name: file.path for name, file in find(files).items()}
    return Subject(model, None, found, limit, lambda _done, _total: None)


def measured(task: str, one: Subject) -> dict[tuple[str, ...], Variant]:
    choices = TASKS[task].choices
    assert choices is not None
    every = list(choices.measure(one))
    found = {tuple(variant.choices.values()): variant for variant in every}
    assert len(found) == len(every)
    return found


def value(variant: Variant) -> float:
    assert variant.value is not None
    return variant.value


def test_the_grid_of_lambada_holds_the_scores_of_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lambada_test.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES))
    (tmp_path / "lambada_test_plain_text.txt").write_text(PLAIN)
    model = Liking(config(), [encode(word).item() for word in (" the", " dog", "ila", " cat")])
    passes: list[int] = []
    score = Subject.score

    def counted(self: Subject, requests: Sequence[Request], exclude_first: Sequence[int] = ()) -> list[Score]:
        passes.append(len(requests))
        return score(self, requests, exclude_first)

    monkeypatch.setattr(Subject, "score", counted)
    grid = measured("paper/lambada", subject(model, tmp_path))
    assert len(grid) == 3 * 2 * 2 * 2
    assert passes == [5, 5, 5, 5, 3, 3]
    scores = {name: TASKS[name].run(subject(model, tmp_path)) for name in TASKS if "lambada" in name}
    ours, theirs, authors = "OpenAI's, on a new line", "OpenAI's, as it stands", "the authors'"
    for key, name, metric in (
        ((ours, "yes", "last word", "no"), "paper/lambada", "accuracy"),
        ((ours, "yes", "last word", "yes"), "paper/lambada", "accuracy_stopword"),
        ((ours, "yes", "last token", "no"), "paper/lambada", "accuracy_last_token"),
        ((theirs, "no", "last word", "no"), "harness/lambada_openai", "accuracy"),
        ((authors, "yes", "last word", "no"), "paper/lambada_plain", "accuracy"),
        ((authors, "yes", "last word", "yes"), "paper/lambada_plain", "accuracy_stopword"),
        ((authors, "no", "last word", "no"), "harness/lambada_standard", "accuracy"),
    ):
        assert value(grid[key]) == scores[name][metric], key
        assert grid[key].n == scores[name]["n"]
    assert [value(grid[ours, "yes", *rest]) for rest in (("last word", "no"), ("last word", "yes"))] == [0.2, 0.2]
    assert value(grid[ours, "yes", "last token", "no"]) == 0.2
    assert "45.99" in grid[ours, "yes", "last word", "yes"].published
    assert "46.67" in grid[ours, "yes", "last token", "no"].published
    assert "32.56" in grid[theirs, "no", "last word", "no"].published


def test_last_token_and_filter_differ_where_they_should(tmp_path: Path) -> None:
    name = encode(" Dschemila").tolist()
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "I saw Dschemila"}\n{"text": "I saw the dog"}\n')
    model = Liking(config(), [name[-1], encode(" the").item(), encode(" dog").item()])
    grid = measured("paper/lambada", subject(model, tmp_path))
    file = "OpenAI's, as it stands"
    assert value(grid[file, "no", "last word", "no"]) == 0
    assert value(grid[file, "no", "last token", "no"]) == 0.5
    model = Liking(config(), [encode(" the").item(), encode(" dog").item(), name[-1]])
    grid = measured("paper/lambada", subject(model, tmp_path))
    assert value(grid[file, "no", "last token", "no"]) == 0
    assert value(grid[file, "no", "last token", "yes"]) == value(grid[file, "no", "last word", "yes"]) == 0.5


def test_a_missing_file_leaves_its_rows_empty(tmp_path: Path) -> None:
    (tmp_path / "lambada_test.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES))
    grid = measured("paper/lambada", subject(Uniform(config()), tmp_path))
    empty = [key[0] for key, variant in grid.items() if variant.value is None]
    assert empty == ["the authors'"] * 8
    assert "lambada_test_plain_text" in grid["the authors'", "no", "last word", "no"].missing


def test_units_and_strides_of_wikitext(tmp_path: Path) -> None:
    original = " \n = A lobster = \n \n" + " The lobster 's claw is red @-@ tipped , and weighs 0 @.@ 7 kg . \n" * 30
    (tmp_path / "wiki.test.tokens").write_text(original)
    model = Liking(config(width=4), [encode(" lobster").item()])
    grid = measured("paper/wikitext2", subject(model, tmp_path))
    assert len(grid) == 3 * 2 * 2
    score = TASKS["paper/wikitext2"].run(subject(model, tmp_path))
    assert value(grid["original token", "yes", "half the context"]) == score["perplexity"]
    words, lines = len(original.split()), original.count("\n")
    for detokenizer in ("no", "yes"):
        for stride in ("half the context", "the whole context"):
            of = {unit: grid[unit, detokenizer, stride] for unit in ("original token", "BPE token", "word")}
            nats = [math.log(value(one)) * one.n for one in of.values()]
            assert nats == pytest.approx([nats[0]] * 3, rel=1e-3)
            assert (of["original token"].n, of["word"].n) == (words + lines, words)
    assert grid["BPE token", "no", "half the context"].n == len(encode(original))
    assert grid["BPE token", "yes", "half the context"].n == score["bpe_tokens"] < len(encode(original))
    assert "29.41" in grid["original token", "yes", "half the context"].published
    assert "37.50" in grid["word", "yes", "the whole context"].published


def test_the_grid_of_cbt_holds_the_scores_of_the_task(tmp_path: Path) -> None:
    files = cbt_file(tmp_path, *[question("Then the XXXXX 's tail moved .", answer) for answer in ("dog", "bee")])
    model = Liking(config(context=512), [encode(word).item() for word in (" dog", "'s")])
    grid = measured("paper/cbt_cn", subject(model, files))
    score = TASKS["paper/cbt_cn"].run(subject(model, files))
    assert value(grid["valid", "yes", "choice and rest"]) == score["accuracy"] == 0.5
    assert value(grid["valid", "yes", "choice only"]) == score["accuracy_choice"]
    assert grid["test", "no", "choice only"].value is None
    (tmp_path / "cbtest_CN_test_2500ex.txt").write_text(question("The XXXXX ran .", "bee") * 3)
    grid = measured("paper/cbt_cn", subject(model, files))
    assert (value(grid["test", "no", "choice and rest"]), grid["test", "no", "choice and rest"].n) == (0, 3)
    assert "87.65" in grid["valid", "yes", "choice and rest"].published
    names = measured("paper/cbt_ne", subject(model, files))
    assert "83.4" in names["valid", "yes", "choice and rest"].published


# The program


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    hf.export(GPT2(config(context=64, width=4)).eval(), folder)
    return folder


def test_the_program_reports_a_grid(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "lambada_test.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES))
    fields = {"lake": str(tmp_path / "lake"), "hf": str(exported), "device": "cpu", "ablate": "paper/lambada"}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**fields, "eval_data": str(sets), "any_file": True}))
    assert main(["--spec", str(path)]) == 0
    last = eval_event(capsys.readouterr().out.splitlines()[-1].encode())
    assert isinstance(last, Ablation)
    assert (last.task, last.metric, len(last.rows)) == ("paper/lambada", "accuracy", 24)
    assert last.model == f"hf-tiny-{last.weights_digest[:8]}"
    assert eval_event(to_line(last)) == last
    assert set(last.files) == {"lambada"}
    show.ablation(last)
    printed = capsys.readouterr().out
    assert f"paper/lambada of {last.model} by its choices" in printed
    assert "stop-word filter" in printed
    row = next(line for line in printed.splitlines() if "as it stands" in line)  # the first of this file
    note = next(line for line in printed.splitlines() if "32.56" in line)
    assert note.split()[0] in row
    assert "not measured: needs a file lambada_test_plain_text" in printed
    path.write_text(json.dumps({**fields, "eval_data": str(sets)}))
    assert main(["--spec", str(path)]) == 2
    assert "not the official file" in capsys.readouterr().out


def test_bad_ablations_are_refused(exported: Path, tmp_path: Path) -> None:
    def refused(task: str, **fields: object) -> str:
        spec = EvalSpec(str(tmp_path), hf=str(exported), device="cpu", ablate=task, **fields)  # type: ignore[arg-type]
        with pytest.raises(InputError) as error:
            ablate(spec, ignore)
        return str(error.value)

    assert "no such task with choices to compare; choose from paper/lambada" in refused("heldout_ppl")
    assert "name its directory with --eval-data" in refused("paper/lambada")
    assert f"not in {tmp_path}" in refused("paper/lambada", eval_data=str(tmp_path))
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "only one"}\n')
    assert "at least 2 clusters" in refused("paper/lambada", eval_data=str(tmp_path), any_file=True)
    short = tmp_path / "short"
    hf.export(GPT2(config(context=16, width=4)).eval(), short)
    spec = EvalSpec(str(tmp_path), hf=str(short), device="cpu", ablate="paper/lambada")
    with pytest.raises(InputError, match="needs a context of 32 tokens, the model has 16"):
        ablate(spec, Events())
