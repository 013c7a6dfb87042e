"""FitNet: trains the student's map, after a 1x1 convolution, to equal the teacher's."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, initialise, tensors


class FitNetConfig(FeatureConfig):
    """Weight of the hint, as in CIRKD's comparison."""

    kind: Literal["fitnet"] = Field(default="fitnet", description="Mean squared difference of feature maps.")
    weight: float = Field(default=10.0, gt=0, description="Weight of the hint (CIRKD's runs: 10).")

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "FitNet":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return FitNet(self, teacher, tensors(student, num_classes, penultimate))


class FitNet(FeatureMethod):
    """Compares feature maps value by value.

    Terms:
        hint: mean((align(f_s) - f_t)^2) over all elements.
    Paper and code:
        Romero et al., ICLR 2015. As in CIRKD's comparison (2d8ad0f; no licence, so written from the formula alone).
    Differences:
        The paper has a pre-training stage of its own; here, as there, one joint stage. There it is taken together with
        logit distillation of weight 1, here alone.
    Reads:
        One teacher level. The student is resized bilinearly to its grid.
    Random draws:
        None.
    Parameters and buffers:
        ``align.weight`` (C_t, C_s, 1, 1), no bias. No buffers.
    """

    per_sample = True

    def __init__(
        self, config: FitNetConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]
    ) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.align = conv(self.student_channels, self.teacher_channels, bias=False)
        self.weights |= {"hint": config.weight}
        initialise(self, seed=0)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"hint": (apply(self.align, f_s) - f_t).square().mean()}
