"""Masked generative distillation (MGD): rebuilds the teacher's whole map from a part of the student's."""

# B batch, C channels, H W height and width

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward import seeds
from sward.contracts import Batch, Channels, StudentOutput
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, initialise, tensors
from sward.methods.cwd import channel_kl
from sward.methods.kd import both_logits
from sward.sent import sent


class MGDConfig(FeatureConfig):
    """Masked share, weight and reduction of the feature term."""

    kind: Literal["mgd"] = Field(default="mgd", description="The teacher's map rebuilt from the student's, masked.")
    weight: float | None = Field(
        default=None,
        gt=0,
        description="alpha; null: 2e-5 for 'sum' (the authors'), 168 for 'mean' (theirs times C H W, 2048 x 64 x 64).",
    )
    masked: float = Field(default=0.75, ge=0, lt=1, description="lambda: share of positions hidden (mmrazor: 0.65).")
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="Over C, H, W: the authors' sum, which grows with the map, or the mean."
    )

    logits: float = Field(
        default=0.0,
        ge=0,
        description="Weight of CWD on logits beside it (the authors' distiller: 3); 0, the paper's feature-only "
        "number, needs no teacher head.",
    )
    logits_tau: float = Field(default=4.0, gt=0, description="Temperature of that term.")

    @property
    def uses_head(self) -> bool:
        return super().uses_head or self.logits > 0

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "MGD":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return MGD(self, teacher, tensors(student, num_classes, penultimate))


class MGD(FeatureMethod):
    """Hides most positions of the student's map and lets a small generator rebuild the teacher's map from the rest.

    The mask is one number per position, shared by all channels: 0 where u > 1 - lambda, with u uniform in [0, 1).

    Terms:
        reconstruction: 1/B sum (generate(align(f_s) * mask) - f_t)^2, generate = conv3x3, ReLU, conv3x3; or the mean
        over all elements (``reduction: mean``).
        logits: CWD between the logits, as method ``cwd``; only if ``logits`` > 0.
    Paper and code:
        Yang et al., ECCV 2022. yzd-v/MGD 2c9da0b and mmrazor (both Apache-2.0, the same numbers for the same u);
        written anew.
    Differences:
        The authors' segmentation distiller adds ``logits`` with tau 4 and weight 3, which the paper's feature-only row
        excludes; here it is off by default. The authors require equal sizes.
    Reads:
        One teacher level; for ``logits`` also the teacher's ``logits`` (a fitted head). The student is resized
        bilinearly to its grid.
    Random draws:
        u = ``seeds.uniforms(B * H * W, seed, "mgd", step)`` viewed (B, 1, H, W), float64, H W the teacher's grid.
        ``reconstruction`` takes it as an argument.
    Parameters and buffers:
        ``align.weight`` (C_t, C_s, 1, 1), ``align.bias``, only if the channels differ; ``generate1.weight``,
        ``generate2.weight`` (C_t, C_t, 3, 3) and their ``bias``: 18 C_t^2 in all. No buffers.
    """

    order_invariant = False  # draws go by the place in the batch

    def __init__(self, config: MGDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        C_s, C_t = self.student_channels, self.teacher_channels
        self.align = conv(C_s, C_t) if C_s != C_t else None
        self.generate1, self.generate2 = conv(C_t, C_t, kernel=3), conv(C_t, C_t, kernel=3)
        self.weights |= {"reconstruction": config.weight or {"sum": 2e-5, "mean": 168.0}[config.reduction]}
        self.add_logits("logits", config.logits, teacher_channels)
        initialise(self, seed=0)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = super().forward(output, batch, step)
        if self.config.logits:
            z_s, z_t = both_logits(output, batch)
            found["logits"] = channel_kl(z_s, z_t, self.config.logits_tau) / (z_t.shape[0] * z_t.shape[1])
        return found

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        B, _, H, W = f_t.shape
        u = torch.from_numpy(seeds.uniforms(B * H * W, batch.seed, "mgd", step)).view(B, 1, H, W)
        return {"reconstruction": self.reconstruction(f_s, f_t, sent(u, f_t.device))}

    def reconstruction(self, f_s: Tensor, f_t: Tensor, u: Tensor) -> Tensor:
        """Term ``reconstruction`` for given random numbers.

        Args:
            f_s: (B, C_s, H, W), the student on the teacher's grid, before ``align``.
            f_t: (B, C_t, H, W), the teacher.
            u: (B, 1, H, W) in [0, 1); where it is above 1 - lambda, the aligned student is hidden.
        """
        y = f_s if self.align is None else apply(self.align, f_s)
        seen = (u <= 1 - self.config.masked).to(y.dtype)
        rebuilt = apply(self.generate2, F.relu(apply(self.generate1, y * seen)))
        square = (rebuilt - f_t).square()
        return square.sum() / len(f_t) if self.config.reduction == "sum" else square.mean()
