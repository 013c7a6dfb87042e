"""Windowed attention from 1x1 projections, and three distances between two networks' relations, Eq. 8-13."""

# B batch, N windows, T tokens of a window, C channels, d width of Q, K, V

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = -1e30  # score of a key out of sight: its weight is exactly 0 and its logarithm stays finite


def relations(theta: nn.Conv2d, tokens_BNTC: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log attention (B, N, T, T), Eq. 9, and values (B, N, T, d) of windows.

    Args:
        theta: 1x1 convolution C -> 3 d, the rows of Q, K, V (Eq. 8).
        tokens_BNTC: tokens of the windows.
        visible: (N, T, T) bool, keys each query may look at; None for all.
    """
    dtype = tokens_BNTC.dtype
    bias = None if theta.bias is None else theta.bias.to(dtype)
    Q, K, V = F.linear(tokens_BNTC, theta.weight.flatten(1).to(dtype), bias).chunk(3, dim=-1)
    scores = Q @ K.mT / math.sqrt(Q.shape[-1])
    if visible is not None:
        scores = scores.masked_fill(~visible, HIDDEN)
    return scores.log_softmax(-1), V


def attention_loss(
    logA_t: Tensor,
    logA_s: Tensor,
    reduction: Literal["tokens", "batchmean", "mean"],
    visible: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """KL(A_t || A_s), Eq. 11, summed over keys.

    tokens: mean over the query tokens that count. batchmean: sum divided by the number of windows of the
    batch, T times larger. mean: divided by the number of (query, visible key) pairs, T times smaller.
    """
    kl_BNT = (logA_t.exp() * (logA_t - logA_s)).sum(-1)
    if reduction == "tokens":
        return mean_over_tokens(kl_BNT, valid)
    total = (kl_BNT if valid is None else kl_BNT * valid).sum()
    B, N, T = kl_BNT.shape
    if reduction == "batchmean":
        return total / (B * N)
    if visible is None:
        return total / (B * N * T * T)
    pairs = visible if valid is None else visible & valid[:, :, None]
    return total / (B * pairs.sum())


def value_loss(V_t: Tensor, V_s: Tensor, eps: float, valid: Tensor | None = None) -> Tensor:
    """1 - cos(V_s, V_t), Eq. 12, mean over the tokens that count; in [0, 2]. Norms are at least ``eps``."""
    return mean_over_tokens(1 - F.cosine_similarity(V_s, V_t, dim=-1, eps=eps), valid)


def context_loss(Z_t: Tensor, Z_s: Tensor, reduction: Literal["mean", "sum"], valid: Tensor | None = None) -> Tensor:
    """Squared distance of contexts, Eq. 13: sum or mean over channels, mean over the tokens that count."""
    square = (Z_s - Z_t).square()
    return mean_over_tokens(square.mean(-1) if reduction == "mean" else square.sum(-1), valid)


def mean_over_tokens(x_BNT: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over batch, windows and those tokens where ``valid`` (N, T) holds; None: all."""
    if valid is None:
        return x_BNT.mean()
    return (x_BNT * valid).sum() / (len(x_BNT) * valid.sum())
