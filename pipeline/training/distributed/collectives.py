"""Collective operations between a run's processes, outside the loss; no-ops with one process."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.training.distributed.fabric import Fabric


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replaces the gradients of ``parameters`` by their means over the processes, as DDP does for the student."""
    if fabric.world_size == 1:
        return
    gradients = [
        p.grad for p in parameters if p.grad is not None
    ]  # the same parameters in every process: the graphs are equal
    if gradients:
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        means = (flat / fabric.world_size).split([g.numel() for g in gradients])
        for g, mean in zip(gradients, means, strict=True):
            g.copy_(mean.view(g.shape))


def backward_and_average(fabric: Fabric, parameters: list[nn.Parameter], loss: Tensor, **options: Any) -> None:
    """Runs Fabric's backward with DDP's own averaging off, then averages the gradients of ``parameters``."""
    fabric.backward(loss, **options)
    average_gradients(fabric, parameters)


def read_with_any(fabric: Fabric, flag: Tensor, asked: bool) -> tuple[bool, bool]:
    """Returns (``flag``, whether ``asked`` is True in at least one process), after one wait for the device.

    Args:
        fabric: of the run.
        flag: () bool, on the run's device.
        asked: of this process.
    """
    if fabric.world_size == 1:
        return bool(flag), asked
    count = torch.full((), float(asked), device=fabric.device)  # filled there; a copy from the host would wait
    dist.all_reduce(count)
    value, number = torch.stack([flag.to(count.dtype), count]).tolist()
    return value > 0, number > 0


def gather_lists(fabric: Fabric, lines: list[str]) -> list[str]:
    """Joins the lists of all processes, in rank order; every process gets the result."""
    if fabric.world_size == 1:
        return lines
    parts: list[list[str]] = [[] for _ in range(fabric.world_size)]
    dist.all_gather_object(parts, lines)
    return [line for part in parts for line in part]
