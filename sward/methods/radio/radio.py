"""RADIO-style matching: regression of the teacher's map after its channels were brought to one variance (PHI-S).

Raw trunk features have a few channels of huge variance, which would own a squared error. The target is therefore the
teacher's map centred, rotated and divided by one number, so that every channel has variance 1 and correlations stay.
The student's map, through a small head, should equal it.
"""

# B batch, C channels, H W height and width

from collections.abc import Mapping
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sward.contracts import HEAD_TENSORS, Batch, Channels, FeaturePass
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, initialise, tensors
from sward.methods.radio.phi_s import PhiS, require_hadamard

COSINE, SMOOTH_L1 = 0.9, 0.1  # AM-RADIO's mixture


class RADIOConfig(FeatureConfig):
    """Target, loss and head."""

    kind: Literal["radio"] = Field(default="radio", description="Regression of the teacher's map at equal variances.")
    weight: float = Field(default=1.0, gt=0, description="Weight of the loss (1; 2 gives 'radio' a square's gradient).")
    target: Literal["phi_s", "channel", "raw"] = Field(
        default="phi_s",
        description="(A) PHI-S of the training records; every channel standardised by the store's mean and standard "
        "deviation; or the map as it is.",
    )
    loss: Literal["radio", "mse"] = Field(
        default="radio",
        description="(B) 0.9 (1 - cosine) + 0.1 smooth L1 (AM-RADIO), or the mean square (PHI-S and later RADIO).",
    )
    head: Literal["linear", "mlp"] = Field(
        default="linear", description="(C) 1x1 convolution, or two with layer norm and GELU between (AM-RADIO)."
    )

    @model_validator(mode="after")
    def _statistics_exist(self) -> Self:
        if self.target == "channel" and self.level in HEAD_TENSORS:
            raise ValueError(
                f"target channel: the store keeps means and deviations of trunk levels, found level {self.level}; set "
                "target to phi_s or raw, or a trunk level"
            )
        return self

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "RADIO":
        """The method for this teacher and student. Raises ValueError for a missing level, or no Hadamard matrix."""
        return RADIO(self, teacher, tensors(student, num_classes, penultimate))


class RADIO(FeatureMethod):
    """Terms: ``cosine`` and ``smooth_l1`` (weights 0.9 and 0.1 times ``weight``), or ``mse``.

    With h the head's output and x' the target: cosine = mean over cells of 1 - h . x' / (|h| |x'|), lengths at least
    1e-8; smooth_l1 = mean over elements, beta 1; mse = mean over elements of (h - x')^2.
    phi_s: x' = T (x - mean), T = (1 / a) H U^T, with Sigma = U diag(e) U^T the covariance of the level's cells over
    the training records, a = sqrt(mean e) and H an orthogonal Hadamard matrix (`phi_s`). Every channel of x' has
    variance 1.
    channel: x' = (x - mean) / std; a constant channel is only centred. raw: x' = x.

    Paper and code: AM-RADIO (arXiv 2312.06709) and PHI-S (arXiv 2410.01680); written from the papers' formulas. The
    authors' repository is under a non-commercial licence and was not used.
    Differences: one level, one teacher, and the labels' loss beside it. The mixture's weights are from memory, beta is
    not stated. Other Hadamard matrices and signs of eigenvectors rotate the target: a linear head learns any of them
    alike, with equal squared error and cosine; smooth L1 differs slightly. With ``head: linear, loss: mse, target:
    channel`` this is the dense regression of ``fitnet`` with ``preset: dense_mse``, on standardised channels.
    Reads: one teacher level. The student is resized bilinearly to its grid. phi_s: one pass over the training records
    before the student (`phi_s.PhiS`), shared by all runs of the store; before ``load_prestage`` mean is 0 and the
    covariance the identity. channel: the store's statistics, at ``prepare``.
    Random draws: none.
    Parameters and buffers: linear: ``align`` (C_t, C_s, 1, 1); mlp: ``hidden`` (C_t, C_s, 1, 1), ``norm`` (C_t,),
    ``out`` (C_t, C_t, 1, 1), ``weight`` and ``bias`` each. Buffers: ``mean`` (C_t,), ``transform`` (C_t, C_t) with
    phi_s; ``mean``, ``std`` (C_t,) with channel. All are dropped after training.

    Raises:
        ValueError: at building, where no Hadamard matrix of order C_t is known; at ``prepare``, without statistics.
    """

    per_sample = True
    mean: Tensor
    transform: Tensor
    std: Tensor

    def __init__(self, config: RADIOConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        C_s, C_t = self.student_channels, self.teacher_channels
        if config.target != "raw":
            self.register_buffer("mean", torch.zeros(C_t))
        if config.target == "phi_s":
            self.register_buffer("transform", require_hadamard(C_t, self.teacher_level).float())
        if config.target == "channel":
            self.register_buffer("std", torch.ones(C_t))
        if config.head == "linear":
            self.align = conv(C_s, C_t)
        else:
            self.hidden, self.norm, self.out = conv(C_s, C_t), nn.LayerNorm(C_t), conv(C_t, C_t)
        mixture = {"cosine": COSINE * config.weight, "smooth_l1": SMOOTH_L1 * config.weight}
        self.weights |= mixture if config.loss == "radio" else {"mse": config.weight}
        initialise(self, seed=0)

    def prestage(self) -> FeaturePass | None:
        return PhiS(self.teacher_level, self.teacher_channels) if self.config.target == "phi_s" else None

    def load_prestage(self, state: dict[str, Tensor]) -> None:
        self.mean.copy_(state["mean"])
        self.transform.copy_(state["transform"])

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Draws the head's initial weights from the run's seed; target channel takes the store's statistics."""
        super().prepare(batch, statistics)
        if self.config.target == "channel":
            if self.teacher_level not in statistics:
                raise ValueError(
                    f"target channel: expected (mean, std) of {self.teacher_level} in `statistics`, found "
                    f"{list(statistics)}; hand over the store's, `Store.statistics()`"
                )
            mean, std = statistics[self.teacher_level]
            self.mean.copy_(mean)
            self.std.copy_(torch.where(std > 0, std, 1.0))

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        h, x = self.predicted(f_s), self.target(f_t)
        if self.config.loss == "mse":
            return {"mse": (h - x).square().mean()}
        return {"cosine": (1 - F.cosine_similarity(h, x, dim=1, eps=1e-8)).mean(), "smooth_l1": F.smooth_l1_loss(h, x)}

    def predicted(self, f_s: Tensor) -> Tensor:
        """h, (B, C_t, H, W), from the student's map on the teacher's grid."""
        if self.config.head == "linear":
            return apply(self.align, f_s)
        y_BHWC = apply(self.hidden, f_s).movedim(1, -1)
        weight, bias = self.norm.weight.to(y_BHWC.dtype), self.norm.bias.to(y_BHWC.dtype)
        normed = F.layer_norm(y_BHWC, weight.shape, weight, bias, self.norm.eps)
        return apply(self.out, F.gelu(normed.movedim(-1, 1)))

    def target(self, f_t: Tensor) -> Tensor:
        """x', (B, C_t, H, W), of the teacher's map."""
        if self.config.target == "raw":
            return f_t
        centred = f_t - self.mean.to(f_t.dtype)[:, None, None]
        if self.config.target == "channel":
            return centred / self.std.to(f_t.dtype)[:, None, None]
        return torch.einsum("dc,bchw->bdhw", self.transform.to(f_t.dtype), centred)
