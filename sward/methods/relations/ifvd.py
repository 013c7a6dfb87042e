"""Intra-class feature variation distillation (IFVD): how far each pixel lies from the mean of its class.

In both networks every labelled position is compared, by the cosine, with the mean vector of its class in the same
image. The student's map of cosines is trained to be the teacher's.
"""

# B batch, K classes, C channels, n positions (H W)

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.contracts import HEAD_TENSORS, Batch, Channels, StudentOutput
from sward.distributed.collectives import sum_over_ranks
from sward.methods.base import FeatureConfig, FeatureMethod, TensorName, grid, tensors
from sward.methods.kd import both_logits, logit_kl
from sward.methods.relations.cells import labelled, unit

EPS = 1e-6  # of the count in a class's mean; it cancels in the cosine


class IFVDConfig(FeatureConfig):
    """Weights, reduction, and what a class's mean is taken over."""

    kind: Literal["ifvd"] = Field(default="ifvd", description="Cosine of every pixel with the mean of its class.")
    level: TensorName = Field(
        default="penultimate", description="The map before the classifier (the authors'), or a trunk level."
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        description="Weight of the variation; null: 200 on head maps (the authors'), 20 on trunk levels, whose cosines "
        "spread wider.",
    )
    kd: float = Field(
        default=10.0,
        ge=0,
        description="Weight of KD on logits, a mean over classes too (authors: 10); 0 leaves the teacher's logits out.",
    )
    reduction: Literal["valid", "as_code"] = Field(
        default="valid",
        description="(A) Mean over labelled positions, or over all, so that ignored ones shrink the term.",
    )
    means: Literal["image", "batch"] = Field(
        default="image", description="(B) A class's mean over one image (paper and code), or over the batch (ours)."
    )

    @property
    def uses_head(self) -> bool:
        return self.level in HEAD_TENSORS or self.kd > 0

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "IFVD":
        """The method for this teacher and student. Raises ValueError where a tensor is missing."""
        return IFVD(self, teacher, tensors(student, num_classes, penultimate), num_classes)


class IFVD(FeatureMethod):
    """Terms: ``variation`` and ``kd`` (unless its weight is 0).

    variation = mean over the labelled positions i of (M^s_i - M^t_i)^2, M_i = cos(f_i, mu_i), mu_i the mean of f over
    the positions of the image that have i's class. The gradient flows through mu too. 0 where nothing is labelled.
    kd = 1 / K times the mean over pixels of KL(p_t || p_s), as ``kd`` with ``classes: mean``.

    Paper and code: Wang et al., ECCV 2020. Code: 950a7a5 (BSD-2); formulas checked there, written anew.
    Differences: the authors' adversarial term is left out: its discriminator has an optimiser of its own.
    ``reduction: as_code`` divides by all positions. ``means: batch`` is ours. A class with one position in an image
    has cosine 1 in both networks and teaches nothing.
    Reads: ``penultimate`` or a trunk level, labels (nearest to its grid), and the teacher's ``logits`` (a fitted
    head). The student's maps are resized bilinearly to their grids; channels may differ.
    Random draws: none.
    Parameters and buffers: none.

    Raises:
        ValueError: at ``prepare``, where a map has one position, which is its own mean (unless ``means: batch``).
    """

    label_terms = ("variation",)

    def __init__(
        self, config: IFVDConfig, teacher_channels: Channels, student_channels: Channels, num_classes: int
    ) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config, self.num_classes = config, num_classes
        self.per_sample = config.means == "image"
        by_level = 200.0 if config.level in HEAD_TENSORS else 20.0
        self.weights |= {"variation": config.weight or by_level}
        self.add_logits("kd", config.kd, teacher_channels)

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        f_t = batch.features.get(self.teacher_level)
        if f_t is not None and grid(f_t) == (1, 1) and self.config.means == "image":
            raise ValueError(
                f"ifvd compares positions with their class's mean in the image: found {self.teacher_level} of 1 x 1, "
                "expected more positions: set a finer level, or means: batch"
            )

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = super().forward(output, batch, step)
        if self.config.kd > 0:
            found["kd"] = logit_kl(*both_logits(output, batch), tau=1.0) / self.num_classes
        return found

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        y, valid = labelled(batch, f_t, self.num_classes)
        one_hot_BnK = F.one_hot(torch.where(valid, y, self.num_classes), self.num_classes + 1)[..., :-1].flatten(1, 2)
        classes_BnK = one_hot_BnK.to(f_t.dtype)
        M_s, M_t = (self.to_means(f.flatten(2).mT, classes_BnK) for f in (f_s, f_t))
        square_Bn = torch.where(valid.flatten(1), (M_s - M_t).square(), 0.0)
        if self.config.reduction == "as_code":
            return {"variation": square_Bn.mean()}
        if not self.per_sample:
            return {"variation": square_Bn.sum() / valid.sum().clamp_min(1)}
        return {"variation": sum_over_ranks(square_Bn.sum()) / sum_over_ranks(valid.sum()).clamp_min(1)}

    def to_means(self, f_BnC: Tensor, classes_BnK: Tensor) -> Tensor:
        """M (B, n): cosine of every position with the mean of its class; of a position without class, 0."""
        sums_BKC, counts_BK = classes_BnK.mT @ f_BnC, classes_BnK.sum(1)
        if self.config.means == "batch":
            sums_BKC, counts_BK = sums_BKC.sum(0, keepdim=True), counts_BK.sum(0, keepdim=True)
        mu_BKC = sums_BKC / (counts_BK[..., None] + EPS)
        return (unit(f_BnC, dim=2) * (classes_BnK @ unit(mu_BKC, dim=2))).sum(2)
