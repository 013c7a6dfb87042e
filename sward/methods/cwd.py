"""Channel-wise distillation (CWD): compares, for each channel, where in the image it is active."""

# B batch, C channels, n positions (H W)

from typing import Literal, Self

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import BatchNorm, FeatureConfig, FeatureMethod, TensorName, apply, conv, initialise, tensors


class CWDConfig(FeatureConfig):
    """Tensor compared, temperature, weight, and the aligner of the feature form."""

    kind: Literal["cwd"] = Field(default="cwd", description="KL of spatial softmaxes, channel by channel.")
    level: TensorName = Field(
        default="logits", description="logits (the authors' main form), or features: penultimate or a trunk level."
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        description="Weight; null: 3 on logits (the authors'), 50 on features (CIRKD's runs; the authors' logs: 35). "
        "mmrazor on logits: 5 with tau 1.",
    )
    tau: float = Field(default=4.0, gt=0, description="Temperature; the term is multiplied by its square.")
    aligner: Literal["conv", "conv_bn_relu"] = Field(
        default="conv",
        description="Feature form: 1x1 convolution alone (CIRKD) or with BN and ReLU (the authors). Logits need none.",
    )
    channels: Literal["aligned", "student"] = Field(
        default="aligned",
        description="Divide by the channels compared, or by the student's before alignment (CIRKD's code).",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.level == "logits" and self.aligner != "conv":
            raise ValueError(f"aligner {self.aligner!r} belongs to the feature form; logits are compared as they are")
        return self

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "CWD":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return CWD(self, teacher, tensors(student, num_classes, penultimate))


class CWD(FeatureMethod):
    """Treats each channel, of logits or of features, as a distribution over positions.

    p is the softmax of f / tau over the positions, so a constant added to a channel changes nothing.

    Terms:
        channels: tau^2 / (B C) times the sum over samples and channels of KL(p_t || p_s).
    Paper and code:
        Shu et al., ICCV 2021. TorchDistiller 78bac7c (BSD-2); formula checked there, in CIRKD (no licence) and in
        mmrazor (Apache-2.0), which agree; written anew.
    Differences:
        The authors' main form compares low-resolution logits, channel = class, without an aligner; the feature form
        compares penultimate maps, here also a trunk level, after a 1x1 aligner. CIRKD's code divides by the student's
        channels *before* alignment, so its weight 50 is C_t / C_s times ours (``channels: student`` does the same).
    Reads:
        The teacher's ``logits`` or ``penultimate`` map (a fitted head), or one trunk level. The student is resized
        bilinearly to its grid.
    Random draws:
        None.
    Parameters and buffers:
        None on logits; else ``align.weight`` (C_t, C_s, 1, 1), no bias, and with ``conv_bn_relu`` also ``norm.weight``,
        ``norm.bias`` (C_t,). No buffers.
    """

    per_sample = True

    def __init__(self, config: CWDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        on_logits = self.teacher_level == "logits"
        self.align = None if on_logits else conv(self.student_channels, self.teacher_channels, bias=False)
        self.norm = BatchNorm(self.teacher_channels) if config.aligner == "conv_bn_relu" else None
        self.weights |= {"channels": config.weight or (3.0 if on_logits else 50.0)}
        initialise(self, seed=0)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        y = f_s if self.align is None else apply(self.align, f_s)
        if self.norm is not None:
            y = F.relu(self.norm(y))
        C = self.teacher_channels if self.config.channels == "aligned" else self.student_channels
        return {"channels": channel_kl(y, f_t, self.config.tau) / (len(y) * C)}


def channel_kl(f_s_BCHW: Tensor, f_t_BCHW: Tensor, tau: float) -> Tensor:
    """Sum over samples and channels of tau^2 KL(p_t || p_s), p the softmax over positions."""
    log_s_BCn = (f_s_BCHW.flatten(2) / tau).log_softmax(-1)
    log_t_BCn = (f_t_BCHW.flatten(2) / tau).log_softmax(-1)
    return tau**2 * F.kl_div(log_s_BCn, log_t_BCn, reduction="sum", log_target=True)
