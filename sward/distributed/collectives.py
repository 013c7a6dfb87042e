"""One step's batch over several processes: what sums and means need, so that every one has the loss of the whole.

Each process holds a contiguous slice of the batch. The operations here have their true adjoints as gradients, and every
process ends with the same loss, that of the whole batch; so the mean of the parameters' gradients over the processes,
which DDP takes, is the gradient that one process would have. Outside of ``sharing`` (`synced_layers`) they do nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class BatchSlice:
    """``whole`` records in all, of which this process, ``rank`` of ``world``, holds ``rows``."""

    whole: int
    rank: int
    world: int

    @property
    def rows(self) -> slice:
        """Contiguous, equal to within one record, the larger ones first."""
        small, larger = divmod(self.whole, self.world)
        start = self.rank * small + min(self.rank, larger)
        return slice(start, start + small + (self.rank < larger))

    @property
    def count(self) -> int:
        """Records of this process."""
        return self.rows.stop - self.rows.start


_CURRENT: ContextVar[BatchSlice | None] = ContextVar("share", default=None)


def current_slice() -> BatchSlice | None:
    """The share of the step that is going on; None where this process has the whole batch."""
    return _CURRENT.get()


@contextmanager
def use_slice(share: BatchSlice | None) -> Iterator[None]:
    """Inside, batches are parts as ``share`` says; None: whole, computed by each process alone."""
    token = _CURRENT.set(share)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over the processes."""
    return x if current_slice() is None else _Total.apply(x)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean over the processes by their records: of means over samples, that of the whole batch."""
    share = current_slice()
    return x if share is None else _Total.apply(x * (share.count / share.whole))


def gather_over_ranks(x: Tensor) -> Tensor:
    """(rows, ...) of every process, in order: (whole, ...)."""
    share = current_slice()
    return x if share is None else _Gathered.apply(x, share)


def all_reduced(x: Tensor) -> Tensor:
    """The sum over the processes, a new tensor without gradient."""
    y = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(y)
    return y


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduced(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduced(grad)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: BatchSlice) -> Tensor:
        ctx.rows = share.rows
        shares = [BatchSlice(share.whole, rank, share.world) for rank in range(share.world)]
        sent = x.new_zeros((shares[0].count, *x.shape[1:]))  # all of the largest's size
        sent[: len(x)] = x
        found = [torch.empty_like(sent) for _ in shares]
        dist.all_gather(found, sent)
        return torch.cat([part[: s.count] for part, s in zip(found, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduced(grad)[ctx.rows], None
