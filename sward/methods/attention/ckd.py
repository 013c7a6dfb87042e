"""CKD (cross-architecture): throw-away projectors put the student into a transformer's attention and token spaces."""

# B batch, C channels, d width of a token (C_t), n tokens (H W, row by row), G groups of cells, m cells of one group

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward import seeds
from sward.contracts import Batch, Channels
from sward.methods.attention.group_linear import GroupLinear
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, grid, initialise, tensors
from sward.sent import sent


class CKDConfig(FeatureConfig):
    """What is matched, the partial exchange, the groups of the linear projector, weights."""

    kind: Literal["ckd"] = Field(default="ckd", description="Cross-architecture: attention, value relations, tokens.")
    match: Literal["attention", "scores"] = Field(
        default="attention",
        description="(A) Output of attention (paper), or scores before the softmax (released code).",
    )
    exchange: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="(B) Probability that an element of the student's Q, K, V is replaced by the teacher's before "
        "attention (paper: 0.5); 0: never (released code). 'scores' has no exchange.",
    )
    groups: Literal["block", "residue"] = Field(
        default="block",
        description="(C) Cells that share a layer of the linear projector: each 4x4 block (the number of layers then "
        "follows from the map's size), or positions modulo 4 (always 16 layers).",
    )
    teacher_qkv: Literal["features"] = Field(
        default="features",
        description="(D) The teacher's Q, K and V: its map, in one head; a trunk's own are not kept.",
    )
    standardise: bool = Field(
        default=True,
        description="Bring the teacher's channels to mean 0 and standard deviation 1 by the store's statistics (for a "
        "head's tensors, the first batch's).",
    )
    weight: float | None = Field(
        default=None, gt=0, description="Weight of attention or scores; null: 1 for attention, 0.2 for scores (code)."
    )
    values_weight: float = Field(
        default=0.05, ge=0, description="Weight of the values' relations (code: 0.05); 0 leaves the term out."
    )
    linear_weight: float = Field(
        default=1.0, ge=0, description="Weight of the linear projector's term (code: 0.05); 0 leaves the term out."
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "CKD":
        """The method for this teacher and student. Raises ValueError if the level is missing."""
        return CKD(self, teacher, tensors(student, num_classes, penultimate))


class CKD(FeatureMethod):
    """Distils a transformer into a convolutional student by two projectors that are dropped after training.

    The first maps the student's map to Q, K, V of the teacher's width, by 3x3 convolutions; parts of them are replaced
    by the teacher's at random, so that the student's must fit in. The second is one linear layer per group of cells,
    straight to the teacher's tokens. att(Q, K, V) = softmax(Q K^T / sqrt(d)) V over the n tokens of a map; d = C_t, one
    head; the teacher's Q, K and V are its map.

    Terms:
        attention: mean over (B, n, d) of (att(Q_t, K_t, V_t) - att(Q, K, V))^2, with Q, K, V the student's after the
        exchange: elements drawn as the teacher's pass no gradient.
        scores (in place of attention): mean over (B, n, n) of (Q_t K_t^T - Q_s K_s^T)^2 / d.
        values: mean over (B, n, n) of (V_t V_t^T - V_s V_s^T)^2 / d, without exchange.
        linear: mean over all elements of (FC_group(f_s) - f_t)^2.
    Paper and code:
        Liu et al., ACCV 2022. Equations as reported by two independent public notes; the released code is known only
        from lines that a note quotes. Classification with a ViT teacher; no numbers to compare with.
    Differences:
        Means instead of sums. The adversarial term and the student's random views are left out: they need a second
        optimiser and a teacher online. One head, and the teacher's map in place of its Q, K, V. Dropout before the
        linear layers is not stated: none. The code has one bias-free layer for Q, K, V, 16 heads and a warm-up of all
        terms.
    Reads:
        One teacher level, and the store's statistics of it. The student is resized bilinearly to its grid. With
        ``groups: block`` all maps must have the size seen at ``prepare``. Memory: B n^2 numbers a matrix.
    Random draws:
        For each of "q", "k", "v": u = ``seeds.uniforms(B * n * d, seed, "ckd", step, name)`` viewed (B, n, d), float64;
        the teacher's element is taken where u >= 1 - exchange.
    Parameters and buffers:
        ``weight`` and ``bias`` each: ``q``, ``k``, ``v`` (C_t, C_s, 3, 3), those that a term reads; ``linear`` (G, C_t,
        C_s), its bias (G, C_t), with G = 16, or ceil(H / 4) ceil(W / 4) (0 before ``prepare``). Buffers: ``mean``,
        ``std`` (C_t,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: CKDConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        C_s, C_t = self.student_channels, self.teacher_channels
        drawn = config.match == "attention" and config.exchange > 0
        self.order_invariant = self.per_sample = not drawn  # draws go by the place in the batch
        self.q, self.k = conv(C_s, C_t, kernel=3), conv(C_s, C_t, kernel=3)
        reads_v = config.match == "attention" or config.values_weight > 0
        self.v = conv(C_s, C_t, kernel=3) if reads_v else None
        self.linear = GroupLinear(C_s, C_t, config.groups) if config.linear_weight > 0 else None
        self.register_buffer("mean", torch.zeros(C_t))
        self.register_buffer("std", torch.ones(C_t))
        weights = {"values": config.values_weight, "linear": config.linear_weight}
        self.weights |= {config.match: config.weight or {"attention": 1.0, "scores": 0.2}[config.match]}
        self.weights |= {name: weight for name, weight in weights.items() if weight > 0}
        initialise(self, seed=0)

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Draw the adapters from the run's seed; take the teacher's statistics and the number of groups."""
        super().prepare(batch, statistics)
        f_t = batch.features[self.teacher_level]
        if self.linear is not None:
            self.linear.reset(batch.seed, grid(f_t))
        if self.config.standardise:
            mean, std = statistics.get(self.teacher_level) or own_statistics(f_t)
            self.mean.copy_(mean)
            self.std.copy_(std)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        mean, std = (x.to(f_t.dtype).view(-1, 1, 1) for x in (self.mean, self.std))
        f_t = (f_t - mean) / std.clamp_min(1e-6)  # a constant channel stays finite
        t_Bnd, d = f_t.flatten(2).mT, f_t.shape[1]
        layers = {"q": self.q, "k": self.k, "v": self.v}
        own = {name: apply(layer, f_s).flatten(2).mT for name, layer in layers.items() if layer is not None}
        found = {}
        if self.config.match == "scores":
            found["scores"] = F.mse_loss(own["q"] @ own["k"].mT, t_Bnd @ t_Bnd.mT) / d
        else:
            mixed = self.exchanged(own, t_Bnd, batch.seed, step)
            found["attention"] = F.mse_loss(attention(**mixed), attention(t_Bnd, t_Bnd, t_Bnd))
        if "values" in self.weights:
            found["values"] = F.mse_loss(own["v"] @ own["v"].mT, t_Bnd @ t_Bnd.mT) / d
        if self.linear is not None:
            found["linear"] = F.mse_loss(self.linear(f_s), f_t)
        return found

    def exchanged(self, own: dict[str, Tensor], t_Bnd: Tensor, seed: int, step: int) -> dict[str, Tensor]:
        """The student's Q, K, V, (B, n, d) each, with the teacher's elements that this step draws."""
        if not self.config.exchange:
            return own
        mixed = {}
        for name, x_Bnd in own.items():
            u = torch.from_numpy(seeds.uniforms(x_Bnd.numel(), seed, "ckd", step, name)).view(x_Bnd.shape)
            mixed[name] = torch.where(sent(u >= 1 - self.config.exchange, x_Bnd.device), t_Bnd, x_Bnd)
        return mixed


def own_statistics(f_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, (C,) each."""
    wide = f_BCHW.double()
    return wide.mean((0, 2, 3)), wide.std((0, 2, 3), correction=0)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of tokens (B, n, d)."""
    return F.scaled_dot_product_attention(q, k, v)
