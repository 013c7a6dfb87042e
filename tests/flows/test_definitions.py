"""The deployments' file against the flows, and the flows' small helpers. No server."""

import importlib
import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import AutomationCore
from prefect.utilities.schema_tools.validation import validate

from flows import ablate, extract, local_server, train
from pipeline.cache.config import CacheConfig, DaskRunner, LocalRunner
from pipeline.config import as_overrides, load_config
from pipeline.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/getting-started/prefect.md")
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
FLOW_NAMES = {
    "extract_teacher_features": "extract-teacher-features",
    "train_student": "train-student",
    "fit_teacher_head": "fit-teacher-head",
    "extract_and_train": "extract-and-train",
    "ablate_student": "ablate-student",
}


def load(deployment: dict[str, Any]) -> Any:
    file, name = deployment["entrypoint"].split(":")
    return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)


def test_every_flow_has_exactly_one_deployment_and_it_is_named_local() -> None:
    assert [d["name"] for d in DEPLOYMENTS] == ["local"] * 5
    assert {load(d).name for d in DEPLOYMENTS} == set(FLOW_NAMES.values())


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_an_entrypoint_imports_under_its_flows_name_and_takes_a_config_and_overrides(deployment: dict) -> None:
    flow = load(deployment)
    assert flow.name == FLOW_NAMES[deployment["entrypoint"].split(":")[1]]
    assert flow.parameters.required == ["config"]
    assert {"config", "device", "overrides"} < set(flow.parameters.properties)
    assert all(field["description"] for field in flow.parameters.properties.values())


def test_a_deployment_is_described_tagged_and_has_the_packages_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    in_containers = yaml.safe_load((ROOT / "prefect-container.yaml").read_text())["deployments"]
    for deployment in DEPLOYMENTS + in_containers:
        assert deployment["version"] == version
        assert deployment["tags"]
        assert deployment["description"]


def test_the_ablation_waits_in_another_pool_than_the_runs_it_waits_for() -> None:
    pools = {load(d).name: d["work_pool"]["name"] for d in DEPLOYMENTS}
    assert pools["ablate-student"] not in (pools["train-student"], pools["extract-teacher-features"])
    assert set(pools.values()) == set(local_server.POOLS)


def test_an_ablations_points_name_the_same_folders_on_a_trainer_with_another_device(tmp_path, monkeypatch) -> None:
    """`control` may have no GPU where the trainers do: what `auto` means is decided once, where the flow runs."""
    config = tiny.tiny_train(tmp_path, tiny.tiny_cache(tmp_path), device="auto", channels_last="auto")
    has_gpu, submitted = torch.cuda.is_available(), []
    started = SimpleNamespace(id="run", state=None)
    monkeypatch.setattr(ablate, "start_or_find", lambda point, path, attempt: submitted.append(path) or started)
    (point,) = ablate.resolved([config])
    ablate.submit(point, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not has_gpu)
    (path,) = submitted
    assert config.folder != point.folder
    assert load_config(TrainConfig, path, {}).folder == point.folder


def test_the_servers_automations_are_valid_and_wait_for_several_heartbeats() -> None:
    file = yaml.safe_load((ROOT / "prefect-automations.yaml").read_text())
    silent, stuck = [AutomationCore.model_validate(each) for each in file["automations"]]
    beat = tomllib.loads((ROOT / "prefect.toml").read_text())["flows"]["heartbeat_frequency"]
    assert silent.trigger.within.total_seconds() >= 5 * beat
    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}
    for automation in (silent, stuck):
        assert automation.trigger.posture == "Proactive"
        assert automation.trigger.expect > ends
        assert automation.actions[0].state == StateType.CRASHED


def test_the_terminal_the_readme_and_the_first_run_print_the_same_commands() -> None:
    texts = [local_server.READY, *((ROOT / name).read_text() for name in PAGES)]
    found = [re.findall(r"^ *prefect deployment run (\S+) +(-p config=\S+ --watch)$", t, re.MULTILINE) for t in texts]
    assert len(found[0]) == 3
    assert found[1] == found[0]
    assert found[2][:3] == found[0]


@pytest.mark.parametrize("page", PAGES)
def test_the_overrides_that_a_page_shows_are_accepted_by_the_form(page: str) -> None:
    shown = re.findall(r"-p 'overrides=(\{.+?\})'", (ROOT / page).read_text())
    assert shown
    for text in shown:
        parameters = {"config": "configs/quickstart/train.yaml", "overrides": json.loads(text)}
        validate(parameters, train.train_student.parameters.model_dump(), raise_on_error=True)


def test_the_local_worker_takes_one_run_at_a_time() -> None:
    assert local_server.POOLS["local"] == ("--limit", "1")


def test_a_runs_overrides_choose_where_an_extraction_runs() -> None:
    overrides = as_overrides({"runner.kind": "dask", "runner.address": "tcp://10.0.0.1:8786", "device": "cuda"})
    config = load_config(CacheConfig, ROOT / "configs/cache/clinicdb-hiera-t-256.yaml", overrides)
    assert config.runner == DaskRunner(address="tcp://10.0.0.1:8786")
    assert load_config(CacheConfig, ROOT / "configs/cache/clinicdb-hiera-t-256.yaml").runner == LocalRunner()


def test_the_receipt_says_what_was_added_and_what_there_is() -> None:
    facts = {"path": "q.zarr", "content_id": "ab", "records": {"train": {"readable": 3}, "val": {"readable": 2}}}
    made = extract.receipt(
        facts, ["extracting: 5/5 records, 9.0/s", "q.zarr: 5 records, 2 computed now; content id ab"]
    )
    assert made == {"store": "q.zarr", "content_id": "ab", "records": 5, "computed": 2}


def test_the_card_of_a_run_tells_how_to_look_at_it() -> None:
    text = train.card(Path("runs/a-1"), {"store": "q.zarr", "content_id": "ab" * 32, "seconds": 61.2})
    assert "sward report runs/a-1" in text
    assert "61 s" in text
