"""Loss scale of float16: keeps small gradients from becoming zero in half precision; of other precisions there is none.

The scale is Fabric's GradScaler. It starts at 65536, halves where a gradient overflows (that step changes nothing) and
doubles after 2000 steps without. It is part of a checkpoint.
"""

from typing import Any

import torch
from torch.amp import GradScaler

from pipeline.training.config import TrainConfig

SMALLEST = 1.0  # a gradient that overflows at this scale is no matter of the scale


def fabric_precision(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """Arguments of Fabric for the run's precision; Fabric itself would replace float16 by bfloat16 on a CPU."""
    if config.precision == "16-mixed":
        from lightning_fabric.plugins import MixedPrecision  # Fabric is imported first in `distributed/fabric.py`

        return {"plugins": MixedPrecision("16-mixed", device.type)}
    return {"precision": config.precision}


def scaler_of(fabric: Any) -> GradScaler | None:
    """The scaler of a run in float16; None in other precisions."""
    return getattr(fabric.strategy.precision, "scaler", None)


def unscale(fabric: Any, optimizer: torch.optim.Optimizer) -> None:
    """Gradients in the loss's own unit, in place; the scaler remembers whether any overflowed."""
    if scaler := scaler_of(fabric):
        scaler.unscale_(getattr(optimizer, "optimizer", optimizer))  # of Fabric's wrapper


def skips(fabric: Any) -> bool:
    """Whether a step whose gradient is not finite is left out and tried at a smaller scale, and is no error."""
    scaler = scaler_of(fabric)
    return scaler is not None and scaler.get_scale() > SMALLEST
