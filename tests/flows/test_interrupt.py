"""Ctrl-C, kill -9 and a full disk, on the real command."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from data.lake.store import Lake
from flows import services
from flows.localweb import server as localweb
from model import checkpoint
from tests.flows.serving import TINY, Pipeline, start_webtext, wait_until, webtext, webtext_command


def slow_refresh(pipeline: Pipeline, tmp_path: Path, snapshot: str, connect_to: str) -> list[str]:
    """Arguments of a refresh whose crawl takes some seconds: many pages of one host."""
    urls = pipeline.site.urls("article")
    host = localweb_host(urls[0])
    listed = tmp_path / "urls.txt"
    listed.write_text("\n".join([url for url in urls if localweb_host(url) == host][:8]) + "\n")
    arguments = ["refresh", "--snapshot", snapshot, "--links", f"urls:{listed}"]
    return [*arguments, "--connect-to", connect_to, "--host-delay", "1", "--json"]


def localweb_host(url: str) -> str:
    return url.split("/")[2]


def flow_run_states(name: str) -> list[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter

    with get_client(sync_client=True) as client:
        return [str(run.state_name) for run in client.read_flow_runs(flow_filter=FlowFilter(name={"any_": [name]}))]


def test_ctrl_c_stops_cleanly_and_the_same_command_resumes(
    pipeline: Pipeline, servers: services.Servers, tmp_path: Path
) -> None:
    with localweb.running(pipeline.home) as web:
        arguments = slow_refresh(pipeline, tmp_path, "stopped", web.connect_to[0])
        process = start_webtext(pipeline.environment(), *arguments)
        wait_until(lambda: (pipeline.lake / "pages" / "stopped" / "_begun.json").exists())
        time.sleep(1.0)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "run the same command again to go on from there" in errors
        assert "Traceback" not in errors
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not [one.cmdline() for one in alive]
        assert Lake(pipeline.lake).dataset("pages", "stopped").manifest() is None

        again = webtext(pipeline.environment(), *arguments)
    assert again.returncode == 0, again.stderr
    stages = json.loads(again.stdout)["stages"]
    assert stages["links"]["skipped"]
    assert not stages["pages"]["skipped"]
    assert stages["pages"]["rows_in"] == 8


def test_sigterm_saves_a_checkpoint_and_ends_with_0(pipeline: Pipeline) -> None:
    """A cluster's scheduler stops a job this way, through the command, torchrun and two processes. Then the job
    resumes.
    """
    arguments = ["train", "--corpus", "small", "--preset", "nano", "--run", "preempted", "--processes", "2"]
    settings = {**TINY, "micro_batch_size": "2", "val_every": "10000", "checkpoint_every": "10000"}
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    process = start_webtext(pipeline.environment(), *arguments, "--steps", "100000", "--json")
    assert process.stderr is not None
    said = (line for line in process.stderr if line.startswith("train: "))
    assert next(said) == "train: on cpu: float32, up to 2 sequences at once\n"
    told = next(said)
    assert re.search(r"train: \d+/100000 steps loss [\d.]+ [\d,]+ tokens/s MFU \d+%, .+ left", told)
    os.kill(process.pid, signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "run the same command again to go on from there" in errors
    (step,) = checkpoint.steps(Lake(pipeline.lake), "preempted")
    assert 0 < step < 100_000
    assert json.loads(printed) == {"run": "preempted", "steps": step, "stopped": True}
    assert not list((pipeline.home / "runs" / "preempted").glob("*.ended"))
    again = webtext(pipeline.environment(), *arguments, "--steps", str(step + 2), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["steps"] == step + 2


def test_a_killed_run_is_marked_as_crashed_by_the_next_command(
    pipeline: Pipeline, servers: services.Servers, tmp_path: Path
) -> None:
    with localweb.running(pipeline.home) as web:
        process = start_webtext(pipeline.environment(), *slow_refresh(pipeline, tmp_path, "killed", web.connect_to[0]))
        wait_until(lambda: (pipeline.lake / "pages" / "killed" / "_begun.json").exists())
        wait_until(lambda: "Running" in flow_run_states("refresh"))
        process.kill()
        process.wait()
    assert "Running" in flow_run_states("refresh")
    webtext(pipeline.environment(), "refresh", "--snapshot", "x", "--links", "nowhere.zst")
    assert "Running" not in flow_run_states("refresh")
    assert "Crashed" in flow_run_states("refresh")


def test_two_refreshes_of_one_snapshot_do_not_mix(pipeline: Pipeline, tmp_path: Path) -> None:
    with Lake(pipeline.lake).lock("refresh-locked"):
        run = webtext(pipeline.environment(), "refresh", "--snapshot", "locked", "--links", str(pipeline.dump))
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "refresh-locked: another webtext process is writing it" in run.stderr


SMALL_DISK = """
mount -t tmpfs -o size=200k none "$WEBTEXT_LAKE" || exit 99
"$@" 2>&1 >/dev/null; echo "code $?"
mount -o remount,size=50m "$WEBTEXT_LAKE"
"$@" --json 2>/dev/null | tail -1
"""


def test_a_full_disk_is_a_one_line_error_and_loses_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    lake = tmp_path / "lake"
    lake.mkdir()
    listed = tmp_path / "urls.txt"  # too many even for the links to fit
    listed.write_text("".join(f"http://host-{n * 7919 % 99991}.invalid-{n}.test/{n**5}\n" for n in range(12_000)))
    command = webtext_command("refresh", "--snapshot", "full", "--links", f"urls:{listed}", "--deadline", "0s")
    run = subprocess.run(
        [*namespace, "sh", "-c", SMALL_DISK, "sh", *command],
        env=pipeline.environment() | {"WEBTEXT_LAKE": str(lake)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 99:
        pytest.skip("mounting a tmpfs is not allowed here")
    *failed, code, result = run.stdout.strip().splitlines()
    assert code == "code 1", run.stdout
    assert failed[-1].startswith("webtext: error: no space left"), failed
    assert "Traceback" not in run.stdout
    stages = json.loads(result)["stages"]
    assert stages["links"]["rows_out"] == 12_000
    assert stages["pages"]["by_status"] == {"deferred": 12_000}
