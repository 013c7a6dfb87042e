"""OFA-KD (one for all): every level of the student predicts the teacher's classes through a branch of its own."""

# B batch, K classes, H W height and width, p teacher's and q student's probabilities, c the label of a pixel

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.align import labels_on_grid, resize
from sward.contracts import HEAD_TENSORS, Batch, Channels, StudentOutput
from sward.methods.base import (
    BatchNorm,
    FeatureConfig,
    FeatureMethod,
    apply,
    at_least_float32,
    class_mask,
    conv,
    grid,
    initialise,
    labelled_mean,
    tensors,
)


class OFAConfig(FeatureConfig):
    """Form and exponent of the loss, branches, levels, weights."""

    kind: Literal["ofa"] = Field(default="ofa", description="Teacher's logits at every level, the label boosted.")
    level: Literal["logits"] = Field(default="logits", description="It reads the teacher's logits, nothing else.")
    form: Literal["as_code", "as_paper"] = Field(
        default="as_code",
        description="(A) as_code: without the hard label's part, and with the other classes' probabilities raised to "
        "gamma too; as_paper: as printed, which contains the cross-entropy.",
    )
    gamma: float = Field(
        default=1.0, ge=1, description="(B) Exponent; larger trusts sure pixels more (paper: 1.1-1.4 best)."
    )
    final_gamma: float | None = Field(default=None, ge=1, description="(B) Exponent for the final logits; null: gamma.")
    branch: Literal["linear", "sep"] = Field(
        default="linear", description="(C) 1x1 convolution, or depthwise 3x3, 1x1, BN, ReLU, 1x1."
    )
    tau: float = Field(default=1.0, gt=0, description="(D) Temperature; the terms are not multiplied by its square.")
    resample: Literal["bilinear", "area"] = Field(
        default="bilinear",
        description="Teacher on a level's grid: its logits bilinearly, or (own) its probabilities averaged over area, "
        "which a coarse level needs to see more than single cells.",
    )
    levels: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Student levels with a branch; null: the four deepest."
    )
    weight: float = Field(default=1.0, gt=0, description="Weight of the branches' sum.")
    final_weight: float = Field(default=1.0, ge=0, description="Weight of the final logits' term; 0 leaves it out.")

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "OFA":
        """The method for this teacher and student. Raises ValueError if the logits or a level are missing."""
        return OFA(self, teacher, tensors(student, num_classes, penultimate))


class OFA(FeatureMethod):
    """Compares class probabilities at every level, because features of unlike architectures do not compare.

    Each student level gets a branch to K logits on the level's own grid. Per pixel, p = softmax(z_t / tau),
    q = softmax(z / tau) of a branch or of the final logits, c the label, g the exponent:
    as_code: -((1 + p_c)^g - 1) log q_c - sum_{k != c} p_k^g log q_k (g = 1: cross-entropy with the soft target p);
    as_paper: -(1 + p_c)^g log q_c - sum_{k != c} p_k log q_k.

    Terms:
        branches: mean over the labelled pixels of a level's grid, summed over the levels.
        final: the same for the student's final logits, on the grid of the teacher's. Left out at weight 0.
    Paper and code:
        Hao et al., NeurIPS 2023. Hao840/OFAKD has no licence: written from the formula alone, ``as_code`` compared with
        the authors' function as a black box. ``as_paper`` is recalled, not checked against the paper.
    Differences:
        Dense instead of one vector per image: the branches' pooling is dropped. The task's cross-entropy always counts;
        with ``as_paper`` the label is counted again in every term, so lower the weights or ``alpha``. Five terms of
        weight 1 add up to 4-6 times the cross-entropy's gradient: 0.2-0.5 is a start.
    Reads:
        The teacher's ``logits`` (a fitted head) and the labels, sampled nearest to each grid; ``IGNORE`` pixels are
        dropped, and without a labelled pixel a term is 0. The teacher is brought to a level's grid (``resample``);
        the student's final logits are resized bilinearly to the teacher's grid.
    Random draws:
        None.
    Parameters and buffers:
        Per level, e.g. s16, with C_s channels: ``branches.s16.out.weight`` (K, C_s, 1, 1), ``branches.s16.out.bias``
        (K,); with ``branch: sep`` also ``depth.weight`` (C_s, 1, 3, 3), ``point.weight`` (C_s, C_s, 1, 1), no bias,
        ``norm.weight``, ``norm.bias`` (C_s,). No buffers.

    Raises:
        ValueError: at a call with ``branch: sep``, one record and a level of 1x1 (``BatchNorm``).
    """

    label_terms = ("branches", "final")
    per_sample = True

    def __init__(self, config: OFAConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config, self.num_classes = config, self.teacher_channels
        levels = chosen_levels(config.levels, student_channels)
        self.branches = nn.ModuleDict(
            {level: Branch(student_channels[level], self.num_classes, config.branch) for level in levels}
        )
        self.weights |= {"branches": config.weight}
        if config.final_weight:
            self.weights |= {"final": config.final_weight}
        initialise(self, seed=0)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = []
        for level, branch in self.branches.items():
            f_s, z_t = at_least_float32(output.features[level], batch.features["logits"])
            with torch.autocast(f_s.device.type, enabled=False):
                found.append(self._term(branch(f_s), self._probabilities(z_t, grid(f_s)), batch, self.config.gamma))
        return {"branches": torch.stack(found).sum()} | super().forward(output, batch, step)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        if "final" not in self.weights:
            return {}
        gamma = self.config.final_gamma or self.config.gamma
        return {"final": self._term(f_s, (f_t / self.config.tau).softmax(1), batch, gamma)}

    def _probabilities(self, z_t_BKhw: Tensor, size: tuple[int, int]) -> Tensor:
        """p on a level's grid, (B, K, H, W)."""
        if self.config.resample == "area":
            return F.adaptive_avg_pool2d((z_t_BKhw / self.config.tau).softmax(1), size)
        return (resize(z_t_BKhw, size) / self.config.tau).softmax(1)

    def _term(self, z_BKHW: Tensor, p_BKHW: Tensor, batch: Batch, gamma: float) -> Tensor:
        y = labels_on_grid(batch.labels, grid(z_BKHW))
        weight = boosted(p_BKHW, class_mask(y, self.num_classes), gamma, self.config.form)
        return labelled_mean(-(weight * (z_BKHW / self.config.tau).log_softmax(1)).sum(1), y)


class Branch(nn.Module):
    """A level's exit to class logits: (B, C, H, W) -> (B, K, H, W)."""

    def __init__(self, channels: int, num_classes: int, kind: Literal["linear", "sep"]) -> None:
        super().__init__()
        self.sep = kind == "sep"
        if self.sep:
            self.depth = conv(channels, channels, kernel=3, bias=False, groups=channels)
            self.point = conv(channels, channels, bias=False)
            self.norm = BatchNorm(channels)
        self.out = conv(channels, num_classes)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        if self.sep:
            f_BCHW = F.relu(self.norm(apply(self.point, apply(self.depth, f_BCHW))))
        return apply(self.out, f_BCHW)


def boosted(p_BKHW: Tensor, label_BKHW: Tensor, gamma: float, form: Literal["as_code", "as_paper"]) -> Tensor:
    """Weight of -log q of every class, (B, K, H, W), from the teacher's probabilities; ``label_BKHW``: True at c."""
    if form == "as_paper":
        return torch.where(label_BKHW, (1 + p_BKHW) ** gamma, p_BKHW)
    return torch.where(label_BKHW, (1 + p_BKHW) ** gamma - 1, p_BKHW**gamma)


def chosen_levels(names: tuple[str, ...] | None, student: Channels) -> list[str]:
    """The student levels that get a branch. Raises ValueError for an unknown or repeated one, or without any."""
    levels = [name for name in student if name not in HEAD_TENSORS]
    chosen = levels[-4:] if names is None else list(names)
    if wrong := [name for name in chosen if name not in levels or chosen.count(name) > 1]:
        raise ValueError(f"levels: {', '.join(dict.fromkeys(wrong))} unknown or repeated; choose from {levels}")
    if not chosen:
        raise ValueError("the student declares no levels; nothing to distil into")
    return chosen
