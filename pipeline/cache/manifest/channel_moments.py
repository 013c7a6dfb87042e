"""Mean and standard deviation of the teacher's channels, out of the sums that receipts hold."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.records import receipt_path


def require_statistics(path: Path, receipts: Mapping[str, dict[str, Any]], channels: Mapping[str, int]) -> None:
    """Refuses receipts without the statistics of every channel.

    Args:
        path: folder of the store.
        receipts: unit -> receipt.
        channels: level -> number of channels, of the plan.

    Raises:
        StoreDamaged: names the receipt and what to do.
    """
    for unit, receipt in receipts.items():
        for level, count in channels.items():
            found = receipt["levels"].get(level, {"sum": [], "sum_squares": []})
            if wrong := {n for name in ("sum", "sum_squares") if (n := len(found[name])) != count}:
                raise StoreDamaged(
                    f"damaged file: {receipt_path(path, unit)} has statistics of {wrong.pop()} channels of {level}, "
                    f"the plan says {count}; delete it and run the command that made the store again"
                )


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
