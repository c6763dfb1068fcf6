"""The flows end to end on part of the local web: real pages, a real Prefect server, a real MLflow server."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from data.errors import InputError
from data.lake.store import Lake
from data.schema import STAGES, STATUSES
from flows import services
from flows.cli.doctor import examine
from flows.cli.status import collect
from flows.settings import Settings
from model.evals.task import HELDOUT
from model.evals.tasks import TASKS
from tests.flows.serving import Pipeline, refresh_small, task_states, webtext

if TYPE_CHECKING:
    from flows.refresh import RefreshResult


def rows(pipeline: Pipeline, stage: str, columns: str, snapshot: str = "small") -> list[tuple[Any, ...]]:
    """Reads with duckdb, independently of our reader."""
    return duckdb.sql(f"select {columns} from '{pipeline.lake}/{stage}/{snapshot}/part-*.parquet'").fetchall()


def test_the_funnel_adds_up_exactly(pipeline: Pipeline) -> None:
    stages = pipeline.refreshed.stages
    assert list(stages) == list(STAGES)
    rows_in = pipeline.lines
    for stage, summary in stages.items():
        assert summary.rows_in == rows_in, stage
        assert sum(summary.by_status.values()) == rows_in, stage
        assert set(summary.by_status) <= {status.value for status in STATUSES[stage]}
        assert summary.rows_out == summary.by_status["ok"] > 0
        # select has a row for every page, because row k of its part n belongs to row k of text's part n
        rows_in = stages["text"].rows_in if stage == "text" else summary.rows_out
    tokens = stages["tokens"].extra
    assert tokens["train_docs"] + tokens["val_docs"] == stages["tokens"].rows_out


def test_every_stage_has_as_many_rows_as_it_counts(pipeline: Pipeline) -> None:
    for stage in ("pages", "text", "select"):
        counted = Counter(status for (status,) in rows(pipeline, stage, "status"))
        expected = {k: v for k, v in pipeline.refreshed.stages[stage].by_status.items() if v}
        assert counted == expected, stage
    kept = pipeline.refreshed.stages["links"].rows_out
    urls = [url for (url,) in rows(pipeline, "pages", "canonical_url")]
    assert len(urls) == len(set(urls)) == kept


def test_every_hazard_has_its_expected_outcome(pipeline: Pipeline) -> None:
    pages = dict(rows(pipeline, "pages", "canonical_url, status"))
    text = dict(rows(pipeline, "text", "url, doc_id"))
    verdicts: dict[bytes, set[str]] = {}
    for doc_id, status in rows(pipeline, "select", "doc_id, status"):
        verdicts.setdefault(doc_id, set()).add(status)
    seen: Counter[str] = Counter()
    for url, status in pages.items():
        expected = pipeline.site.expected[url]
        kind = pipeline.site.routes[url].kind
        assert status == expected.page, (kind, url)
        if expected.select and status == "ok":
            assert verdicts[text[url]] & set(expected.select), (kind, url, verdicts[text[url]])
        seen[kind] += 1
    assert len(seen) >= 20, seen


def test_near_copies_are_dropped_and_point_to_the_kept_document(pipeline: Pipeline) -> None:
    verdicts = rows(pipeline, "select", "doc_id, status, duplicate_of")
    kept = {doc_id for doc_id, status, _ in verdicts if status == "ok"}
    dropped = [(status, of) for _, status, of in verdicts if status in ("exact_duplicate", "near_duplicate")]
    assert {status for status, _ in dropped} == {"exact_duplicate", "near_duplicate"}
    assert all(of in kept for _, of in dropped)


def refresh_again(pipeline: Pipeline) -> RefreshResult:
    return refresh_small(pipeline.dump, pipeline.lake, connect_to=())  # the local web is down: nothing may be fetched


def test_a_second_refresh_does_nothing(pipeline: Pipeline) -> None:
    again = refresh_again(pipeline)
    for stage, summary in again.stages.items():
        assert summary.skipped, stage
        assert summary.digest == pipeline.refreshed.stages[stage].digest


def test_prefect_has_all_task_runs(pipeline: Pipeline) -> None:
    lake = Lake(pipeline.lake)
    for stage in STAGES:
        manifest = lake.dataset(stage, "small").require()
        states = task_states(stage, of=" small ")
        for part in manifest.parts:
            assert states[f"{stage} small {part.name}"] == "Completed"
    assert task_states("pretrain", of=" tiny") == {"train tiny": "Completed"}
    assert task_states("evaluate", of="tiny") == {"evaluate tiny": "Completed"}


def test_the_mlflow_run_holds_everything(pipeline: Pipeline, servers: services.Servers) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(servers.mlflow_uri)
    run = client.get_run(pipeline.trained.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["layers"] == "2"
    assert run.data.params["width"] == "32"
    digest = pipeline.refreshed.stages["tokens"].digest
    datasets = {(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs}
    assert ("tokens/small", digest[:32]) in datasets
    losses = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert {5, 10, 15, 20} <= losses.keys()
    assert {metric.step for metric in client.get_metric_history(run.info.run_id, "tokens_per_s")} == losses.keys()
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    steps = {model.tags["webtext.step"]: model for model in models}
    assert set(steps) == {"10", "20"}
    files = {artifact.path for artifact in client.list_logged_model_artifacts(steps["20"].model_id)}
    assert {"model.safetensors", "config.json"} <= files
    scored = {metric.key for metric in steps["20"].metrics or []}
    for task in pipeline.scored.scores:
        assert any(task in key for key in scored), (task, scored)


def test_scores_have_intervals_and_baselines(pipeline: Pipeline) -> None:
    scores = pipeline.scored.scores
    assert scores.keys() == {"heldout_ppl", "heldout_lastword", "heldout_cloze", "heldout_order"}
    for name in ("heldout_lastword", "heldout_cloze", "heldout_order"):
        low, high = scores[name].interval
        assert 0 <= low <= scores[name].value <= high <= 1
        assert scores[name].best_baseline in scores[name].baselines


def test_tasks_without_their_official_file_are_missing_with_the_reason(pipeline: Pipeline) -> None:
    missing = pipeline.scored.missing
    assert missing.keys() == {name for name, task in TASKS.items() if task.source != HELDOUT}
    assert all("--eval-data" in reason for reason in missing.values())


def test_the_command_line_shows_the_outcome_of_a_link(pipeline: Pipeline) -> None:
    url, kept = next(
        (url, of)
        for url, of in duckdb.sql(
            f"select t.url, s.duplicate_of from '{pipeline.lake}/text/small/part-*.parquet' t "
            f"join '{pipeline.lake}/select/small/part-*.parquet' s using (doc_id) where s.status = 'near_duplicate'"
        ).fetchall()
    )
    run = webtext(pipeline.environment(), "why", url, "--json")
    assert run.returncode == 0, run.stderr
    (found,) = json.loads(run.stdout)["found"]
    assert found["stages"]["select"]["status"] == "near_duplicate"
    assert found["stages"]["select"]["duplicate_of"] == kept.hex()
    original = found["stages"]["select"]["duplicate_of_url"]
    found, *_ = json.loads(webtext(pipeline.environment(), "why", original, "--json").stdout)["found"]
    assert found["stages"]["tokens"]["status"] == "ok"
    assert found["stages"]["tokens"]["n_tokens"] > 0

    unknown = webtext(pipeline.environment(), "why", "http://unknown.example/")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith(
        "webtext: error: http://unknown.example/: in no snapshot's links, and no link was redirected to it; "
    )


def test_report_is_one_page_with_funnel_curve_and_scores(pipeline: Pipeline, tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    chosen = ("--snapshot", "small", "--run", "tiny")
    run = webtext(pipeline.environment(), "report", *chosen, "--to", str(page), "--json")
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert (said["file"], said["snapshots"], said["runs"]) == (str(page), ["small"], ["tiny"])
    dropped = pipeline.refreshed.stages["select"].by_status
    n_copies = dropped["exact_duplicate"] + dropped["near_duplicate"]
    assert 0 < sum(cluster["copies"] for cluster in said["clusters"]["small"]) <= n_copies
    assert said["warnings"] == []
    html = page.read_text()
    assert html.count("<svg") == 4
    assert "near_duplicate" in html
    assert "heldout_cloze" in html
    assert not re.search(r'(src|href)="http', html)


def test_sample_writes_the_same_text_for_the_same_seed(pipeline: Pipeline) -> None:
    arguments = ("sample", "--run", "tiny", "--prompt", "The array is", "--tokens", "12", "--json")
    one = json.loads(webtext(pipeline.environment(), *arguments, "--seed", "1").stdout)
    same = json.loads(webtext(pipeline.environment(), *arguments, "--seed", "1").stdout)
    other = json.loads(webtext(pipeline.environment(), *arguments, "--seed", "2").stdout)
    assert one == same
    assert one["text"] != other["text"]


def test_export_is_what_transformers_loads(pipeline: Pipeline, tmp_path: Path) -> None:
    import torch
    from transformers import GPT2LMHeadModel, GPT2TokenizerFast

    from model.checkpoint import load_model

    folder = tmp_path / "hf"
    run = webtext(pipeline.environment(), "export", "--run", "tiny", "--to", str(folder))
    assert run.returncode == 0, run.stderr
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    ours, state = load_model(Lake(pipeline.lake), "tiny")
    ids = torch.tensor([GPT2TokenizerFast.from_pretrained(folder)("The array is sorted.")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-5, rtol=0)
    assert state.step == 20
    other = webtext(
        pipeline.environment(), "export", "--run", "tiny", "--step", "10", "--to", str(tmp_path / "ten"), "--json"
    )
    assert json.loads(other.stdout)["step"] == 10
    none = webtext(pipeline.environment(), "sample", "--run", "tiny", "--step", "7", "--prompt", "The")
    assert none.returncode == 1
    assert "--run tiny: no checkpoint of step 7" in none.stderr
    again = webtext(pipeline.environment(), "export", "--run", "tiny", "--to", str(folder))
    assert again.returncode == 1
    assert "is not an empty directory" in again.stderr


def test_status_and_doctor_report_a_healthy_lake(pipeline: Pipeline) -> None:
    status = collect(Settings(lake=str(pipeline.lake), home=pipeline.home))
    assert status.snapshots["small"]["tokens"].state == "done"
    assert status.runs["tiny"].state == "done"
    run = webtext(pipeline.environment(), "doctor", "--json")
    checks = {check["what"]: check["state"] for check in json.loads(run.stdout)["checks"]}
    assert run.returncode == 0, run.stdout
    assert checks["tokens/small"] == checks["prefect"] == checks["mlflow"] == "good"


def test_doctor_status_and_report_name_what_is_broken(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(pipeline.lake / "checkpoints", lake / "checkpoints")
    (lake / "checkpoints" / "tiny" / "run.json").write_text("{")
    report = webtext(pipeline.environment() | {"WEBTEXT_LAKE": str(lake)}, "report", "--to", str(tmp_path / "r.html"))
    assert report.returncode == 0
    assert "no curve of tiny" in report.stderr
    assert "run.json: damaged; remove it" in report.stderr
    monkeypatch.setattr("os.access", lambda *_: False)
    settings = Settings(lake=str(lake), home=pipeline.home)
    assert "run.json: damaged; remove it" in collect(settings).runs["tiny"].state
    bad = [check.detail for check in examine(settings).checks if check.state == "bad"]
    assert bad == [f"{folder} is not writable" for folder in (pipeline.home, lake)]
    empty = webtext(pipeline.environment() | {"WEBTEXT_LAKE": ""}, "status")
    assert empty.returncode == 2
    assert "WEBTEXT_LAKE is empty" in empty.stderr


def test_another_profile_is_a_variant_that_shares_the_first_stages(pipeline: Pipeline, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    for stage in STAGES:
        shutil.copytree(pipeline.lake / stage / "small", lake / stage / "small")
    refreshed = refresh_small(pipeline.dump, lake, (), "small@gopher", "gopher")
    assert {stage: done.skipped for stage, done in refreshed.stages.items()} == dict.fromkeys(STAGES, True) | {
        "select": False,
        "tokens": False,
    }
    for stage in ("links", "pages", "text"):
        assert refreshed.stages[stage].digest == pipeline.refreshed.stages[stage].digest
    select = refreshed.stages["select"]
    files = f"'{lake}/select/small@gopher/part-*.parquet'", f"'{lake}/text/small/part-*.parquet'"
    judged = duckdb.sql(
        "select s.status, s.reason, t.n_words, t.n_gpt2_tokens from {} s join {} t using (doc_id)".format(*files)
    ).fetchall()
    assert any(n_tokens < 128 for status, _, _, n_tokens in judged if status == "ok")  # webtext's rule does not count
    short = [(reason, n_words) for status, reason, n_words, _ in judged if status == "too_short"]
    assert len(short) == select.by_status["too_short"] > 0
    assert all(reason == f"n_words {n_words} < 50" for reason, n_words in short)
    assert Lake(lake).snapshots("select") == ["small", "small@gopher"]
    with pytest.raises(InputError, match="snapshot small: the profile fineweb makes a variant; name it small@fineweb"):
        refresh_small(pipeline.dump, lake, (), "small", "fineweb")


def test_a_list_of_urls_is_refreshed_by_the_command_line(pipeline: Pipeline, tmp_path: Path) -> None:
    """A second snapshot with the same pages keeps none of them."""
    from flows.localweb import server as localweb

    known = [
        url
        for (url,) in duckdb.sql(
            f"select t.url from '{pipeline.lake}/text/small/part-*.parquet' t join "
            f"'{pipeline.lake}/select/small/part-*.parquet' s using (doc_id) where s.status = 'ok' "
            "order by t.url limit 5"
        ).fetchall()
    ]
    listed = tmp_path / "urls.txt"
    listed.write_text("\n".join([*known, "not a url"]) + "\n")
    with localweb.running(pipeline.home) as web:
        run = webtext(
            pipeline.environment(),
            *("refresh", "--snapshot", "small-2", "--links", f"urls:{listed}"),
            *("--connect-to", web.connect_to[0], "--host-delay", "0.01", "--json"),
        )
    assert run.returncode == 0, run.stderr
    stages = json.loads(run.stdout)["stages"]
    assert stages["links"]["by_status"] == {"bad_url": 1, "ok": 5} | {
        k: 0 for k, v in stages["links"]["by_status"].items() if v == 0
    }
    assert stages["select"]["by_status"] == {"exact_duplicate": 5}
    assert stages["tokens"]["rows_out"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("refresh", "--links", "nowhere.zst", "--snapshot", "x"), 1, "nowhere.zst: no such file"),
        (("refresh", "--snapshot", "x"), 2, "Missing option '--links'"),
        (("refresh", "--links", "a", "--deadline", "soon"), 2, "expected a number and one of s m h d"),
        (("train", "--corpus", "small", "--preset", "nano", "--run", ""), 2, "is empty"),
        (("train", "--corpus", "small", "--preset", "nano", "--init-from", " "), 2, "is empty"),
        (("report", "--run", ""), 2, "is empty"),
        (("eval", "--checkpoint", ""), 2, "is empty"),
        (("eval", "--run", "tiny", "--eval-data", ""), 2, "is empty"),
        (("status", "--lake", ""), 2, "is empty"),
        (("sample", "--run", "tiny", "--prompt", "x", "--tokens", "-5"), 2, "should be greater than or equal to 1"),
        (("eval", "--run", "tiny", "--tasks", "paper/lambada"), 1, "nothing was scored: paper/lambada: needs a file"),
        (("train", "--corpus", "small", "--preset", "huge"), 2, "no such preset; choose from nano, mini, 124M"),
        (("train", "--corpus", "small", "--preset", "nano", "--set", "depth=3"), 2, "no such setting; choose from"),
        (("train", "--corpus", "nope", "--preset", "nano"), 1, "tokens/nope: no such dataset"),
        (("eval", "--run", "nope"), 1, "nope"),
        (("eval", "--run", "tiny", "--batch-tokens", "0"), 1, "batch_tokens must be greater than 0, got 0"),
        (("eval",), 2, "exactly one of --run"),
        (("sample", "--run", "nope", "--prompt", "x"), 1, "no checkpoint in"),
        (("status", "--lake", "/proc/nowhere"), 1, "--lake /proc/nowhere:"),
        (("report", "--run", "nope"), 1, "--run nope: no such run in"),
    ],
)
def test_bad_input_is_a_one_line_error_with_advice(
    pipeline: Pipeline, arguments: tuple[str, ...], code: int, message: str
) -> None:
    run = webtext(pipeline.environment(), *arguments)
    assert run.returncode == code, run.stderr
    flat = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run.stderr).split())
    assert message in flat
    assert "Traceback" not in run.stderr
    if code == 1:
        assert len(run.stderr.strip().splitlines()) == 1


def test_files_are_read_from_where_fetch_puts_them(pipeline: Pipeline, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lake=str(pipeline.lake))
    assert settings.fetched_eval_data() is None
    settings.eval_data.mkdir()
    (settings.eval_data / "ptb.test.txt").write_text(" a b \n")
    (pipeline.home / "eval-data").symlink_to(settings.eval_data)
    try:
        run = webtext(pipeline.environment(), "eval", "--run", "tiny", "--tasks", "paper/ptb")
    finally:
        (pipeline.home / "eval-data").unlink()
    assert run.returncode == 1
    assert "eval-data/ptb.test.txt is not the official file of Penn Treebank" in run.stderr


def test_a_damaged_shard_is_detected_and_the_error_names_it(pipeline: Pipeline) -> None:
    shard = next((pipeline.lake / "tokens" / "small" / "train").glob("*.parquet"))
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    good = shard.read_bytes()
    try:
        shard.write_bytes(body)
        run = webtext(pipeline.environment(), "doctor")
        assert run.returncode == 1
        assert f"{shard.name}: sha256 is" in run.stdout
        with pytest.raises(InputError, match=rf"{shard.name}: sha256 is .* remove it and tokens/small/_manifest"):
            refresh_again(pipeline)
    finally:
        shard.write_bytes(good)


def test_a_lake_of_another_configuration_is_refused_with_the_difference(pipeline: Pipeline) -> None:
    run = webtext(
        pipeline.environment(), "refresh", "--snapshot", "small", "--links", str(pipeline.dump), "--min-karma", "5"
    )
    assert run.returncode == 1
    assert "min_karma: 3 -> 5" in run.stderr
