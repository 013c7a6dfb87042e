"""What dies while flows run: a worker, the server. About two minutes, of which one and a half wait for a silent run.

One server for all, with PostgreSQL where the machine has it, as README.md recommends for many runs. An extraction loses
its worker; the one that continues it loses the server by SIGKILL, which comes back on the same port and database.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import postgres
import pytest
import tiny
import yaml
from loopback import Loopback, until

from pipeline.cache.identity import CacheConfig
from sward.contracts import Config

ROOT = Path(__file__).resolve().parents[2]
SILENCE = 90  # seconds until a silent run is marked; 5 minutes in prefect-automations.yaml
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # for a fixture on a busy machine
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outages")


@pytest.fixture(scope="module")
def database() -> Iterator[str | None]:
    """PostgreSQL's address; None, SQLite, where there is no PostgreSQL."""
    found = postgres.programs()
    with postgres.postgresql(found) if found else nullcontext() as address:
        yield address


@pytest.fixture(scope="module")
def loopback(folder: Path, database: str | None) -> Iterator[Loopback]:
    """A server with the project's pools, automations (in a hurry) and deployments."""
    automations = yaml.safe_load((ROOT / "prefect-automations.yaml").read_text())
    silent = next(a for a in automations["automations"] if "prefect.flow-run.heartbeat" in a["trigger"]["after"])
    silent["trigger"]["within"] = SILENCE
    (folder / "automations.yaml").write_text(yaml.safe_dump(automations))
    running = Loopback(folder, database)
    try:
        running.serve()
        running.prefect("work-pool", "create", "control", "--type", "process")
        running.prefect("work-pool", "create", "local", "--type", "process")
        running.prefect("automation", "create", "--from-file", str(folder / "automations.yaml"))
        running.prefect("deploy", "--all")
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    return folder / "store.zarr"


@pytest.fixture(scope="module")
def config(folder: Path) -> CacheConfig:
    """An extraction of a hundred small shards."""
    return tiny.tiny_cache(folder, shard_records=1, batch_size=1, workers=0, views={"count": 16}, size=(128, 128))


@pytest.fixture(scope="module")
def cache(config: CacheConfig, folder: Path) -> Path:
    return written(config, folder / "cache.yaml")


def written(config: Config, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def receipts(store: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (store / "receipts").glob("*.json")}


def verb(store: Path) -> list[int]:
    """The processes of this store's extraction."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "flows.child" in arguments and str(store.parent / "cache.yaml") in arguments:
            found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def lost(loopback: Loopback, cache: Path, store: Path) -> tuple[str, dict[str, int]]:
    """An extraction whose worker was stopped half-way: the run's id, and the receipts it left."""
    worker = loopback.work("local", "--limit", "1")
    run = loopback.api.start("extract-teacher-features", cache, {})
    until(lambda: len(receipts(store)) >= 5, 180, "five shards")
    os.killpg(worker.pid, signal.SIGTERM)
    worker.wait(60)
    until(lambda: not verb(store), 30, "the end of the process whose worker was stopped")
    return run, receipts(store)


@pytest.fixture(scope="module")
def continued(loopback: Loopback, cache: Path, store: Path, lost: tuple[str, dict[str, int]]) -> str:
    """The same extraction again; now the server dies half-way and is gone for a while."""
    loopback.work("local", "--limit", "1")
    run = loopback.api.start("extract-teacher-features", cache, {})
    until(lambda: len(receipts(store)) >= len(lost[1]) + 5, 180, "five more shards")
    loopback.kill_server()
    before = len(receipts(store))
    until(lambda: len(receipts(store)) > before, 30, "a shard without a server")
    loopback.serve()
    until(lambda: loopback.api.ended(run), 240, "the end of the extraction")
    return run


def test_an_extraction_goes_on_without_its_server_and_is_completed_when_that_is_back(
    loopback: Loopback, continued: str
) -> None:
    assert loopback.api.states(continued)[-1]["type"] == "COMPLETED", loopback.api.logged(continued)
    assert float(loopback.api.artifacts(continued)["extract-progress"]) == 100


def test_shards_finished_before_the_worker_died_are_not_computed_again(
    loopback: Loopback, continued: str, lost: tuple[str, dict[str, int]], store: Path
) -> None:
    facts = json.loads(loopback.api.artifacts(continued)["feature-store"])
    assert {"fact": "complete", "value": "True"} in facts
    assert 0 < len(lost[1]) < len(receipts(store))
    assert lost[1].items() <= receipts(store).items()


def test_a_run_whose_worker_died_does_not_stay_running(
    loopback: Loopback, lost: tuple[str, dict[str, int]], continued: str
) -> None:
    until(lambda: loopback.api.ended(lost[0]), 200, "the run's state Crashed")
    last = loopback.api.states(lost[0])[-1]
    assert last["type"] == "CRASHED"
    assert "start it again and it continues" in last["message"]
