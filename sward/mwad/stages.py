"""Stages of MWAD: their names, the check of the maps that reach one, and the means and sums of their terms."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Features = Mapping[str, Tensor]
Terms = dict[str, Tensor]


def stage_names(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names of the stages: the teacher level, or ``s16>s8`` where a teacher level has several student levels.

    >>> stage_names([("s8", "s8"), ("s16", "s8"), ("s16", "s16")])
    ['s8', 's16>s8', 's16>s16']
    """
    used = [t for t, _ in pairs]
    return [t if used.count(t) == 1 else f"{t}>{s}" for t, s in pairs]


def checked_map(features: Features, level: str, channels: int, who: str, dtype: torch.dtype) -> Tensor:
    """Returns the map (B, C, H, W) of a level in ``dtype``, or float32 if that is wider.

    Raises:
        ValueError: it is missing, or has other channels than the module was built for.
    """
    if level not in features:
        raise ValueError(f"no {who} features of level {level}; found {sorted(features)}; pass all levels in `pairs`")
    f = features[level]
    if f.ndim != 4 or f.shape[1] != channels:
        raise ValueError(
            f"{who} {level}: found shape {tuple(f.shape)}, expected (B, {channels}, H, W); "
            "build MWAD with the channels of the features"
        )
    return f.to(torch.promote_types(dtype, torch.float32))


def mean_of(stages: Sequence[Terms]) -> Terms:
    """Returns the mean of every term over the stages of one teacher, Eq. 15."""
    return {name: torch.stack([terms[name] for terms in stages]).mean() for name in stages[0]}


def added(teachers: Sequence[Terms]) -> Terms:
    """Returns the sum of every term over the teachers."""
    return {name: sum((terms[name] for terms in teachers[1:]), teachers[0][name]) for name in teachers[0]}
