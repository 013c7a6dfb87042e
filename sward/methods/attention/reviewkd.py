"""ReviewKD: deep levels of the student are fused into shallow ones, and each fused map is compared at several sizes."""

# B batch, C channels, H W height and width of a level; a of the level itself, y from the deeper level

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.align import pair_levels
from sward.contracts import BaseMethodConfig, Batch, Channels, Method, StudentOutput
from sward.methods.base import BatchNorm, apply, at_least_float32, conv, grid, initialise, ramp, trunk

SIZES = (4, 2, 1)  # sides of the pooled maps beside the whole one


class ReviewKDConfig(BaseMethodConfig):
    """Pairs of levels, width of the fusion, weight, warm-up."""

    kind: Literal["reviewkd"] = Field(default="reviewkd", description="Levels fused deep to shallow, then compared.")
    pairing: Literal["auto", "stride", "order"] | list[tuple[str, str]] = Field(
        default="auto",
        description="Pairs (teacher level, student level): by stride if all have a partner, else by order; or a list.",
    )
    mid: int | None = Field(
        default=None, ge=1, description="Channels of the fused maps; null: the student's deepest level's, at most 512."
    )
    weight: float = Field(
        default=1.0, gt=0, description="Weight (authors: 5 on CIFAR-100, 1 or 8 on ImageNet, 1-2 in detection)."
    )
    ramp_steps: int = Field(
        default=0, ge=0, description="Steps over which the term rises linearly to full size (authors: 1-20 epochs)."
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "ReviewKD":
        """The method for this teacher and student. Raises ValueError if no levels pair."""
        return ReviewKD(self, teacher, student)


class ReviewKD(Method):
    """Lets every teacher level supervise all student levels below it, through a deep-to-shallow pass.

    Levels l = 1 .. L from shallow to deep. x_L = BN(conv1x1 f_L). For l < L, a = BN(conv1x1 f_l) and y is x_{l+1} on
    level l's grid (nearest); two attention maps (s_0, s_1) = sigmoid(conv1x1([a; y])) mix them, x_l = s_0 a + s_1 y.
    Then o_l = BN(conv3x3 x_l) has the teacher's channels and is compared with its level l.

    Terms:
        review: sum over the levels of hcl(o_l, f_t of level l). hcl is the mean squared difference of the maps, plus
        that of their adaptive averages of side 4, 2, 1 (those smaller than the map) with weights 1/2, 1/4, 1/8 in the
        order of those used, over 1 plus these weights.
    Paper and code:
        Chen et al., CVPR 2021. megvii-research/mdistiller a08d46f (MIT), formula checked there; written anew. For image
        classification and detection; no setting for segmentation is published.
    Differences:
        The code compares the pooled vector as a further level; left out here. It is written for square maps; here a
        side is used if it is below the map's height. x_l is resized (nearest) to the teacher's grid before the 3x3
        convolution if the two grids differ, and goes on to the next level at that size.
    Reads:
        All teacher levels that pair with a student level. No labels.
    Random draws:
        None.
    Parameters and buffers:
        For every pair i, from 0 at the shallowest, in ``blocks.i``: ``enter.weight`` (mid, C_s, 1, 1) and
        ``leave.weight`` (C_t, mid, 3, 3), no bias (Kaiming uniform, a = 1); ``enter_norm`` (mid,) and ``leave_norm``
        (C_t,), ``weight`` and ``bias`` each; except at the deepest pair ``attend.weight`` (2, 2 mid, 1, 1) and
        ``attend.bias`` (2,). No buffers.

    Raises:
        ValueError: at ``prepare``, if a level's map is 1x1, which batch normalisation and comparison at several sizes
            have no use for.
    """

    per_sample = True

    def __init__(self, config: ReviewKDConfig, teacher_channels: Channels, student_channels: Channels) -> None:
        super().__init__()
        teacher = trunk(teacher_channels)
        pairs = pair_levels(teacher, list(student_channels), config.pairing)
        self.pairs = sorted(pairs, key=lambda pair: list(student_channels).index(pair[1]))
        self.config, self.needs = config, tuple(dict.fromkeys(t for t, _ in self.pairs))
        mid = config.mid or min(512, student_channels[self.pairs[-1][1]])
        last = len(self.pairs) - 1
        self.blocks = nn.ModuleList(
            Fusion(student_channels[s], mid, teacher_channels[t], fuse=i < last) for i, (t, s) in enumerate(self.pairs)
        )
        self.weights = {"task": config.alpha, "review": config.weight}
        self._initialise(seed=0)

    def prepare(self, batch: Batch, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Draw the fusion blocks' initial weights from the run's seed."""
        if small := [level for level in self.needs if grid(batch.features[level]) == (1, 1)]:
            raise ValueError(
                f"reviewkd compares maps of more than one position; {', '.join(small)} is 1 x 1: list finer pairs in "
                "method.pairing, or use larger records"
            )
        self._initialise(batch.seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        initialise(self, seed)
        for name, weight in self.named_parameters():
            if name.endswith(("enter.weight", "leave.weight")):
                weight.mul_(3**0.5)  # Kaiming uniform with a = 1 in place of sqrt(5)

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        found: list[Tensor] = []
        x: Tensor | None = None
        for (t, s), block in reversed(list(zip(self.pairs, self.blocks, strict=True))):
            f_s, f_t = at_least_float32(output.features[s], batch.features[t])
            with torch.autocast(f_s.device.type, enabled=False):
                x, o = block(f_s, x, grid(f_t))
                found.append(hcl(o, f_t))
        return {"review": ramp(step, self.config.ramp_steps) * torch.stack(found).sum()}


class Fusion(nn.Module):
    """A level's block: fuses its map with the deeper level's and maps the result to the teacher's channels."""

    def __init__(self, student: int, mid: int, teacher: int, fuse: bool) -> None:
        super().__init__()
        self.enter, self.leave = conv(student, mid, bias=False), conv(mid, teacher, kernel=3, bias=False)
        self.enter_norm, self.leave_norm = BatchNorm(mid), BatchNorm(teacher)
        self.attend = conv(2 * mid, 2) if fuse else None

    def forward(self, f_BCHW: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(x, o): the fused map (B, mid, *size) and the map to compare (B, C_t, *size)."""
        x = self.enter_norm(apply(self.enter, f_BCHW))
        if self.attend is not None and deeper is not None:
            y = nearest(deeper, grid(x))
            s = apply(self.attend, torch.cat([x, y], 1)).sigmoid()
            x = s[:, :1] * x + s[:, 1:] * y
        x = nearest(x, size)
        return x, self.leave_norm(apply(self.leave, x))


def nearest(f_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The map on another grid, each cell from source index floor(i * in / out)."""
    return f_BCHW if grid(f_BCHW) == size else F.interpolate(f_BCHW, size, mode="nearest")


def hcl(o_BCHW: Tensor, t_BCHW: Tensor) -> Tensor:
    """Hierarchical context loss: mean squared difference of the maps and of their averages, see ``ReviewKD``."""
    found, weight, total = F.mse_loss(o_BCHW, t_BCHW), 1.0, 1.0
    for side in (side for side in SIZES if side < t_BCHW.shape[-2]):
        weight /= 2
        total += weight
        found = found + weight * F.mse_loss(F.adaptive_avg_pool2d(o_BCHW, side), F.adaptive_avg_pool2d(t_BCHW, side))
    return found / total
