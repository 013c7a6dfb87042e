"""Structured knowledge distillation (SKD): class probabilities, and cosines between the coarse cells of a map.

The student's class distribution at every pixel is trained to be the teacher's. Besides, both feature maps are
max-pooled to a few cells, and the cosine between every two cells of an image is trained to be the teacher's: relations
are matched instead of values, so the two networks may differ in channels.
"""

# B batch, K classes, C channels, H W height and width, m pooled cells (nodes) of an image

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.contracts import HEAD_TENSORS, Batch, Channels, StudentOutput
from sward.methods.base import FeatureConfig, FeatureMethod, TensorName, grid, tensors
from sward.methods.kd import both_logits
from sward.methods.relations.cells import EPS, labelled, mean_where, unit


class SKDConfig(FeatureConfig):
    """Weights, size of the pooled cells, and the switches between paper and code."""

    kind: Literal["skd"] = Field(default="skd", description="Class probabilities, and cosines between coarse cells.")
    level: TensorName = Field(
        default="penultimate",
        description="Map of the pair term: the one before the classifier (the authors'), or a trunk level.",
    )
    pixel: float = Field(
        default=10.0, ge=0, description="Weight of the pixel term (authors: 10); 0 leaves the teacher's logits out."
    )
    pair: float = Field(
        default=4.0,
        gt=0,
        description="Weight of the pair term; 4 suits scale 0.125. Authors, at scale 0.5: 0.5 (script), 1 (code "
        "default), 10 (paper).",
    )
    scale: float = Field(
        default=0.125,
        gt=0,
        le=1,
        description="Side of a pooled cell as a share of the map's; 0.125: about 8 x 8 cells. Authors: 0.5, 2 x 2 "
        "cells at even sizes and 3 x 3 at odd ones.",
    )
    pixel_form: Literal["as_paper", "as_code"] = Field(
        default="as_paper",
        description="(A) Mean over all pixels of KL(T || S), or cross-entropy over H W, summed over the batch: the "
        "same gradient times the batch size.",
    )
    norm_gradient: Literal["plain", "as_code"] = Field(
        default="plain", description="(B) Gradient through the lengths of the pooled vectors, or lengths as constants."
    )
    mask: bool = Field(default=False, description="Count labelled pixels alone in the pixel term (not in the paper).")

    @property
    def uses_head(self) -> bool:
        return self.level in HEAD_TENSORS or self.pixel > 0

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "SKD":
        """The method for this teacher and student. Raises ValueError where a tensor is missing."""
        return SKD(self, teacher, tensors(student, num_classes, penultimate))


class SKD(FeatureMethod):
    """Terms: ``pixel`` (unless its weight is 0) and ``pair``.

    pixel = mean over (B, H, W) of KL(p_t || p_s), p = softmax of the logits over the classes.
    pair = 1 / (B m^2) sum over images and nodes i, j of (cos(v^t_i, v^t_j) - cos(v^s_i, v^s_j))^2, i = j included. v:
    the map max-pooled over cells of max(1, int(H scale)) x max(1, int(W scale)), stride equal to size, the last cell of
    an axis cut by the border. A vector of length 0 has cosine 0.

    Paper and code: Liu et al., CVPR 2019, and "Structured Knowledge Distillation for Dense Prediction". Code: ce208e1
    (BSD-2); formulas checked there, written anew.
    Differences: the third, holistic term is left out: its discriminator has an optimiser of its own, which acts after
    the student's step, and needs logits of 64 x 64 or more. ``pixel_form: as_code`` sums over the batch, so at 8
    images weight 10 there is 80 here. ``norm_gradient: as_code`` keeps the lengths out of the gradient. Cells are
    smaller than the authors' (``scale``), whose four nodes hold six numbers an image. The ``mask`` is ours.
    Reads: ``penultimate`` or a trunk level, and the teacher's ``logits`` (a fitted head). The student's maps are
    resized bilinearly to their grids. Labels only with ``mask``.
    Random draws: none.
    Parameters and buffers: none.

    Raises:
        ValueError: at ``prepare``, where the map is pooled to one node, whose cosine is always 1.
    """

    def __init__(self, config: SKDConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        self.per_sample = config.pixel_form == "as_paper" and not config.mask
        self.weights |= {"pair": config.pair}
        self.add_logits("pixel", config.pixel, teacher_channels)

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        f_t = batch.features.get(self.teacher_level)
        if f_t is not None and pooled(f_t, self.config.scale).shape[1] < 2:
            raise ValueError(
                f"skd compares pooled cells: found one cell of {self.teacher_level}, {grid(f_t)[0]} x {grid(f_t)[1]}, "
                f"at scale {self.config.scale}; expected two or more: set a smaller scale or a finer level"
            )

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = super().forward(output, batch, step)
        if self.config.pixel > 0:
            z_s, z_t = both_logits(output, batch)
            found["pixel"] = self.pixel(z_s, z_t, self._counted(batch, z_t))
        return found

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        a_s, a_t = self._cosines(f_s), self._cosines(f_t)
        return {"pair": (a_s - a_t).square().mean()}

    def pixel(self, z_s: Tensor, z_t: Tensor, counted_BHW: Tensor) -> Tensor:
        """The pixel term of logits (B, K, H, W) on one grid, where ``counted`` holds."""
        log_s, log_t = z_s.log_softmax(1), z_t.log_softmax(1)
        if self.config.pixel_form == "as_code":
            entropy_BHW = -(log_t.exp() * log_s).sum(1)
            return torch.where(counted_BHW, entropy_BHW, 0.0).sum() / counted_BHW[0].numel()
        return mean_where(F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1), counted_BHW)

    def _counted(self, batch: Batch, z_t: Tensor) -> Tensor:
        valid = labelled(batch, z_t, z_t.shape[1])[1]
        return valid if self.config.mask else torch.ones_like(valid)

    def _cosines(self, f_BCHW: Tensor) -> Tensor:
        """(B, m, m)."""
        v_BmC = pooled(f_BCHW, self.config.scale)
        if self.config.norm_gradient == "as_code":
            v_BmC = v_BmC / (torch.linalg.vector_norm(v_BmC.detach(), dim=2, keepdim=True) + EPS)
        else:
            v_BmC = unit(v_BmC, dim=2)
        return v_BmC @ v_BmC.mT


def pooled(f_BCHW: Tensor, scale: float) -> Tensor:
    """The nodes' vectors, (B, m, C): maxima over cells of ``scale`` times the map's sides, at least one position."""
    sides = [max(1, int(side * scale)) for side in grid(f_BCHW)]
    return F.max_pool2d(f_BCHW, sides, ceil_mode=True).flatten(2).mT
