"""Fixtures for every test: where the real data sets and weights lie, if they do."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison_fixtures import compare_config, compared, without_report  # noqa: F401 (fixtures of every folder)
from tiny import HEAD, tiny_cache, tiny_train

os.environ.pop("COLUMNS", None)  # lines are folded where a terminal or this says how wide they may be
os.unsetenv("COLUMNS")  # readline sets it for child processes alone


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``datasets/`` and ``weights/`` of the real runs: ``$SWARD_SHARED``, or beside the checkout."""
    path = Path(os.environ.get("SWARD_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (path / "datasets").is_dir():
        pytest.skip(f"no real data sets at {path / 'datasets'}; set SWARD_SHARED to the folder that holds them")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The configuration of a store in miniature that is there; a module's own, in place of pytest's `cache`."""
    from pipeline.cache.extraction.extract import extract

    config = tiny_cache(tmp_path_factory.mktemp("cache"))
    extract(config)
    return config


@pytest.fixture(scope="module")
def runs(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs in which the teacher's head is fitted on the miniature store."""
    from pipeline.training.loop import train

    folder = tmp_path_factory.mktemp("runs")
    train(tiny_train(folder, cache, head=HEAD).head_run())
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked ``gpu`` where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A test that sets torch's thread count, which changes how sums round, leaves no trace on the next one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
