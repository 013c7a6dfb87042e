"""Vectors and labels of a map's cells, as several relational methods need them."""

# B batch, H W height and width of a map, K classes

import torch
from torch import Tensor

from sward.align import labels_on_grid
from sward.contracts import Batch
from sward.methods.base import grid

EPS = 1e-8  # shorter vectors have no direction


def unit(x: Tensor, dim: int) -> Tensor:
    """Vectors scaled to length 1 along ``dim``; those of length ``EPS`` or less become 0 and get no gradient."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return torch.where(length > EPS, x, 0.0) / length.clamp_min(EPS)


def labelled(batch: Batch, f_BCHW: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels nearest to the map's grid, and where they name a class: (B, H, W) int64 and bool.

    A label outside 0 … K - 1 counts as ``IGNORE`` does.
    """
    y = labels_on_grid(batch.labels, grid(f_BCHW))
    return y, (y >= 0) & (y < num_classes)


def mean_where(x: Tensor, counted: Tensor) -> Tensor:
    """Mean of ``x`` where ``counted`` (same shape, bool) holds; 0 without gradient where it never does."""
    return torch.where(counted, x, 0.0).sum() / counted.sum().clamp_min(1)
