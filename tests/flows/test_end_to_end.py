"""`make prefect` for real: server, pools, deployments and process workers on loopback, then both stages.

About four minutes on two cores. Everything lies in a temporary folder: Prefect's home, the store, the runs.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import Api, environment, until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


class Local(Api):
    """The running `python -m flows.local_server`, and how a user and a program talk to it."""

    def __init__(self, env: dict[str, str], process: subprocess.Popen[bytes]) -> None:
        super().__init__(env["PREFECT_API_URL"])
        self.env, self.process = env, process

    def run(self, deployment: str, config: str, overrides: dict[str, Any], watch: bool = True) -> tuple[int, str]:
        """`prefect deployment run`; the exit status and the flow run's id."""
        parameters = ["-p", f"config=configs/quickstart/{config}.yaml", "-p", f"overrides={json.dumps(overrides)}"]
        command = [sys.executable, "-m", "prefect", "deployment", "run", deployment, *parameters]
        done = subprocess.run(
            command + ["--watch"] * watch, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        found = re.search(r"UUID: (\S+)", done.stdout)
        assert found, done.stdout + done.stderr
        return done.returncode, found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[Local]:
    env = environment(folder / "home")
    log = folder / "local.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.local_server"],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    started = Local(env, process)
    try:
        until(lambda: "Ready." in log.read_text() or process.poll() is not None, 240, "the server and the deployments")
        assert process.poll() is None, log.read_text()
        yield started
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(150)


@dataclass
class Extraction:
    store: Path
    planned: int  # records
    kept: dict[str, int]  # receipts that survived the kill, with the time of their writing
    crashed: dict[str, Any]  # state of the killed run
    status: int
    run: str


@pytest.fixture(scope="module")
def extraction(local: Local, folder: Path) -> Extraction:
    """The quickstart's extraction: its flow's process is killed with SIGKILL half-way, then it is run again."""
    store = folder / "quickstart.zarr"
    overrides = {"store": str(store), "shard_records": 4, "batch_size": 1, "workers": 0}
    _, first = local.run("extract-teacher-features/local", "cache", overrides, watch=False)
    until(lambda: len(receipts(store)) >= 3, 60, "three shards")
    flow, verb = processes(store)
    os.kill(flow, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{verb}").exists(), 30, "the end of the process whose parent was killed")
    kept = receipts(store)
    until(lambda: local.state(first)["type"] == "CRASHED", 60, "the run's state Crashed")
    status, second = local.run("extract-teacher-features/local", "cache", overrides)
    planned = sum(json.loads(p.read_text())["records"] for p in (store / "receipts").glob("*.json"))
    return Extraction(store, planned, kept, local.state(first), status, second)


def starting(shown: dict[str, Any], key: str) -> Any:
    """The one artifact whose key starts so."""
    (found,) = (data for name, data in shown.items() if name.startswith(key))
    return found


def receipts(store: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (store / "receipts").glob("*.json")}


def processes(store: Path) -> tuple[int, int]:
    """(flow, verb): the processes of this test's own extraction, known by its store's path."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "flows.verb_process" in arguments and f"store={store}" in arguments:
            return int(arguments[arguments.index("flows.verb_process") + 1]), int(process.name)
    raise AssertionError("no process of the extraction")


def test_an_extraction_killed_half_way_is_completed_by_the_next_run_without_computing_twice(
    local: Local, extraction: Extraction
) -> None:
    assert extraction.crashed["type"] == "CRASHED"
    assert extraction.status == 0
    assert local.state(extraction.run)["type"] == "COMPLETED"
    assert 0 < len(extraction.kept) < len(receipts(extraction.store))
    assert extraction.kept.items() <= receipts(extraction.store).items()
    kept = sum(json.loads((extraction.store / "receipts" / n).read_text())["records"] for n in extraction.kept)
    assert f"{extraction.planned - kept} computed now" in local.logged(extraction.run)


def test_the_completed_store_is_shown_in_a_table_and_its_progress_reached_the_end(
    local: Local, extraction: Extraction
) -> None:
    shown = local.artifacts(extraction.run)
    facts = {row["fact"]: row["value"] for row in json.loads(starting(shown, "store-"))}
    assert facts["complete"] == "True"
    assert facts["store"] == str(extraction.store)
    assert float(starting(shown, "extract-progress-")) == 100


def test_a_student_trains_to_completed_from_the_store(local: Local, extraction: Extraction, folder: Path) -> None:
    overrides = {"cache.store": str(extraction.store), "runs": str(folder / "runs"), "steps": 6}
    status, run = local.run("train-student/local", "train", overrides)
    assert status == 0
    assert local.state(run)["type"] == "COMPLETED"
    (facts,) = (folder / "runs").glob("quickstart-*/run.json")
    assert json.loads(facts.read_text())["status"] == "finished"
    assert "6/6 steps" in local.logged(run)
    shown = local.artifacts(run)
    assert {row["metric"] for row in json.loads(starting(shown, "metrics-quickstart-"))} >= {"mDice %", "mIoU %"}
    assert str(facts.parent) in starting(shown, "run-quickstart-")
    assert local.get(f"flow_runs/{run}")["name"].startswith("quickstart/train cache.store=")


def test_a_student_trains_while_its_store_is_extracted(local: Local, folder: Path) -> None:
    overrides = {"cache.store": str(folder / "beside.zarr"), "runs": str(folder / "beside"), "steps": 6}
    overrides |= {"order": {"kind": "shards", "statistics": "first"}}
    status, run = local.run("extract-and-train/local", "train", overrides)
    assert status == 0
    assert local.state(run)["type"] == "COMPLETED"
    (facts,) = (folder / "beside").glob("quickstart-*/run.json")
    assert json.loads(facts.read_text())["status"] == "finished"
    assert "6/6 steps" in local.logged(run)
    assert re.search(r"extracted (\d+) of \1 records", local.logged(run))


def test_a_teachers_head_is_fitted_to_completed_from_the_same_file(
    local: Local, extraction: Extraction, folder: Path
) -> None:
    overrides = {"cache.store": str(extraction.store), "runs": str(folder / "heads"), "head": {"steps": 2}}
    status, run = local.run("fit-teacher-head/local", "train", overrides)
    assert status == 0
    assert local.state(run)["type"] == "COMPLETED"
    (facts,) = (folder / "heads").glob("teacher-seed0-*/run.json")
    assert json.loads(facts.read_text())["status"] == "finished"
    shown = json.loads(starting(local.artifacts(run), "metrics-teacher-seed0-"))
    assert {row["metric"] for row in shown} >= {"mDice %", "mIoU %"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"config": "configs/quickstart/trian.yaml"}, "trian.yaml"),
        ({"config": "configs/quickstart/train.yaml", "overrides": {"stepps": 3}}, "stepps"),
        ({"config": "configs/quickstart/train.yaml", "overrides": {"optimizer.lr": -1}}, "minimum of 0"),
    ],
)
def test_a_wrong_path_key_or_value_is_refused_before_queueing(
    local: Local, parameters: dict[str, Any], said: str
) -> None:
    before = len(local.filtered("flow_runs", {}))
    command = [sys.executable, "-m", "prefect", "deployment", "run", "train-student/local"]
    command += ["--params", json.dumps(parameters)]
    done = subprocess.run(command, env=local.env | {"COLUMNS": "400"}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert len(local.filtered("flow_runs", {})) == before


def test_the_cause_of_a_failure_is_the_runs_state_message_without_a_traceback(local: Local, folder: Path) -> None:
    overrides = {"cache.store": str(folder / "gone.zarr"), "runs": str(folder / "refused")}
    status, run = local.run("train-student/local", "train", overrides)
    assert status == 1
    assert "gone.zarr" in local.state(run)["message"]
    assert "Traceback" not in local.logged(run)


def test_an_ablation_trains_its_points_as_runs_of_their_own_and_compares_them(
    local: Local, extraction: Extraction, folder: Path
) -> None:
    train = {"train.cache.store": str(extraction.store), "train.runs": str(folder / "points"), "train.steps": 2}
    methods = {"student alone": {"kind": "plain"}, "KD": {"kind": "kd"}}  # KD reads the head, fitted first
    few = {"methods": methods, "seeds": [0, 1], "teacher": None, "train.head": {"steps": 2}}
    status, run = local.run("ablate-student/local", "compare", train | few | {"out": str(folder / "compared")})
    assert status == 0
    assert local.state(run)["type"] == "COMPLETED"
    assert len(list((folder / "points").glob("student-alone-seed[01]-*/run.json"))) == 2
    assert len(list((folder / "points").glob("KD-seed[01]-*/run.json"))) == 2
    points = local.filtered("flow_runs", {"flow_runs": {"name": {"like_": "student-alone-seed"}}})
    assert sorted(point["state"]["type"] for point in points) == ["COMPLETED"] * 2
    shown = local.artifacts(run)
    assert {row["row"] for row in json.loads(starting(shown, "comparison-"))} == {"student alone", "KD"}
    assert "report.html" in starting(shown, "report-")


def test_ctrl_c_ends_server_and_workers(local: Local) -> None:
    local.process.send_signal(signal.SIGINT)
    assert local.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{local.url}/health", trust_env=False)
