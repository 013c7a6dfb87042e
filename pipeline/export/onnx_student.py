"""An exported student (ONNX) as a network like any other: evaluated and predicted with by the same code.

It needs nothing but its file: classes, input size and normalisation are in the file's metadata.
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
    """A file is no exported student, or onnxruntime is missing."""


class OnnxStudent(Student):
    """onnxruntime behind a student's interface; it has logits only, no features and no gradients.

    ``card`` holds the metadata that `sward export` has written. ``threads``: 0 leaves the choice to
    onnxruntime. ``gpu``: use one where this onnxruntime can.

    Raises:
        OnnxError: onnxruntime is not installed, it cannot read the file, or the file has no metadata of ours.
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
    """An onnxruntime session: on the GPU where this onnxruntime can, else on the CPU."""
    runtime = require_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3  # 3: errors alone
    there = [p for p in ("CUDAExecutionProvider",) if gpu and p in runtime.get_available_providers()]
    try:
        return runtime.InferenceSession(str(path), options, providers=[*there, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds share no base
        raise OnnxError(f"onnxruntime cannot read {path}: {error}") from error


def require_package(package: str) -> Any:
    """The module, or how to get it."""
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise OnnxError(f"{package} is not installed; install the extra: pip install 'sward[export]'") from error
