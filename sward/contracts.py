"""What students, methods and the loop hand each other. Levels are named by stride: s4, s8, s16, s32."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer
from torch import Tensor, nn

TEACHER_LEVELS = ("s4", "s8", "s16", "s32")
HEAD_TENSORS = ("penultimate", "logits")  # what a teacher's head adds to the trunk's levels
Channels = dict[str, int]  # level (or head tensor) -> channels, shallow to deep
IGNORE = 255  # label value that no loss and no metric counts
MASKED_SCORE = -1e30  # score of a key out of sight: its weight is exactly 0 and its logarithm stays finite


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class Batch:
    """One step's input, on the training device.

    images: (B, 3, H, W) float32, normalised. labels: (B, H, W) int64, ``IGNORE`` where not counted.
    features: name -> (B, C, h, w) float32, dequantised teacher tensors, only those needed: trunk levels, and
    the head's ``penultimate`` map and ``logits``.
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

    def tensor(self, name: str) -> Tensor:
        """A level, the ``penultimate`` map or the ``logits``."""
        return getattr(self, name) if name in HEAD_TENSORS else self.features[name]


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


class BalanceConfig(Config):
    """Gradient balancing (`sward.balance`): factors on a method's terms follow from measured gradient norms."""

    kind: Literal["gradient"] = Field(default="gradient", description="Norms at the student's parameters.")
    share: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        default=0.5,
        description="Gradient norm of each part as a fraction of the task's: one number, or one for every part by its "
        "label in `combined` (of other methods the only part is `method`).",
    )
    every: int = Field(
        default=10, ge=1, description="Steps between measurements, each a backward pass per part and one."
    )
    decay: float = Field(default=0.9, ge=0, lt=1, description="Of the exponential mean of the norms; 0: no smoothing.")


class BaseMethodConfig(Config):
    """Fields of every method's configuration; a subclass adds ``kind`` and the method itself:
    ``build(teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> Method``.

    ``teacher``: channels of every tensor the teacher gives, by name: trunk levels, and with a fitted head also
    ``penultimate`` and ``logits``. ``student``: channels of the student's levels alone (``Student.channels``).
    ``num_classes``: K, channels of the student's logits. ``penultimate``: channels of the student's map before its
    classifier. ``build`` raises ValueError where a tensor that the method reads is missing.
    """

    alpha: float = Field(default=1.0, gt=0, description="Weight of the task loss.")
    balance: BalanceConfig | None = Field(
        default=None,
        description="Gradient balancing: `gradient`, or settings such as {kind: gradient, share: 0.5}; null: none.",
    )

    @field_validator("balance", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _without_unused_balance(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``balance`` out if it is not used, so that identities of runs without it stay as they were."""
        values: dict[str, Any] = handler(self)
        if self.balance is None:
            values.pop("balance", None)
        return values

    @property
    def uses_head(self) -> bool:
        """Whether it reads what only a fitted teacher head gives."""
        return False

    def warm_up(self, steps: int) -> tuple[int, tuple[str, ...]]:
        """(steps on labels alone at the start of a run of ``steps``, fields that change nothing before their end)."""
        return 0, ()

    def for_steps(self, steps: int) -> Self:
        """This configuration with what depends on the length of the run filled in; to be built from."""
        return self


class PrestageConfig(Config):
    """SGD with a polynomial rate (power 0.9), as MasKD trains its tokens."""

    steps: int = Field(default=10_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(default=16, ge=1, description="Records a step.")
    lr: float = Field(default=0.1, gt=0, description="Initial learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum.")
    weight_decay: float = Field(default=1e-3, ge=0, description="Weight decay.")
    seed: int = Field(default=0, ge=0, description="Initial values and order; runs of all seeds share the result.")


class Prestage(nn.Module):
    """What a method learns once from the cache before any student; runs of all seeds share it, frozen.

    ``needs``: teacher tensors read. ``settings``: how it is trained. ``key``: what else its result depends on
    (kind, level, token count …); store, head and views are added by the pipeline.
    """

    needs: tuple[str, ...]
    settings: PrestageConfig
    key: dict[str, Any]

    def forward(self, batch: Batch, head: nn.Module | None) -> dict[str, Tensor]:
        """Scalar float32 terms by name, weights included; their sum is minimised.

        Args:
            batch: with the teacher tensors of ``needs``.
            head: the frozen teacher head, level -> (B, C, h, w) to StudentOutput; None where none is configured.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")


class Method(nn.Module):
    """Base of distillation methods: named, unweighted scalar terms of one step.

    ``needs``: teacher tensors read from the cache (empty: none). ``weights``: weight of every term returned.
    ``order_invariant``: whether the same records in another order give the same terms.
    ``per_sample``: whether every term is the mean over the batch's samples of what each gives alone (batch norm aside),
    or sums over processes itself (`sward.distributed.collectives`). Of several processes each then sees its own
    samples; else each sees the whole batch, which is as exact and costs every process what it costs one.
    Adapters are submodules: trained and saved with the method, dropped at export.
    """

    needs: tuple[str, ...] = ()
    weights: dict[str, float]
    order_invariant: bool = True
    per_sample: bool = False

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Parts that gradient balancing scales, each by one factor: name -> its terms. Default: all, as ``method``."""
        return {"method": tuple(name for name in self.weights if name != "task")}

    def prestage(self) -> Prestage | None:
        """What must be learned before the student, newly initialised. Default: nothing."""
        return None

    def load_prestage(self, state: dict[str, Tensor]) -> None:
        """Take over the ``state_dict`` of a finished pre-stage, without gradient from here on."""
        raise TypeError(f"{type(self).__name__} has no pre-stage")

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
