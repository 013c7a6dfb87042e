"""Mean and standard deviation of the teacher's channels, out of the sums that receipts hold."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def channel_moments(receipts: Sequence[dict[str, Any]], levels: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Level -> (mean, std) over all values of the receipts' units, each (C,) float32."""
    moments = {}
    for level in levels:
        count = sum(r["levels"][level]["count"] for r in receipts)
        first, second = (
            np.sum([r["levels"][level][k] for r in receipts], axis=0) / count for k in ("sum", "sum_squares")
        )
        std = np.sqrt(np.maximum(second - first**2, 0))
        moments[level] = torch.tensor(first, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    return moments
