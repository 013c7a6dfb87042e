"""Projection of tokens to queries, keys and values for the fused terms of MWAD, with a hand-written backward pass."""

# C channels, W windows of the batch, T tokens of a window, d width of Q, K, V, e width of queries and keys

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sward.cpu_products import precision_of_products, products_in


def project(theta: nn.Conv2d, tokens_WTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Projects tokens (W, T, C) to queries and keys, whose products are the scores of Eq. 9, and to values.

    Returns:
        Queries (W, T, e), keys (W, T, e) and values (W, T, d). If d < C, e is d; otherwise e is C and the keys are the
        tokens themselves.
    """
    dtype = tokens_WTC.dtype
    Q, K, V = theta.weight.flatten(1).to(dtype).chunk(3)
    q, k, v = (None,) * 3 if theta.bias is None else theta.bias.to(dtype).chunk(3)
    scale = 1 / math.sqrt(len(Q))
    narrow = len(Q) < Q.shape[1]
    if not narrow:
        Q, q = K.T @ Q, None if q is None else q @ K
    biases = (None if q is None else q * scale, k if narrow else None, v)
    return Maps.apply(tokens_WTC, Q * scale, K if narrow else None, V, *biases)


class Maps(torch.autograd.Function):
    """Three linear maps of the same tokens; the second may have no weights and gives the tokens themselves.

    ``apply(x, Q, K, V, q, k, v)`` takes tokens (W, T, C), weights (out, C) and biases (out,) or None. The three
    gradients of the tokens are added up within the matrix products, without a pass for each sum.
    """

    @staticmethod
    def forward(ctx: Any, x_WTC: Tensor, *maps: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases = maps[:3], maps[3:]
        ctx.save_for_backward(x_WTC, *weights)
        ctx.biases, ctx.precision = [b is not None for b in biases], precision_of_products()
        parts = zip(weights, biases, strict=True)
        return tuple(x_WTC.view_as(x_WTC) if w is None else F.linear(x_WTC, w, b) for w, b in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_WTC, Q, K, V = ctx.saved_tensors
        x_nC, (dQ, dK, dV) = x_WTC.flatten(0, 1), (g.flatten(0, 1) for g in grads)
        with products_in(ctx.precision, x_nC.device), torch.autocast(x_nC.device.type, enabled=False):
            dx_nC = torch.addmm(dK if K is None else dK @ K, dQ, Q).addmm_(dV, V)
            of_weights = (dQ.mT @ x_nC, None if K is None else dK.mT @ x_nC, dV.mT @ x_nC)
        of_biases = (g.sum(0) if there else None for g, there in zip((dQ, dK, dV), ctx.biases, strict=True))
        return dx_nC.view_as(x_WTC), *of_weights, *of_biases
