"""What dies while flows run: a worker, the server. Twelve runs share a store, two at a time. About four minutes.

One server for all, with PostgreSQL where the machine has it, as README.md recommends for many runs. First an extraction
loses its worker; the extraction that continues it, then an ablation with its twelve trainings, lose the server by
SIGKILL, which comes back on the same port and database.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import postgres
import pytest
import tiny
import yaml
from loopback import Loopback, starting, until

from pipeline.cache.config import CacheConfig
from sward.contracts import Config

ROOT = Path(__file__).resolve().parents[2]
SILENCE = 90  # seconds until a silent run is marked; 5 minutes in prefect-automations.yaml
SEEDS = range(6)
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
        if "flows.verb_process" in arguments and str(store.parent / "cache.yaml") in arguments:
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
    assert float(starting(loopback.api.artifacts(continued), "extract-progress-")) == 100


def test_shards_finished_before_the_worker_died_are_not_computed_again(
    loopback: Loopback, continued: str, lost: tuple[str, dict[str, int]], store: Path
) -> None:
    facts = json.loads(starting(loopback.api.artifacts(continued), "store-"))
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


@pytest.fixture(scope="module")
def ablation(loopback: Loopback, folder: Path, config: CacheConfig, continued: str) -> str:
    """Two methods × six seeds on two workers; the server dies when a few of the twelve are done."""
    train = written(tiny.tiny_train(folder, config, head=tiny.HEAD), folder / "train.yaml")
    methods = {"student alone": {"kind": "plain"}, "KD": {"kind": "kd"}}  # KD reads the head, fitted before all
    comparison = {"name": "twelve", "out": str(folder), "train": str(train), "methods": methods, "seeds": [*SEEDS]}
    (folder / "compare.yaml").write_text(yaml.safe_dump(comparison))
    loopback.work("local", "--limit", "1")  # the second: two runs at a time
    loopback.work("control")
    run = loopback.api.start("ablate-student", folder / "compare.yaml", {})
    done = lambda: loopback.api.filtered("flow_runs", trained({"type": {"any_": ["COMPLETED"]}}))  # noqa: E731
    until(lambda: len(done()) >= 3, 900, "three points")
    loopback.kill_server()
    time.sleep(5)
    loopback.serve()
    until(lambda: loopback.api.ended(run), 900, "the end of the ablation")
    return run


def trained(state: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"flows": {"name": {"any_": ["train-student"]}}} | ({"flow_runs": {"state": state}} if state else {})


def test_an_ablation_fans_out_and_compares_though_its_server_died(
    loopback: Loopback, ablation: str, folder: Path
) -> None:
    assert loopback.api.states(ablation)[-1]["type"] == "COMPLETED", loopback.api.logged(ablation)
    shown = loopback.api.artifacts(ablation)
    assert "student alone" in starting(shown, "comparison-")
    assert str(folder / "twelve" / "report.html") in starting(shown, "report-")


def test_twelve_trainings_of_one_store_all_complete_never_more_than_two_at_once(
    loopback: Loopback, ablation: str
) -> None:
    runs = loopback.api.filtered("flow_runs", trained())
    histories = [loopback.api.states(run["id"]) for run in runs]
    assert len(runs) == 1 + 2 * len(SEEDS)
    assert [history[-1]["type"] for history in histories] == ["COMPLETED"] * len(runs)
    ended = {run["name"]: history[-1]["timestamp"] for run, history in zip(runs, histories, strict=True)}
    assert min(ended, key=ended.__getitem__).startswith("teacher-")
    changes = []
    for history in histories:
        changes.append((next(s["timestamp"] for s in history if s["type"] == "RUNNING"), 1))
        changes.append((history[-1]["timestamp"], -1))
    assert max(accumulate(step for _, step in sorted(changes))) == 2


def test_no_run_met_a_lock_of_the_database(loopback: Loopback, ablation: str, database: str | None) -> None:
    """PostgreSQL has none to meet; on a busy machine SQLite refuses some of the server's own book-keeping."""
    printed, runs = loopback.log.read_text(), loopback.api.filtered("flow_runs", {})
    assert not any("database is locked" in loopback.api.logged(run["id"]) for run in runs)
    assert database is None or "OperationalError" not in printed


def test_a_training_that_is_cancelled_leaves_its_checkpoint(loopback: Loopback, ablation: str, folder: Path) -> None:
    """Also after the server was away: the worker is the one that lived through it."""
    run = loopback.api.start(
        "train-student", folder / "train.yaml", {"steps": 100_000, "runs": str(folder / "endless")}
    )
    until(lambda: list((folder / "endless").glob("*/metrics.jsonl")), 180, "the training")
    loopback.api.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: loopback.api.ended(run), 120, "the end of the training")
    assert loopback.api.state(run)["type"] == "CANCELLED"
    until(lambda: "cancelled; what is finished is kept" in loopback.api.logged(run), 30, "the log's last line")
    (stopped,) = (folder / "endless").iterdir()
    assert json.loads((stopped / "run.json").read_text())["status"] != "finished"
    assert (stopped / "last.ckpt").exists()
