"""Decoupled knowledge distillation (DKD): KD in two parts, the label's class against the rest, and the rest."""

# B batch, K classes, H W height and width of the teacher's logits, c the label of a pixel

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sward.align import labels_on_grid
from sward.contracts import MASKED_SCORE, Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, class_mask, grid, labelled_mean, ramp, tensors


class DKDConfig(FeatureConfig):
    """Weights of the two parts, temperature, warm-up."""

    kind: Literal["dkd"] = Field(default="dkd", description="KD split into the label's class and the other classes.")
    level: Literal["logits"] = Field(default="logits", description="It reads the teacher's logits, nothing else.")
    target: float = Field(
        default=1.0, ge=0, description="alpha, weight of the label's class against the rest (authors: 1)."
    )
    others: float = Field(
        default=1.0,
        ge=0,
        description="beta, weight of the other classes among themselves (authors: 8 with tau 4 on CIFAR-100, 0.5 with "
        "tau 1 on ImageNet); 0 leaves the term out, as it must be with two classes.",
    )
    tau: float = Field(default=1.0, gt=0, description="Temperature; both terms are multiplied by its square.")
    ramp_steps: int = Field(
        default=0, ge=0, description="Steps over which both terms rise linearly to full size (authors: 1-20 epochs)."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.target and not self.others:
            raise ValueError("target and others are both 0, so nothing would be distilled: give one a weight")
        return self

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "DKD":
        """The method for this teacher and student.

        Raises:
            ValueError: the logits are missing, or ``others`` has a weight and there are only two classes.
        """
        if num_classes == 2 and self.others:
            raise ValueError(
                f"others has weight {self.others:g} and there are 2 classes: beside the label's class one is left, "
                "so the term is 0 whatever the student does, and DKD is KD. Set others: 0, or use kind: kd"
            )
        return DKD(self, teacher, tensors(student, num_classes, penultimate))


class DKD(FeatureMethod):
    """Splits KD at every labelled pixel into two terms with weights of their own.

    With p = softmax(z / tau), b = (p_c, 1 - p_c), and r = softmax of z / tau over the K - 1 classes other than the
    label c: KD of the pixel is tau^2 KL(b_t || b_s) + (1 - p_c of the teacher) tau^2 KL(r_t || r_s). DKD drops the
    factor 1 - p_c, which is small exactly where the teacher is sure.

    Terms:
        target: tau^2 KL(b_t || b_s), mean over the labelled pixels.
        others: tau^2 KL(r_t || r_s), mean over the labelled pixels. Refused with two classes, where it is 0.
        A term of weight 0 is left out.
    Paper and code:
        Zhao et al., CVPR 2022. megvii-research/mdistiller a08d46f (MIT), formula checked there; written anew. For image
        classification; no setting for segmentation is published.
    Differences:
        Rows are labelled pixels instead of images. The code subtracts 1000 from the label's logit and takes the
        logarithm of summed probabilities, which is NaN in float32 from a logit gap of about 110 on; here log(1 - p_c)
        is a difference of two logsumexp. Weights start at 1 and 1; the authors' 8 is for tau 4.
    Reads:
        The teacher's ``logits`` (a fitted head) and the labels, sampled nearest to their grid; ``IGNORE`` pixels are
        dropped, and without a labelled pixel both terms are 0. The student's logits are resized bilinearly to the grid.
    Random draws:
        None.
    Parameters and buffers:
        None.
    """

    label_terms = ("target", "others")
    per_sample = True

    def __init__(self, config: DKDConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        weights = {"target": config.target, "others": config.others}
        self.weights |= {name: weight for name, weight in weights.items() if weight > 0}

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        y, tau = labels_on_grid(batch.labels, grid(f_t)), self.config.tau
        label = class_mask(y, f_t.shape[1])
        student, teacher = (split(z / tau, label) for z in (f_s, f_t))
        found = {name: kl(teacher[name], student[name]) for name in ("target", "others") if name in self.weights}
        factor = tau**2 * ramp(step, self.config.ramp_steps)
        return {name: factor * labelled_mean(kl_BHW, y) for name, kl_BHW in found.items()}


def split(z_BKHW: Tensor, label_BKHW: Tensor) -> dict[str, Tensor]:
    """Log-probabilities: ``target`` (B, 2, H, W) of the label's class and of all others, ``others`` (B, K, H, W).

    Args:
        z_BKHW: logits over tau.
        label_BKHW: bool, True at the label. In ``others`` it has probability 0 (log about ``MASKED_SCORE``).
    """
    total_BHW = z_BKHW.logsumexp(1)
    rest_BKHW = z_BKHW.masked_fill(label_BKHW, MASKED_SCORE)
    own_BHW = z_BKHW.masked_fill(~label_BKHW, 0.0).sum(1)
    binary = torch.stack([own_BHW - total_BHW, rest_BKHW.logsumexp(1) - total_BHW], 1)
    return {"target": binary, "others": rest_BKHW.log_softmax(1)}


def kl(log_t_BKHW: Tensor, log_s_BKHW: Tensor) -> Tensor:
    """KL(t || s), (B, H, W): sum over axis 1 of log-probabilities."""
    return (log_t_BKHW.exp() * (log_t_BKHW - log_s_BKHW)).sum(1)
