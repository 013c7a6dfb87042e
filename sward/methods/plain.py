"""The student alone: cross-entropy and nothing else, the baseline of every comparison."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from sward.contracts import BaseMethodConfig, Batch, Channels, Method, StudentOutput


class PlainConfig(BaseMethodConfig):
    """Training from scratch, without a teacher."""

    kind: Literal["plain"] = Field(default="plain", description="The student alone.")

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "Plain":
        """The method; reads no teacher level."""
        return Plain(self)


class Plain(Method):
    """Trains the student on labels alone.

    Terms:
        None.
    Reads:
        Nothing of the teacher.
    Random draws:
        None.
    Parameters and buffers:
        None.
    """

    per_sample = True

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.weights = {"task": config.alpha}

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        return {}
