"""FitNet: trains the student's map, after a 1x1 convolution, to equal the teacher's."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import FeatureConfig, FeatureMethod, apply, conv, initialise, tensors


class FitNetConfig(FeatureConfig):
    """Weight of the hint and form of the projection: CIRKD's comparison, or the dense regression of foundation models.

    A preset fills what is not stated; whatever is stated wins.
    """

    neutral: ClassVar[dict[str, Any]] = {"balance": None, "bias": False, "preset": "hint"}
    dense_mse: ClassVar[dict[str, Any]] = {"bias": True, "weight": 1.0}

    kind: Literal["fitnet"] = Field(default="fitnet", description="Mean squared difference of feature maps.")
    weight: float = Field(default=10.0, gt=0, description="Weight of the hint (CIRKD's runs: 10).")
    bias: bool = Field(default=False, description="Bias of the 1x1 convolution.")
    preset: Literal["hint", "dense_mse"] = Field(
        default="hint",
        description="Where unstated fields come from: 'hint', CIRKD's form (the defaults); 'dense_mse', the plain "
        "feature regression of lightly-train's kind (bias: true, weight: 1).",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "dense_mse":
            return {**cls.dense_mse, **values}
        return values

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "FitNet":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return FitNet(self, teacher, tensors(student, num_classes, penultimate))


class FitNet(FeatureMethod):
    """Compares feature maps value by value.

    Terms:
        hint: mean((align(f_s) - f_t)^2) over all elements.
    Paper and code:
        Romero et al., ICLR 2015. As in CIRKD's comparison (2d8ad0f; no licence, so written from the formula alone).
        ``preset: dense_mse``: regression after a linear projection, as the public documentation of lightly-train
        describes its distillation of dense features; its repository (AGPL-3.0) was not opened.
    Differences:
        The paper has a pre-training stage; here, as in CIRKD, one joint stage. CIRKD adds logit distillation of weight
        1; here the hint stands alone. Projection and weight of dense_mse are not documented; these are ours. Raw trunk
        features differ in scale by channel: for standardised ones use ``radio`` with ``target: channel, loss: mse``.
    Reads:
        One teacher level. The student is resized bilinearly to its grid.
    Random draws:
        None.
    Parameters and buffers:
        ``align.weight`` (C_t, C_s, 1, 1) and, with ``bias``, ``align.bias`` (C_t,). No buffers.
    """

    per_sample = True

    def __init__(
        self, config: FitNetConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]
    ) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.align = conv(self.student_channels, self.teacher_channels, bias=config.bias)
        self.weights |= {"hint": config.weight}
        initialise(self, seed=0)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"hint": (apply(self.align, f_s) - f_t).square().mean()}
