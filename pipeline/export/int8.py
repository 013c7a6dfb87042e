"""Quantises an exported student to int8 (onnxruntime, static, post-training) and evaluates the result.

Calibration uses training images, evaluation the validation split. Only convolutions and matrix products are quantised;
norms, activations and resizing stay in float32. Weights are signed, per output channel, with 7 bits (``reduce_range``):
with 8 bits, sums saturate on processors without VNNI.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.cache.store import Store
from pipeline.export.onnx_student import INPUT, OnnxStudent, require_package
from pipeline.training.batch_order import Order
from pipeline.training.evaluate import evaluate
from pipeline.training.stream import Stream
from sward.contracts import Student

CALIBRATION = 64  # at most this many training images, each in its first view


@contextmanager
def quiet_root() -> Iterator[None]:
    """Holds back warnings of the root logger: onnxruntime advises to preprocess the model, which is done here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def quantise(source: Path, target: Path, store: Store) -> int:
    """Writes the int8 version of an exported student; returns the number of calibration images."""
    quantization = require_package("onnxruntime.quantization")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = list(calibration(store))
    prepared = target.with_suffix(".prepared")
    with quiet_root(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime calls deprecated functions of onnx
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            reader(quantization.CalibrationDataReader, images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
    prepared.unlink()
    return len(images)


def calibration(store: Store) -> Iterator[torch.Tensor]:
    """Yields training images in their first view, normalised, (1, 3, H, W), evenly spread over the store."""
    first = [record for record in store.records["train"] if record.view.number == 0]
    chosen = first[:: -(-len(first) // CALIBRATION)]
    stream = Stream(store, Order(tuple(chosen), 1, 0), (), torch.device("cpu"))
    for record in chosen:
        yield stream.batch_of([record]).images


def reader(base: Any, images: list[torch.Tensor]) -> Any:
    """Wraps calibration images in onnxruntime's reader interface; ``base`` is its abstract class."""
    feeds = iter([{INPUT: image.numpy()} for image in images])
    return type("Images", (base,), {"get_next": lambda self: next(feeds, None)})()


def judge(student: Student, exported: Path, store: Store) -> dict[str, dict[str, float]]:
    """Metrics on the validation split, for the student in torch and for the exported file."""
    cpu = torch.device("cpu")
    runners: dict[str, Student] = {"torch": student, exported.name: OnnxStudent(exported)}
    return {name: evaluate(runner, store, "val", cpu, 1)["metrics"] for name, runner in runners.items()}
