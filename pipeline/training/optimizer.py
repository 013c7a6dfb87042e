"""Optimisers, learning-rate schedules, and the running mean of weights (Polyak averaging)."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sward.contracts import Config

NAMES = {"adamw": "AdamW", "adam": "Adam", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax", "rmsprop": "RMSprop"}

FUSED = ("adamw", "adam", "sgd")  # kinds of which torch has a fused form


class OptimizerConfig(Config):
    """Optimiser and learning-rate schedule over the run's steps.

    The paper: AdamW, for polyps 5e-4 and cosine, for Cityscapes 1e-3 and poly.
    """

    kind: Literal["adamw", "adam", "nadam", "radam", "adamax", "rmsprop", "sgd"] = Field(
        "adamw", description="Optimiser of torch.optim; all but lr, weight_decay and momentum as torch has it."
    )
    lr: float = Field(5e-4, gt=0, description="Initial learning rate.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay; decoupled in adamw, an L2 penalty elsewhere.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd (Nesterov's) and rmsprop; others have none.")
    schedule: Literal["cosine", "poly", "constant"] = Field(
        "cosine", description="Decay of the learning rate: to 0 by `cosine` or `poly`, or none."
    )
    power: float = Field(0.9, gt=0, description="Exponent of the poly schedule.")
    warmup_steps: int = Field(0, ge=0, description="Steps in which the rate rises linearly to `lr`; 0: none.")
    clip_norm: float | None = Field(5.0, gt=0, description="Limit of the gradient's norm; null: no clipping.")


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Returns the rate of ``step`` (from 0) in a run of ``steps``: linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    fraction = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    factor = {
        "cosine": 0.5 * (1 + math.cos(math.pi * fraction)),
        "poly": (1 - fraction) ** config.power,
        "constant": 1.0,
    }
    return config.lr * factor[config.schedule]


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], device: torch.device | None = None
) -> torch.optim.Optimizer:
    """The configured optimiser over ``parameters``.

    Args:
        config: kind and settings.
        parameters: what it updates.
        device: device of the steps; on a GPU the update of all parameters is one kernel, where torch has one.
    """
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.kind in FUSED and device is not None and device.type == "cuda":
        common["fused"] = True
    if config.kind == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **common)
    momentum = {"momentum": config.momentum} if config.kind == "rmsprop" else {}
    return getattr(torch.optim, NAMES[config.kind])(parameters, **common, **momentum)


def in_the_form_of(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved state of an optimiser, to be loaded into ``optimizer`` without changing whether that one is fused.

    A checkpoint may be continued on another kind of device, and torch loads the form with the state.
    """
    groups = zip(saved["param_groups"], optimizer.param_groups, strict=False)  # torch says what is wrong with them
    return saved | {"param_groups": [a | {"fused": b["fused"]} if "fused" in b else a for a, b in groups]}


def running_mean(student: nn.Module, decay: float) -> AveragedModel | None:
    """The mean, which starts as the student after its first step; None where ``decay`` is 0."""
    if not decay:
        return None
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).requires_grad_(False)
