"""README's Prefect commands, taken from its text and typed in a fresh checkout; then kills, refusals, other flows.

Five to six minutes on two cores with other work, most of it the starts of thirteen flow runs. Everything lies in a
temporary folder: the checkout (the tracked files of this one), Prefect's home, stores and runs. Trainings and stores of
the quickstart are shortened there, see SHORTER.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import Api, environment, mine, starting, until

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text().split("\n## With Prefect\n")[1].split("\n## ")[0]
SERVE, *COMMANDS = "".join(re.findall(r"^```bash\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)).splitlines()
SHORTER = {
    "cache.yaml": ("views: {count: 12,", "views: {count: 4,"),
    "train.yaml": ("steps: 700\n", "steps: 6\n"),
    "compare.yaml": ("teacher: {steps: 300}", "teacher: {steps: 2}"),
}  # configs/quickstart: text -> what stands there in the test's checkout
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # for a fixture on a busy machine
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


class Local(Api):
    """A running `make prefect`, and how a user and a program talk to it."""

    def __init__(self, env: dict[str, str], checkout: Path, process: subprocess.Popen[bytes]) -> None:
        super().__init__(env["PREFECT_API_URL"])
        self.env, self.checkout, self.process = env, checkout, process

    def typed(self, command: str) -> tuple[int, str]:
        """Exit status and output of a command that a person types in the checkout."""
        done = subprocess.run(
            ["bash", "-c", command], env=self.env, cwd=self.checkout, capture_output=True, text=True, timeout=1800
        )
        return done.returncode, done.stdout + done.stderr

    def says(self, run: str, pattern: str) -> bool:
        """Waits for a text in a run's log: its last lines reach the server a little after its state."""
        return bool(until(lambda: re.search(pattern, self.logged(run)), 20, f"{pattern} in the log"))

    def run(self, flow: str, config: str, overrides: dict[str, Any]) -> str:
        """A new run of a flow with a configuration of the quickstart, to its end; its id."""
        run = self.start(flow, Path(f"configs/quickstart/{config}.yaml"), overrides)
        until(lambda: self.ended(run), 240, f"the end of {flow}")
        return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Path:
    """The tracked files of this checkout, and its environment as if `make` had just made it."""
    made = folder / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, made / name)
    for name, (full, short) in SHORTER.items():
        file = made / "configs/quickstart" / name
        assert full in file.read_text()
        file.write_text(file.read_text().replace(full, short))
    (made / ".venv").symlink_to(sys.prefix)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(made / name, (0, 0))  # older than the environment, so nothing is installed
    return made


@pytest.fixture(scope="module")
def local(folder: Path, checkout: Path) -> Iterator[Local]:
    env = environment(folder / "home") | {"PYTHONPATH": str(checkout)}  # before the checkout that is installed
    env["PATH"] = f"{checkout / '.venv/bin'}:{env['PATH']}"
    log = folder / "local.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", SERVE], cwd=checkout, env=env, stdout=file, stderr=file, start_new_session=True
        )
    try:
        until(lambda: "Ready." in log.read_text() or process.poll() is not None, 600, "the server and the deployments")
        assert process.poll() is None, log.read_text()
        yield Local(env, checkout, process)
    finally:
        interrupt(process, folder)


def interrupt(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ctrl-C in the terminal of `make prefect`: the signal goes to all of its foreground processes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(300)
    until(lambda: not mine(str(folder / "home")), 30, "the end of every process")


@pytest.fixture(scope="module")
def printed(local: Local) -> dict[str, str]:
    """README's commands in the printed order, each to its end: flow -> its run's id."""
    runs = {}
    for command in COMMANDS:
        status, said = local.typed(command)
        assert status == 0, f"{command}\n{said}"
        found = re.search(r"UUID: (\S+)", said)
        assert found, said
        runs[command.split("/")[0].split()[-1]] = found[1]
    return runs


@dataclass
class Extraction:
    store: Path
    planned: int  # records
    kept: dict[str, int]  # receipts that survived the kill, with the time of their writing
    crashed: dict[str, Any]  # state of the killed run
    run: str


@pytest.fixture(scope="module")
def extraction(local: Local, folder: Path) -> Extraction:
    """An extraction whose flow's process is killed with SIGKILL half-way, then it is run again."""
    store = folder / "killed.zarr"
    overrides = {"store": str(store), "shard_records": 4, "batch_size": 1, "workers": 0}
    first = local.start("extract-teacher-features", Path("configs/quickstart/cache.yaml"), overrides)
    until(lambda: len(receipts(store)) >= 3, 60, "three shards")
    flow, verb = processes(store)
    os.kill(flow, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{verb}").exists(), 30, "the end of the process whose parent was killed")
    kept = receipts(store)
    until(lambda: local.state(first)["type"] == "CRASHED", 60, "the run's state Crashed")
    second = local.run("extract-teacher-features", "cache", overrides)
    planned = sum(json.loads(p.read_text())["records"] for p in (store / "receipts").glob("*.json"))
    return Extraction(store, planned, kept, local.state(first), second)


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


def test_the_readme_prints_the_three_flows_in_the_order_that_works() -> None:
    assert SERVE.split("#")[0].strip() == "make prefect"
    wanted = ["extract-teacher-features", "train-student", "ablate-student"]
    assert [command.split("/")[0].split()[-1] for command in COMMANDS] == wanted


def test_the_readmes_commands_end_completed_in_a_fresh_checkout(
    local: Local, checkout: Path, printed: dict[str, str]
) -> None:
    assert {flow: local.state(run)["type"] for flow, run in printed.items()} == dict.fromkeys(printed, "COMPLETED")
    assert (checkout / "data/procedural/caches/quickstart.zarr/receipts").is_dir()
    (facts,) = (checkout / "runs/quickstart").glob("quickstart-*/run.json")
    assert json.loads(facts.read_text())["status"] == "finished"
    assert local.says(printed["train-student"], "6/6 steps")
    shown = local.artifacts(printed["train-student"])
    assert {row["metric"] for row in json.loads(starting(shown, "metrics-quickstart-"))} >= {"mDice %", "mIoU %"}
    assert str(facts.parent) in starting(shown, "run-quickstart-")
    assert local.get(f"flow_runs/{printed['train-student']}")["name"] == "quickstart/train"


def test_the_readmes_ablation_trains_its_points_as_runs_of_their_own_and_compares_them(
    local: Local, checkout: Path, printed: dict[str, str]
) -> None:
    assert len(list((checkout / "runs/quickstart").glob("student-alone-seed[01]-*/run.json"))) == 2
    assert len(list((checkout / "runs/quickstart").glob("SWARD-seed[01]-*/run.json"))) == 2
    points = local.filtered("flow_runs", {"flow_runs": {"name": {"like_": "-seed"}}})
    named = {point["name"].rpartition("-")[0]: point["state"]["type"] for point in points}
    wanted = ["teacher-seed0", *(f"{row}-seed{i}" for row in ("student-alone", "SWARD") for i in (0, 1))]
    assert named == dict.fromkeys(wanted, "COMPLETED")
    shown = local.artifacts(printed["ablate-student"])
    rows = [row["row"] for row in json.loads(starting(shown, "comparison-"))]
    assert sorted(rows) == ["SWARD", "student alone", "teacher"]
    page = httpx.get(re.search(r"http://[^)\s]+", starting(shown, "report-"))[0], trust_env=False)
    assert "SWARD" in page.raise_for_status().text


def test_an_extraction_killed_half_way_is_completed_by_the_next_run_without_computing_twice(
    local: Local, extraction: Extraction
) -> None:
    assert extraction.crashed["type"] == "CRASHED"
    assert local.state(extraction.run)["type"] == "COMPLETED"
    assert 0 < len(extraction.kept) < len(receipts(extraction.store))
    assert extraction.kept.items() <= receipts(extraction.store).items()
    kept = sum(json.loads((extraction.store / "receipts" / n).read_text())["records"] for n in extraction.kept)
    assert local.says(extraction.run, f" {extraction.planned - kept} computed now")


def test_the_completed_store_is_shown_in_a_table_and_its_progress_reached_the_end(
    local: Local, extraction: Extraction
) -> None:
    shown = local.artifacts(extraction.run)
    facts = {row["fact"]: row["value"] for row in json.loads(starting(shown, "store-"))}
    assert facts["complete"] == "True"
    assert facts["store"] == str(extraction.store)
    assert float(starting(shown, "extract-progress-")) == 100


def test_a_student_trains_while_its_store_is_extracted(local: Local, folder: Path) -> None:
    overrides = {"cache.store": str(folder / "beside.zarr"), "runs": str(folder / "beside")}
    run = local.run("extract-and-train", "train", overrides | {"order": {"kind": "shards", "statistics": "first"}})
    assert local.state(run)["type"] == "COMPLETED"
    (facts,) = (folder / "beside").glob("quickstart-*/run.json")
    assert json.loads(facts.read_text())["status"] == "finished"
    assert local.says(run, "6/6 steps")
    assert local.says(run, r"extracted (\d+) of \1 records")


def test_a_teachers_head_is_fitted_to_completed_from_the_same_file(
    local: Local, printed: dict[str, str], folder: Path
) -> None:
    run = local.run("fit-teacher-head", "train", {"runs": str(folder / "heads"), "head": {"steps": 2}})
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
    params = shlex.quote(json.dumps(parameters))
    status, printed = local.typed(f"COLUMNS=400 prefect deployment run train-student/local --params {params}")
    assert status != 0
    assert said in printed
    assert len(local.filtered("flow_runs", {})) == before


def test_the_cause_of_a_failure_is_the_runs_state_message_without_a_traceback(local: Local, folder: Path) -> None:
    overrides = {"cache.store": str(folder / "gone.zarr"), "runs": str(folder / "refused")}  # else it is finished
    run = local.run("train-student", "train", overrides)
    assert local.state(run)["type"] == "FAILED"
    assert "gone.zarr" in local.state(run)["message"]
    assert local.says(run, "Finished in state Failed")
    assert "Traceback" not in local.logged(run)


def test_ctrl_c_ends_server_and_workers(local: Local, folder: Path) -> None:
    interrupt(local.process, folder)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{local.url}/health", trust_env=False)
