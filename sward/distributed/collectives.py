"""Differentiable sums, means and gathers over processes that each hold a slice of the batch.

Each process holds a contiguous slice of the batch. With these operations every process computes the same loss, that of
the whole batch. Their backward passes are the exact adjoints, so the mean of the parameters' gradients over processes,
which DDP computes, is the gradient that a single process would have. Outside of ``sharing`` (`synced_layers`) they do
nothing.
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
    """The records of a step's batch that one process holds.

    Attributes:
        whole: number of records of the batch over all processes.
        rank: index of the process.
        world: number of processes.
        others: records without labels, over all processes, that the step has besides.
    """

    whole: int
    rank: int
    world: int
    others: int = 0

    @property
    def rows(self) -> slice:
        """Rows of the whole batch. Slices are contiguous and differ by at most one record; larger slices come first."""
        small, larger = divmod(self.whole, self.world)
        start = self.rank * small + min(self.rank, larger)
        return slice(start, start + small + (self.rank < larger))

    @property
    def count(self) -> int:
        """Number of records of this process."""
        return self.rows.stop - self.rows.start

    @property
    def unlabelled(self) -> "BatchSlice":
        """This process's slice of the step's other records."""
        return BatchSlice(self.others, self.rank, self.world)


_CURRENT: ContextVar[BatchSlice | None] = ContextVar("share", default=None)


def current_slice() -> BatchSlice | None:
    """Returns this process's slice of the current step's batch; None if the process has the whole batch."""
    return _CURRENT.get()


@contextmanager
def use_slice(share: BatchSlice | None) -> Iterator[None]:
    """Sets the current slice within the context. None: each process has the whole batch and computes alone."""
    token = _CURRENT.set(share)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sums ``x`` over the processes."""
    return x if current_slice() is None else _Total.apply(x)


def mean_over_ranks(x: Tensor) -> Tensor:
    """Averages ``x`` over processes, weighted by records: means over own samples become that of the whole batch."""
    share = current_slice()
    return x if share is None else _Total.apply(x * (share.count / share.whole))


def gather_over_ranks(x: Tensor) -> Tensor:
    """Concatenates (rows, ...) of all processes in batch order: (whole, ...)."""
    share = current_slice()
    return x if share is None else _Gathered.apply(x, share)


def all_reduced(x: Tensor) -> Tensor:
    """Sums ``x`` over the processes into a new tensor without gradient."""
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
        sent = x.new_zeros((shares[0].count, *x.shape[1:]))  # all_gather needs equal sizes: that of the largest slice
        sent[: len(x)] = x
        received = [torch.empty_like(sent) for _ in shares]
        dist.all_gather(received, sent)
        return torch.cat([part[: s.count] for part, s in zip(received, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduced(grad)[ctx.rows], None
