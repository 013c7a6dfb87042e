"""SARD: matches the teacher's map where it has structure, and predicts the noise added to it."""

# B batch, C latent channels, n positions

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward import seeds
from sward.contracts import Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, initialise, tensors
from sward.methods.sard.attention_map import StructureConfig, structure_map
from sward.sent import sent


class SARDConfig(FeatureConfig):
    """Weights (the paper's), and repairs of what cannot work as printed."""

    kind: Literal["sard"] = Field(default="sard", description="Structure-weighted features and denoising.")
    lambda_f: float = Field(default=1.0, gt=0, description="Weight of feature consistency, L_FC.")
    lambda_d: float = Field(default=0.5, ge=0, description="Weight of distribution alignment, L_DA; 0 leaves it out.")
    signal: float = Field(default=0.5, gt=0, lt=1, description="a: share of the teacher in the noised map's variance.")
    denoise: Literal["conditional", "literal"] = Field(
        default="conditional", description="g sees the student and the noised teacher, or (as printed) the student."
    )
    projection: Literal["student", "frozen", "learned"] = Field(
        default="student",
        description="P_T: the identity, with P_S from C_s to C_t; fixed at its random start; or learned (as printed).",
    )
    latent: int = Field(default=64, ge=1, description="Latent channels of P_T and P_S; C_t with 'student'.")
    channels: Literal["mean", "sum"] = Field(
        default="mean", description="Squares over the latent channels: mean, or sum (as printed)."
    )
    structure: StructureConfig = Field(default=StructureConfig(), description="The structure map W.")

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "SARD":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return SARD(self, teacher, tensors(student, num_classes, penultimate))


class SARD(FeatureMethod):
    """Weighs positions by the structure of the teacher's map, both for matching features and for predicting noise.

    W (``structure_map``) sums to 1 over an image's positions. The noised teacher is sqrt(a) P_T f_t + sqrt(1 - a) e, e
    normal.

    Terms:
        consistency: sum_i W(i) |P_S f_s - P_T f_t|^2, L_FC, mean over the batch.
        denoising: sum_i W(i) |g(.)(i) - e(i)|^2, L_DA, mean over the batch; absent if lambda_d is 0.
    Paper and code:
        CVPR 2026. The authors' repository (627231a, MIT) holds no code: formulas only.
    Differences:
        Each a switch. As printed, g sees the student alone, of which e is independent, so the best prediction is 0 and
        nothing about the teacher is learned (``denoise: literal``); with P_T and P_S both learned, 0 = 0 is a solution
        of L_FC (``projection: learned``); the channel sum grows with the latent width (``channels: sum``). g's layers
        are not published: here conv1x1, ReLU, conv1x1. The task loss is cross-entropy, not the paper's Dice + BCE.
    Reads:
        One teacher level. The student is resized bilinearly to its grid.
    Random draws:
        e = torch.randn(B, C, H, W), float32 on the CPU, from a generator seeded with ``seeds.torch_seed(seed, "sard",
        step)``. ``denoising`` takes it as an argument.
    Parameters and buffers:
        ``weight`` and ``bias`` each, C = C_t with projection 'student', else ``latent``: ``P_S`` (C, C_s, 1, 1);
        ``P_T`` (C, C_t, 1, 1), absent with 'student', without gradient if 'frozen'; unless lambda_d is 0: ``g1`` (C, 2
        C, 1, 1) on [P_S f_s; noised teacher], with ``denoise: literal`` (C, C, 1, 1), and ``g2`` (C, C, 1, 1). No
        buffers.
    """

    order_invariant = False  # draws go by the place in the batch

    def __init__(self, config: SARDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        own = config.projection == "student"
        C = self.teacher_channels if own else config.latent
        self.P_S = conv(self.student_channels, C)
        self.P_T = None if own else conv(self.teacher_channels, C).requires_grad_(config.projection == "learned")
        self.weights |= {"consistency": config.lambda_f}
        if config.lambda_d > 0:
            self.g1 = conv(C if config.denoise == "literal" else 2 * C, C)
            self.g2 = conv(C, C)
            self.weights |= {"denoising": config.lambda_d}
        initialise(self, seed=0)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        W = structure_map(f_t, self.config.structure)
        y_s, y_t = apply(self.P_S, f_s), f_t if self.P_T is None else apply(self.P_T, f_t)
        found = {"consistency": self._weighted(y_s - y_t, W)}
        if self.config.lambda_d > 0:
            generator = torch.Generator().manual_seed(seeds.torch_seed(batch.seed, "sard", step))
            noise = sent(torch.randn(y_t.shape, generator=generator), y_t.device).to(y_t.dtype)
            found["denoising"] = self.denoising(y_s, y_t, W, noise)
        return found

    def denoising(self, y_s: Tensor, y_t: Tensor, W: Tensor, noise: Tensor) -> Tensor:
        """Term ``denoising`` for given noise.

        Args:
            y_s: (B, C, H, W), P_S f_s, f_s on the teacher's grid.
            y_t: (B, C, H, W), P_T f_t; f_t itself with projection 'student'.
            W: (B, H, W), ``structure_map(f_t, config.structure)``.
            noise: e, (B, C, H, W).
        """
        seen, a = y_s, self.config.signal
        if self.config.denoise == "conditional":
            seen = torch.cat([y_s, a**0.5 * y_t + (1 - a) ** 0.5 * noise], 1)
        return self._weighted(apply(self.g2, F.relu(apply(self.g1, seen))) - noise, W)

    def _weighted(self, difference_BCHW: Tensor, W_BHW: Tensor) -> Tensor:
        square = difference_BCHW.square()
        square_BHW = square.mean(1) if self.config.channels == "mean" else square.sum(1)
        return (W_BHW * square_BHW).sum() / len(W_BHW)
