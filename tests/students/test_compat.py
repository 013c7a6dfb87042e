"""torchvision beside a torch it was not built for: a stand-in package, so that the test needs neither."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sward.compat import import_torchvision_safely

BROKEN = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold): ...
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold): ...
whole = True
"""
PROGRAM = """
import sys
import sward.students
assert not {"torchvision", "timm", "segmentation_models_pytorch", "torchmetrics"} & set(sys.modules)
from sward.compat import import_torchvision_safely
import_torchvision_safely(); import_torchvision_safely()
import torchvision
assert torchvision.whole
"""


def run_beside(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())])}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_missing_operators_are_declared_and_the_import_repeated(tmp_path: Path) -> None:
    result = run_beside(tmp_path, BROKEN)
    assert result.returncode == 0, result.stderr


def test_any_other_failure_is_passed_on(tmp_path: Path) -> None:
    result = run_beside(tmp_path, "raise RuntimeError('some other trouble')")
    assert "RuntimeError: some other trouble" in result.stderr


def test_no_torchvision_at_all_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    import_torchvision_safely()
