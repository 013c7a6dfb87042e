"""Fixtures for every test: where the real data sets and weights lie, if they do."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``datasets/`` and ``weights/`` of the real runs: ``$SWARD_SHARED``, or beside the checkout."""
    path = Path(os.environ.get("SWARD_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (path / "datasets").is_dir():
        pytest.skip(f"no real data sets at {path / 'datasets'}; set SWARD_SHARED to the folder that holds them")
    return path
