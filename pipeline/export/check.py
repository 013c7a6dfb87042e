"""An exported student against torch's own, on random and on real images: nothing is published before it agrees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.store import Store
from pipeline.export.graph import LEAST, Graph
from pipeline.training.evaluate import batches
from sward.contracts import Student
from sward.pixels import at_size

TOLERANCE = 1e-4  # of a logit, absolute; relative to the largest where logits exceed 1 (float32 rounds so)
REAL = 16  # validation images


class ExportError(ValueError):
    """An export that must not be published, or that lacks what it needs."""


@dataclass(frozen=True)
class Check:
    """What one file was checked with. difference: largest of any logit. largest: logit. changed: share of pixels
    whose class differs, on real images at the size the network reads (None without them)."""

    file: str
    shapes: tuple[tuple[int, ...], ...]
    real: int
    difference: float
    largest: float
    changed: float | None

    def line(self) -> str:
        """For the terminal and the card."""
        sizes = ", ".join(f"{b}×{h}×{w}" for b, _, h, w in self.shapes)
        real = f"{self.real} real images" if self.real else "no real images"
        changed = "" if self.changed is None else f"; {self.changed:.2%} of their pixels change class"
        found = f"max abs diff {self.difference:.1e} (logits up to {self.largest:.1f})"
        return f"{self.file}: {found} on random images {sizes} and {real}{changed}"


def check(student: Student, run: Callable[[Tensor], Tensor], graph: Graph, file: str, real: list[Tensor]) -> Check:
    """Compare logits on random images of several shapes and on ``real`` ones, each (1, 3, H, W), normalised.

    Raises:
        ExportError: they differ by more than the tolerance, or other shapes come out.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = tuple(random_shapes(graph))
    images = [*(torch.randn(shape, generator=generator) for shape in shapes), *real]
    found = [compare(student, run, x, file) for x in images]
    worst, largest = max(f[0] for f in found), max(1.0, *(f[1] for f in found))
    if not worst <= TOLERANCE * largest:
        raise ExportError(
            f"{file} differs from torch by {worst:.2e} in a logit, expected at most {TOLERANCE * largest:.0e}; "
            "not published: try other versions of torch and onnxscript (constraints.txt has those that agree)"
        )
    changed = float(np.mean([f[2] for f in found[len(shapes) :]])) if real else None
    return Check(file, shapes, len(real), worst, largest, changed)


@torch.no_grad()
def compare(student: Student, run: Callable[[Tensor], Tensor], x: Tensor, file: str) -> tuple[float, float, float]:
    """(largest difference of a logit, largest logit, share of pixels that change class) on one batch."""
    expected, found = student(x).logits, run(x)
    if expected.shape != found.shape:
        raise ExportError(f"{file}: logits {tuple(found.shape)}, expected {tuple(expected.shape)}; not published")
    changed = at_class(expected, x) != at_class(found, x)
    return float((expected - found).abs().max()), float(expected.abs().max()), float(changed.float().mean())


def at_class(logits: Tensor, images: Tensor) -> Tensor:
    """Class map at the images' size."""
    return at_size(logits, (images.shape[-2], images.shape[-1])).argmax(1)


def random_shapes(graph: Graph) -> Iterator[tuple[int, ...]]:
    """What the graph must serve: its own size, another batch, and odd multiples where sizes are free."""
    high, wide = graph.size
    m, several = graph.multiple, 3 if graph.free_batch else 1
    yield 1, 3, high, wide
    yield several, 3, high, wide
    if m:
        yield 1, 3, LEAST * m, LEAST * m
        yield several, 3, 3 * m, 5 * m
        yield 1, 3, 7 * m, 2 * m


def real_images(student: Student, store: Store | None) -> list[Tensor]:
    """Validation images as the network reads them; none without a store."""
    if store is None:
        return []
    found = []
    for _, batch in batches(student, store, "val", torch.device("cpu"), 1):
        found.append(batch.images)
        if len(found) == REAL:
            break
    return found


def torch_export_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """The saved program, loaded again from its file."""
    return torch.export.load(path).module()
