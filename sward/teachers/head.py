"""DeepLabV3+-style segmentation head of the teacher, trained on cached features of the four trunk levels.

Its results are the teacher's row in comparisons. It never needs the trunk. Levels s16 and s32 are projected, summed at
stride 16 and passed through atrous spatial pyramid pooling. Strides 8 and 4 are joined as low-level detail (Chen et
al. 2018, with two low levels).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.contracts import TEACHER_LEVELS, Config, Student, StudentOutput


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
    """DeepLabV3+-style head that reads the trunk's levels. Its logits are at stride 4."""

    reads: Literal["images", "features"] = "features"

    def __init__(self, teacher_channels: dict[str, int], num_classes: int, width: int, rates: tuple[int, ...]):
        super().__init__()
        self.num_classes = num_classes
        self.channels, self.strides = {"s16": width}, {"s16": 16}
        self.project = nn.ModuleDict({level: block(c, width, 1) for level, c in teacher_channels.items()})
        self.pyramid = nn.ModuleList([block(width, width, 1), *(block(width, width, 3, rate) for rate in rates)])
        self.join = block(width * (len(rates) + 1), width, 1)
        self.decode = nn.Sequential(block(3 * width, width, 3), block(width, width, 3))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: dict[str, Tensor]) -> StudentOutput:  # type: ignore[override]
        """Maps trunk levels to logits (B, K, h4, w4), level s16 and the penultimate map (B, width, h4, w4).

        Args:
            features: s4, s8, s16, s32 -> (B, C, h, w); (h4, w4) is the size of s4.
        """
        s4, s8, s16, s32 = (self.project[level](features[level]) for level in TEACHER_LEVELS)
        deep = s16 + resize(s32, s16)
        deep = self.join(torch.cat([branch(deep) for branch in self.pyramid], dim=1))
        penultimate = self.decode(torch.cat([s4, resize(s8, s4), resize(deep, s4)], dim=1))
        return StudentOutput(self.classifier(penultimate), {"s16": deep}, penultimate)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resizes ``x`` (B, C, H, W) bilinearly to the size of ``like``, corners not aligned."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
