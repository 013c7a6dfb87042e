"""Types that students, methods and the training loop exchange. Levels are named as in `sward.levels`: s4, s16@3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from sward.base_config import BalanceConfig, NeutralConfig, PrestageConfig
from sward.base_config import Config as Config  # re-exported: the base of every configuration

HEAD_TENSORS = ("penultimate", "logits")  # tensors that a teacher's head adds to the trunk's levels
Channels = dict[str, int]  # level (or head tensor) -> channels, shallow to deep
IGNORE = 255  # label of pixels that losses and metrics leave out
MASKED_SCORE = -1e30  # attention score of a masked key: its weight is exactly 0 and its log weight stays finite


@dataclass
class Batch:
    """Input of one training step, on the training device.

    Attributes:
        images: (B, 3, H, W) float32, normalised.
        labels: (B, H, W) int64; ``IGNORE`` for pixels that are not counted.
        features: name -> (B, C, h, w) float32: the needed teacher tensors, dequantised. Names are trunk levels,
            and ``penultimate`` and ``logits`` of the head.
        ids: "<sample digest>/<view>" of each record.
        seed: the run's seed; with the step it keys the methods' random draws.
        labelled: number of leading records that have labels; the others are ``IGNORE`` throughout. None: all have.
    """

    images: Tensor
    labels: Tensor
    features: dict[str, Tensor]
    ids: list[str]
    seed: int = 0
    labelled: int | None = None

    def inputs(self, student: "Student") -> Any:
        """Returns the images or the teacher features, whichever ``student`` reads."""
        return self.images if student.reads == "images" else self.features


@dataclass
class StudentOutput:
    """Output of a student (or of a teacher's head) for one batch.

    Attributes:
        logits: (B, K, h, w) at any resolution.
        features: level -> (B, C, h, w), shallow to deep.
        penultimate: (B, C, h, w), the input of the classifier.
    """

    logits: Tensor
    features: dict[str, Tensor]
    penultimate: Tensor

    def tensor(self, name: str) -> Tensor:
        """Returns the tensor called ``name``: a level, ``penultimate`` or ``logits``."""
        return getattr(self, name) if name in HEAD_TENSORS else self.features[name]


class Student(nn.Module):
    """Base of students and of teacher heads.

    Attributes:
        reads: input of ``forward``: images, or cached teacher features (teacher heads).
        channels: level -> channels of the maps that ``forward`` returns, shallow to deep. A level is named by its
            nominal stride; a dilated stage keeps that name.
        strides: level -> true stride, in pixels; smaller than the nominal one if the stage is dilated.
        num_classes: K, channels of the logits.
        classifier: the last convolution; its input is the penultimate map.
    """

    reads: Literal["images", "features"] = "images"
    channels: dict[str, int]
    strides: dict[str, int]
    num_classes: int
    classifier: nn.Conv2d

    def forward(self, images: Tensor) -> StudentOutput:
        """Maps normalised images (B, 3, H, W) float32 to logits (B, K, h, w), levels and penultimate map."""
        raise TypeError(f"{type(self).__name__} does not define forward")


class BaseMethodConfig(NeutralConfig):
    """Fields of every method's configuration. A subclass adds ``kind`` and the constructor of its method.

    That constructor is ``build(teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> Method``:

    - ``teacher``: channels of every teacher tensor, by name: trunk levels, and with a fitted head also
      ``penultimate`` and ``logits``.
    - ``student``: channels of the student's levels alone (``Student.channels``).
    - ``num_classes``: K, channels of the student's logits.
    - ``penultimate``: channels of the student's map before its classifier.

    ``build`` raises ValueError if a tensor that the method reads is missing.
    """

    neutral: ClassVar[dict[str, Any]] = {"balance": None}

    alpha: float = Field(default=1.0, gt=0, description="Weight of the task loss.")
    balance: BalanceConfig | None = Field(
        default=None,
        description="Gradient balancing: `gradient`, or settings such as {kind: gradient, share: 0.5}; null: none.",
    )

    @field_validator("balance", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @property
    def uses_head(self) -> bool:
        """True if the method reads tensors that only a fitted teacher head provides."""
        return False

    def warm_up(self, steps: int) -> tuple[int, tuple[str, ...]]:
        """Describes the warm-up of a run of ``steps`` optimiser steps, in which only the labels train the student.

        Returns:
            (warm-up steps, names of the fields that have no effect before the warm-up ends). Default: no warm-up.
        """
        return 0, ()

    def for_steps(self, steps: int) -> Self:
        """Returns the configuration to build from: fields that depend on the run's number of steps are filled in."""
        return self

    def for_levels(self, levels: Sequence[str]) -> Self:
        """Returns the configuration with the level ``deepest`` replaced by that of a teacher with ``levels``."""
        return self


class Prestage(nn.Module):
    """Module that a method trains once on the cache, before any student. Runs of all seeds share it, frozen.

    Attributes:
        needs: names of the teacher tensors it reads.
        settings: optimiser settings.
        key: further settings that determine the result (kind, level, token count …). The pipeline adds the store,
            the head and the views.
    """

    needs: tuple[str, ...]
    settings: PrestageConfig
    key: dict[str, Any]

    def forward(self, batch: Batch, head: nn.Module | None) -> dict[str, Tensor]:
        """Computes the scalar float32 loss terms by name, weights included; training minimises their sum.

        Args:
            batch: has the teacher tensors of ``needs``.
            head: the frozen teacher head, which maps level -> (B, C, h, w) to StudentOutput; None if none is
                configured.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")


class FeaturePass(nn.Module):
    """Statistics that a method counts in one pass over the training records, before any student.

    Runs of all seeds share the result.

    Attributes:
        needs: names of the teacher tensors read.
        key: what else the result depends on, as in ``Prestage``.
    """

    needs: tuple[str, ...]
    key: dict[str, Any]

    def add(self, batch: Batch) -> None:
        """Count the records of a batch; called with every training record once, in store order."""
        raise TypeError(f"{type(self).__name__} does not define add")

    def result(self) -> dict[str, Tensor]:
        """What ``load_prestage`` of the method takes, after the last record."""
        raise TypeError(f"{type(self).__name__} does not define result")


class Method(nn.Module):
    """Base of distillation methods: computes the named, unweighted scalar terms of one step.

    Adapters are submodules: they are trained and saved with the method, and dropped at export.

    Attributes:
        needs: names of the teacher tensors read from the cache (empty: none).
        weights: weight of every term that ``forward`` returns, by name.
        label_terms: names of the terms that are computed from labels; they are 0 where a batch has none.
        order_invariant: True if the same records in another order give the same terms.
        per_sample: True if every term is a mean over samples of a value that each sample gives alone (batch norm
            aside), or if the method itself sums over processes (`sward.distributed.collectives`). With several
            processes, each process then computes the terms of its own samples. If False, each process computes
            them for the whole batch: the result is equally exact, but every process pays the full cost.
    """

    needs: tuple[str, ...] = ()
    weights: dict[str, float]
    label_terms: tuple[str, ...] = ()
    order_invariant: bool = True
    per_sample: bool = False

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Parts that gradient balancing scales, each by one factor: name -> its terms. Default: all, as ``method``."""
        return {"method": tuple(name for name in self.weights if name != "task")}

    def prestage(self) -> Prestage | FeaturePass | None:
        """Returns the newly initialised pre-stage or pass that must be done before the student. Default: None."""
        return None

    def load_prestage(self, state: dict[str, Tensor]) -> None:
        """Copies a finished pre-stage's ``state_dict``, or a pass's ``result``, where it no longer gets gradients."""
        raise TypeError(f"{type(self).__name__} has no pre-stage")

    def prepare(self, batch: Batch, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Fits data-dependent state once, before the first step of a new run. Default: does nothing.

        Must be deterministic in its arguments.

        Args:
            batch: a fixed batch of training records.
            statistics: level -> (mean, std) of the store's features, each (C,).
        """

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> dict[str, Tensor]:
        """Computes the unweighted scalar float32 terms of one step, by name."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    @torch.no_grad()
    def monitors(self) -> dict[str, float]:
        """Returns numbers about the last step's relational signal, for the log. Default: none."""
        return {}
