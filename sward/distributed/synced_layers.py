"""Makes batch norm and dropout of a slice equal to those of the whole batch.

    with sharing(whole):  # records of the step over all processes
        losses = objective(student(images), batch, step)

Within ``sharing``, batch normalisation in training uses the statistics of all processes. Dropout draws the mask of the
whole batch and applies this process's rows of it. torch's SyncBatchNorm runs on GPUs only, and timm's layers are not
subclasses of torch's. Therefore this module intercepts the torch functions that all these layers call.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sward.distributed.collectives import BatchSlice, all_reduced, current_slice, use_slice

DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout, F.alpha_dropout)
DRAWS = (  # draws that cannot be split by rows; within ``sharing`` they are an error unless they get a generator
    *(torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.randint, torch.randperm, torch.bernoulli),
    *(Tensor.uniform_, Tensor.normal_, Tensor.random_, Tensor.exponential_, torch.multinomial),
)


@contextmanager
def sharing(whole: int, others: int = 0) -> Iterator[None]:
    """Splits a step among all processes of torch's group; with one process, changes nothing.

    Args:
        whole: records of the step that have labels (of a step without labels, all).
        others: records without labels that it has besides.

    Raises:
        ValueError: raised within the context if a layer draws random numbers in a way that cannot be split among
            processes; names the function.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    with use_slice(BatchSlice(whole, dist.get_rank(), dist.get_world_size(), others)), _Shared():
        yield


class _Shared(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        share, kwargs = current_slice(), kwargs or {}
        if share is not None:
            if func is F.batch_norm:
                return batch_norm(*args, **kwargs)
            if func in DROPOUTS:
                return _dropout(share, func, *args, **kwargs)
            if func is Tensor.bernoulli_ and "generator" not in kwargs:  # how timm draws stochastic depth
                return args[0].copy_(_rows(share, args[0], lambda mask: mask.bernoulli_(*args[1:], **kwargs)))
            if func in DRAWS and kwargs.get("generator") is None:
                raise ValueError(
                    f"the student draws random numbers by torch.{func.__name__}, which several processes cannot split "
                    "exactly: train it with devices: 1, or disable the layer that draws them in the student's options"
                )
        return func(*args, **kwargs)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Computes ``torch.nn.functional.batch_norm`` with the statistics of all processes.

    The arguments are those of torch's function. Processes may have different numbers of records.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    y, mean, variance, count = _Normalised.apply(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    return y


class _Normalised(torch.autograd.Function):
    """Normalises (B, C, ...) by the statistics of all processes.

    ``apply(input, weight, bias, eps)`` returns the output and, without gradient, mean (C,), biased variance (C,) and
    the number of values per channel (1,), all over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, _other_axes(x), correction=0)
        counts, means, variances = _of_all(mean.new_full((1,), x.numel() // x.shape[1]), mean, variance)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        shape = (1, -1, *(1,) * (x.ndim - 2))
        unit = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        wide = grad.to(mean.dtype)
        sums = torch.stack([wide.sum(_other_axes(x)), (wide * unit).sum(_other_axes(x))])
        along_bias, along_unit = (all_reduced(sums) / count).view(2, *shape)
        factor = scale if weight is None else scale * weight
        dx = (wide - along_bias - unit * along_unit) * factor.view(shape)
        by_weight, by_bias = (None, None) if weight is None else (sums[1].to(weight.dtype), sums[0].to(weight.dtype))
        return dx.to(x.dtype), by_weight, by_bias, None


def _other_axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _of_all(*parts: Tensor) -> Iterable[Tensor]:
    """Gathers each vector (length,) of this process over all processes, (processes, length), in one exchange."""
    own = torch.cat(parts)
    received = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(received, own)
    return torch.stack(received).split([len(part) for part in parts], dim=1)


def _dropout(
    share: BatchSlice,
    func: Callable[..., Tensor],
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Computes a dropout function with this process's rows of the whole batch's mask."""
    if not training or p == 0:
        return input
    if func in (F.alpha_dropout, F.feature_alpha_dropout):
        raise ValueError("several processes cannot split alpha dropout exactly: train the student with devices: 1")
    return input * _rows(share, input, lambda ones: func(ones, p, True))


def _rows(share: BatchSlice, like: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Draws a mask for the whole batch and returns this process's rows of it.

    Args:
        share: this process's slice of the batch.
        like: (rows, ...) input of the layer; the mask has its type, device, memory format and other sizes.
        draw: turns ones (whole, ...) into the mask.

    Raises:
        ValueError: the first axis of ``like`` is not this process's records.
    """
    if len(like) != share.count:
        raise ValueError(
            f"a layer draws random numbers for {len(like)} rows, expected {share.count}, the records of this process; "
            "several processes cannot split such a draw exactly: train the student with devices: 1"
        )
    ones = like.new_ones((share.whole, *like.shape[1:]))
    if like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        ones = ones.contiguous(memory_format=torch.channels_last)  # random draws follow the memory order
    return draw(ones)[share.rows]
