"""Compares an exported student with the student in torch, on random and on real images.

An export is published only after this comparison. On white noise, which no training image resembles, running statistics
of batch normalisation do not fit and logits may grow to hundreds; float32 is coarse there, in torch as in the file. So
where the two differ by more than the tolerance on noise, both are measured against torch in float64.
"""

import copy
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

TOLERANCE = 1e-4  # of a logit: absolute, but relative to the largest logit above 1, as float32 rounding is
ROUNDING = 4  # times torch's own distance from float64: what another order of the same sums may differ by, on noise
NEARBY = 5  # inputs, apart by their last bits, over which that distance is taken: that of one is a matter of luck
REAL = 16  # number of validation images compared


class ExportError(ValueError):
    """An export lacks something it needs, or must not be published because it disagrees with torch."""


@dataclass(frozen=True)
class Check:
    """Result of comparing one exported file with torch.

    Attributes:
        file: name of the exported file.
        shapes: (batch, 3, height, width) of the random images.
        real: number of real images.
        difference: largest absolute difference of a logit.
        largest: largest absolute logit, at least 1.
        changed: share of pixels whose class differs, on real images at the network's input size; None without them.
        rounding: largest distance of a logit in torch from float64, where it excuses a larger difference on noise.
    """

    file: str
    shapes: tuple[tuple[int, ...], ...]
    real: int
    difference: float
    largest: float
    changed: float | None
    rounding: float | None = None

    def line(self) -> str:
        """The result as one line for the terminal and the model card."""
        sizes = ", ".join(f"{b}×{h}×{w}" for b, _, h, w in self.shapes)
        real = f"{self.real} real images" if self.real else "no real images"
        changed = "" if self.changed is None else f"; {self.changed:.2%} of their pixels change class"
        found = f"max abs diff {self.difference:.1e} (logits up to {self.largest:.1f})"
        found += f", torch itself {self.rounding:.1e} from float64" if self.rounding is not None else ""
        return f"{self.file}: {found} on random images {sizes} and {real}{changed}"


def check(student: Student, run: Callable[[Tensor], Tensor], graph: Graph, file: str, real: list[Tensor]) -> Check:
    """Compares logits on random images of several shapes and on ``real`` images, each (1, 3, H, W), normalised.

    Raises:
        ExportError: the logits differ by more than the tolerance (on noise, also by more than ``ROUNDING`` allows), or
            in shape.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = tuple(random_shapes(graph))
    images = [*(torch.randn(shape, generator=generator) for shape in shapes), *real]
    found = [compare(student, run, x, file) for x in images]
    worst, largest = max(f[0] for f in found), max(1.0, *(f[1] for f in found))
    rounding: list[float] = []
    for number, (x, (difference, _, _)) in enumerate(zip(images, found, strict=True)):
        if difference <= TOLERANCE * largest:
            continue
        rounding += [own_rounding(student, x)] if number < len(shapes) else [0.0]
        if not difference <= ROUNDING * rounding[-1]:
            raise ExportError(
                f"{file} differs from torch by {difference:.2e} in a logit, expected at most "
                f"{TOLERANCE * largest:.0e}; not published: try other versions of torch and onnxscript "
                "(constraints.txt lists versions that agree)"
            )
    changed = float(np.mean([f[2] for f in found[len(shapes) :]])) if real else None
    return Check(file, shapes, len(real), worst, largest, changed, max(rounding, default=None))


@torch.no_grad()
def own_rounding(student: Student, x: Tensor) -> float:
    """Largest distance of a logit of ``student`` in float32 from the same in float64, of x and of inputs beside it."""
    exact = copy.deepcopy(student).double()(x.double()).logits
    nearby = (x * (1 + number * torch.finfo(torch.float32).eps) for number in range(NEARBY))
    return max(float((student(near).logits - exact).abs().max()) for near in nearby)


@torch.no_grad()
def compare(student: Student, run: Callable[[Tensor], Tensor], x: Tensor, file: str) -> tuple[float, float, float]:
    """Returns (largest difference of a logit, largest logit, share of pixels that change class) of one batch."""
    expected, found = student(x).logits, run(x)
    if expected.shape != found.shape:
        raise ExportError(
            f"{file}: logits have the shape {tuple(found.shape)}, expected {tuple(expected.shape)}; not published: try "
            "other versions of torch and onnxscript (constraints.txt lists versions that agree)"
        )
    changed = at_class(expected, x) != at_class(found, x)
    return float((expected - found).abs().max()), float(expected.abs().max()), float(changed.float().mean())


def at_class(logits: Tensor, images: Tensor) -> Tensor:
    """Class map of the logits, enlarged to the images' size."""
    return at_size(logits, (images.shape[-2], images.shape[-1])).argmax(1)


def random_shapes(graph: Graph) -> Iterator[tuple[int, ...]]:
    """Yields input shapes the graph must accept: its own size, another batch, odd multiples where sizes are free."""
    high, wide = graph.size
    m, several = graph.multiple, 3 if graph.free_batch else 1
    yield 1, 3, high, wide
    yield several, 3, high, wide
    if m:
        yield 1, 3, LEAST * m, LEAST * m
        yield several, 3, 3 * m, 5 * m
        yield 1, 3, 7 * m, 2 * m


def real_images(student: Student, store: Store | None) -> list[Tensor]:
    """Reads up to ``REAL`` validation images as the network's input, each (1, 3, H, W); none without a store."""
    if store is None:
        return []
    found = []
    for _, batch in batches(student, store, "val", torch.device("cpu"), 1):
        found.append(batch.images)
        if len(found) == REAL:
            break
    return found


def torch_export_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Loads a saved torch.export program from its file."""
    return torch.export.load(path).module()
