"""`make prefect`: starts a local Prefect server with pools, deployments and workers; Ctrl-C stops what it started.

Stopping a worker kills its current run. A new run with the same configuration continues from the files of the killed
one. The server's automations (prefect-automations.yaml) mark the killed run as Crashed, at the latest when the server
runs again.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import yaml
from prefect.automations import Automation
from prefect.settings import PREFECT_API_URL

from flows.report_server import VARIABLE

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
POOLS = {"local": ("--limit", "1"), "control": ()}  # pool -> options of its worker; see prefect.yaml
SERVER_SECONDS = 600  # limit for the server's start; 7-34 s were measured on two cores, far more on a busy machine
READY = """
Ready. In another terminal, in this folder and in this order:

  prefect deployment run extract-teacher-features/local -p config=configs/quickstart/cache.yaml --watch
  prefect deployment run train-student/local -p config=configs/quickstart/train.yaml --watch
  prefect deployment run ablate-student/local -p config=configs/quickstart/compare.yaml --watch

Web interface: {page}    Ctrl-C stops workers and server.
"""


def main() -> None:
    """Starts everything, waits, and stops everything that it started; a server that already runs is used and kept."""
    if not Path("prefect.yaml").is_file():
        sys.exit(f"no prefect.yaml in {Path.cwd()}; run this in the root folder of the checkout")
    url = PREFECT_API_URL.value() or sys.exit(
        "PREFECT_API_URL is not set; run this in the folder of prefect.toml, or set it"
    )
    os.environ.setdefault("DO_NOT_TRACK", "1")
    handle_signals(signal.default_int_handler)
    started: list[subprocess.Popen[bytes]] = []
    try:
        if not answers(url):
            started.append(start_server(url))
            wait_for(url, started[0])
        started.append(start_reports())
        with ThreadPoolExecutor() as threads:
            list(threads.map(ensure_pool, POOLS))
        started += [start("worker", "start", "--pool", pool, "--type", "process", *how) for pool, how in POOLS.items()]
        ensure_automations()
        prefect("deploy", "--all")
        print(READY.format(page=url.removesuffix("/api")), flush=True)
        while all(process.poll() is None for process in started):
            time.sleep(0.5)
        print("a worker or the server has exited unexpectedly; its last output is above", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopping", file=sys.stderr)
    finally:
        handle_signals(signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        for process in reversed(started):
            end(process)


def handle_signals(handler: Any) -> None:
    """Sets the handler of Ctrl-C, `kill` and a closed terminal.

    The workers need this as well: a background job of a shell ignores Ctrl-C, and a worker that inherits this cannot
    be stopped.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def answers(url: str) -> bool:
    """True if a Prefect server answers at ``url``."""
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def start(*command: str) -> subprocess.Popen[bytes]:
    """Starts a `prefect` command in its own session, so that the terminal's Ctrl-C reaches it only through `end`."""
    return subprocess.Popen([*PREFECT, *command], stdin=subprocess.DEVNULL, start_new_session=True)


def start_reports() -> subprocess.Popen[bytes]:
    """Starts the server of reports on a free port of loopback; workers that are started later learn its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    os.environ[VARIABLE] = f"http://{host}:{port}"
    command = (sys.executable, "-m", "flows.report_server", host, str(port))
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def start_server(url: str) -> subprocess.Popen[bytes]:
    """Starts the Prefect server; exits if ``url`` is not a loopback address."""
    address = urlsplit(url)
    if address.hostname not in ("127.0.0.1", "localhost"):
        sys.exit(f"no Prefect server answers at {url}; start it there, or set PREFECT_API_URL to a loopback address")
    return start("server", "start", "--host", address.hostname, "--port", str(address.port or 4200))


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Waits until the server answers; exits with a message if it ends or takes longer than ``SERVER_SECONDS``."""
    deadline = time.monotonic() + SERVER_SECONDS
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the Prefect server did not answer at {url}; its last output is above")
        time.sleep(0.5)


def ensure_pool(name: str) -> None:
    """Creates the work pool if it does not exist."""
    found = subprocess.run([*PREFECT, "work-pool", "inspect", name], capture_output=True)
    if found.returncode:
        prefect("work-pool", "create", name, "--type", "process")


def ensure_automations() -> None:
    """Creates or updates the automations listed in prefect-automations.yaml; each exists once."""
    for described in yaml.safe_load(Path("prefect-automations.yaml").read_text())["automations"]:
        wanted = Automation.model_validate(described)
        try:
            wanted.id = cast(Automation, Automation.read(name=wanted.name)).id
        except ValueError:
            wanted.create()
        else:
            wanted.update()


def prefect(*command: str) -> None:
    """Runs a `prefect` command; exits with a message if it fails."""
    if subprocess.run([*PREFECT, *command]).returncode:
        sys.exit(f"`prefect {' '.join(command)}` failed; its message is above")


def end(process: subprocess.Popen[bytes], patience: float = 15) -> None:
    """Sends SIGTERM twice (Prefect may turn the first into a Ctrl-C that is ignored), then SIGKILL.

    Args:
        process: process to end.
        patience: seconds to wait after each signal.
    """
    for stop in (process.terminate, process.terminate, process.kill):
        if process.poll() is None:
            stop()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


if __name__ == "__main__":
    main()
