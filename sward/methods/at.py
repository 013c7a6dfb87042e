"""Attention transfer (AT): where the teacher's map has energy, the student's should have it too."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, tensors


class ATConfig(FeatureConfig):
    """Weight of the attention maps' distance."""

    kind: Literal["at"] = Field(default="at", description="Squared difference of normalised energy maps.")
    weight: float = Field(
        default=10000.0, gt=0, description="Weight (CIRKD's runs: 10000; the mean over H W explains the size)."
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "AttentionTransfer":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return AttentionTransfer(self, teacher, tensors(student, num_classes, penultimate))


class AttentionTransfer(FeatureMethod):
    """Term ``attention``: mean over batch and positions of (q_s - q_t)^2.

    q is the channel mean of f^2, divided by its L2 norm over H W. Scaling a map changes nothing, and for
    non-negative q the term is at most 2 / (H W).
    Paper: Zagoruyko and Komodakis, ICLR 2017, several levels; here one, as in CIRKD's comparison (2d8ad0f; no
    licence, so written from the formula alone), where logit distillation of weight 1 is added.
    Needs: one teacher level. The student is resized bilinearly to its grid, before squaring.
    Parameters: none.
    """

    per_sample = True

    def __init__(self, config: ATConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.weights |= {"attention": config.weight}

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"attention": (energy(f_s) - energy(f_t)).square().mean()}


def energy(f_BCHW: Tensor) -> Tensor:
    """q, (B, H W) of length 1: the channel mean of squares (0 for a map of zeros)."""
    return F.normalize(f_BCHW.square().mean(1).flatten(1), dim=1)
