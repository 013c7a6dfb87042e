"""Fused MWAD terms of one pair, with a hand-written backward pass, for a frozen teacher side. Eq. 1-13.

The terms equal those of ``sward.mwad.attention_terms`` up to rounding, in fewer passes over memory. ``MWAD`` uses the
reference if the teacher side is trained. What is fused:

- The standardisation is folded into phi's weights, and windows are cut by reordering pixels.
- The tokens themselves are the keys, and the queries are projected by Theta_K^T Theta_Q, which saves a third of the
  projections. This drops score terms that are constant over keys, to which the softmax is invariant.
- Windows are processed in groups that fit the processor's cache, from scores to sums.
- The backward pass needs only A_s, A_s - A_t, Z_s - Z_t and two numbers a token of the value term, so these are kept.
"""

# B batch, C channels, H W of the common grid, N windows of an image, W windows of the batch, w windows of a group,
# T tokens of a window, d width of Q, K, V, e width of the keys in ``project``

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sward.contracts import MASKED_SCORE
from sward.cpu_products import dot, products_in
from sward.mwad.attention_terms import chosen_scale, kl_divisor, of_chosen
from sward.mwad.project import project
from sward.mwad.projections import Projections
from sward.mwad.tokens import chosen_rows, window_tokens
from sward.mwad.windows import Windows

GROUP, GROUP_ON_GPU = 2**18, 2**26  # attention entries per group; 1 MiB of float32 is about the fastest on CPUs


def fused_terms(
    stage: Projections,
    f_t: Tensor,
    f_s: Tensor,
    windows: Windows,
    visible: Tensor | None,
    valid: Tensor | None,
    chosen: Tensor | None = None,
) -> dict[str, Tensor]:
    """Computes the unweighted terms of one pair. Gradients reach f_s and Theta_s only.

    Args:
        stage: projections and configuration of the pair.
        f_t: (B, C_t, h, w) teacher features, float32 or wider.
        f_s: (B, C_s, h, w) student features, float32 or wider.
        windows: windows on the common grid.
        visible: (N, T, T) bool from ``windows.masks``, or None.
        valid: (N, T) bool from ``windows.masks``, or None.
        chosen: (n,) int64, the windows to compare, in place of all; the terms then estimate those of all windows.

    Returns:
        Scalars ``attn``, ``value``, ``context``, those that ``terms`` of the configuration selects.
    """
    config, rows = stage.config, chosen_rows(windows, f_s.device, chosen)
    wanted = ["value" in config.terms, "context" in config.terms]
    own_masks = of_chosen(visible, chosen), of_chosen(valid, chosen)
    with products_in(config.products, f_s.device):
        with torch.no_grad():
            teacher = project(stage.theta_t, _teacher_tokens(stage, f_t, windows, rows, chosen))
        student = project(stage.theta_s, window_tokens(f_s, windows, rows, config.antialias))
    with products_in("float32", f_s.device):
        sums = RelationSums.apply(*student, *teacher, *own_masks, config.value_eps, *wanted)
    return named_terms(stage, sums, len(f_s), windows, visible, valid, chosen)


def named_terms(
    stage: Projections,
    sums: Tensor,
    batch: int,
    windows: Windows,
    visible: Tensor | None,
    valid: Tensor | None,
    chosen: Tensor | None,
) -> dict[str, Tensor]:
    """The terms that the configuration selects, from ``sums`` (3,) over the windows of ``batch`` images."""
    config = stage.config
    attn, value, context = (sums if chosen is None else sums * chosen_scale(windows.count, chosen)).unbind()
    shape = batch, windows.count, windows.side**2
    queries = kl_divisor(shape, "tokens", visible, valid)
    terms = {"attn": attn / kl_divisor(shape, config.kl_reduction, visible, valid)}
    if "value" in config.terms:
        terms["value"] = value / queries
    if "context" in config.terms:
        terms["context"] = context / (queries * (stage.width if config.context_reduction == "mean" else 1))
    return terms


def phi_map(stage: Projections, f_BCHW: Tensor) -> Tensor:
    """Computes ``stage.teacher(f)`` as one matrix product: (B, C_s, H, W) in channels-last memory order."""
    return phi_rows(stage, f_BCHW.flatten(2).mT).mT.unflatten(2, f_BCHW.shape[2:])


def phi_rows(stage: Projections, f_BnC: Tensor) -> Tensor:
    """The same of pixels (B, n, C_t): (B, n, C_s)."""
    weight, bias = stage.phi.weight.flatten(1).to(f_BnC.dtype), stage.phi.bias
    if stage.config.standardise:
        weight = weight / stage.std
        shift = weight @ stage.mean
        bias = -shift if bias is None else bias - shift
    x_BnC = f_BnC @ weight.T
    if bias is not None:
        x_BnC += bias
    return x_BnC


def _teacher_tokens(
    stage: Projections, f_t: Tensor, windows: Windows, rows: tuple[Tensor, Tensor], chosen: Tensor | None
) -> Tensor:
    """The teacher's tokens after phi; of chosen windows on the map's own grid, phi sees their pixels alone."""
    if chosen is None or any(windows.padding) or f_t.shape[2:] != (windows.height, windows.width):
        return window_tokens(phi_map(stage, f_t), windows, rows, stage.config.antialias)
    return phi_rows(stage, f_t.flatten(2).index_select(2, rows[1]).mT).unflatten(1, (-1, windows.side**2)).flatten(0, 1)


class RelationSums(torch.autograd.Function):
    """Sums KL(A_t || A_s), 1 - cos(V_s, V_t) and |Z_s - Z_t|^2 over all valid tokens; returns the (3,) sums.

    ``apply(Q_s, K_s, V_s, Q_t, K_t, V_t, visible, valid, eps, value, context)`` takes Q, K and V from ``project``, and
    visible (N, T, T) and valid (N, T) from ``Windows.masks``. The flags ``value`` and ``context`` request the second
    and third sum, which are 0 otherwise. Gradients go to Q_s, K_s and V_s.
    """

    @staticmethod
    def forward(ctx: Any, Q_s: Tensor, K_s: Tensor, V_s: Tensor, Q_t: Tensor, K_t: Tensor, *rest: Any) -> Tensor:
        V_t, visible, valid, eps, value, context = rest
        W, T, _ = K_s.shape
        weights, A_diff = K_s.new_empty(W, T, T), K_s.new_empty(W, T, T)
        Z_diff, factors, total = torch.empty_like(V_s) if context else None, None, K_s.new_zeros(3)
        if value:
            distance, *factors = _one_minus_cosine(V_s, V_t, eps)
            total[1] = _counted(distance, _counts(valid, V_s)).sum()
        for at, hidden, count in _groups(K_s, visible, valid):
            S_t, S_s = _scores(Q_t[at], K_t[at], hidden), _scores(Q_s[at], K_s[at], hidden)
            A_t, A_s = S_t.softmax(-1), torch.softmax(S_s, -1, out=weights[at])  # Eq. 9
            torch.sub(A_s, A_t, out=A_diff[at])
            if Z_diff is not None:
                Z = torch.bmm(A_s, V_s[at], out=Z_diff[at]).baddbmm_(A_t, V_t[at], alpha=-1)  # Eq. 10
                total[2] += _dot(Z, Z, count)
            # log A = S - log sum exp S, and the rows of A_t sum to 1
            norms = _counted(_log_sums(S_t, A_t) - _log_sums(S_s, A_s), count)
            total[0] += _dot(A_t, S_t.sub_(S_s), count) - norms.sum()
        ctx.save_for_backward(Q_s, K_s, V_s, weights, A_diff, Z_diff, valid, *((V_t, *factors) if factors else ()))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        Q_s, K_s, V_s, weights, A_diff, Z_diff, valid, *cosine = ctx.saved_tensors
        attn, value, context = grad.unbind()
        dQ, dK, dV = torch.empty_like(Q_s), torch.empty_like(K_s), torch.empty_like(V_s)
        if cosine:
            V_t, of_own, of_other = cosine
            value = _counted(value, _counts(valid, V_s))
            torch.mul(V_s, of_own * value, out=dV).addcmul_(V_t, of_other * value, value=-1)
        else:
            dV.zero_()
        with products_in("float32", K_s.device), torch.autocast(K_s.device.type, enabled=False):
            for at, _, count in _groups(K_s, None, valid):
                A_s = weights[at]
                if Z_diff is None:
                    dS = A_diff[at] * _counted(attn, count)
                else:
                    dZ = Z_diff[at] * _counted(2 * context, count)
                    dV[at].baddbmm_(A_s.mT, dZ)
                    dA = dZ @ V_s[at].mT
                    dS = torch._softmax_backward_data(dA, A_s, -1, A_s.dtype)  # torch has no public function for it
                    dS.addcmul_(A_diff[at], _counted(attn, count))
                torch.bmm(dS, K_s[at], out=dQ[at])
                torch.bmm(dS.mT, Q_s[at], out=dK[at])
        return dQ, dK, dV, *(None,) * 8


def _groups(
    K_s: Tensor, visible: Tensor | None, valid: Tensor | None
) -> Iterator[tuple[slice, Tensor | None, Tensor | None]]:
    """Yields groups of windows: slice, hidden keys (w, T, T) bool, and weights of queries (w, T, 1), 0 or 1.

    The mask or the weights are None if nothing is masked.
    """
    W, T, _ = K_s.shape
    step = max(1, (GROUP if K_s.device.type == "cpu" else GROUP_ON_GPU) // T**2)
    for first in range(0, W, step):
        at = torch.arange(first, min(first + step, W), device=K_s.device)
        hidden = None if visible is None else ~visible[at % len(visible)]
        count = None if valid is None else valid[at % len(valid), :, None].to(K_s.dtype)
        yield slice(first, first + step), hidden, count


def _scores(Q: Tensor, K: Tensor, hidden: Tensor | None) -> Tensor:
    """Computes the scores of Eq. 9 before the softmax, (w, T, T); the queries already have the scale 1/sqrt(d)."""
    scores = Q @ K.mT
    return scores if hidden is None else scores.masked_fill_(hidden, MASKED_SCORE)


def _log_sums(S: Tensor, A: Tensor) -> Tensor:
    """Computes log sum exp of every row of S, (w, T, 1), from A = softmax(S), without a second exponential."""
    return S.amax(-1, keepdim=True) - A.amax(-1, keepdim=True).log_()


def _counted(x: Tensor, count: Tensor | None) -> Tensor:
    return x if count is None else x * count


def _dot(x: Tensor, y: Tensor, count: Tensor | None) -> Tensor:
    """Sums the products of x and y over all valid tokens."""
    if count is None and x.device.type == "cpu":
        return dot(x.flatten(), y.flatten())
    return _counted((x * y).sum(-1, keepdim=True), count).sum()


def _counts(valid: Tensor | None, V: Tensor) -> Tensor | None:
    """Weights of all tokens (W, T, 1), 0 or 1; None if all are counted."""
    return None if valid is None else valid.repeat(len(V) // len(valid), 1)[:, :, None].to(V.dtype)


def _one_minus_cosine(V_s: Tensor, V_t: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Computes 1 - cos(V_s, V_t), and the factors a and b of its gradient a V_s - b V_t; each (W, T, 1).

    Lengths are at least ``eps``; a length raised to ``eps`` is a constant in the gradient.
    """
    length, length_t = (torch.linalg.vector_norm(V, dim=-1, keepdim=True) for V in (V_s, V_t))
    inverse = 1 / length.clamp_min(eps)
    both = inverse / length_t.clamp_min(eps)
    cosine = (V_s * V_t).sum(-1, keepdim=True).mul_(both)
    return 1 - cosine, cosine * inverse.square() * (length > eps), both
