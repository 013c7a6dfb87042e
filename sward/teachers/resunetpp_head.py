"""ResUNet++-style segmentation head of the teacher, on cached features of the four trunk levels.

It has the bridge, gates and residual blocks of the ResUNet++ student, and is meant for comparisons with that student
(paper, polyp tables). It never needs the trunk.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from sward.contracts import Config, Student, StudentOutput
from sward.students.resunetpp import Decoder, SummedASPP

LEVELS = ("s4", "s8", "s16", "s32")  # each decoder doubles the grid: nothing else fits


class ResUNetPPHeadConfig(Config):
    """Configuration of the head, which is trained like a student but reads features instead of images."""

    kind: Literal["resunetpp-head"] = Field("resunetpp-head", description="Head architecture.")
    width: int = Field(32, ge=8, le=1024, multiple_of=8, description="Channels at stride 4; doubled at each level.")

    def build(self, teacher_channels: dict[str, int], num_classes: int) -> "ResUNetPPHead":
        """Builds the head on levels of ``teacher_channels``, initialised from torch's current generator."""
        return ResUNetPPHead(teacher_channels, num_classes, self.width)


class ResUNetPPHead(Student):
    """ResUNet++-style head that reads the trunk's levels. Logits and penultimate map are at stride 4."""

    reads: Literal["images", "features"] = "features"

    def __init__(self, teacher_channels: dict[str, int], num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        if missing := [level for level in LEVELS if level not in teacher_channels]:
            raise ValueError(
                f"resunetpp-head reads {', '.join(LEVELS)}; the teacher has no {', '.join(missing)} (it has "
                f"{list(teacher_channels)}): set head.network to {{kind: teacher-head}}, which reads any levels"
            )
        widths = {level: width * 2**i for i, level in enumerate(LEVELS)}
        self.channels, self.strides = {"s8": widths["s8"]}, {"s8": 8}
        self.project = nn.ModuleDict({k: nn.Conv2d(teacher_channels[k], w, 1) for k, w in widths.items()})
        w4, w8, w16, w32 = widths.values()
        self.bridge = SummedASPP(w32, w32)
        self.up16, self.up8, self.up4 = Decoder(w16, w32, w16), Decoder(w8, w16, w8), Decoder(w4, w8, w4)
        self.aspp = SummedASPP(w4, width)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: dict[str, Tensor]) -> StudentOutput:  # type: ignore[override]
        """Maps trunk levels to logits (B, K, h4, w4), level s8 and the penultimate map (B, width, h4, w4).

        Args:
            features: s4, s8, s16, s32 -> (B, C, h, w), each level twice the size of the next; (h4, w4) is the size of
                s4.
        """
        s4, s8, s16, s32 = (self.project[level](features[level]) for level in LEVELS)
        f8 = self.up8(s8, self.up16(s16, self.bridge(s32)))
        penultimate = self.aspp(self.up4(s4, f8))
        return StudentOutput(self.classifier(penultimate), {"s8": f8}, penultimate)
