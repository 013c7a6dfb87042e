"""Pairs teacher and student levels, and resizes maps (Eq. 2-3) and labels to one grid."""

# B batch, C channels, H W height and width of a map, h w of the labels

from collections.abc import Collection, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sward.contracts import IGNORE
from sward.levels import by_teacher, cell_of, own_name, stride, zoom_of


def pair_levels(
    teacher: Collection[str],
    student: Sequence[str],
    pairing: Literal["auto", "stride", "order"] | list[tuple[str, str]] = "auto",
) -> list[tuple[str, str]]:
    """Pairs each teacher level with a student level.

    Args:
        teacher: the teacher's levels, shallow to deep; ``TeacherChannels`` if it sees the view at its own size. Of
            several teachers, each is paired as if it were alone.
        student: the student's levels, shallow to deep.
        pairing: 'stride' pairs levels with equal strides (if two levels of one side share a stride: equal names).
            'order' pairs from the deepest level upwards and drops the shallowest levels of the longer list. 'auto'
            pairs by stride if every level of the shorter list has a partner, else by order. A list gives the pairs
            themselves. Of a teacher with its own size, 'stride' compares cells on the image (s16 at 512 pixels is s4
            at 128), and 'auto' takes those pairs if there is one and no two teacher levels share a grid.

    Returns:
        (teacher level, student level) of every stage, shallow to deep.

    Raises:
        ValueError: unknown levels, a pair given twice, or no pair at all; lists all mistakes together.
    """
    if isinstance(pairing, list):
        return _checked(teacher, student, pairing)
    return [pair for own in by_teacher(teacher) or [teacher] for pair in _paired(own, student, pairing)]


def _paired(
    teacher: Collection[str], student: Sequence[str], pairing: Literal["auto", "stride", "order"]
) -> list[tuple[str, str]]:
    equal = same_strides(teacher, student)
    count = min(len(teacher), len(student))
    complete = bool(equal) and distinct(teacher) if zoomed(teacher) else len(equal) == count
    by_stride = pairing == "stride" or (pairing == "auto" and complete)
    pairs = equal if by_stride else list(zip(list(teacher)[-count:], student[-count:], strict=True))
    if not pairs or not count:
        raise ValueError(
            f"no levels pair by {pairing!r}: teacher {list(teacher)}, student {list(student)}; "
            "set pairing to a list of (teacher level, student level)"
        )
    return pairs


def same_strides(teacher: Collection[str], student: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of levels with equal strides on the image; where two of one side share one, pairs of equal names.

    Names say nothing where the teacher has its own size: there each level of a shared grid pairs with the student's.
    """
    own = {stride(level): level for level in student}
    if zoomed(teacher) or (len(own) == len(student) and distinct(teacher)):
        cells = {level: int(cell) for level in teacher if (cell := cell_of(level, teacher)).denominator == 1}
        return [(level, own[cell]) for level, cell in cells.items() if cell in own]
    return [(level, own_name(level)) for level in teacher if own_name(level) in student]


def zoomed(teacher: Collection[str]) -> bool:
    """Whether a teacher sees the view at another size than the student."""
    return any(zoom_of(level, teacher) != 1 for level in teacher)


def distinct(teacher: Collection[str]) -> bool:
    """Whether no two levels share a stride."""
    return len({stride(level) for level in teacher}) == len(teacher)


def _checked(teacher: Collection[str], student: Sequence[str], pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    mistakes = [f"teacher has no {t} (it has {list(teacher)})" for t, _ in pairs if t not in teacher]
    mistakes += [f"student has no {s} (it has {list(student)})" for _, s in pairs if s not in student]
    mistakes += [f"the pair {t}, {s} is given twice" for t, s in sorted({p for p in pairs if pairs.count(p) > 1})]
    if not pairs:
        mistakes = ["the list is empty; give at least one (teacher level, student level)"]
    if mistakes:
        raise ValueError("pairing: " + "; ".join(mistakes))
    return list(pairs)


def resize(f_BCHW: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """Resizes a map bilinearly, corners not aligned (Eq. 2); returns the map itself if it already has ``size``."""
    if f_BCHW.shape[-2:] == size:
        return f_BCHW
    return F.interpolate(f_BCHW, size, mode="bilinear", align_corners=False, antialias=antialias)


def labels_on_grid(labels_Bhw: Tensor, size: tuple[int, int], pure: bool = False) -> Tensor:
    """Samples labels (B, h, w) onto a map's grid: (B, H, W) int64.

    Args:
        labels_Bhw: class labels or ``IGNORE``.
        size: (H, W) of the grid, in cells.
        pure: False takes each cell's first pixel (as ``interpolate(mode="nearest")``). True keeps a cell's label
            only if all of its pixels agree; all other cells become ``IGNORE``.
    """
    y = labels_Bhw[:, None].float()  # exact for labels below 2**24
    if not pure:
        return F.interpolate(y, size, mode="nearest")[:, 0].long()
    highest, lowest = F.adaptive_max_pool2d(y, size), -F.adaptive_max_pool2d(-y, size)
    return torch.where(highest == lowest, highest, IGNORE)[:, 0].long()
