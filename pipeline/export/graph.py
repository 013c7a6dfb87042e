"""A student as a graph that runs without this code: torch.export's program, and ONNX made from it.

Only images go in and logits come out. Batch and size stay free where the network allows it; where it does not,
the reason is kept and told. ONNX comes from torch's exporter on torch.export (``dynamo=True``, pinned here: the older
one, on TorchScript, is deprecated and traces sizes into UNeXt's shifts).
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
from sward.contracts import Student

LEAST = 2  # cells a side at the deepest level: torch.export takes 1 for a constant
OPSET = 18  # what torch's exporter is written for; onnxruntime >= 1.14 reads it


class Logits(nn.Module):
    """A student's logits alone: (B, 3, H, W) normalised images -> (B, K, h, w)."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images).logits


@dataclass(frozen=True)
class Graph:
    """program: what torch.export gives. size: (height, width) the student was trained for. multiple: sizes must be
    its multiples; 0 where the size is fixed. limits: what is fixed, and why; empty where batch and size are free."""

    program: torch.export.ExportedProgram
    size: tuple[int, int]
    multiple: int
    limits: list[str]

    @property
    def free_batch(self) -> bool:
        return len(self.limits) < 2

    def describe(self) -> str:
        """The free and fixed dimensions for people."""
        m = self.multiple
        size = f"height and width free: multiples of {m}, from {LEAST * m} up" if m else "height and width fixed"
        return f"batch {'free' if self.free_batch else 'fixed'}; {size}"


def trace(student: Student, size: tuple[int, int]) -> Graph:
    """The student as a graph, as free as its network lets it be: batch and size, batch alone, nothing."""
    multiple = max(student.strides.values())
    batch = torch.export.Dim("batch", min=1)
    high, wide = (torch.export.Dim(name, min=LEAST) for name in ("high", "wide"))
    ways: list[tuple[tuple[int, ...], dict[int, Any], int]] = [
        ((2, 3, 3 * multiple, 4 * multiple), {0: batch, 2: multiple * high, 3: multiple * wide}, multiple),
        ((2, 3, *size), {0: batch}, 0),
        ((1, 3, *size), {}, 0),
    ]
    model = Logits(student).eval()
    limits: list[str] = []
    with quiet():
        for shape, free, found in ways[:-1]:
            try:
                program = torch.export.export(model, (torch.zeros(shape),), dynamic_shapes=(free,))
                return Graph(program, size, found, limits)
            except Exception as error:  # torch.export's refusals share no base
                what = "size" if found else "batch"
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                limits.append(f"the {what} is fixed, because torch.export cannot keep it free: {reason:.200}")
        return Graph(torch.export.export(model, (torch.zeros(ways[-1][0]),)), size, 0, limits)


def to_torch_export(graph: Graph, metadata: dict[str, Any]) -> bytes:
    """A .pt2 file for ``torch.export.load``; the metadata is its extra file ``student.json``."""
    for node in graph.program.graph.nodes:
        node.meta.pop("stack_trace", None)  # this machine's paths
    buffer = io.BytesIO()
    torch.export.save(graph.program, buffer, extra_files={"student.json": json.dumps(metadata)})
    return buffer.getvalue()


def to_onnx(graph: Graph, metadata: dict[str, Any]) -> bytes:
    """An .onnx file with ``metadata`` in it, each value as JSON. Nodes carry no trace of the machine they came from."""
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
    model = made.model_proto  # type: ignore[union-attr]  # None only where a file is asked for
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with this machine's paths
    embed(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def embed(model: Any, metadata: dict[str, Any]) -> None:
    """Write metadata into an ONNX model, in place; what was there goes."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)


@contextmanager
def quiet() -> Iterator[None]:
    """torch's exporter uses a part of torch that torch itself has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec", category=FutureWarning)
        yield
