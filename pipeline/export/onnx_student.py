"""Runs an exported student (ONNX) through the student interface, so that evaluation and prediction work unchanged.

Only the file is needed: classes, input size and normalisation are in the file's metadata.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sward.contracts import Student, StudentOutput

INPUT, OUTPUT = "images", "logits"
KEYS = ("classes", "size", "mean", "std")


class OnnxError(ValueError):
    """A file is not an exported student, or a package for ONNX is not installed."""


class OnnxStudent(Student):
    """Student that onnxruntime runs; it returns logits only, without features and gradients.

    Args:
        path: file made by `sward export`.
        threads: CPU threads; 0 leaves the choice to onnxruntime.
        gpu: use a GPU if this onnxruntime can.

    Attributes:
        card: metadata in the file.

    Raises:
        OnnxError: onnxruntime is not installed or cannot read the file, or the file lacks the metadata.
    """

    def __init__(self, path: str | Path, threads: int = 0, gpu: bool = True) -> None:
        super().__init__()
        self.session = open_session(Path(path), threads, gpu)
        found = self.session.get_modelmeta().custom_metadata_map
        if missing := [key for key in KEYS if key not in found]:
            raise OnnxError(f"{path} lacks the metadata {', '.join(missing)}; give a file that `sward export` made")
        self.card: dict[str, Any] = {key: json.loads(value) for key, value in found.items()}
        self.num_classes = len(self.card["classes"])
        self.channels, self.strides = {}, {}

    def forward(self, images: Tensor) -> StudentOutput:
        """Normalised images (B, 3, H, W) float32 -> logits (B, K, h, w) on the images' device."""
        (found,) = self.session.run([OUTPUT], {INPUT: images.detach().cpu().numpy()})
        logits = torch.from_numpy(found).to(images.device)
        return StudentOutput(logits, {}, torch.empty(0))


def open_session(path: Path, threads: int = 0, gpu: bool = True) -> Any:
    """Opens an onnxruntime session, on the GPU if ``gpu`` is set and this onnxruntime can, otherwise on the CPU."""
    runtime = require_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3  # 3: log errors only
    there = [p for p in ("CUDAExecutionProvider",) if gpu and p in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(str(path), options, providers=[*there, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise OnnxError(f"onnxruntime cannot read {path}: {error}") from error


def require_package(package: str) -> Any:
    """Imports and returns a package.

    Raises:
        OnnxError: the package is not installed; says how to install it.
    """
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise OnnxError(f"{package} is not installed; install the extra: pip install 'sward[export]'") from error
