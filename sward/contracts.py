"""What students, methods and the loop hand each other. Levels are named by stride: s4, s8, s16, s32."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

TEACHER_LEVELS = ("s4", "s8", "s16", "s32")
Channels = dict[str, int]  # level -> channels, shallow to deep
IGNORE = 255  # label value that no loss and no metric counts


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class Batch:
    """One step's input, on the training device.

    images: (B, 3, H, W) float32, normalised. labels: (B, H, W) int64, ``IGNORE`` where not counted.
    features: level -> (B, C, h, w) float32, dequantised teacher features (only the levels needed).
    ids: one "<sample digest>/<view>" per record. seed: the run's seed, for draws keyed by the step.
    """

    images: Tensor
    labels: Tensor
    features: dict[str, Tensor]
    ids: list[str]
    seed: int = 0

    def inputs(self, student: "Student") -> Any:
        """What ``student`` reads of this batch."""
        return self.images if student.reads == "images" else self.features


@dataclass
class StudentOutput:
    """logits: (B, K, h, w) at any resolution. features: level -> (B, C, h, w), shallow to deep.
    penultimate: (B, C, h, w), the input of the classifier."""

    logits: Tensor
    features: dict[str, Tensor]
    penultimate: Tensor


class Student(nn.Module):
    """Base of students: declares ``channels``, level -> channels, shallow to deep, as ``forward`` returns them.

    A level's name is its nominal stride (a dilated stage keeps its name; its true stride is in ``strides``).
    ``classifier`` is the last convolution; its input is the penultimate feature.
    ``reads``: what ``forward`` takes; a teacher head reads cached features in place of images.
    """

    reads: Literal["images", "features"] = "images"
    channels: dict[str, int]
    strides: dict[str, int]
    num_classes: int
    classifier: nn.Conv2d

    def forward(self, images: Tensor) -> StudentOutput:
        raise TypeError(f"{type(self).__name__} does not define forward")


class Method(nn.Module):
    """Base of distillation methods: named, unweighted scalar terms of one step.

    ``needs``: teacher levels read from the cache (empty: none). ``weights``: weight of every term returned.
    Adapters are submodules: trained and saved with the method, dropped at export.
    """

    needs: tuple[str, ...] = ()
    weights: dict[str, float]

    def prepare(self, batch: Batch, statistics: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Called once before the first step of a new run, with a fixed batch of training records and
        the store's per-level (mean, std), each (C,). Must be deterministic. Default: nothing."""

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        """Unweighted scalar float32 terms by name."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    @torch.no_grad()
    def monitors(self) -> dict[str, float]:
        """Numbers about the last step's relational signal, for the log. Default: none."""
        return {}


def canonical(value: Any) -> Any:
    """JSON-ready form of a config, the one from which hashes are made."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
