"""Fixtures for every test: where the real data sets and weights lie, if they do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``datasets/`` and ``weights/`` of the real runs: ``$SWARD_SHARED``, or beside the checkout."""
    path = Path(os.environ.get("SWARD_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (path / "datasets").is_dir():
        pytest.skip(f"no real data sets at {path / 'datasets'}; set SWARD_SHARED to the folder that holds them")
    return path


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A test that sets torch's thread count, which changes how sums round, leaves no trace on the next one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
