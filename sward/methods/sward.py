"""SWARD: MWAD from the teacher's features plus PDR on the student's, paper Eq. 20."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sward.contracts import BaseMethodConfig, Batch, Channels, Method, StudentOutput
from sward.methods.base import trunk
from sward.mwad.config import MWADConfig
from sward.mwad.mwad import MWAD
from sward.pdr.pdr import PDR, PDRConfig


class SwardConfig(BaseMethodConfig):
    """Weights of Eq. 19 and 20 (the paper's values) and the switches of both modules."""

    kind: Literal["sward"] = Field(default="sward", description="MWAD and PDR.")
    beta: float = Field(default=2.0, ge=0, description="Weight of MWAD's terms; 0 leaves MWAD (and the teacher) out.")
    gamma: float = Field(default=1.0, ge=0, description="Weight of PDR; 0 leaves PDR out.")
    lambda1: float = Field(default=1.0, ge=0, description="Weight of separation within PDR.")
    lambda2: float = Field(default=1.0, ge=0, description="Weight of compactness within PDR.")
    mwad: MWADConfig = Field(default=MWADConfig(), description="Multi-Scale Windowed Attention Distillation.")
    pdr: PDRConfig = Field(default=PDRConfig(), description="Prototype Discriminative Regularization.")

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "Sward":
        """The method for this teacher and student. Raises ValueError where levels do not fit."""
        return Sward(self, teacher, student, num_classes)


class Sward(Method):
    """Distils windowed attention at every level (MWAD) and shapes the student's class clusters (PDR).

    Terms:
        attn, value, context: MWAD, Eq. 11-13, means over the paired levels (of several teachers, the sums of each
        one's mean); those that ``mwad.terms`` names, with weight beta (none with beta 0).
        aux: cross-entropy that trains MWAD's teacher side alone, weight 1, only with ``mwad.teacher_proj: aux``.
        separation, compactness: PDR, Eq. 16 and 18, with weights gamma lambda_1 and gamma lambda_2 (none with gamma 0).
    Paper and code:
        The SWARD paper (CC BY 4.0); no public code.
    Differences:
        One switch each in ``MWADConfig`` and ``PDRConfig``, with reasons; ``preset: paper`` in both sets the printed
        form.
    Reads:
        The paired trunk levels and the store's statistics of them (MWAD), labels (PDR). With beta 0 nothing of the
        teacher.
    Random draws:
        Window offsets: ``seeds.integers(2, side, seed, "offsets", step, level)``. With ``mwad.window_share`` below 1
        the compared windows: the first of ``seeds.permutation(N, seed, "windows", step, level)``. The level is without
        its teacher's name; where it has several student levels, ``s16>s8``.
    Parameters and buffers:
        Those of ``mwad`` and ``pdr``, under these names; see `sward.mwad.projections`.
    """

    per_sample = True

    def __init__(
        self,
        config: SwardConfig,
        teacher_channels: dict[str, int],
        student_channels: dict[str, int],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.weights = {"task": config.alpha}
        self.mwad = self.pdr = None
        self.label_terms = ("aux", "separation", "compactness")
        self._last: tuple[dict[str, Tensor], dict[str, tuple[int, ...]], int, int] | None = None
        if config.beta > 0:
            self.mwad = MWAD(trunk(teacher_channels), student_channels, config.mwad, num_classes)
            self.needs = tuple(dict.fromkeys(t for t, _ in self.mwad.pairs))
            self.weights |= dict.fromkeys(config.mwad.terms.split("+"), config.beta)
            if config.mwad.teacher_proj == "aux":
                self.weights["aux"] = 1.0  # reaches only phi, Theta_t and the classifier
        if config.gamma > 0:
            self.pdr = PDR(config.pdr, num_classes)
            self.level = _level(config.pdr.features, list(student_channels))
            self.weights |= {
                "separation": config.gamma * config.lambda1,
                "compactness": config.gamma * config.lambda2,
            }

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        if self.mwad is not None:
            self.mwad.prepare(batch.features, statistics, batch.seed)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.mwad is not None:
            terms |= self.mwad(batch.features, output.features, seed=batch.seed, step=step, labels=batch.labels)
            sizes = {level: tuple(f.shape[-2:]) for level, f in output.features.items()}
            self._last = (batch.features, sizes, batch.seed, step)  # references until the next step, no copies
        if self.pdr is not None:
            f = output.penultimate if self.level == "penultimate" else output.features[self.level]
            terms |= self.pdr(f, batch.labels)
        return terms

    @torch.no_grad()
    def monitors(self) -> dict[str, float]:
        """``signal/<level>/<name>`` of the last step's batch, recomputed here so that other steps pay nothing."""
        if self.mwad is None or self._last is None:
            return {}
        features, sizes, seed, step = self._last
        found = self.mwad.signal(features, sizes, seed=seed, step=step)
        return {f"signal/{level}/{name}": float(x) for level, xs in found.items() for name, x in xs.items()}


def _level(features: str, levels: list[str]) -> str:
    if features == "deepest":
        return levels[-1]
    if features != "penultimate" and features not in levels:
        raise ValueError(f"pdr.features is {features}; this student has {levels}, 'deepest' and 'penultimate'")
    return features
