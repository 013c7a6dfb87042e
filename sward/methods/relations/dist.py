"""DIST: class probabilities should correlate with the teacher's, between classes and within each class.

Equality of probabilities is replaced by Pearson's correlation: at every pixel between the two networks' class
distributions, and for every class between its two maps over pixels. Scale and offset of either side do not count.
"""

# B batch, K classes, n pixels of an image (H W of the teacher's logits), R = B n rows

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, tensors
from sward.methods.relations.cells import labelled, mean_where

EPS = 1e-8  # of the correlation's denominator, as in the code


class DISTConfig(FeatureConfig):
    """Weights of both terms, temperature, and which rows count."""

    kind: Literal["dist"] = Field(default="dist", description="Correlation between classes and within each class.")
    level: Literal["logits"] = Field(default="logits", description="It reads the teacher's logits, nothing else.")
    beta: float | None = Field(
        default=None,
        ge=0,
        description="Weight of `inter`; null: 1 (the authors'), but 0 with two classes, where it has no gradient.",
    )
    gamma: float = Field(default=1.0, ge=0, description="Weight of `intra` (authors: 1).")
    tau: float = Field(
        default=1.0, gt=0, description="(A) Temperature; the terms are multiplied by its square (code: always 1)."
    )
    rows: Literal["valid", "as_code"] = Field(
        default="valid", description="(B) Labelled pixels alone, or every pixel, ignored ones too."
    )
    scope: Literal["batch", "image"] = Field(
        default="batch", description="(C) `intra` over all pixels of the batch (code), or image by image."
    )
    guard: float = Field(
        default=1e-6,
        ge=0,
        description="A correlation gets no gradient where the product of the two lengths is not above this: a uniform "
        "student's would be 1e5 and more; 0: always a gradient (code).",
    )

    @property
    def uses_head(self) -> bool:
        return True

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.beta == 0 and self.gamma == 0:
            raise ValueError("beta and gamma are both 0, so nothing would be distilled: give one a weight")
        return self

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "DIST":
        """The method for this teacher and student. Raises ValueError without logits, or for a beta without effect."""
        return DIST(self, teacher, tensors(student, num_classes, penultimate), num_classes)


class DIST(FeatureMethod):
    """Terms: ``inter`` and ``intra``, those of weight 0 left out; each times tau^2.

    P = softmax(z / tau), (R, K). r(x, y) = xc . yc / (|xc| |yc| + 1e-8), xc = x - mean(x).
    inter = 1 - mean over rows i of r(P_s[i, :], P_t[i, :]).
    intra = 1 - mean over classes k of r(P_s[:, k], P_t[:, k]); with ``scope: image`` also the mean over images. Images
    without a row do not count, and a term without any row is 0.

    Two classes: centred probabilities are (d, -d), so every row's r is 1 or -1 and ``inter`` has no gradient but
    rounding noise. Then ``beta`` left out means 0, and ``intra`` alone is trained.

    Paper and code: Huang et al., NeurIPS 2022. Code: 2418f18 (Apache-2.0), segmentation part; formulas checked there,
    written anew.
    Differences: ``rows: as_code`` takes every pixel. The temperature is ours; the segmentation code has none. The
    ``guard`` is ours: it leaves values as they are. The code's `intra` sees the images of one GPU, here the whole
    batch on any number of processes. The code adds 0.4 times the same on auxiliary logits, which these students lack.
    Reads: the teacher's ``logits`` (a fitted head) and, unless ``rows: as_code``, labels (nearest to their grid). The
    student's are resized bilinearly to that grid.
    Random draws: none.
    Parameters and buffers: none.

    Raises:
        ValueError: ``beta`` above 0 with two classes.
    """

    label_terms = ("inter", "intra")

    def __init__(
        self, config: DISTConfig, teacher_channels: Channels, student_channels: Channels, num_classes: int
    ) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config, self.num_classes = config, num_classes
        self.per_sample = config.scope == "image" and config.rows == "as_code"
        weights = {"inter": inter_weight(config, num_classes), "intra": config.gamma}
        self.weights |= {name: weight for name, weight in weights.items() if weight > 0}

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        tau = self.config.tau
        P_s_BKn, P_t_BKn = ((z / tau).softmax(1).flatten(2) for z in (f_s, f_t))
        valid_Bn = labelled(batch, f_t, self.num_classes)[1].flatten(1)
        rows_Bn = valid_Bn if self.config.rows == "valid" else torch.ones_like(valid_Bn)
        found = {}
        if "inter" in self.weights:
            every = torch.ones_like(P_t_BKn)
            r_Bn = correlation(P_s_BKn.mT, P_t_BKn.mT, every.mT, self.config.guard)
            found["inter"] = tau**2 * mean_where(1 - r_Bn, rows_Bn)
        if "intra" in self.weights:
            found["intra"] = tau**2 * self._intra(P_s_BKn, P_t_BKn, rows_Bn)
        return found

    def _intra(self, P_s_BKn: Tensor, P_t_BKn: Tensor, rows_Bn: Tensor) -> Tensor:
        if self.config.scope == "batch":  # the batch is one image of R pixels
            P_s_BKn, P_t_BKn = (P.transpose(0, 1).flatten(1)[None] for P in (P_s_BKn, P_t_BKn))
            rows_Bn = rows_Bn.flatten()[None]
        r_BK = correlation(P_s_BKn, P_t_BKn, rows_Bn[:, None].to(P_t_BKn.dtype), self.config.guard)
        return mean_where(1 - r_BK, rows_Bn.any(1, keepdim=True).expand_as(r_BK))


def inter_weight(config: DISTConfig, num_classes: int) -> float:
    """``beta``, or what stands for it. Raises ValueError where two classes leave the term without a gradient."""
    if num_classes > 2:
        return 1.0 if config.beta is None else config.beta
    if config.beta:
        raise ValueError(
            f"dist: found beta {config.beta} with {num_classes} classes, whose centred probabilities are (d, -d): "
            "`inter` would be 0 or 2 a pixel, without a gradient; expected beta: 0, or leave it out"
        )
    if config.gamma == 0:
        raise ValueError("dist: with two classes only `intra` has a gradient, and gamma is 0; set gamma above 0")
    return 0.0


def correlation(x: Tensor, y: Tensor, weight: Tensor, guard: float) -> Tensor:
    """Pearson's correlation along the last dimension, over the places where ``weight`` is 1 (elsewhere 0).

    Where the product of the two lengths is ``guard`` or less the value stays and the gradient is 0; guard 0: never.
    """
    total = weight.sum(-1, keepdim=True).clamp_min(1)
    xc, yc = (weight * (v - (weight * v).sum(-1, keepdim=True) / total) for v in (x, y))
    lengths = torch.linalg.vector_norm(xc, dim=-1) * torch.linalg.vector_norm(yc, dim=-1)
    r = (xc * yc).sum(-1) / (lengths + EPS)
    return r if guard == 0 else torch.where(lengths > guard, r, r.detach())
