"""Af-DCD: rebuild the teacher's map from a masked student's, and tell its channel groups apart within small patches.

Part of the aligned student's map is hidden and the teacher's whole map is rebuilt from the rest, as in MGD. On the
rebuilt map, every group of channels at a position of a patch must lie nearer to the teacher's same group and position
than to the teacher's other groups anywhere in the patch. Neither augmentation nor memory is needed.
"""

# B batch, C channels of the teacher, M groups, H W height and width, P patches, U units of a patch (its positions * M)

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward import seeds
from sward.contracts import MASKED_SCORE, Batch, Channels, StudentOutput
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, grid, initialise, tensors
from sward.methods.kd import both_logits, logit_kl
from sward.methods.relations.projectors import EnhancedProjector, Projector
from sward.sent import sent

GROUPS, POOL, TAU = 16, 4, 0.07  # the authors'


class AfDCDConfig(FeatureConfig):
    """Weights, mask, projector, pooling and patches."""

    kind: Literal["afdcd"] = Field(default="afdcd", description="Masked reconstruction, and contrast within patches.")
    weight: float | None = Field(
        default=None,
        gt=0,
        description="Weight of the reconstruction; null: 33.6 for 'mean', 2e-6 for 'sum' (the same on the authors' "
        "Cityscapes maps of 2048 x 64 x 128; their other scripts: 1e-6 to 8e-6).",
    )
    contrast: float = Field(
        default=5e-3, gt=0, description="Weight of the contrast (authors: 5e-3; CamVid 1e-2, ADE20K 0.04)."
    )
    kd: float = Field(
        default=1.0, ge=0, description="Weight of KD on logits (authors: 1, or 0.5); 0 needs no teacher head."
    )
    masked: float = Field(default=0.75, ge=0, lt=1, description="zeta: share of positions hidden by a random mask.")
    mask: Literal["random", "fixed"] = Field(
        default="random", description="Positions drawn at every step, or always the middle third of both axes."
    )
    projector: Literal["plain", "enhanced"] = Field(
        default="plain", description="Two 3x3 convolutions, or four in two branches whose mean is taken."
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="(C) Squares of the reconstruction: mean, or sum over C, H, W (the authors')."
    )
    pool: int | None = Field(
        default=None,
        ge=1,
        description="Side of the max pooling before the contrast; 1: none (CamVid). null: an eighth of the map's "
        "shorter side, at least 1 and at most the authors' 4.",
    )
    patch: int = Field(default=4, ge=1, description="Side of a patch; a smaller map is one patch.")
    groups: int | None = Field(
        default=None,
        ge=2,
        description="M, which must divide the teacher's channels; null: its largest divisor up to 16 (authors: 16).",
    )
    tau: float | None = Field(
        default=TAU,
        gt=0,
        description="Temperature of distances, which are sums over C / M channels; null: 0.07 max(1, C / (8 M)), ours.",
    )

    @property
    def uses_head(self) -> bool:
        return super().uses_head or self.kd > 0

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "AfDCD":
        """The method for this teacher and student. Raises ValueError for missing tensors and groups that do not fit."""
        return AfDCD(self, teacher, tensors(student, num_classes, penultimate))


class AfDCD(FeatureMethod):
    """Terms: ``reconstruction``, ``contrast`` and ``kd`` (unless its weight is 0).

    r = projector(align(f_s) * visible). reconstruction = mean (r - f_t)^2; with ``reduction: sum`` 1/B times the sum.
    contrast: r and f_t are max-pooled (``pool``), cropped right and bottom to whole patches, H' x W', and cut into
    patches and M contiguous channel groups. S = - |r_(j,m) - f_t(j',m')|_1 / tau between units of a patch, j position,
    m group. A unit's loss is - log of e^S with its own partner over that plus the sum over all (j', m') with m' != m:
    the same group at other positions is neither. The term is the sum of all units' losses over (B H' W').
    kd = mean over pixels of KL(p_t || p_s), as ``kd``.

    Paper and code: Fan et al., NeurIPS 2023. Code: 5b086a7 (Apache-2.0); formulas checked there, written anew.
    Differences: with C_s = C_t the code stops at a missing aligner; here the map is taken as it is. The code's
    reconstruction is a sum (``reduction``). Its Cityscapes script asks for the fixed mask and the enhanced projector in
    words its parser refuses, so which forms the printed figure used is unknown: ``mask``, ``projector``. Whether the
    paper's negatives leave out the same group is not verified; here they do, as in the code. The code needs maps
    divisible by 16; pooling and cropping of smaller ones are ours. For CamVid it crops 46 x 45 to 44 x 44 and does not
    pool: ``pool: 1`` does the same.
    Reads: one teacher level, and the teacher's ``logits`` (a fitted head) unless ``kd`` is 0. The student's maps are
    resized bilinearly to their grids, before the aligner.
    Random draws: with the random mask u = ``seeds.uniforms(B * H * W, seed, "af-dcd", step)`` viewed (B, 1, H, W),
    float64; hidden where u > 1 - zeta. ``compared`` takes it as an argument.
    Parameters and buffers (``weight`` and ``bias`` each): ``align`` (C_t, C_s, 1, 1), only where channels differ;
    ``projector.first``, ``projector.second`` (C_t, C_t, 3, 3), enhanced also ``projector.from_first``,
    ``projector.from_second``: 18 or 36 C_t^2 in all, dropped after training. Memory of the contrast: U^2 numbers a
    patch, 256^2 at the defaults.

    Raises:
        ValueError: at building, where no two groups divide the channels; at ``prepare``, where pooling leaves nothing.
    """

    def __init__(self, config: AfDCDConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        C_s, C_t = self.student_channels, self.teacher_channels
        self.channel_groups = fitting_groups(config.groups, C_t, self.teacher_level)
        self.tau = config.tau or TAU * max(1.0, C_t / (8 * self.channel_groups))
        # draws go by the place in the batch
        self.order_invariant = self.per_sample = config.mask == "fixed"
        self.align = conv(C_s, C_t) if C_s != C_t else None
        self.projector = (Projector if config.projector == "plain" else EnhancedProjector)(C_t)
        self.weights |= {"reconstruction": config.weight or {"mean": 33.6, "sum": 2e-6}[config.reduction]}
        self.weights |= {"contrast": config.contrast}
        self.add_logits("kd", config.kd, teacher_channels)
        initialise(self, seed=0)

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Draws the initial weights from the run's seed; refuses a pooling larger than the map."""
        super().prepare(batch, statistics)
        f_t = batch.features.get(self.teacher_level)
        if f_t is not None and (self.config.pool or 1) > min(grid(f_t)):
            raise ValueError(
                f"afdcd: found pool {self.config.pool} for {self.teacher_level} of {grid(f_t)[0]} x {grid(f_t)[1]}; "
                f"expected at most {min(grid(f_t))}: leave `pool` out, or set a finer level"
            )

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found = super().forward(output, batch, step)
        if self.config.kd > 0:
            found["kd"] = logit_kl(*both_logits(output, batch), tau=1.0)
        return found

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        B, _, H, W = f_t.shape
        if self.config.mask == "fixed":
            return self.compared(f_s, f_t, None)
        u = torch.from_numpy(seeds.uniforms(B * H * W, batch.seed, "af-dcd", step)).view(B, 1, H, W)
        return self.compared(f_s, f_t, sent(u, f_t.device))

    def compared(self, f_s: Tensor, f_t: Tensor, u: Tensor | None) -> dict[str, Tensor]:
        """Both feature terms for given draws.

        Args:
            f_s: (B, C_s, H, W), the student on the teacher's grid, before ``align``.
            f_t: (B, C_t, H, W), the teacher.
            u: (B, 1, H, W) in [0, 1), hidden above 1 - zeta; None: the fixed mask.
        """
        y = f_s if self.align is None else apply(self.align, f_s)
        visible = middle_hidden(y) if u is None else u <= 1 - self.config.masked
        r = self.projector(y * visible.to(y.dtype))
        square = (r - f_t).square()
        rebuilt = square.mean() if self.config.reduction == "mean" else square.sum() / len(f_t)
        pool = self.config.pool or max(1, min(POOL, min(grid(f_t)) // 8))
        r, f_t = (f if pool == 1 else F.max_pool2d(f, pool) for f in (r, f_t))
        return {
            "reconstruction": rebuilt,
            "contrast": contrast(r, f_t, self.config.patch, self.channel_groups, self.tau),
        }


def fitting_groups(groups: int | None, channels: int, level: str) -> int:
    """M for that many channels. Raises ValueError where it does not divide them, or nothing from 2 to 16 does."""
    fitting = [m for m in range(2, GROUPS + 1) if channels % m == 0]
    if groups is None and fitting:
        return fitting[-1]
    if groups is None or channels % groups:
        raise ValueError(
            f"afdcd: expected groups that divide the {channels} channels of {level}, found {groups}; "
            f"{f'set groups to one of {fitting}, or leave it out' if fitting else 'set another level'}"
        )
    return groups


def middle_hidden(f_BCHW: Tensor) -> Tensor:
    """The fixed mask, (1, 1, H, W): False in rows H // 3 … 2 H // 3 - 1 and the like columns."""
    H, W = grid(f_BCHW)
    rows, columns = ((i >= n // 3) & (i < 2 * n // 3) for n in (H, W) for i in [torch.arange(n, device=f_BCHW.device)])
    return ~(rows[:, None] & columns)[None, None]


def contrast(r_BCHW: Tensor, f_t_BCHW: Tensor, patch: int, groups: int, tau: float) -> Tensor:
    """The contrast of pooled maps; what right and bottom is no whole patch is cut off."""
    units_s, units_t = (units(f, patch, groups) for f in (r_BCHW, f_t_BCHW))
    S_PUU = -torch.cdist(units_s, units_t, p=1.0) / tau
    group_U = torch.arange(S_PUU.shape[-1], device=S_PUU.device) % groups
    no_pair = (group_U[:, None] == group_U) & ~torch.eye(len(group_U), dtype=torch.bool, device=S_PUU.device)
    loss_PU = S_PUU.masked_fill(no_pair, MASKED_SCORE).logsumexp(-1) - S_PUU.diagonal(dim1=-2, dim2=-1)
    return loss_PU.sum() / (loss_PU.numel() / groups)  # P times the positions of a patch: B H' W'


def units(f_BCHW: Tensor, patch: int, groups: int) -> Tensor:
    """(P, U, C / M): of every patch its positions, row by row, each with its groups."""
    h, w = (min(patch, side) for side in grid(f_BCHW))
    H, W = (side - side % s for side, s in zip(grid(f_BCHW), (h, w), strict=True))
    cut = f_BCHW[..., :H, :W].unflatten(1, (groups, -1)).unflatten(3, (-1, h)).unflatten(5, (-1, w))
    B, M, g, rows, _, columns, _ = cut.shape
    return cut.permute(0, 3, 5, 4, 6, 1, 2).reshape(B * rows * columns, h * w * M, g)
