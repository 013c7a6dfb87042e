"""Detects useless attention targets: near-uniform attention or collapsed values.

With PyTorch's default initialisation A_t is close to uniform, and with learned teacher projections V_t may become
constant. In both cases the losses fall to zero although nothing is transferred. The losses alone cannot tell these
cases from success; these monitors can.
"""

# B batch, N windows, T tokens of a window, d width of Q, K, V

from collections.abc import Mapping

import torch
from torch import Tensor

ENTROPY_ALARM = 0.98  # share of the maximum log(number of keys); flatter attention carries no relation between tokens
COSINE_ALARM = 0.90  # mean over pairs of different tokens; above it, all values point in one direction


def normalised_entropy(logA_BNTT: Tensor, visible: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """Computes the mean entropy of the attention rows divided by its maximum, log(number of visible keys).

    Args:
        logA_BNTT: log attention; the keys are the last axis.
        visible: (N, T, T) bool, keys that each query attends to; None for all.
        valid: (N, T) bool, queries that are counted; None for all.

    Returns:
        Scalar in [0, 1]: 0 for one-hot, 1 for uniform attention, and 1 if every query sees a single key.
    """
    T = logA_BNTT.shape[-1]
    entropy_BNT = -(logA_BNTT.exp() * logA_BNTT).sum(-1)
    keys_NT = visible.sum(-1) if visible is not None else logA_BNTT.new_full((T,), T)
    limit_BNT = keys_NT.clamp_min(1).to(logA_BNTT.dtype).log().expand_as(entropy_BNT)
    if valid is not None:
        entropy_BNT, limit_BNT = entropy_BNT * valid, limit_BNT * valid
    entropy, limit = entropy_BNT.sum(), limit_BNT.sum()
    return torch.where(limit > 0, entropy / limit.clamp_min(1e-12), 1.0)


def relational_signal(
    logA_BNTT: Tensor, V_BNTd: Tensor, visible: Tensor | None = None, valid: Tensor | None = None
) -> dict[str, Tensor]:
    """Computes the monitors of one stage's teacher side.

    Args:
        logA_BNTT: log attention of the teacher; the keys are the last axis.
        V_BNTd: values of the teacher.
        visible: (N, T, T) bool, keys that each query attends to; None for all.
        valid: (N, T) bool, tokens that are counted; None for all.

    Returns:
        Scalars by name:

        - ``entropy``: ``normalised_entropy`` of A_t.
        - ``cosine``: mean cosine between V_t of different tokens, over the whole batch.
        - ``norm``: mean length of V_t.
        - ``spread``: sqrt(tr Cov(V_t)) / norm; 0 if all values are equal.
    """
    v_nd = V_BNTd[:, valid].flatten(0, 1) if valid is not None else V_BNTd.flatten(0, 2)
    n = len(v_nd)
    norm_n = v_nd.norm(dim=-1)
    total_d = (v_nd / norm_n.clamp_min(1e-12)[:, None]).sum(0)
    norm = norm_n.mean()
    return {
        "entropy": normalised_entropy(logA_BNTT, visible, valid),
        "cosine": (total_d.square().sum() - n) / max(n * (n - 1), 1),
        "norm": norm,
        "spread": v_nd.var(0, correction=0).sum().sqrt() / norm.clamp_min(1e-12),
    }


def alarms(monitors: Mapping[str, float]) -> list[str]:
    """Returns one warning sentence for each monitor (named as by ``Method.monitors``) that shows a lost signal."""
    found = []
    for name, value in monitors.items():
        if name.endswith("/entropy") and not value <= ENTROPY_ALARM:
            found.append(
                f"{name} = {value:.3f}, above {ENTROPY_ALARM}: the teacher's attention is close to uniform "
                "and transfers no relation; set a larger mwad.gain or 'auto', or teacher_proj: frozen"
            )
        if name.endswith("/cosine") and not value <= COSINE_ALARM:
            found.append(
                f"{name} = {value:.3f}, above {COSINE_ALARM}: the teacher's values point in one direction "
                "(collapsed target); set teacher_proj: frozen and bias: false"
            )
    return found
