"""The embedded servers: one Prefect server and one MLflow server per state directory, reused by every command.

Both keep SQLite files in the state directory. A command starts them under a lock, they outlive it, and later commands
find them by ``services/<name>.json`` (pid and port). They start at the same time, in about 15 s. If the environment has
``PREFECT_API_URL`` or ``MLFLOW_TRACKING_URI``, that server is used instead.

Prefect's ephemeral mode would lose task records of short runs. The MLflow server runs one worker and no job runner,
which takes 0.5 GB instead of 3.2 GB.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import psutil

from data.errors import InputError
from flows.settings import Settings

START_TIMEOUT_S = 180.0  # the first start creates the database; a busy machine takes several times the usual 15 s
LOCK_TIMEOUT_S = START_TIMEOUT_S + 60
PORT_TRIES = 3  # another process may take a port between its choice and the server's start


@dataclass(frozen=True)
class Service:
    """A running embedded server."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Kind:
    """How to start one of the servers and check its health."""

    name: str
    health_path: str
    command: Callable[[Path, int], list[str]]
    environment: Callable[[Path, int], dict[str, str]]


def _prefect_command(_home: Path, port: int) -> list[str]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return [*command, "--analytics-off", "--log-level", "WARNING"]


def _prefect_environment(home: Path, port: int) -> dict[str, str]:
    database = (home / "prefect" / "prefect.db").as_posix()
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # In memory, leases die with the server while SQLite goes on counting their slots: a limit of 1 then stays full.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


def _mlflow_command(home: Path, port: int) -> list[str]:
    folder = home / "mlflow"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{(folder / 'mlflow.db').as_posix()}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    return [*command, "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]


def _mlflow_environment(_home: Path, _port: int) -> dict[str, str]:
    return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


PREFECT = Kind("prefect", "/api/health", _prefect_command, _prefect_environment)
MLFLOW = Kind("mlflow", "/health", _mlflow_command, _mlflow_environment)
KINDS = (PREFECT, MLFLOW)


@dataclass(frozen=True)
class Servers:
    """Where the two servers are, embedded or not."""

    prefect_api_url: str
    mlflow_uri: str


@dataclass(frozen=True)
class Addresses:
    """Where a browser finds the two servers, and the variables that the ``prefect`` and ``mlflow`` commands need."""

    prefect: str
    mlflow: str
    environment: dict[str, str]  # without those that are set already


def addresses(settings: Settings) -> Addresses:
    """The addresses of both servers, which are started if necessary."""
    servers = ensure(settings)
    environment = {}
    if settings.prefect_api_url is None:
        environment["PREFECT_API_URL"] = servers.prefect_api_url
    if settings.mlflow_tracking_uri is None:
        environment["MLFLOW_TRACKING_URI"] = servers.mlflow_uri
    ui = servers.prefect_api_url.removesuffix("/api")
    return Addresses(without_password(ui), without_password(servers.mlflow_uri), environment)


def ensure(settings: Settings) -> Servers:
    """Find or start both servers and point this process (and its children) at them.

    Call it before Prefect is imported, because Prefect reads its settings on import.
    """
    home = settings.home.absolute()
    if settings.prefect_api_url and not responds(settings.prefect_api_url.rstrip("/") + "/health"):
        raise InputError(
            f"PREFECT_API_URL={without_password(settings.prefect_api_url)}: no Prefect server answers there"
        )
    with ThreadPoolExecutor(len(KINDS)) as pool:
        prefect = None if settings.prefect_api_url else pool.submit(ensure_one, PREFECT, home)
        mlflow = None if settings.mlflow_tracking_uri else pool.submit(ensure_one, MLFLOW, home)
        prefect_url = f"{prefect.result().url}/api" if prefect else str(settings.prefect_api_url)
        mlflow_url = mlflow.result().url if mlflow else str(settings.mlflow_tracking_uri)
    point_at(settings, prefect_url, mlflow_url)
    return Servers(prefect_url, mlflow_url)


def ensure_one(kind: Kind, home: Path, choose_port: Callable[[int], int] | None = None) -> Service:
    """Find or start one server. ``choose_port`` maps the last port to the one to use; it is for tests.

    Raises InputError if the server does not start.
    """
    folder = home / "services"
    folder.mkdir(parents=True, exist_ok=True)
    (home / kind.name).mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / f"{kind.name}.lock", timeout=LOCK_TIMEOUT_S):
            for _ in range(PORT_TRIES):
                service = find(kind, home) or _start(kind, home, choose_port or free_port)
                if _becomes_healthy(kind, service, home):
                    return service
            raise InputError(f"the {kind.name} server lost its port to another process {PORT_TRIES} times; try again")
    except filelock.Timeout as error:
        raise InputError(
            f"another process has been starting the {kind.name} server in {home} for {LOCK_TIMEOUT_S:.0f} s; "
            "run `webtext ui --stop`, then try again"
        ) from error


def point_at(settings: Settings, prefect_url: str, mlflow_url: str) -> None:
    """Set the environment variables that Prefect, MLflow and our child processes read."""
    os.environ["PREFECT_API_URL"] = prefect_url
    os.environ["MLFLOW_TRACKING_URI"] = mlflow_url
    os.environ["WEBTEXT_HOME"] = str(settings.home.absolute())
    os.environ.setdefault("PREFECT_HOME", str(settings.home.absolute() / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # we print errors
    os.environ.setdefault("PREFECT_CLI_PROMPT", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def find(kind: Kind, home: Path) -> Service | None:
    """The embedded server of this state directory, if its process is alive.

    A later process may have the same pid, so the command line is compared, but for the interpreter, which has several
    names. The start time cannot be used: it changes when someone sets the machine's clock. A process that has just
    started has no command line for a moment.
    """
    try:
        record = json.loads(_record(kind, home).read_text())
        service = Service(kind.name, int(record["pid"]), int(record["port"]))
        is_same = psutil.Process(service.pid).cmdline()[1:] in ([], kind.command(home, service.port)[1:])
    except (FileNotFoundError, json.JSONDecodeError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return service if is_same else None


def is_healthy(kind: Kind, service: Service, timeout_s: float = 5.0) -> bool:
    return responds(service.url + kind.health_path, timeout_s)


def responds(url: str, timeout_s: float = 5.0) -> bool:
    """Whether the URL answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def without_password(url: str) -> str:
    """The URL without user, password and query, which may hold secrets."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]


def stop(home: Path) -> list[str]:
    """End the embedded servers; returns the names of those that ran."""
    ended = []
    for kind in KINDS:
        service = find(kind, home.absolute())
        if service is not None:
            end_tree(psutil.Process(service.pid))
            _record(kind, home.absolute()).unlink(missing_ok=True)
            ended.append(kind.name)
    return ended


def end_tree(process: psutil.Process, grace_s: float = 10.0) -> int | None:
    """Terminate a process and its descendants; kill those that are left after ``grace_s``.

    Returns the exit code of the process, or None if it is not our child.
    """
    end_trees([process], grace_s)
    return getattr(process, "returncode", None)


def end_trees(processes: list[psutil.Process], grace_s: float = 10.0) -> None:
    """``end_tree`` for several processes at the same time. What had to be killed may take 2 s more to end."""
    family = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    trackers = [member for member in family if _is_tracker(member)]
    others = [member for member in family if member not in trackers]
    for member in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(others, timeout=grace_s)
    for member in (*alive, *trackers):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs([*alive, *trackers], timeout=2.0)


def _is_tracker(process: psutil.Process) -> bool:
    """Whether this is CPython's resource tracker, which ignores SIGTERM and ends only after its parent."""
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def log_path(kind: Kind, home: Path) -> Path:
    return home / "services" / f"{kind.name}.log"


def _record(kind: Kind, home: Path) -> Path:
    return home / "services" / f"{kind.name}.json"


def _start(kind: Kind, home: Path, choose_port: Callable[[int], int]) -> Service:
    port = choose_port(_last_port(kind, home))
    environment = {**os.environ, **kind.environment(home, port), "DO_NOT_TRACK": "1"}
    environment.pop("PREFECT_API_URL", None)
    with log_path(kind, home).open("ab") as log:
        process = subprocess.Popen(
            kind.command(home, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=home,
            start_new_session=True,  # it outlives this command
        )
    service = Service(kind.name, process.pid, port)
    record = _record(kind, home)
    scratch = record.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(service)))
    scratch.replace(record)
    return service


def _becomes_healthy(kind: Kind, service: Service, home: Path) -> bool:
    """Wait for the server; false if another process took its port first. Raises InputError if the server fails."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (_listens(service) and is_healthy(kind, service)):  # another program may answer there
        log = log_path(kind, home)
        if find(kind, home) is None:
            if _is_taken(service.port):
                return False
            tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            raise InputError(f"the {kind.name} server ended while starting; see {log}: {tail}")
        if time.monotonic() > deadline:
            end_tree(psutil.Process(service.pid))
            raise InputError(f"the {kind.name} server did not answer within {START_TIMEOUT_S:.0f} s; see {log}")
        time.sleep(0.2)
    return True


def _listens(service: Service) -> bool:
    """Whether the server, or a child of it, has its port open."""
    try:
        process = psutil.Process(service.pid)
        family = [process, *process.children(recursive=True)]
        sockets = [connection for member in family for connection in member.net_connections()]
    except psutil.AccessDenied:
        return True  # it runs in another namespace; the command that started it has checked the port
    except psutil.NoSuchProcess:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == service.port for one in sockets)


def _last_port(kind: Kind, home: Path) -> int:
    """The port of the last server, so that a page that is open in a browser finds the next one; 0 if unknown."""
    try:
        return int(json.loads(_record(kind, home).read_text())["port"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return 0


def free_port(wanted: int) -> int:
    """``wanted`` if that port is free, otherwise any free port.

    The servers bind with SO_REUSEADDR. Without it, the connections that a stopped server closed (TIME_WAIT) would keep
    its port for a minute.
    """
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise InputError("no free port on 127.0.0.1")


def _is_taken(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
