"""Masked generative distillation (MGD): from part of the student's map, rebuild the teacher's whole map."""

# B batch, C channels, H W height and width

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward import seeds
from sward.contracts import Batch, Channels
from sward.methods.aligner import TapConfig, TapMethod, apply, conv, initialise


class MGDConfig(TapConfig):
    """Masked share, weight and reduction of the feature term."""

    kind: Literal["mgd"] = Field(default="mgd", description="The teacher's map rebuilt from the student's, masked.")
    weight: float = Field(
        default=2e-5,
        gt=0,
        description="The authors' alpha, for the sum. With 'mean' use alpha C H W (theirs: 168 at 2048 x 64 x 64).",
    )
    masked: float = Field(default=0.75, ge=0, lt=1, description="lambda: share of positions hidden (mmrazor: 0.65).")
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="Over C, H, W: the authors' sum, which grows with the map, or the mean."
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "MGD":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return MGD(self, teacher, student)


class MGD(TapMethod):
    """Term ``reconstruction``: 1/B sum (generate(align(f_s) * mask) - f_t)^2, generate = conv3x3, ReLU, conv3x3.

    The mask is one number per position, shared by all channels: 0 where u > 1 - lambda with u uniform in [0, 1).
    Paper: Yang et al., ECCV 2022. Code: yzd-v/MGD 2c9da0b and mmrazor (both Apache-2.0, the same numbers for the
    same u); written anew. The authors' segmentation distiller adds CWD on logits with weight 3, which the paper's
    feature-only row excludes and so does this method.
    Needs: one teacher level. The student is resized bilinearly to its grid (the authors require equal sizes).
    Draws: u is keyed by (seed, "mgd", step); ``reconstruction`` takes it as an argument.
    Parameters: ``align.weight`` (C_t, C_s, 1, 1), ``align.bias``, only where channels differ;
    ``generate1.weight``, ``generate2.weight`` (C_t, C_t, 3, 3) and their ``bias``: 18 C_t^2 in all, dropped after
    training.
    """

    def __init__(self, config: MGDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        C_s, C_t = self.student_channels, self.teacher_channels
        self.align = conv(C_s, C_t) if C_s != C_t else None
        self.generate1, self.generate2 = conv(C_t, C_t, kernel=3), conv(C_t, C_t, kernel=3)
        self.weights |= {"reconstruction": config.weight}
        initialise(self, seed=0)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        B, _, H, W = f_t.shape
        u = torch.from_numpy(seeds.uniforms(B * H * W, batch.seed, "mgd", step)).view(B, 1, H, W)
        return {"reconstruction": self.reconstruction(f_s, f_t, u.to(f_t.device))}

    def reconstruction(self, f_s: Tensor, f_t: Tensor, u: Tensor) -> Tensor:
        """The term for given draws ``u`` (B, 1, H, W) in [0, 1)."""
        y = f_s if self.align is None else apply(self.align, f_s)
        seen = (u <= 1 - self.config.masked).to(y.dtype)
        rebuilt = apply(self.generate2, F.relu(apply(self.generate1, y * seen)))
        square = (rebuilt - f_t).square()
        return square.sum() / len(f_t) if self.config.reduction == "sum" else square.mean()
