"""Class sums of a map's unit vectors, for PDR with ``normalise``: one pass forward and one backward.

For vectors of length 1 the class sums S_k and counts n_k suffice: mu_k = S_k / n_k and, because the squared lengths
add up to n_k, tr(Sigma_k) = (n_k - n_k |mu_k|^2) / (n_k - 1). The unit vectors themselves are never stored.
"""

# B batch, C channels, n pixels of an image, K classes

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-12  # lower bound of vector lengths, as in torch.nn.functional.normalize


class UnitSums(torch.autograd.Function):
    """Sums, over each class's pixels, their unit vectors, their number and their squared lengths.

    ``apply(f, y, classes)`` takes f (B, C, H, W) and y (B, H, W) int64; pixels with labels outside [0, classes) are
    left out. It returns three tensors, float32 or wider: sums of unit vectors (K, C), with a gradient; numbers of
    pixels (K,) and sums of squared lengths (K,), both without.

    Sums are matrix products, so that they are summed in a fixed order. A vector shorter than 1e-12 is divided by
    1e-12, so its squared length is below 1.
    """

    @staticmethod
    def forward(ctx: Any, f_BCHW: Tensor, y_BHW: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        f_BCn = _wide(f_BCHW)
        length_Bn = _lengths(f_BCHW, f_BCn)
        member_BKn = _members(y_BHW, classes, f_BCn.dtype)
        inverse_Bn = length_Bn.clamp_min(SHORTEST).reciprocal_()
        count_K = square_K = member_BKn.sum((0, 2))
        along_Bn = inverse_Bn.square()
        if _may_be_short(length_Bn):
            unit_Bn = length_Bn.div_(SHORTEST).clamp_max_(1)  # scaled length; < 1 only for vectors close to 0
            along_Bn.mul_(unit_Bn == 1)
            square_K = (member_BKn @ unit_Bn.square_()[:, :, None]).sum((0, 2))
        weight_BKn = member_BKn.mul_(inverse_Bn[:, None])
        kept = weight_BKn if 4 * classes <= f_BCHW.shape[1] else None  # else it is made again, to save memory
        ctx.save_for_backward(f_BCHW, y_BHW, inverse_Bn, along_Bn, kept)
        ctx.mark_non_differentiable(count_K, square_K)
        return (weight_BKn @ f_BCn.mT).sum(0), count_K, square_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_KC: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of a pixel f: (u - its component along f) / |f|, where u is the gradient of the class's sum."""
        f_BCHW, y_BHW, inverse_Bn, along_Bn, weight_BKn = ctx.saved_tensors
        with torch.autocast(f_BCHW.device.type, enabled=False):
            f_BCn = _wide(f_BCHW)
            if weight_BKn is None:
                weight_BKn = _members(y_BHW, len(grad_KC), f_BCn.dtype).mul_(inverse_Bn[:, None])
            along_Bn = (grad_KC @ f_BCn).mul_(weight_BKn).sum(1).mul_(along_Bn)
            last = f_BCHW.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            grad = torch.empty_like(f_BCHW, dtype=f_BCn.dtype, memory_format=layout)
            to_BCK = grad_KC.mT.expand(len(f_BCn), -1, -1)
            torch.mul(f_BCn, along_Bn[:, None], out=grad.flatten(2)).baddbmm_(to_BCK, weight_BKn, beta=-1)
        return grad.to(f_BCHW.dtype), None, None  # not a view, because autograd adds other gradients to it in place


def _wide(f_BCHW: Tensor) -> Tensor:
    """Flattens a map to (B, C, n), float32 or wider; a view of float32 maps in either memory format."""
    return f_BCHW.flatten(2).to(torch.promote_types(f_BCHW.dtype, torch.float32))


def _lengths(f_BCHW: Tensor, f_BCn: Tensor) -> Tensor:
    """Computes the lengths (B, n) of the pixels' vectors.

    A channels-last map is reduced in one call, because a pixel's channels are adjacent. Other maps are reduced image
    by image, so that an image stays in the processor's cache.
    """
    if f_BCHW.is_contiguous(memory_format=torch.channels_last):
        return torch.linalg.vector_norm(f_BCn, dim=1)
    return torch.stack([f_Cn.square().sum(0) for f_Cn in f_BCn]).sqrt_()


def _may_be_short(length_Bn: Tensor) -> bool:
    """Whether a vector is shorter than ``SHORTEST``; True on GPUs, where looking would wait for the device."""
    return length_Bn.device.type != "cpu" or bool((length_Bn.numel() and length_Bn.amin()) < SHORTEST)


def _members(y_BHW: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Encodes the labels as one-hot (B, K, n) of type ``dtype``; all zero for labels outside [0, classes)."""
    return (y_BHW.flatten(1)[:, None] == torch.arange(classes, device=y_BHW.device)[:, None]).to(dtype)
