"""Sends small tensors, such as a step's random draws, from host to device without waiting for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; on a GPU the copy is queued, from pinned memory, and the caller goes on."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def sent_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """One-dimensional tensors of one dtype on ``device``, by a single copy."""
    if device.type == "cpu" or not tensors:
        return list(tensors)
    return list(sent(torch.cat(list(tensors)), device).split([len(t) for t in tensors]))
