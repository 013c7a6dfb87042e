"""Attention transfer (AT): trains the student's map to have its energy where the teacher's map has it."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, tensors


class ATConfig(FeatureConfig):
    """Weight of the distance between energy maps."""

    kind: Literal["at"] = Field(default="at", description="Squared difference of normalised energy maps.")
    weight: float = Field(
        default=10000.0, gt=0, description="Weight (CIRKD's runs: 10000; the mean over H W explains the size)."
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "AttentionTransfer":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return AttentionTransfer(self, teacher, tensors(student, num_classes, penultimate))


class AttentionTransfer(FeatureMethod):
    """Compares where a map has energy, not its values.

    q is the channel mean of f^2, divided by its L2 norm over H W, so scaling a map changes nothing.

    Terms:
        attention: mean over batch and positions of (q_s - q_t)^2; q is non-negative, so it is at most 2 / (H W).
    Paper and code:
        Zagoruyko and Komodakis, ICLR 2017. As in CIRKD's comparison (2d8ad0f; no licence, so written from the formula
        alone).
    Differences:
        The paper uses several levels; here one, as in that comparison, where logit distillation of weight 1 is added.
    Reads:
        One teacher level. The student is resized bilinearly to its grid, before squaring.
    Random draws:
        None.
    Parameters and buffers:
        None.
    """

    per_sample = True

    def __init__(self, config: ATConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.weights |= {"attention": config.weight}

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"attention": (energy(f_s) - energy(f_t)).square().mean()}


def energy(f_BCHW: Tensor) -> Tensor:
    """q of a map, (B, H W) of length 1: the normalised channel mean of squares (0 for a map of zeros)."""
    return F.normalize(f_BCHW.square().mean(1).flatten(1), dim=1)
