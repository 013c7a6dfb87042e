"""Pairs teacher and student levels, and resizes maps (Eq. 2-3) and labels to one grid."""

# B batch, C channels, H W height and width of a map, h w of the labels

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sward.contracts import IGNORE
from sward.levels import stride


def pair_levels(
    teacher: Sequence[str],
    student: Sequence[str],
    pairing: Literal["auto", "stride", "order"] | list[tuple[str, str]] = "auto",
) -> list[tuple[str, str]]:
    """Pairs each teacher level with a student level.

    Args:
        teacher: the teacher's levels, shallow to deep.
        student: the student's levels, shallow to deep.
        pairing: 'stride' pairs levels with equal strides (if two levels of one side share a stride: equal names).
            'order' pairs from the deepest level upwards and drops the shallowest levels of the longer list. 'auto'
            pairs by stride if every level of the shorter list has a partner, else by order. A list gives the pairs
            themselves.

    Returns:
        (teacher level, student level) of every stage, shallow to deep.

    Raises:
        ValueError: unknown levels, a teacher level used twice, or no pair at all; lists all mistakes together.
    """
    if isinstance(pairing, list):
        return _checked(teacher, student, pairing)
    equal = same_strides(teacher, student)
    count = min(len(teacher), len(student))
    by_stride = pairing == "stride" or (pairing == "auto" and len(equal) == count)
    pairs = equal if by_stride else list(zip(teacher[-count:], student[-count:], strict=True))
    if not pairs or not count:
        raise ValueError(
            f"no levels pair by {pairing!r}: teacher {list(teacher)}, student {list(student)}; "
            "set pairing to a list of (teacher level, student level)"
        )
    return pairs


def same_strides(teacher: Sequence[str], student: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of levels with equal strides; where two levels of one side share a stride, pairs of equal names."""
    own = {stride(level): level for level in student}
    if len(own) == len(student) and len({stride(level) for level in teacher}) == len(teacher):
        return [(level, own[stride(level)]) for level in teacher if stride(level) in own]
    return [(level, level) for level in teacher if level in student]


def _checked(teacher: Sequence[str], student: Sequence[str], pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    mistakes = [f"teacher has no {t} (it has {list(teacher)})" for t, _ in pairs if t not in teacher]
    mistakes += [f"student has no {s} (it has {list(student)})" for _, s in pairs if s not in student]
    used = [t for t, _ in pairs]
    mistakes += [f"teacher {t} is used twice" for t in sorted({t for t in used if used.count(t) > 1})]
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
