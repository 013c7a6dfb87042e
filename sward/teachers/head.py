"""A DeepLabV3+-style head on the four trunk levels, fitted from cached features: the teacher's own row.

It never needs the trunk. Deep levels are projected, summed at stride 16 and passed through atrous spatial
pyramid pooling; stride 8 and 4 are joined as low-level detail (Chen et al. 2018, with two low levels).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.contracts import TEACHER_LEVELS, Config, Student, StudentOutput


class TeacherHeadConfig(Config):
    """The head's width; it is trained like a student, but reads features instead of images."""

    kind: Literal["teacher-head"] = Field("teacher-head", description="which head")
    width: int = Field(64, ge=8, le=1024, description="channels of the head")
    rates: tuple[int, ...] = Field((2, 4, 6), description="dilations of the pyramid pooling at stride 16")

    def build(self, teacher_channels: dict[str, int], num_classes: int) -> "TeacherHead":
        return TeacherHead(teacher_channels, num_classes, self.width, self.rates)


def block(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; same size."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class TeacherHead(Student):
    """``reads`` features: forward takes level -> (B, C, h, w) and gives logits at stride 4."""

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
        s4, s8, s16, s32 = (self.project[level](features[level]) for level in TEACHER_LEVELS)
        deep = s16 + resize(s32, s16)
        deep = self.join(torch.cat([branch(deep) for branch in self.pyramid], dim=1))
        penultimate = self.decode(torch.cat([s4, resize(s8, s4), resize(deep, s4)], dim=1))
        return StudentOutput(self.classifier(penultimate), {"s16": deep}, penultimate)


def resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
