"""Optimisers and learning-rate schedules."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from sward.contracts import Config

NAMES = {"adamw": "AdamW", "adam": "Adam", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax", "rmsprop": "RMSprop"}


class OptimizerConfig(Config):
    """Optimiser and learning-rate schedule over the run's steps.

    The paper: AdamW, for polyps 5e-4 and cosine, for Cityscapes 1e-3 and poly.
    """

    kind: Literal["adamw", "adam", "nadam", "radam", "adamax", "rmsprop", "sgd"] = Field(
        "adamw", description="Optimiser of torch.optim; all but lr, weight_decay and momentum as torch has it."
    )
    lr: float = Field(5e-4, gt=0, description="initial learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay; decoupled in adamw, an L2 penalty elsewhere.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd (Nesterov's) and rmsprop; others have none.")
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="how the rate falls to 0")
    power: float = Field(0.9, gt=0, description="exponent of poly")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up")
    clip_norm: float | None = Field(5.0, gt=0, description="gradient norm limit; null: none")


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``: warm-up, then the schedule to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    fraction = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    factor = {
        "cosine": 0.5 * (1 + math.cos(math.pi * fraction)),
        "poly": (1 - fraction) ** config.power,
        "constant": 1.0,
    }
    return config.lr * factor[config.schedule]


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimiser over ``parameters``."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.kind == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **common)
    momentum = {"momentum": config.momentum} if config.kind == "rmsprop" else {}
    return getattr(torch.optim, NAMES[config.kind])(parameters, **common, **momentum)
