"""The whole quickstart from and to object storage that fails, stalls and trickles: the same bytes, the same students.

python -m pytest -m slow tests/e2e/test_remote_quickstart.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from s3server import environment, objects, serving, without_place
from tiny import tree

from pipeline.config import read_yaml
from pipeline.files import read_json

ROOT = Path(__file__).resolve().parents[2]
FAULTS = 0.03  # of all requests; a third each: an error, no answer, a slow one


def run_quickstart(folder: Path, store: str, variables: dict[str, str]) -> list[Path]:
    """`sward quickstart` with its store at ``store``; the folders of its runs, by name."""
    config = read_yaml(ROOT / "configs/quickstart/compare.yaml")
    config["out"], config["train"]["runs"] = str(folder / "out"), str(folder / "runs")
    config["train"]["cache"]["store"] = store
    (folder / "compare.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pipeline.cli", "quickstart", "--config", str(folder / "compare.yaml")]
    subprocess.run(command, cwd=ROOT, env=os.environ | variables | {"OMP_NUM_THREADS": "1"}, check=True)
    return sorted(path.parent for path in (folder / "runs").glob("*/run.json"))


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_quickstart_from_failing_object_storage_is_the_local_one(tmp_path, monkeypatch):
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    monkeypatch.setenv("SWARD_DATA", str(tmp_path / "data"))
    near = run_quickstart(tmp_path / "near", str(tmp_path / "near/store.zarr"), {})
    with serving(share=FAULTS, seed=1) as (server, door):
        variables = environment(server) | {"SWARD_CACHE": str(tmp_path / "sward-cache")}
        url = "s3://features/quickstart.zarr"
        far = run_quickstart(tmp_path / "far", url, variables)
        injected, door.share = dict(door.counts), 0.0
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        there = objects(url)
    print(f"requests: {injected}; {len(there)} objects, {sum(map(len, there.values()))} bytes")
    assert sum(injected[kind] for kind in ("error", "held", "slow")) >= 0.01 * injected["all"]
    assert min(injected.get(kind, 0) for kind in ("error", "held", "slow")) > 0
    assert without_place(there) == without_place(tree(tmp_path / "near/store.zarr"))
    assert [run.name for run in near] == [run.name for run in far]
    assert len(near) == 5
    for a, b in zip(near, far, strict=True):
        assert (a / "student.safetensors").read_bytes() == (b / "student.safetensors").read_bytes()
        assert read_json(a / "run.json")["test"] == read_json(b / "run.json")["test"]
