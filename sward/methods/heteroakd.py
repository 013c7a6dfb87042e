"""HeteroAKD: maps both networks to class maps and teaches the student a mixture that leans to the better one."""

# B batch, K classes, H W height and width; Z class maps, h errors against the labels

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.align import labels_on_grid, resize
from sward.contracts import IGNORE, MASKED_SCORE, Batch, Channels, StudentOutput
from sward.methods.base import BatchNorm, FeatureConfig, FeatureMethod, apply, conv, grid, initialise, tensors
from sward.methods.kd import both_logits, logit_kl
from sward.task import pixel_cross_entropy

EPS = 1e-12  # both errors 0: the student's map is then the target


class HeteroAKDConfig(FeatureConfig):
    """Weights, temperature, warm-up, and switches for what the sources disagree on."""

    kind: Literal["heteroakd"] = Field(default="heteroakd", description="Label-guided mixture of class maps.")
    weight: float = Field(default=1.0, gt=0, description="lambda_2, weight of the mixture's term (unpublished).")
    kd: float = Field(
        default=0.1, ge=0, description="lambda_1, weight of KD on logits (paper: 0.1); 0 needs no teacher head."
    )
    tau: float = Field(default=1.0, gt=0, description="Temperature of both (re-implementations: 1 or 4).")
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="Steps on labels alone, projectors included, before both count (length unpublished); null: 10 % of "
        "the run's steps, and none where no run says how long it is.",
    )
    supervision: Literal["bce", "ce", "none"] = Field(
        default="bce", description="Loss of both class maps against the labels; none: the teacher's stays random."
    )
    relu: bool = Field(default=False, description="ReLU after the projectors (paper); then no class is ever absent.")
    evaluation: Literal["class", "space"] = Field(
        default="class", description="Axis of the KEM softmax; 'space' with Bernoulli KL per class and tau^2."
    )

    @property
    def uses_head(self) -> bool:
        return super().uses_head or self.kd > 0

    def warm_up(self, steps: int) -> tuple[int, tuple[str, ...]]:
        length = steps // 10 if self.warmup_steps is None else self.warmup_steps
        return length, ("weight", "tau", "evaluation")

    def for_steps(self, steps: int) -> Self:
        return self.model_copy(update={"warmup_steps": self.warm_up(steps)[0]})

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "HeteroAKD":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return HeteroAKD(self, teacher, tensors(student, num_classes, penultimate), num_classes)


class HeteroAKD(FeatureMethod):
    """Compares class maps instead of features, and trusts each network where the labels say that it is right.

    Z = project(f): 1x1 convolution and BN, each on its network's own grid; then Z_s is resized bilinearly to the
    teacher's. h(Z) = BCE(sigmoid(Z), one-hot labels), element by element. Mixing (KMM): Z_h = S Z_t + (1 - S) Z_s, S =
    1 - h(Z_t) / (h(Z_t) + h(Z_s)). Evaluation (KEM): w = softmax(h(Z_s) + max(0, h(Z_s) - h(Z_h))). Z_h and w carry no
    gradient.

    Terms:
        mixture: -sum_k w_k p_k(Z_h / tau) log p_k(Z_s / tau), mean over the labelled positions; 0 during the warm-up.
        With ``evaluation: space`` see ``mixture_by_space``.
        kd: tau^2 KL(p(z_t / tau) || p(z_s / tau)) of the logits, as method ``kd``; 0 during the warm-up; absent if
        ``kd`` is 0.
        supervision: loss of Z_s and of Z_t against the labels, added, weight 1; absent with 'none'. That of Z_s also
        reaches the student.
    Paper and code:
        AAAI 2025 (arXiv 2504.07691), no authors' code; rebuilt from summaries and two re-implementations, so there are
        no numbers to compare with.
    Differences:
        The re-implementations disagree on KEM's axis (``evaluation``). The paper prints no supervision of the
        projectors, without which P_t has no gradient at all. It adds ReLU (``relu``), after which sigmoid(Z) >= 1/2.
        Its Eq. 1 is reported to reverse the logits' KL; here it is Hinton's.
    Reads:
        One teacher level, labels, and the teacher's ``logits`` (a fitted head) unless ``kd`` is 0.
    Random draws:
        None.
    Parameters and buffers:
        ``project_t.weight`` (K, C_t, 1, 1), ``project_s.weight`` (K, C_s, 1, 1), no bias; ``norm_t``, ``norm_s``
        (``weight``, ``bias``: (K,)). With supervision 'none' the teacher's two are fixed. No buffers.
    """

    label_terms = ("mixture", "supervision")
    resize_first = False

    def __init__(
        self,
        config: HeteroAKDConfig,
        teacher_channels: dict[str, int],
        student_channels: dict[str, int],
        num_classes: int,
    ) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config, self.num_classes = config, num_classes
        self.project_t = conv(self.teacher_channels, num_classes, bias=False)
        self.project_s = conv(self.student_channels, num_classes, bias=False)
        self.norm_t, self.norm_s = BatchNorm(num_classes), BatchNorm(num_classes)
        self.weights |= {"mixture": config.weight}
        if config.supervision == "none":
            self.project_t.requires_grad_(False)
            self.norm_t.requires_grad_(False)
        else:
            self.weights |= {"supervision": 1.0}
        self.add_logits("kd", config.kd, teacher_channels)
        initialise(self, seed=0)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = super().forward(output, batch, step)
        if self.config.kd:
            found["kd"] = logit_kl(*both_logits(output, batch), self.config.tau) * self._begun(step)
        return found

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        Z_s, Z_t = self.norm_s(apply(self.project_s, f_s)), self.norm_t(apply(self.project_t, f_t))
        if self.config.relu:
            Z_s, Z_t = F.relu(Z_s), F.relu(Z_t)
        Z_s, y = resize(Z_s, grid(f_t)), labels_on_grid(batch.labels, grid(f_t))
        found = {"mixture": self._mixture(Z_s, Z_t, y) * self._begun(step)}
        if self.config.supervision != "none":
            found["supervision"] = self._supervised(Z_s, y) + self._supervised(Z_t, y)
        return found

    def _begun(self, step: int) -> float:
        return float(step >= (self.config.warmup_steps or 0))

    def _mixture(self, Z_s: Tensor, Z_t: Tensor, y_BHW: Tensor) -> Tensor:
        with torch.no_grad():
            h_t, h_s = self._errors(Z_t, y_BHW), self._errors(Z_s, y_BHW)
            S = 1 - h_t / (h_t + h_s + EPS)
            Z_h = S * Z_t + (1 - S) * Z_s
            urgency = h_s + F.relu(h_s - self._errors(Z_h, y_BHW))
        valid = y_BHW != IGNORE
        form = mixture_by_class if self.config.evaluation == "class" else mixture_by_space
        return form(Z_s, Z_h, urgency, valid, self.config.tau)

    def _errors(self, Z_BKHW: Tensor, y_BHW: Tensor) -> Tensor:
        """h(Z), (B, K, H, W); positions without a label count as of no class and are masked later."""
        K = self.num_classes
        one_hot = F.one_hot(torch.where(y_BHW == IGNORE, K, y_BHW), K + 1)[..., :K].movedim(-1, 1)
        return F.binary_cross_entropy_with_logits(Z_BKHW, one_hot.to(Z_BKHW.dtype), reduction="none")

    def _supervised(self, Z_BKHW: Tensor, y_BHW: Tensor) -> Tensor:
        if self.config.supervision == "bce":
            return _mean_over(self._errors(Z_BKHW, y_BHW).mean(1), y_BHW != IGNORE)
        return _mean_over(pixel_cross_entropy(Z_BKHW, y_BHW), y_BHW != IGNORE)


def mixture_by_class(Z_s: Tensor, Z_h: Tensor, urgency: Tensor, valid: Tensor, tau: float) -> Tensor:
    """Weighted cross-entropy of class softmaxes: sum over classes, mean over valid positions."""
    entropy = -(urgency.softmax(1) * (Z_h / tau).softmax(1) * (Z_s / tau).log_softmax(1)).sum(1)
    return _mean_over(entropy, valid)


def mixture_by_space(Z_s: Tensor, Z_h: Tensor, urgency: Tensor, valid: Tensor, tau: float) -> Tensor:
    """tau^2 times Bernoulli KL, weights summing to 1 over valid positions; sum over classes, mean over B."""
    a, b = Z_h / tau, Z_s / tau
    kl = a.sigmoid() * (F.logsigmoid(a) - F.logsigmoid(b)) + (-a).sigmoid() * (F.logsigmoid(-a) - F.logsigmoid(-b))
    w = urgency.masked_fill(~valid[:, None], MASKED_SCORE).flatten(2).softmax(-1).view_as(kl)
    return tau**2 * torch.where(valid[:, None], w * kl, 0.0).sum() / len(kl)


def _mean_over(x_BHW: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, x_BHW, 0.0).sum() / valid.sum().clamp_min(1)
