"""The report of a GPU at its smallest, on the CPU: every phase runs, and what must be noticed is noticed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import card, docs, goals, kernels, needs, ours, parent, speed
from benchmarks.gpu.child import run_phase
from benchmarks.gpu.compare import deviation, differing_bits, furthest, largest_deviation
from benchmarks.gpu.corpus import LENGTH, make
from benchmarks.gpu.job import Job
from benchmarks.gpu.phases import PHASES, Phase
from flows.cli import dryrun
from model import world
from tests import nanogpt

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(900)  # a hang ends, a busy machine does not reach it
Line = dict[str, Any]

HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = set({hidden!r})


class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


def _distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _with_requirements(names: Sequence[str]) -> set[str]:
    """The distributions and, without extras, everything they require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = _distribution(waiting.pop())
        if name in found:
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", one)[0] for one in required if "extra ==" not in one]
    return found


def _hidden() -> list[str]:
    """The modules that a machine for the report may lack: neither a wheel nor what comes with torch and its kind."""
    there = _with_requirements(needs.PRESENT) | {_distribution(name) for name in needs.WHEELS.values()}
    modules = importlib.metadata.packages_distributions()
    own = {"data", "model", "flows", "benchmarks", "tests"}
    return sorted(
        module for module, of in modules.items() if not {_distribution(one) for one in of} & there and module not in own
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """The lines of ``--tiny --device cpu`` beside a stand-in for nanoGPT, with only the stated packages importable."""
    folder = tmp_path_factory.mktemp("gpu")
    nanogpt.write(folder / "nanogpt", bias=False, multiple=64)
    (folder / "hiding").mkdir()
    hidden = _hidden()
    assert {"prefect", "mlflow", "zstandard", "isal", "msgspec", "trafilatura"} <= set(hidden)
    assert not {"torch", "orjson", "pydantic", "regex"} & set(hidden)
    (folder / "hiding" / "sitecustomize.py").write_text(HIDE.format(hidden=hidden))
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--limit", "800"]
    command += ["--nanogpt", str(folder / "nanogpt"), "--to", str(folder / "report.jsonl")]
    env = {**os.environ, "PYTHONPATH": str(folder / "hiding")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "report.log").read_text()[-3000:]
    assert (folder / "report.jsonl").read_text() == done.stdout
    return docs.read(folder / "report.jsonl")


def test_every_phase_of_the_report_runs(report: list[Line]) -> None:
    *lines, last = report
    assert [line["phase"] for line in lines] == [phase.name for phase in PHASES]
    assert {line["status"] for line in lines} == {"ok"}
    assert all(line["seconds"] >= 0 for line in lines)
    checks = {line["phase"]: line["checks"] for line in lines if "checks" in line}
    assert checks.keys() == {"model", "loss", "steps", "resume", "transfer", "loop", "speed", "scoring"}
    assert all(
        check["met"] and check.keys() == {"measured", "limit", "met"} for of in checks.values() for check in of.values()
    )
    assert last.keys() >= {"bench", "ratios", "ours", "peers", "goals", "not_reached", "peak_rss_mb", "machine"}
    assert last["bench"] == "gpu"
    assert last["failed"] == last["not_reached"] == []
    assert last["peak_rss_mb"] > 100


def test_the_report_has_what_goals_and_documents_need(report: list[Line]) -> None:
    *lines, last = report
    assert last["ratios"].keys() == {"eager", "nanogpt", "scoring"}
    assert all(ratio > 0 for ratio in last["ratios"].values())
    assert last["peers"].keys() == {"nanogpt"}
    assert last["ours"].keys() == {"124M", "1558M"}
    assert [*last["goals"]] == [name for name, _, _ in goals.GOALS]
    assert all(goal.keys() == {"goal", "measured", "met"} for goal in last["goals"].values())
    assert {goal["met"] for goal in last["goals"].values()} == {None}  # sizes that mean nothing are not judged
    profile = goals.results(lines, "speed")["profile"]
    assert sum(profile["shares"].values()) == pytest.approx(1, abs=0.01)
    assert profile["shares"]["products"] > 0
    dry_run = goals.results(lines, "dry run")["dry_run"]
    assert dry_run["124M"]["memory_bytes"]["predicted"] > 0
    assert dry_run["124M"]["step_s"].keys() == {"predicted", "measured"}
    assert goals.results(lines, "variants")["variants"].keys() == set(speed.VARIANTS)
    assert goals.results(lines, "loss")["rows_ms"].keys() == {"by rows"}
    recipes = goals.results(lines, "recipes")
    assert recipes["tokens_to_target"].keys() == {"paper", "modern"}
    assert "paper" in recipes["apart"]


def test_the_section_of_the_documents_is_written_from_the_report(report: list[Line], tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Measurements\n\n{docs.section([])}\n\n## Other\n")
    docs.write(page, report)
    text = page.read_text()
    assert text.startswith("# Measurements\n\n<!--")
    assert text.endswith("-->\n\n## Other\n")
    assert "Not run yet" not in text
    for words in (
        "the numbers mean nothing",
        "| 124M, ours |",
        "| 124M, nanogpt |",
        "| resume | tensors that differ | 0 |",
    ):
        assert words in text
    assert all(f"| {name} | at " in text for name, _, _ in goals.GOALS)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_of_several_reports_the_last_line_of_each_phase_counts(tmp_path: Path) -> None:
    first = [
        {"phase": "card", "status": "ok", "card": "old"},
        {"phase": "speed", "status": "ok", "ratios": {"nanogpt": 1.2}},
        {"phase": "dry run", "status": "skipped"},
    ]
    second = [
        {"phase": "card", "status": "ok", "card": "new"},
        {"phase": "speed", "status": "skipped"},
        {"phase": "dry run", "status": "skipped"},
    ]
    for name, lines in (("1", first), ("2", second)):
        last = {"bench": "gpu", "device": "cuda", "tiny": False, "date": f"2026-12-0{name}", "machine": name}
        (tmp_path / name).write_text("\n".join(json.dumps(line) for line in [*lines, last]))
    *lines, last = docs.read(tmp_path / "1", tmp_path / "2")
    assert [(line["phase"], line["status"]) for line in lines] == [("card", "ok"), ("speed", "ok"), ("dry run", "ok")]
    assert lines[0]["card"] == last["card"] == "new"
    assert (last["date"], last["machine"]) == ("2026-12-02", "2")
    assert last["goals"]["124M times nanoGPT"]["met"]


@pytest.mark.parametrize("status", ["failed", "not reached", "skipped"])
def test_a_report_of_failures_is_written_too(status: str) -> None:
    lines: list[Line] = [{"phase": phase.name, "seconds": 0.0, "status": status} for phase in PHASES[:-1]]
    lines.append({"phase": "dry run", "seconds": 0.0, "status": "ok", **goals.dry_run(lines)})
    last = goals.last_line(lines, device="cuda", is_tiny=False, date="2026-12-01")
    assert {goal["measured"] for goal in last["goals"].values()} == {None}
    text = docs.section([*lines, last])
    words = {
        "failed": "speed failed: no reason given",
        "not reached": "speed was not reached",
        "skipped": "an unknown card",
    }
    assert words[status] in text
    assert text.count("not measured") == len(goals.GOALS)


def test_the_committed_section_is_what_the_program_writes() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    section = docs.BEGIN + text.partition(docs.BEGIN)[2].partition(docs.END)[0] + docs.END
    assert section == docs.section(docs.read(*sorted((ROOT / "docs" / "gpu-reports").iterdir())))


def test_a_document_without_markers_is_program(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Measurements\n")
    with pytest.raises(ValueError, match="markers of the section are missing"):
        docs.write(page, [])


def test_the_phases_are_documented() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    rows = [f"| {phase.name} | {phase.budget_s:g} | {phase.what} |" for phase in PHASES]
    assert "\n".join(rows) in text
    assert needs.INSTALL in text


def test_what_the_first_run_has_to_confirm_is_in_the_code() -> None:
    rows = re.findall(
        r"^\| `(model/\w+\.py)`(?:, ((?:`\w+`(?:, )?)+))? \|", (ROOT / "docs" / "gpu.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 15
    for file, names in rows:
        code = (ROOT / file).read_text()
        assert [name for name in re.findall(r"\w+", names) if name not in code] == [], file


def test_the_dry_run_assumes_what_the_command_line_assumes() -> None:
    assert goals.ASSUMED_MFU == dryrun.ASSUMED_MFU


def test_deviations_are_seen() -> None:
    one = torch.tensor([3.0, 4.0])
    assert deviation(one, one) == 0
    assert deviation(one + torch.tensor([0.0, 0.5]), one) == pytest.approx(0.1)
    assert deviation(one, torch.zeros(2)) == float("inf")
    assert deviation(torch.tensor([3.0, float("nan")]), one) == float("inf")
    assert deviation(one, torch.tensor([3.0, float("nan")])) == float("inf")
    assert deviation(one, torch.ones(3)) == float("inf")
    assert largest_deviation({"a": one, "b": one + 1}, {"a": one, "b": one})[0] == "b"
    assert largest_deviation({"a": one}, {"a": one, "b": one}) == ("b", float("inf"))


def test_a_differing_bit_is_seen() -> None:
    one = torch.tensor([1.0, 2.0])
    assert differing_bits({"a": one}, {"a": one.clone()}) == []
    assert differing_bits({"a": torch.nextafter(one, one + 1)}, {"a": one}) == ["a"]
    assert differing_bits({"a": one}, {"a": one, "b": one}) == ["b"]
    assert differing_bits({"a": one}, {"a": one.double()}) == ["a"]


def test_series_that_drift_or_end_early_are_seen() -> None:
    assert furthest([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert furthest([1.0], [1.0, 2.0]) == float("inf")
    assert furthest([float("nan")], [1.0]) == float("inf")
    assert furthest([], []) == float("inf")


def _job(events: list[Line]) -> Job:
    return Job("cpu", True, None, 10.0, events.append)


def test_a_phase_that_runs_out_of_memory_fails_alone() -> None:
    events: list[Line] = []

    def full(job: Job) -> None:
        job.put(found=1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    run_phase("first", full, _job(events))
    run_phase("second", lambda job: job.put(found=2), _job(events))
    ends = [event for event in events if event.get("event") == "end"]
    assert [end["error"] for end in ends] == ["OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.", ""]
    assert [event["found"] for event in events if "found" in event] == [1, 2]


@pytest.mark.parametrize("measured", [0.2, float("nan"), float("inf")])
def test_a_phase_with_a_check_that_fails_has_failed(measured: float) -> None:
    events: list[Line] = []

    def inexact(job: Job) -> None:
        job.check("near", 0.1, 0.1)
        job.check("far", measured, 0.1)

    run_phase("exact", inexact, _job(events))
    assert events[-1]["error"] == "not exact: far"


def test_what_no_time_is_left_for_is_named() -> None:
    events: list[Line] = []
    job = _job(events)
    assert job.has(5, "first")
    assert not job.has(50, "second")
    assert events == [{"cut": ["second"]}]


CHILD = """
import json, os, signal, sys, time
def send(**event): print(json.dumps(event), flush=True)
for name in sys.argv[1:]:
    send(event="begin", phase=name)
    send(event="put", results={"found": name})
    if name == "hangs":
        time.sleep(600)
    if name == "dies":
        print("the reason", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    is_last = name == "breaks"
    error = "wrong" if name in ("fails", "breaks") else ""
    send(event="end", phase=name, error=error, is_last=is_last, peak_rss_mb=1.0)
    if is_last:
        break
"""


def _run(
    names: list[str], folder: Path, *, budget_s: float = 100.0, limit_s: float = 500.0, grace_s: float = 0.0
) -> list[Line]:
    phases = [Phase(name, budget_s, "one", "" if name == "computed" else "somewhere", "") for name in names]
    emitted: list[Line] = []

    def command(some: Sequence[Phase], ends: float) -> list[str]:
        return [sys.executable, "-c", CHILD, *(phase.name for phase in some)]

    def compute(lines: Sequence[Line]) -> Line:
        return {"before": [line["phase"] for line in lines]}

    lines = parent.run(phases, command, limit_s, folder / "log", emitted.append, compute, grace_s=grace_s)
    assert lines == emitted
    return lines


def test_a_phase_that_fails_or_dies_fails_alone(tmp_path: Path) -> None:
    lines = _run(["good", "fails", "dies", "well", "computed"], tmp_path)
    assert [line["status"] for line in lines] == ["ok", "failed", "failed", "ok", "ok"]
    assert [line.get("found") for line in lines] == ["good", "fails", "dies", "well", None]
    assert lines[1]["error"] == "wrong"
    assert lines[2]["error"] == "its process ended with signal 9; the log ends with: the reason"
    assert lines[4]["before"] == ["good", "fails", "dies", "well"]


def test_phases_after_an_error_that_lasts_get_a_new_process(tmp_path: Path) -> None:
    lines = _run(["good", "breaks", "well"], tmp_path)
    assert [line["status"] for line in lines] == ["ok", "failed", "ok"]


def test_a_phase_that_hangs_is_killed_and_reports_what_it_has(tmp_path: Path) -> None:
    lines = _run(["hangs", "well"], tmp_path, budget_s=2.0, grace_s=1.0)
    assert [line["status"] for line in lines] == ["failed", "ok"]
    assert lines[0]["found"] == "hangs"
    assert lines[0]["error"] == "killed: its budget of 2 s is used up"


def test_phases_beyond_the_limit_are_not_reached(tmp_path: Path) -> None:
    lines = _run(["hangs", "well", "computed"], tmp_path, limit_s=parent.LEAST_S + 3)
    assert [line["status"] for line in lines] == ["failed", "not reached", "ok"]
    assert lines[0]["error"] == "killed: the limit over all phases is used up"


def test_a_micro_batch_that_does_not_fit_is_halved() -> None:
    freed: list[int] = []

    def build(size: int | None) -> int:
        if (size or 24) > 5:
            raise torch.OutOfMemoryError
        return size or 24

    assert ours.halving(build, lambda: 24, lambda: freed.append(1)) == (3, [24, 12, 6])
    assert len(freed) == 3


def test_a_model_that_fits_with_no_micro_batch_is_an_error() -> None:
    def build(size: int | None) -> int:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        ours.halving(build, lambda: 2, lambda: None)


def test_what_slows_a_card_down_is_said() -> None:
    assert card.complaints(1_000_000_000, 80_000_000_000, has_bf16=True) == []
    (held,) = card.complaints(40_000_000_000, 80_000_000_000, has_bf16=True)
    assert held.startswith("other processes hold 40.0 of 80.0 GB of the card")
    (old,) = card.complaints(0, 16_000_000_000, has_bf16=False)
    assert old.startswith("the card has no instructions for bf16")


def test_nanogpt_runs_eager_without_a_compiler(tmp_path: Path) -> None:
    nanogpt.write(tmp_path, bias=False, multiple=64)
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "train.bin")
    size = {"layers": 1, "heads": 1, "width": 8, "context": 16, "vocab_size": 512, "micro_batch": 2, "accumulate": 2}
    size |= {"tokens": str(tmp_path / "train.bin"), "device": "cpu", "compile": True}
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "gpu" / "nanogpt.py"), json.dumps(size)]
    env = {**os.environ, "PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CXX": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, input="0.0\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    began, turn = map(json.loads, done.stdout.splitlines())
    assert began["compile"] is False
    assert turn["tokens_per_s"] > 0
    assert "compiling failed, so the model runs eager" in done.stderr


def test_phases_that_were_not_chosen_are_skipped(tmp_path: Path) -> None:
    to = tmp_path / "report.jsonl"
    done = _program("--tiny", "--device", "cpu", "--only", "card,dry run", "--to", str(to))
    assert done.returncode == 0, done.stderr
    statuses = {line["phase"]: line["status"] for line in docs.read(to)[:-1]}
    assert [name for name, status in statuses.items() if status == "ok"] == ["card", "dry run"]
    assert {status for name, status in statuses.items() if name not in ("card", "dry run")} == {"skipped"}
    assert statuses.keys() == {phase.name for phase in PHASES}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute", "products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_128x2_tn_align8>", "products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3i_64x128x64", "attention"),
        (
            "void at::native::multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, FusedAdamMathFunctor>",
            "optimizer",
        ),
        ("void (anonymous namespace)::cunn_SoftMaxForward<8, c10::BFloat16, float, float>", "loss"),
        ("triton_red_fused__log_softmax_0", "loss"),
        ("triton_per_fused_native_layer_norm_3", "norms, elementwise, embeddings"),
        ("triton_poi_fused_add_mul_pow_tanh_4", "norms, elementwise, embeddings"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", "copies"),
    ],
)
def test_kernels_have_their_family(name: str, family: str) -> None:
    assert kernels.family(name) == family


def _event(name: str, ts: float, dur: float, cat: str = "kernel", tid: int = 1) -> Line:
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "cat": cat, "tid": tid}


def test_the_time_of_a_step_is_shared_out() -> None:
    events = [
        _event("gemm", 100, 50),
        _event("flash_fwd", 150, 25),
        _event("other thing", 190, 10),
        _event("late", 0, 900, "cpu_op"),
    ]
    shares = kernels.shares(events, ("kernel",))
    assert shares["products"] == 0.5
    assert shares["attention"] == 0.25
    assert shares["idle"] == 0.15
    assert sum(shares.values()) == pytest.approx(1)
    assert kernels.largest(events, ("kernel",), 1) == [{"name": "gemm", "family": "products", "ms": 0.05, "calls": 1}]


def test_waits_of_the_host_are_counted_within_the_steps_only() -> None:
    events = [
        _event("steps", 100, 100, "user_annotation"),
        _event("cudaStreamSynchronize", 50, 1, "cuda_runtime"),
        _event("cudaStreamSynchronize", 150, 1, "cuda_runtime"),
        _event("cudaEventSynchronize", 160, 1, "cuda_runtime"),
        _event("cudaLaunchKernel", 170, 1, "cuda_runtime"),
        _event("cudaDeviceSynchronize", 201, 1, "cuda_runtime"),
    ]
    assert kernels.host_calls(events, kernels.WAITS, "steps") == {"cudaStreamSynchronize": 1, "cudaEventSynchronize": 1}


def test_nested_operations_count_once() -> None:
    outer = _event("outer", 0, 100, "cpu_op")
    inner = [_event("inner", 10, 50, "cpu_op"), _event("innermost", 20, 5, "cpu_op"), _event("last", 70, 10, "cpu_op")]
    elsewhere = _event("other", 20, 5, "cpu_op", tid=2)
    own = {event["name"]: event["dur"] for event in kernels.own_times([outer, *inner, elsewhere])}
    assert own == {"outer": 40, "inner": 45, "innermost": 5, "last": 10, "other": 5}


def _lines(tokens_per_s: float, predicted: int, waits: float) -> list[Line]:
    facts = {
        "flop_per_token": 10**9,
        "tokens_per_step": 1_000,
        "step_s": 1.0,
        "predicted_bytes": predicted,
        "peak_bytes": 100,
    }
    lines: list[Line] = [
        {"phase": "card", "data_sheet_flop_per_s": 1e15},
        {
            "phase": "speed",
            "tokens_per_s": {"ours": [tokens_per_s]},
            "ours": facts,
            "ratios": {"nanogpt": 1.2},
            "profile": {"waits_per_step": waits},
        },
        {"phase": "recipes", "apart": {"paper": 0.5}},
    ]
    return [*lines, {"phase": "dry run", **goals.dry_run(lines)}]


def test_goals_are_judged_by_their_bounds() -> None:
    met = goals.judge(_lines(500_000, 95, 1.0), is_real=True)
    assert [goal["met"] for goal in met.values()] == [True, True, None, True, True, True]
    missed = goals.judge(_lines(400_000, 80, 2.0), is_real=True)
    assert [goal["met"] for goal in missed.values()] == [False, True, None, False, True, False]
    assert missed["124M MFU"] == {"goal": "at least 0.45", "measured": 0.4, "met": False}
    assert missed["memory off prediction"]["measured"] == 0.2


def test_synthetic_text_is_the_same_everywhere_and_can_be_learnt() -> None:
    corpus = make(200_000, 10_000, 5_000)
    again = make(200_000, 10_000, 5_000)
    assert corpus.digest == again.digest
    assert corpus.digest != make(200_000, 10_000, 5_000, seed=1).digest
    assert len(corpus.train) >= 200_000
    assert len(corpus.val) >= 10_000
    assert corpus.train.max() == 4_999
    assert (corpus.train.reshape(-1, LENGTH)[:, -1] == 4_999).all()
    pairs = corpus.train[:-1].astype(np.int64) * 5_000 + corpus.train[1:]
    counts = np.unique(pairs, return_counts=True)[1]
    bigram_entropy = -(counts / counts.sum() * np.log(counts / counts.sum())).sum() - corpus.unigram_entropy
    assert bigram_entropy < corpus.unigram_entropy - 1
    assert corpus.unigram_entropy < np.log(5_000) - 0.5


def test_an_import_that_fails_is_named_with_its_wheel() -> None:
    code = (
        "import sys; sys.modules['orjson'] = None; from benchmarks.gpu import needs; print(*needs.missing(), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("import orjson fails (")
    assert re.search(r"its wheel is orjson\S*$", line)


def test_every_wheel_is_pinned() -> None:
    pinned = {_distribution(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {_distribution(package) for package in needs.WHEELS.values()} <= pinned


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch that sees no GPU")
def test_without_a_gpu_the_report_says_why() -> None:
    done = _program()
    assert done.returncode == 2
    assert done.stderr.startswith(f"torch {torch.__version__}: {world.why_no_cuda()}; the report needs a GPU")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cpu"], "the sizes are for a GPU; add --tiny"),
        (["--device", "tpu"], "use cuda, or cpu with --tiny"),
        (["--only", "card,sped"], "no such phase sped; choose from card, model,"),
        (["--nanogpt", "docs"], "no model.py there; name a checkout of nanoGPT"),
        (["--write-docs", "nothing.jsonl"], "no such file; it is written by the report"),
    ],
)
def test_wrong_arguments_are_program(arguments: list[str], words: str) -> None:
    done = _program(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def _program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
