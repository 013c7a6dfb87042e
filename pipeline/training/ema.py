"""Exponential running mean of a student's weights and buffers (Polyak averaging)."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def running_mean(student: nn.Module, decay: float) -> AveragedModel | None:
    """The mean, which starts as the student after its first step; None where ``decay`` is 0."""
    if not decay:
        return None
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).requires_grad_(False)
