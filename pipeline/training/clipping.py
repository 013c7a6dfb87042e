"""Clips the gradient and decides, with one wait for the device, whether a step is taken and whether the run stops."""

import math
from functools import partial

import torch
from torch import nn

from pipeline.training.device.loss_scaling import skips, unscale
from pipeline.training.distributed.collectives import gather_lists, read_with_any
from pipeline.training.profiling.parts import part
from pipeline.training.setup import TrainingRun
from sward.contracts import Batch, StudentOutput
from sward.objective import Losses, NonFiniteError


@part("gradient clipping")
def clip(run: TrainingRun, batch: Batch, step: int, losses: Losses, output: StudentOutput, asked: bool = False) -> bool:
    """Limits the gradient's norm, and stops the run if loss or gradient is not finite, before a weight changes.

    Loss, norm and the processes' stop requests are read together, so that a step waits for the device only once.

    Args:
        run: the run.
        batch: last batch of the step.
        step: number of the step.
        losses: of the batch.
        output: of the batch.
        asked: this process was asked to stop.

    Returns:
        Whether any process was asked to stop.

    In float16 a gradient that overflows under a finite loss is no error: the step is left out, the scale halves.

    Raises:
        NonFiniteError: names the terms and samples.
    """
    unscale(run.fabric, run.optimizer)
    norm = nn.utils.clip_grad_norm_(run.parameters, run.config.optimizer.clip_norm or math.inf)
    finite, stop = read_with_any(run.fabric, torch.isfinite(norm + losses.total.detach()), asked)
    if finite:
        return stop
    run.objective.check_finite(losses, output, batch, step, partial(gather_lists, run.fabric))
    if skips(run.fabric):
        return stop
    raise NonFiniteError(
        f"step {step}: the gradient is not finite; samples {', '.join(gather_lists(run.fabric, batch.ids))}. "
        "Lower the learning rate; the terms are in the last lines of metrics.jsonl"
    )
