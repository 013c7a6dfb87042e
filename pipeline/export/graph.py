"""Converts a student to a graph that runs without this code: a torch.export program, and ONNX made from it.

The graph takes images and returns logits, nothing else. Batch and image size stay free if the network allows it;
otherwise the reason is kept in ``Graph.limits``, for the model card and the terminal. ONNX is made by torch's exporter
for torch.export programs (``dynamo=True``, set explicitly: the older exporter, on TorchScript, is deprecated and turns
the traced size into constants in UNeXt's shifts).
"""

import copy
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.export.onnx_student import INPUT, OUTPUT, require_package
from pipeline.export.same_padding import with_fixed_padding
from sward.contracts import Student

LEAST = 2  # smallest side of the deepest level, in cells: torch.export treats a size of 1 as constant
OPSET = 18  # the version that torch's exporter is written for; onnxruntime >= 1.14 reads it


class Logits(nn.Module):
    """Wraps a student to return logits only: normalised images (B, 3, H, W) -> (B, K, h, w)."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images).logits


@dataclass(frozen=True)
class Graph:
    """A traced student and its free dimensions.

    Attributes:
        program: result of torch.export.
        size: (height, width) the student was trained for.
        multiple: heights and widths must be multiples of it; 0 if the size is fixed.
        limits: one sentence for each fixed dimension (size, batch) with the reason; empty if both are free.
    """

    program: torch.export.ExportedProgram
    size: tuple[int, int]
    multiple: int
    limits: list[str]

    @property
    def free_batch(self) -> bool:
        return len(self.limits) < 2

    def describe(self) -> str:
        """Describes the free and fixed dimensions in words."""
        m = self.multiple
        size = f"height and width free: multiples of {m}, from {LEAST * m} up" if m else "height and width fixed"
        return f"batch {'free' if self.free_batch else 'fixed'}; {size}"


def trace(student: Student, size: tuple[int, int]) -> Graph:
    """Traces the student, keeping as much free as its network allows: batch and size, batch alone, or nothing."""
    multiple = max(student.strides.values())
    batch = torch.export.Dim("batch", min=1)
    high, wide = (torch.export.Dim(name, min=LEAST) for name in ("high", "wide"))
    ways: list[tuple[tuple[int, ...], dict[int, Any], int]] = [
        ((2, 3, 3 * multiple, 4 * multiple), {0: batch, 2: multiple * high, 3: multiple * wide}, multiple),
        ((2, 3, *size), {0: batch}, 0),
        ((1, 3, *size), {}, 0),
    ]
    model = Logits(with_fixed_padding(student)).eval()
    limits: list[str] = []
    with quiet():
        for shape, free, found in ways[:-1]:
            try:
                program = torch.export.export(model, (torch.zeros(shape),), dynamic_shapes=(free,))
                return Graph(program, size, found, limits)
            except Exception as error:  # torch.export's errors have no common base class
                what = "size" if found else "batch"
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                limits.append(f"the {what} is fixed, because torch.export cannot keep it free: {reason:.200}")
        return Graph(torch.export.export(model, (torch.zeros(ways[-1][0]),)), size, 0, limits)


def to_torch_export(graph: Graph, metadata: dict[str, Any]) -> bytes:
    """Returns a .pt2 file for ``torch.export.load``, with the metadata as its extra file ``student.json``."""
    for node in graph.program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this machine
    buffer = io.BytesIO()
    torch.export.save(graph.program, buffer, extra_files={"student.json": json.dumps(metadata)})
    return buffer.getvalue()


def to_onnx(graph: Graph, metadata: dict[str, Any]) -> bytes:
    """Returns an .onnx file with ``metadata`` in it, each value as JSON, and without paths of this machine."""
    require_package("onnxscript")
    onnx = require_package("onnx")
    with quiet():
        made = torch.onnx.export(
            copy.deepcopy(graph.program),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    model = made.model_proto  # type: ignore[union-attr]  # None only if the exporter writes a file
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with paths of this machine
    own_scales(model)
    embed(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def own_scales(model: Any) -> None:
    """Gives every Resize node a copy of its scales, in place: onnxruntime's conversion to float16 cannot share them."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Resize" and (name := node.input[2]) in constants:
            if name in seen:
                same = model.graph.initializer.add()
                same.CopyFrom(constants[name])
                node.input[2] = same.name = f"{node.name}_scales"
            seen.add(name)


def embed(model: Any, metadata: dict[str, Any]) -> None:
    """Writes metadata into an ONNX model, in place; existing metadata is removed."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)


@contextmanager
def quiet() -> Iterator[None]:
    """Hides a warning that users cannot act on: torch's exporter uses a part of torch that torch has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec", category=FutureWarning)
        yield
