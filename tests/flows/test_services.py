"""The embedded servers: started once, found by later commands, restarted after a kill, stopped."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from data.errors import InputError
from flows import services
from flows.settings import Settings


def test_one_server_is_shared_by_commands_that_start_at_once(servers: services.Servers, home: Path) -> None:
    program = (
        "from pathlib import Path; from flows import services; from flows.settings import Settings;"
        f"print(services.ensure(Settings(home=Path({str(home)!r}))).mlflow_uri)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    command = [sys.executable, "-c", program]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(subprocess.check_output, command, env=environment, text=True) for _ in range(3)]
        assert {run.result().strip() for run in runs} == {servers.mlflow_uri}
    for kind in services.KINDS:
        service = services.find(kind, home)
        assert service is not None
        assert services.is_healthy(kind, service)


def test_a_port_is_free_although_a_client_was_connected_when_its_server_stopped() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = listener.accept()
            assert services.free_port(port) != port  # it is in use
            served.close()  # the server's side closes first, so the port is in TIME_WAIT
            assert client.recv(1) == b""
    assert services.free_port(port) == port


def test_a_concurrency_lease_outlives_a_crash_of_the_server(tmp_path: Path) -> None:
    """In memory it would be lost, and its slot taken for ever."""
    program = (
        "import sys; from uuid import UUID; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client:\n"
        "    if sys.argv[1:]:\n"
        "        client.renew_concurrency_lease(UUID(sys.argv[1]), lease_duration=60)\n"
        "    else:\n"
        "        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name='one', limit=1))\n"
        "        taken = client.increment_concurrency_slots_with_lease(['one'], 1, 'concurrency', 60)\n"
        "        print(taken.json()['lease_id'])\n"
    )
    program = f"from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate\n{program}"

    def ask(service: services.Service, *arguments: str) -> str:
        environment = os.environ | {"PREFECT_API_URL": f"{service.url}/api", "PREFECT_HOME": str(tmp_path / "client")}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.check_output(command, env=environment, text=True).strip()

    first = services.ensure_one(services.PREFECT, tmp_path)
    try:
        lease = ask(first)
        process = psutil.Process(first.pid)
        family = [*process.children(recursive=True), process]
        for member in family:
            member.kill()
        psutil.wait_procs(family)
        second = services.ensure_one(services.PREFECT, tmp_path)
        assert second.port == first.port
        ask(second, lease)
    finally:
        services.stop(tmp_path)


def test_a_run_of_a_worker_is_marked_as_crashed_after_a_kill(
    servers: services.Servers, home: Path, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    from flows import interrupt

    program = (
        "import time; from prefect import flow, runtime; from flows.interrupt import tag_own_run\n"
        "@flow(name='worked', on_running=[tag_own_run])\n"
        "def worked():\n"
        "    print(runtime.flow_run.id, flush=True)\n"
        "    time.sleep(600)\n"
        "worked()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run = process.stdout.readline().strip()
    here = Settings(home=home, PREFECT_API_URL=None, MLFLOW_TRACKING_URI=None)
    with get_client(sync_client=True) as client:
        interrupt.crash_killed_runs(here)
        assert client.read_flow_run(run).state_name == "Running"
        process.kill()
        process.communicate()
        interrupt.crash_killed_runs(here)
        assert client.read_flow_run(run).state_name == "Crashed"


def test_a_server_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    broken = services.Kind(
        "broken", "/", lambda _home, _port: [sys.executable, "-c", "print('no database')"], lambda *_: {}
    )
    with pytest.raises(InputError, match=r"the broken server ended while starting; see .*broken\.log: no database"):
        services.ensure_one(broken, tmp_path)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, services.Service, int]]:
    """An MLflow server whose first port another process took: its state directory, the server, and that port."""
    folder = tmp_path_factory.mktemp("moved")

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        ports = iter([other.server_port])
        try:
            service = services.ensure_one(
                services.MLFLOW, folder, choose_port=lambda wanted: next(ports, 0) or services.free_port(wanted)
            )
            yield folder, service, other.server_port
        finally:
            services.stop(folder)
            other.shutdown()


def test_a_port_that_another_process_takes_first_is_left_to_it(moved: tuple[Path, services.Service, int]) -> None:
    """The server starts again on another port; the other process's answers do not count as the server's."""
    folder, service, taken = moved
    assert service.port != taken
    assert services.is_healthy(services.MLFLOW, service)
    assert services.find(services.MLFLOW, folder) == service


def test_a_killed_server_is_started_again_on_its_port(moved: tuple[Path, services.Service, int]) -> None:
    folder, _, _ = moved
    first = services.ensure_one(services.MLFLOW, folder)
    try:
        family = psutil.Process(first.pid).children(recursive=True)
        os.kill(first.pid, signal.SIGKILL)
        for child in family:
            child.kill()
        psutil.wait_procs(family, timeout=10)  # they hold the port
        os.waitpid(first.pid, 0)
        assert services.find(services.MLFLOW, folder) is None
        second = services.ensure_one(services.MLFLOW, folder)
        assert second.pid != first.pid
        assert second.port == first.port
        assert services.is_healthy(services.MLFLOW, second)
    finally:
        assert services.stop(folder) == ["mlflow"]
    assert services.find(services.MLFLOW, folder) is None
    assert services.stop(folder) == []


def test_setting_the_clock_starts_no_second_server_and_crashes_no_run(
    servers: services.Servers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import interrupt

    before, tag = psutil.Process().create_time(), interrupt.process_tag()
    btime = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: btime + 3600)  # as on Linux after the clock was set
    assert psutil.Process().create_time() == before + 3600
    assert interrupt.process_tag() == tag
    assert services.find(services.MLFLOW, home) is not None
    assert services.ensure(Settings(home=home, PREFECT_API_URL=None, MLFLOW_TRACKING_URI=None)) == servers


def test_a_record_of_another_process_with_the_same_pid_is_not_trusted(tmp_path: Path) -> None:
    record = tmp_path / "services" / "mlflow.json"
    record.parent.mkdir()
    record.write_text(f'{{"name": "mlflow", "pid": {os.getpid()}, "port": 1}}')
    assert services.find(services.MLFLOW, tmp_path) is None


def test_outside_servers_are_used_and_none_is_started(
    servers: services.Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WEBTEXT_HOME", "PREFECT_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", servers.prefect_api_url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.internal:5000")
    found = services.ensure(Settings(home=tmp_path))
    assert found == services.Servers(servers.prefect_api_url, "http://mlflow.internal:5000")
    assert not (tmp_path / "services").exists()


def test_an_outside_server_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:9/api?token=hidden")
    with pytest.raises(InputError, match=r"PREFECT_API_URL=http://127\.0\.0\.1:9/api: no Prefect server answers there"):
        services.ensure(Settings(home=tmp_path))
