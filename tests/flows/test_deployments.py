"""prefect.yaml on a real server with a real worker; docker-compose.yml as the compose tool reads it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.lake.store import Lake
from flows import services
from flows.localweb import server as localweb
from tests.flows.serving import Pipeline

ROOT = Path(__file__).parents[2]


def prefect(pipeline: Pipeline, servers: services.Servers, *arguments: str) -> str:
    environment = pipeline.environment() | {
        "PREFECT_API_URL": servers.prefect_api_url,
        "MLFLOW_TRACKING_URI": servers.mlflow_uri,
        "PREFECT_HOME": str(pipeline.home / "prefect"),
    }
    run = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def run_later(deployment: str, parameters: dict[str, Any]) -> None:
    """As ``prefect deployment run`` does it."""
    from prefect.deployments import run_deployment

    run_deployment(deployment, parameters=parameters, timeout=0)  # type: ignore[unused-coroutine]


def flow_runs(flow: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter(name={"any_": [flow]}))
    return [run for run in runs if run.deployment_id is not None and run.state_name != "Scheduled"]


def test_a_worker_runs_the_deployments(pipeline: Pipeline, servers: services.Servers, tmp_path: Path) -> None:
    prefect(pipeline, servers, "work-pool", "create", "--type", "process", "webtext")
    prefect(pipeline, servers, "--no-prompt", "deploy", "--all")
    listed = tmp_path / "urls.txt"
    listed.write_text("\n".join(pipeline.site.urls("article")[:3]) + "\n")
    with localweb.running(pipeline.home) as web:
        parameters = {
            "sources": [f"urls:{listed}"],
            "snapshot": "deployed",
            "pages": {"connect_to": list(web.connect_to), "host_delay_s": 0.01},
        }
        prefect(pipeline, servers, "deployment", "run", "refresh/weekly", "--params", json.dumps(parameters))
        training = {
            "corpus": ["small"],
            "preset": "nano",
            "run": "deployed",
            "steps": 2,
            "overrides": {
                "layers": "1",
                "heads": "1",
                "width": "16",
                "context": "32",
                "batch_size": "2",
                "micro_batch_size": "2",
                "batch_warmup_steps": "0",
            },
        }
        run_later("pretrain/pretrain", training)
        scoring = {"run": "tiny", "tasks": ["heldout_lastword"], "limit": 10}
        run_later("evaluate/evaluate", scoring)
        prefect(pipeline, servers, "worker", "start", "--pool", "webtext", "--run-once")
    for flow in ("refresh", "pretrain", "evaluate"):
        (run,) = flow_runs(flow)
        assert run.state_name == "Completed", (flow, run.state)
        assert len([tag for tag in run.tags if tag.startswith("process:")]) == 1, run.tags
    lake = Lake(pipeline.lake)
    assert lake.dataset("links", "deployed").require().rows_out == 3
    assert lake.dataset("pages", "deployed").require().counts["ok"] == 3
    assert lake.read_json("checkpoints", "deployed", "summary.json")["steps"] == 2


def test_refresh_is_scheduled_weekly() -> None:
    deployments = {d["name"]: d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert deployments["weekly"]["schedules"][0]["cron"] == "0 3 * * 1"
    for deployment in deployments.values():
        file, _, function = deployment["entrypoint"].partition(":")
        assert f"def {function}(" in (ROOT / file).read_text()


def test_leases_outlive_the_server_in_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    server = compose["services"]["prefect-server"]
    storage = services.PREFECT.environment(Path("/home"), 4200)["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    assert server["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == storage
    volume, _, folder = server["volumes"][0].partition(":")
    assert volume in compose["volumes"]
    assert server["environment"]["PREFECT_HOME"].startswith(f"{folder}/")


def compose_tool() -> list[str] | None:
    for command in (["docker", "compose"], ["podman-compose"]):
        is_there = shutil.which(command[0]) is not None
        if is_there and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


def test_the_compose_file_passes_the_compose_tools_check() -> None:
    tool = compose_tool()
    if tool is None:
        pytest.skip("neither docker compose nor podman-compose (with podman) is installed")
    environment = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    command = [*tool, "--file", str(ROOT / "docker-compose.yml"), "config"]
    without = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert without.returncode != 0
    assert "put POSTGRES_PASSWORD=" in without.stdout + without.stderr
    environment["POSTGRES_PASSWORD"] = "secret"
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    services_ = yaml.safe_load(checked.stdout)["services"]
    assert set(services_) == {"postgres", "prefect-server", "mlflow", "worker"}


def test_prefect_and_mlflow_have_databases_of_their_own() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    created = set((ROOT / "docker" / "databases.sql").read_text().lower().split("create database ")[1:])
    assert {text.split(";")[0] for text in created} == {"prefect", "mlflow"}
    server = compose["services"]["prefect-server"]["environment"]["PREFECT_API_DATABASE_CONNECTION_URL"]
    assert server.endswith("/prefect")
    words = compose["services"]["mlflow"]["command"].split()
    assert words[words.index("--backend-store-uri") + 1].endswith("/mlflow")


def test_the_image_holds_what_the_services_run() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {"pyproject.toml", "constraints.txt", "data", "model", "flows", "prefect.yaml"} <= copied
    for name in copied:
        assert (ROOT / name).exists(), name
