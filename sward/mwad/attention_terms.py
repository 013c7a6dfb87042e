"""Reference implementation of MWAD's terms for one pair of levels, Eq. 1-13.

It computes windowed attention of both networks and three distances between them. ``MWAD`` uses it if the teacher side
is trained; otherwise ``sward.mwad.fused_attention_terms`` computes the same terms in fewer passes.
"""

# B batch, H W of the common grid, N windows, T tokens of a window, C channels, d width of Q, K, V

import math
from collections.abc import Sequence
from typing import Any, Literal

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
    chosen: Tensor | None = None,
) -> dict[str, Tensor]:
    """Computes the unweighted terms of one pair.

    Args:
        stage: projections and configuration of the pair.
        f_t: (B, C_t, h, w) teacher features, float32 or wider.
        f_s: (B, C_s, h, w) student features, float32 or wider.
        windows: windows on the common grid.
        visible: (N, T, T) bool from ``windows.masks``, or None.
        valid: (N, T) bool from ``windows.masks``, or None.
        labels: (B, H, W) int64, for ``teacher_proj: aux`` only.
        chosen: (n,) int64, the windows to compare, in place of all; the terms then estimate those of all windows.

    Returns:
        Scalars ``attn``, ``value``, ``context``, those that ``terms`` of the configuration selects; with
        ``teacher_proj: aux`` also ``aux``.
    """
    config = stage.config
    with torch.set_grad_enabled(torch.is_grad_enabled() and config.teacher_proj != "frozen"):
        logA_t, V_t = relate_teacher(stage, f_t, windows, visible, chosen)
    terms = {}
    if config.teacher_proj == "aux":
        terms["aux"] = stage.classify(V_t, windows, labels)
        logA_t, V_t = logA_t.detach(), V_t.detach()
    f_s = resize(f_s, (windows.height, windows.width), config.antialias)
    logA_s, V_s = relations(stage.theta_s, of_chosen(windows.split(f_s), chosen, 1), of_chosen(visible, chosen))
    all_masks, visible, valid = (visible, valid), of_chosen(visible, chosen), of_chosen(valid, chosen)
    terms["attn"] = attention_loss(logA_t, logA_s, config.kl_reduction, visible, valid)
    if "value" in config.terms:
        terms["value"] = value_loss(V_t, V_s, config.value_eps, valid)
    if "context" in config.terms:
        Z_t, Z_s = logA_t.exp() @ V_t, logA_s.exp() @ V_s  # Eq. 10
        terms["context"] = context_loss(Z_t, Z_s, config.context_reduction, valid)
    if chosen is None:
        return terms
    shape, own = (len(V_t), windows.count, V_t.shape[2]), V_t.shape[:3]
    for name, term in terms.items():  # so far means over the chosen windows; see ``chosen_scale``
        reduction = config.kl_reduction if name == "attn" else "tokens"
        total = term * kl_divisor(own, reduction, visible, valid)
        terms[name] = total * chosen_scale(windows.count, chosen) / kl_divisor(shape, reduction, *all_masks)
    return terms


def of_chosen(x: Any, chosen: Tensor | None, axis: int = 0) -> Any:
    """The chosen windows of a tensor, along ``axis``; all of them where ``chosen`` is None; None stays None."""
    return x if x is None or chosen is None else x.index_select(axis, chosen)


def chosen_scale(count: int, chosen: Tensor | None) -> float:
    """Factor on sums over the chosen ones of ``count`` windows whose expectation is the sum over all windows.

    Such a sum divided by the divisor of all windows has the mean over all of them as its expectation, also where
    windows hold different numbers of valid tokens. (Divided by a divisor of their own it would be biased there.)
    """
    return 1.0 if chosen is None else count / len(chosen)


def relate_teacher(
    stage: Projections, f_BCHW: Tensor, windows: Windows, visible: Tensor | None, chosen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes ``relations`` of the teacher's features (B, C_t, h, w), resized to the common grid."""
    f_BCHW = resize(stage.teacher(f_BCHW), (windows.height, windows.width), stage.config.antialias)
    return relations(stage.theta_t, of_chosen(windows.split(f_BCHW), chosen, 1), of_chosen(visible, chosen))


def relations(theta: nn.Conv2d, tokens_BNTC: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Computes log attention and values of all windows.

    Args:
        theta: 1x1 convolution C -> 3 d; rows of Q, K, V in this order (Eq. 8).
        tokens_BNTC: tokens of the windows.
        visible: (N, T, T) bool, keys that each query attends to; None for all.

    Returns:
        Log attention (B, N, T, T), Eq. 9, whose keys are the last axis, and values (B, N, T, d).
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
    """Computes KL(A_t || A_s), Eq. 11, summed over keys and divided as ``reduction`` says.

    Args:
        logA_t: (B, N, T, T) log attention of the teacher; the keys are the last axis.
        logA_s: (B, N, T, T) log attention of the student.
        reduction: 'tokens' is the mean over valid query tokens. 'batchmean' divides by the number of windows in the
            batch, which is T times larger. 'mean' divides by the number of (query, visible key) pairs, which is T
            times smaller.
        visible: (N, T, T) bool, keys that each query attends to; None for all.
        valid: (N, T) bool, query tokens that are counted; None for all.
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
    """Returns the number by which ``attention_loss`` divides the KL summed over the batch."""
    B, N, T = shape_BNT
    if reduction == "batchmean":
        return B * N
    if reduction == "tokens":
        return B * N * T if valid is None else B * valid.sum()
    if visible is None:
        return B * N * T * T
    return B * (visible if valid is None else visible & valid[:, :, None]).sum()


def value_loss(V_t: Tensor, V_s: Tensor, eps: float, valid: Tensor | None = None) -> Tensor:
    """Computes 1 - cos(V_s, V_t), Eq. 12, as the mean over valid tokens; in [0, 2]. Norms are at least ``eps``."""
    return mean_over_tokens(1 - F.cosine_similarity(V_s, V_t, dim=-1, eps=eps), valid)


def context_loss(Z_t: Tensor, Z_s: Tensor, reduction: Literal["mean", "sum"], valid: Tensor | None = None) -> Tensor:
    """Computes the squared distance of contexts, Eq. 13: sum or mean over channels, then mean over valid tokens."""
    square = (Z_s - Z_t).square()
    return mean_over_tokens(square.mean(-1) if reduction == "mean" else square.sum(-1), valid)


def mean_over_tokens(x_BNT: Tensor, valid: Tensor | None) -> Tensor:
    """Computes the mean over batch, windows and the tokens that are True in ``valid`` (N, T); None: all tokens."""
    if valid is None:
        return x_BNT.mean()
    return (x_BNT * valid).sum() / (len(x_BNT) * valid.sum())
