"""Copies batches from host to device while a step computes.

On a GPU the reading thread starts the copy, on a CUDA stream of its own; on a CPU there is nothing to copy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sent:
    """Tensors whose copy to the device has been started.

    Attributes:
        arrays: array name -> tensor on the device.
        event: recorded on the copy stream after the copy; None on a CPU.
    """

    arrays: Tensors
    event: torch.cuda.Event | None = None


class Copies:
    """Starts copies on a separate CUDA stream and hands them to the computing stream; a no-op on a CPU.

    Attributes:
        device: target device.
        stream: CUDA stream of the copies; None on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, host: Tensors) -> Sent:
        """Starts to copy the arrays (in pinned memory for a GPU) without waiting; callable from any thread."""
        if self.stream is None:
            return Sent(host)
        with torch.cuda.stream(self.stream):
            arrays = {name: t.to(self.device, non_blocking=True) for name, t in host.items()}
            return Sent(arrays, self.stream.record_event())

    def receive(self, sent: Sent) -> Tensors:
        """Returns the arrays; work queued from now on on the calling thread's current stream may use them."""
        if sent.event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(sent.event)
            for t in sent.arrays.values():
                t.record_stream(current)  # else their memory may be reused before the step has read them
        return sent.arrays
