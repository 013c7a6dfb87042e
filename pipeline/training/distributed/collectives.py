"""What the processes of one run say to each other outside of a step's loss; with one process, nothing."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.training.distributed.fabric import Fabric


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Make the gradients of ``parameters`` their means over the processes: what DDP does for the student."""
    if fabric.world_size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]  # the same ones everywhere: the graphs are alike
    if gradients:
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        means = (flat / fabric.world_size).split([g.numel() for g in gradients])
        for g, mean in zip(gradients, means, strict=True):
            g.copy_(mean.view(g.shape))


def backward_and_average(fabric: Fabric, parameters: list[nn.Parameter], loss: Tensor, **options: Any) -> None:
    """Fabric's backward, where DDP was told not to average, and the mean over the processes."""
    fabric.backward(loss, **options)
    average_gradients(fabric, parameters)


def any_rank(fabric: Fabric, asked: bool) -> bool:
    """Whether any process was asked."""
    if fabric.world_size == 1:
        return asked
    count = torch.tensor(float(asked), device=fabric.device)
    dist.all_reduce(count)
    return bool(count > 0)


def gather_lists(fabric: Fabric, lines: list[str]) -> list[str]:
    """The lists of all processes, joined in their order."""
    if fabric.world_size == 1:
        return lines
    found: list[list[str]] = [[] for _ in range(fabric.world_size)]
    dist.all_gather_object(found, lines)
    return [line for part in found for line in part]
