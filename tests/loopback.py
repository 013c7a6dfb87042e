"""A Prefect server, its workers and deployments on loopback, in a folder of the test's own, to be killed at will."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
BUSY = 5
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's first true value; ``seconds``: of a quiet machine, a busy one gets five times as many."""
    deadline = time.monotonic() + BUSY * seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {BUSY * seconds} s: {what}"
        time.sleep(0.05)
    return found


def environment(home: Path) -> dict[str, str]:
    """A free port and a home of its own; workers ask often, so that a test waits little."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": api, "COLUMNS": "60", "DO_NOT_TRACK": "1"}
    return os.environ | own | {"PREFECT_WORKER_QUERY_SECONDS": "3", "OMP_NUM_THREADS": "1"}


def starting(shown: dict[str, Any], key: str) -> Any:
    """The one artifact whose key starts so."""
    (found,) = (data for name, data in shown.items() if name.startswith(key))
    return found


class Api:
    """The server's answers to the few questions that tests ask."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        return httpx.get(f"{self.url}/{path}", params=query, trust_env=False, timeout=30).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return httpx.post(f"{self.url}/{path}", json=body, trust_env=False, timeout=60).raise_for_status().json()

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False, timeout=2).is_success
        except httpx.HTTPError:
            return False

    def state(self, run: str) -> dict[str, Any]:
        return self.get(f"flow_runs/{run}")["state"]

    def ended(self, run: str) -> bool:
        return self.state(run)["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def states(self, run: str) -> list[dict[str, Any]]:
        """All states a run went through, oldest first."""
        return sorted(self.get("flow_run_states/", flow_run_id=run), key=lambda state: state["timestamp"])

    def filtered(self, what: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        return self.post(f"{what}/filter", query)

    def logged(self, run: str) -> str:
        rows = self.filtered("logs", {"logs": {"flow_run_id": {"any_": [run]}}})
        return "\n".join(row["message"] for row in rows)

    def artifacts(self, run: str) -> dict[str, Any]:
        rows = self.filtered("artifacts", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {row["key"]: row["data"] for row in rows}

    def start(self, flow: str, config: Path, overrides: dict[str, Any]) -> str:
        """A new run of FLOW/local; returns its id."""
        deployment = self.get(f"deployments/name/{flow}/local")["id"]
        body = {"parameters": {"config": str(config), "overrides": overrides}}
        key = {"idempotency_key": uuid.uuid4().hex}  # asked again, it is the same run

        def created() -> str | None:
            """The run's id; None while the database is locked, which a busy server says with 503."""
            try:
                return self.post(f"deployments/{deployment}/create_flow_run", body | key)["id"]
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    raise
                return None

        return until(created, 60, f"the server to take a run of {flow}")


class Loopback:
    """Processes on loopback; ``log`` collects what all of them print."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.env = environment(folder / "home")
        if database:  # else SQLite in Prefect's home
            self.env["PREFECT_API_DATABASE_CONNECTION_URL"] = database
        self.api = Api(self.env["PREFECT_API_URL"])
        self.log = folder / "processes.log"
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def process(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*PREFECT, *command], cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )

    def prefect(self, *command: str) -> None:
        assert self.process(*command).wait(240) == 0, self.log.read_text()[-4000:]

    def serve(self) -> None:
        """Start the server (again, on the same port and database) and wait for it."""
        self.server = self.process("server", "start", "--port", self.api.url.split(":")[2].removesuffix("/api"))
        until(self.api.answers, 300, "the server")

    def kill_server(self) -> None:
        assert self.server is not None
        kill(self.server)

    def work(self, pool: str, *options: str) -> subprocess.Popen[bytes]:
        self.workers.append(self.process("worker", "start", "--pool", pool, "--type", "process", *options))
        return self.workers[-1]

    def close(self) -> None:
        """Nothing of this survives: workers first, then their runs (children of the dead), then the server."""
        for process in (*self.workers, *filter(None, [self.server])):
            kill(process)
        for process in mine(self.env["PREFECT_HOME"]):
            os.kill(process, signal.SIGKILL)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to exactly this process."""
    process.kill()
    process.wait(30)


def mine(home: str) -> list[int]:
    """The processes that live with this Prefect home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]
