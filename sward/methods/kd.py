"""Hinton's knowledge distillation (KD): compares the class probabilities of teacher and student pixel by pixel."""

# B batch, K classes, H W height and width of the teacher's logits

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.align import resize
from sward.contracts import Batch, Channels, StudentOutput
from sward.methods.base import FeatureConfig, FeatureMethod, at_least_float32, grid, tensors


class KDConfig(FeatureConfig):
    """Weight, temperature and reduction."""

    kind: Literal["kd"] = Field(default="kd", description="KL of the class probabilities, pixel by pixel.")
    level: Literal["logits"] = Field(default="logits", description="It reads the teacher's logits, nothing else.")
    weight: float | None = Field(
        default=None, gt=0, description="Weight; null: 1 for 'sum' (CIRKD's runs), 10 for 'mean' (CWD's authors)."
    )
    tau: float = Field(default=1.0, gt=0, description="Temperature; with 'sum' the term is multiplied by its square.")
    classes: Literal["sum", "mean"] = Field(
        default="sum",
        description="Over classes: the sum, times tau^2, or the mean, not multiplied (pixel term of CWD's authors).",
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "KD":
        """The method for this teacher and student. Raises ValueError where the logits are missing."""
        return KD(self, teacher, tensors(student, num_classes, penultimate))


class KD(FeatureMethod):
    """Compares class probabilities pixel by pixel, p = softmax(z / tau).

    Terms:
        kd: tau^2 KL(p_t || p_s), sum over classes, mean over pixels; with ``classes: mean`` the mean over classes too,
        without tau^2.
    Paper and code:
        Hinton et al., 2015. On pixels as in CIRKD's comparison (2d8ad0f; no licence, so written from the formula
        alone), temperature 1, weight 1.
    Differences:
        mmrazor's ``batchmean`` on four axes is H W times larger: multiply ``weight`` by H W for it.
    Reads:
        The teacher's ``logits`` (a fitted head). The student's are resized bilinearly to their grid: the authors
        compare low-resolution logits of equal size, and a resized target would be another target. Labels are not used,
        so ``IGNORE`` pixels count like any other.
    Random draws:
        None.
    Parameters and buffers:
        None.
    """

    per_sample = True

    def __init__(self, config: KDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        self.weights |= {"kd": config.weight or {"sum": 1.0, "mean": 10.0}[config.classes]}

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        kl = logit_kl(f_s, f_t, self.config.tau)
        by = 1.0 if self.config.classes == "sum" else self.config.tau**2 * f_t.shape[1]
        return {"kd": kl / by}


def logit_kl(z_s_BKHW: Tensor, z_t_BKHW: Tensor, tau: float) -> Tensor:
    """tau^2 KL(p_t || p_s), p = softmax(z / tau) over the classes: sum over classes, mean over pixels."""
    log_s, log_t = ((z / tau).log_softmax(1) for z in (z_s_BKHW, z_t_BKHW))
    B, _, H, W = z_t_BKHW.shape
    return tau**2 * F.kl_div(log_s, log_t, reduction="sum", log_target=True) / (B * H * W)


def both_logits(output: StudentOutput, batch: Batch) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits on the teacher's grid, float32 or wider, the teacher's without gradient."""
    z_s, z_t = at_least_float32(output.logits, batch.features["logits"])
    return resize(z_s, grid(z_t)), z_t
