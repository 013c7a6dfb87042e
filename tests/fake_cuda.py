"""CUDA tensors without a GPU: shapes and devices are tracked, values are not, and every operation is on record.

The CPU build of torch has no gradients and no indexing of them. Where these are needed, tensors on torch's meta device
stand for those of a GPU: reading a value of one raises an error, as waiting for a GPU would under its debug mode, and
copies to it are counted just so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# Forward operations whose CUDA kernel, or that of their gradient, adds in an order of its own (torch's documentation of
# use_deterministic_algorithms), and that torch does not replace by itself.
UNREPEATABLE = ("nll_loss", "upsample_bilinear2d", "upsample_bicubic2d", "adaptive_avg_pool2d", "grid_sampler",
                "bincount", "histc", "kthvalue", "reflection_pad", "cumsum")  # fmt: skip


class Trace(TorchDispatchMode):
    """Names of the operations, and the copies between devices as (from, to, bytes)."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.copies: list[tuple[str, str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.names.append(str(function))
        pair = None
        if str(function) in ("aten._to_copy.default", "aten.copy_.default"):
            pair = (args[0], result) if "_to_copy" in str(function) else (args[1], args[0])
        if pair and pair[0].device.type != pair[1].device.type:
            self.copies.append((pair[0].device.type, pair[1].device.type, result.nbytes))
        return result

    def unrepeatable(self) -> list[str]:
        return sorted({name for name in self.names if any(word in name for word in UNREPEATABLE)})


@contextmanager
def fake_cuda() -> Iterator[Trace]:
    """Context in which tensors may be made on a CUDA device that is not there."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), Trace() as trace:
        yield trace


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A fake CUDA tensor."""
    return torch.empty(shape, dtype=dtype, device="cuda")
