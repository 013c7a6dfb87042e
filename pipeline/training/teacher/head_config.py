"""Configuration of the teacher's segmentation head: how it is fitted, and where its tensors come from."""

from typing import Literal

from pydantic import Field

from pipeline.training.optimizer import OptimizerConfig
from sward.contracts import Config
from sward.task import TaskConfig
from sward.teachers import HeadConfig
from sward.teachers.head import TeacherHeadConfig


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
