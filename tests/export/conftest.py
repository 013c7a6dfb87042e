"""Fixtures of the tests of exported files."""

import pytest

from pipeline.export.check import ExportError
from pipeline.export.web_runtime import find_runtime


@pytest.fixture(scope="session")
def runtime():
    """The package onnxruntime-web; where it cannot be had the test is skipped."""
    try:
        return find_runtime()
    except ExportError as error:
        pytest.skip(f"onnxruntime-web cannot be had here: {error}")
