"""MWAD's terms of one pair, plainly: windowed attention of both networks and three distances, Eq. 1-13.

What trains the teacher side where that is trained; else ``sward.mwad.fused`` does the same in fewer passes.
"""

# B batch, H W of the common grid, N windows, T tokens of a window, C channels, d width of Q, K, V

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sward.align import resize
from sward.contracts import MASKED_SCORE
from sward.mwad.projections import Projections
from sward.mwad.windows import Windows


def plain_terms(
    stage: Projections,
    f_t: Tensor,
    f_s: Tensor,
    windows: Windows,
    visible: Tensor | None,
    valid: Tensor | None,
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Terms ``attn``, ``value``, ``context`` as chosen, and ``aux``, unweighted.

    Args:
        stage: the pair's projections and switches.
        f_t: (B, C_t, h, w), float32 or wider.
        f_s: (B, C_s, h, w).
        windows: the cut, which has the common grid.
        visible: as by ``windows.masks``.
        valid: as by ``windows.masks``.
        labels: (B, H, W) int64, only for ``teacher_proj: aux``.
    """
    config = stage.config
    with torch.set_grad_enabled(torch.is_grad_enabled() and config.teacher_proj != "frozen"):
        logA_t, V_t = relate_teacher(stage, f_t, windows, visible)
    terms = {}
    if config.teacher_proj == "aux":
        terms["aux"] = stage.classify(V_t, windows, labels)
        logA_t, V_t = logA_t.detach(), V_t.detach()
    f_s = resize(f_s, (windows.height, windows.width), config.antialias)
    logA_s, V_s = relations(stage.theta_s, windows.split(f_s), visible)
    terms["attn"] = attention_loss(logA_t, logA_s, config.kl_reduction, visible, valid)
    if "value" in config.terms:
        terms["value"] = value_loss(V_t, V_s, config.value_eps, valid)
    if "context" in config.terms:
        Z_t, Z_s = logA_t.exp() @ V_t, logA_s.exp() @ V_s  # Eq. 10
        terms["context"] = context_loss(Z_t, Z_s, config.context_reduction, valid)
    return terms


def relate_teacher(
    stage: Projections, f_BCHW: Tensor, windows: Windows, visible: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``relations`` of the teacher's features on the common grid."""
    f_BCHW = resize(stage.teacher(f_BCHW), (windows.height, windows.width), stage.config.antialias)
    return relations(stage.theta_t, windows.split(f_BCHW), visible)


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
        scores = scores.masked_fill(~visible, MASKED_SCORE)
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
    total = (kl_BNT if valid is None else kl_BNT * valid).sum()
    return total / kl_divisor(kl_BNT.shape, reduction, visible, valid)


def kl_divisor(
    shape_BNT: Sequence[int],
    reduction: Literal["tokens", "batchmean", "mean"],
    visible: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor | int:
    """What ``attention_loss`` divides the sum over the batch by."""
    B, N, T = shape_BNT
    if reduction == "batchmean":
        return B * N
    if reduction == "tokens":
        return B * N * T if valid is None else B * valid.sum()
    if visible is None:
        return B * N * T * T
    return B * (visible if valid is None else visible & valid[:, :, None]).sum()


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
