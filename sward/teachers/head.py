"""DeepLabV3+-style segmentation head of the teacher, trained on cached features of the trunk's levels.

Its results are the teacher's row in comparisons. It never needs the trunk. Of a Hiera, levels s16 and s32 are
projected, summed at stride 16 and passed through atrous spatial pyramid pooling. Strides 8 and 4 are joined as
low-level detail (Chen et al. 2018, with two low levels). Other trunks: `TeacherHead`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sward.align import resize
from sward.contracts import Config, Student, StudentOutput
from sward.levels import deepest, place, stride

DEEP = (
    14  # pixels: smallest stride of levels that are summed before the pyramid pooling (patches of 14 and 16 are deep)
)


class TeacherHeadConfig(Config):
    """Configuration of the head, which is trained like a student but reads features instead of images."""

    kind: Literal["teacher-head"] = Field("teacher-head", description="Head architecture.")
    width: int = Field(64, ge=8, le=1024, description="Channels of the head.")
    rates: tuple[int, ...] = Field((2, 4, 6), description="Dilations of the pyramid pooling at stride 16.")

    def build(self, teacher_channels: dict[str, int], num_classes: int) -> "TeacherHead":
        """Builds the head on levels of ``teacher_channels``, initialised from torch's current generator."""
        return TeacherHead(teacher_channels, num_classes, self.width, self.rates)


def block(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU: (B, C, H, W) -> (B, C', H, W)."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class TeacherHead(Student):
    """DeepLabV3+-style head that reads the trunk's levels. Its logits are at stride 4.

    Levels of stride 14 and more are deep: they are summed on the finest of their grids, after the projection. Finer
    levels are joined as detail. Where no level has stride 4, both are resized to that grid.
    """

    reads: Literal["images", "features"] = "features"

    def __init__(self, teacher_channels: dict[str, int], num_classes: int, width: int, rates: tuple[int, ...]):
        super().__init__()
        self.num_classes = num_classes
        ordered = sorted(teacher_channels, key=place)
        self.deep = [level for level in ordered if stride(level) >= DEEP] or [deepest(ordered)]
        self.low = [level for level in ordered if level not in self.deep]
        self.name = f"s{stride(self.deep[0])}"
        self.channels, self.strides = {self.name: width}, {self.name: stride(self.deep[0])}
        self.project = nn.ModuleDict({level: block(c, width, 1) for level, c in teacher_channels.items()})
        self.pyramid = nn.ModuleList([block(width, width, 1), *(block(width, width, 3, rate) for rate in rates)])
        self.join = block(width * (len(rates) + 1), width, 1)
        self.decode = nn.Sequential(block((len(self.low) + 1) * width, width, 3), block(width, width, 3))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: dict[str, Tensor]) -> StudentOutput:  # type: ignore[override]
        """Maps trunk levels to logits (B, K, h4, w4), a deep level and the penultimate map (B, width, h4, w4).

        Args:
            features: level -> (B, C, h, w); (h4, w4) is the grid of stride 4.
        """
        maps = {level: self.project[level](features[level]) for level in (*self.low, *self.deep)}
        first, *others = (maps[level] for level in self.deep)
        for other in others:
            first = first + resize(other, grid(first))
        deep = self.join(torch.cat([branch(first) for branch in self.pyramid], dim=1))
        fine = at_stride_4((*self.low, self.name)[0], (*(maps[level] for level in self.low), deep)[0])
        joined = [resize(f, fine) for f in (*(maps[level] for level in self.low), deep)]
        penultimate = self.decode(torch.cat(joined, dim=1))
        return StudentOutput(self.classifier(penultimate), {self.name: deep}, penultimate)


def grid(f_BCHW: Tensor) -> tuple[int, int]:
    """Height and width of a map, in cells."""
    return f_BCHW.shape[-2], f_BCHW.shape[-1]


def at_stride_4(level: str, f_BCHW: Tensor) -> tuple[int, int]:
    """Height and width of the grid of stride 4, from the map of any level."""
    height, width = grid(f_BCHW)
    return height * stride(level) // 4, width * stride(level) // 4
