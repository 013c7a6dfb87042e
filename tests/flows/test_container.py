"""The image's recipe, its pool and its deployments: linted and resolved, not built (that needs a container engine)."""

import asyncio
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.types import HostConfig
from docker.utils.build import exclude_paths
from prefect_docker.worker import DockerWorkerJobConfiguration

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = json.loads((ROOT / "prefect-container-pool.json").read_text())
DEPLOYED = yaml.safe_load((ROOT / "prefect-container.yaml").read_text())


def resolved(variables: dict[str, Any]) -> DockerWorkerJobConfiguration:
    """What a worker of the pool makes of a run with these job variables."""
    client: Any = object()  # asked only for blocks, and there are none
    return asyncio.run(DockerWorkerJobConfiguration.from_template_and_values(TEMPLATE, variables, client=client))


def test_the_image_is_written_as_its_linter_wants() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_holds_code_cards_and_configurations_but_no_bytes_of_data(tmp_path: Path) -> None:
    patterns = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if p and not p.startswith("#")]
    for path in (
        "data/kvasir-seg/images/1.png",
        "data/procedural/caches/q.zarr/zarr.json",
        ".git/HEAD",
        "runs/a/run.json",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert exclude_paths(str(tmp_path), list(patterns)) <= {"data", "data/kvasir-seg", "data/procedural"}
    kept = exclude_paths(str(ROOT), list(patterns))
    wanted = ["flows/train.py", "pipeline/report/page/report.html", "sward/mwad/mwad.py", "data/procedural/card.yaml"]
    settings = ["prefect.toml", "constraints.txt", "configs/quickstart/cache.yaml"]
    assert kept >= {*wanted, *settings, "data/pocket-teacher/trunk.safetensors"}


def test_the_deployments_from_the_image_are_those_from_the_checkout() -> None:
    local = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [d["entrypoint"] for d in DEPLOYED["deployments"]] == [d["entrypoint"] for d in local]
    assert {d["name"] for d in DEPLOYED["deployments"]} == {"container"}
    folder = DEPLOYED["pull"][0]["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {folder}\n" in (ROOT / "Dockerfile").read_text()


def test_the_pools_image_carries_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert resolved({}).image == f"sward:{version}"


def test_a_run_has_its_data_and_runs_mounted_an_init_and_room_for_its_loader() -> None:
    job = resolved({"name": "a", "env": {"OMP_NUM_THREADS": "2"}, "mem_limit": "8g"})
    assert job.volumes == ["/srv/sward/data:/data", "/srv/sward/runs:/sward/runs"]
    assert job.container_create_kwargs == {"init": True, "shm_size": "2g", "device_requests": []}
    assert (job.env, job.mem_limit) == ({"OMP_NUM_THREADS": "2"}, "8g")


def test_a_gpu_is_asked_for_as_the_engine_understands_it() -> None:
    job = resolved({"device_requests": [{"device_ids": ["0"], "capabilities": [["gpu"]]}]})
    asked = HostConfig(version="1.45", **(job.container_create_kwargs or {}))["DeviceRequests"]
    assert asked[0]["DeviceIDs"] == ["0"]
    assert asked[0]["Capabilities"] == [["gpu"]]


@pytest.mark.parametrize("key", ["command", "env", "labels", "name", "image"])
def test_what_a_worker_sets_by_itself_has_its_place_in_the_template(key: str) -> None:
    assert TEMPLATE["job_configuration"][key] == f"{{{{ {key} }}}}"
