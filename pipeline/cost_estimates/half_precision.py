"""What `teacher.autocast` gains and changes here: time per view, and the error of every level, against float32."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.cost_estimates.calibration import median_seconds
from pipeline.devices import resolve_device, wait_for


@dataclass(frozen=True)
class HalfPrecision:
    """A teacher in bfloat16 autocast against the same one in float32, on one view.

    Attributes:
        seconds: per view in (float32, bfloat16).
        errors: level -> relative error of the L2 norm, of features without their channel means.
        autocast: the setting that gives the second: the teacher's own, or true.
    """

    seconds: tuple[float, float]
    errors: dict[str, float]
    autocast: bool | str = True


def measure_half_precision(teacher: Any, images: Tensor, device: str) -> HalfPrecision:
    """Runs the teacher in both precisions on normalised images (B, 3, H, W); leaves its setting as it was."""
    where, wanted = resolve_device(device), teacher.autocast
    teacher, images = teacher.to(where), images.to(where)
    half = wanted or True
    found, seconds = {}, {}
    try:
        for autocast in (False, half):
            teacher.autocast = autocast
            found[autocast] = teacher(images)

            def once() -> None:
                teacher(images)
                wait_for(where)

            seconds[autocast] = median_seconds(once, repeats=3, budget=1.0) / len(images)
    finally:
        teacher.autocast = wanted
    errors = {level: centred_error(found[half][level], f) for level, f in found[False].items()}
    return HalfPrecision((seconds[False], seconds[half]), errors, half)


def centred_error(found_BCHW: Tensor, expected_BCHW: Tensor) -> float:
    """Largest relative error over a batch, of maps without the means of their channels; 0 is equal."""
    found, expected = (f.flatten(2).double() for f in (found_BCHW, expected_BCHW))
    found, expected = (f - f.mean(2, keepdim=True) for f in (found, expected))
    lengths = torch.linalg.vector_norm(expected, dim=(1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    return float((torch.linalg.vector_norm(found - expected, dim=(1, 2)) / lengths).max())
