"""Host-to-device copies beside the step: on a GPU they go on a stream of their own, begun by the thread that reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sent:
    """Tensors on their way; ``event``: when a GPU has them."""

    arrays: Tensors
    event: torch.cuda.Event | None = None


class Copies:
    """Sends arrays (pinned, where the device is a GPU) ahead; on a CPU there is nothing to send."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, host: Tensors) -> Sent:
        """Begin to copy; doesn't wait. Any thread."""
        if self.stream is None:
            return Sent(host)
        with torch.cuda.stream(self.stream):
            arrays = {name: t.to(self.device, non_blocking=True) for name, t in host.items()}
            return Sent(arrays, self.stream.record_event())

    def receive(self, sent: Sent) -> Tensors:
        """The arrays, usable by what the calling thread's current stream is given from now on."""
        if sent.event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(sent.event)
            for t in sent.arrays.values():
                t.record_stream(current)  # their memory is not reused before the step is done with them
        return sent.arrays
