"""Configuration of the teacher's segmentation head: how it is fitted, and where its tensors come from."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.training.inputs.order_config import OrderConfig
from pipeline.training.optimizer import OptimizerConfig
from sward.contracts import Config
from sward.task import TaskConfig
from sward.teachers import HeadConfig
from sward.teachers.head import TeacherHeadConfig

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig


class HeadFit(Config):
    """Segmentation head of the teacher: trained on cached features by a run of its own (`sward fit-head`), then frozen.

    It is the teacher's row in a comparison, and provides logits and penultimate maps to the methods that read them.
    """

    network: HeadConfig = Field(TeacherHeadConfig(), description="Architecture of the head.")
    steps: int = Field(0, ge=0, description="Optimiser steps; 0: as many as `epochs` take.")
    epochs: float = Field(20, gt=0, description="Passes over the training records, where `steps` does not say.")
    task: TaskConfig | None = Field(None, description="Task loss; null: as the student's.")
    batch_size: int | None = Field(None, ge=1, description="Records per step; null: as for the student.")
    optimizer: OptimizerConfig | None = Field(None, description="Optimiser and schedule; null: as for the student.")
    seed: int = Field(0, ge=0, description="Seed of initialisation and order; one head serves students of all seeds.")
    tensors: Literal["recomputed", "appended"] = Field(
        "recomputed",
        description="Source of logits and penultimate maps: the head run in every step, or the store "
        "(written by `sward extract --append`).",
    )

    def of_run(self, run: "TrainConfig", seed: int | None = None) -> dict[str, Any]:
        """Settings in which the run that fits the head differs from ``run``, besides its method.

        Args:
            run: whose store, views, labels and schedule are the head's too.
            seed: seed of the fit; None takes ``self.seed``.

        Raises:
            ValueError: the run reads no labels.
        """
        if run.labels.fraction == 0:
            raise ValueError("a teacher's head is fitted on labels, found labels: 0; set labels, or leave out `head`")
        seed = self.seed if seed is None else seed
        return {
            "name": f"teacher-seed{seed}{'' if run.fold is None else f'-fold{run.fold}'}",
            "student": self.network,
            "head": None,
            "unlabelled": 0,
            "init": None,
            "steps": self.steps,
            "epochs": None if self.steps else self.epochs,
            "task": self.task or run.task,
            "accumulate": 1,
            "ema": 0,
            "patience": 0,
            "batch_size": self.batch_size or run.batch_size,
            "optimizer": self.optimizer or run.optimizer,
            "seed": seed,
            "order": OrderConfig(),
            "signal_every": 0,
            "channels_last": False,
            "compile": False,
        }
