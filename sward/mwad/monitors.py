"""Is there a relational signal? Numbers that show a vacuous attention target or a collapsed value space.

With default initialisation A_t is close to uniform, and with learnable teacher projections V_t may turn
constant: the losses then fall to zero while nothing is transferred. These monitors tell the two cases from
success.
"""

# B batch, N windows, T tokens of a window, d width of Q, K, V

from collections.abc import Mapping

import torch
from torch import Tensor

ENTROPY_ALARM = 0.98  # of log(number of keys): an attention this flat carries no relation
COSINE_ALARM = 0.90  # mean over pairs of different tokens: the values point one way


def normalised_entropy(logA_BNTT: Tensor, visible: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """Mean entropy of the attention rows over its maximum, log(number of visible keys): 0 one-hot, 1 uniform.

    Args:
        logA_BNTT: log attention over the last axis.
        visible: (N, T, T) bool keys that count, None for all.
        valid: (N, T) bool queries that count, None for all.

    Returns:
        Scalar in [0, 1]; 1 where every query sees a single key.
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
    """Monitors of one stage's teacher side; scalars by name.

    entropy: ``normalised_entropy`` of A_t. cosine: mean cosine between different tokens' V_t, over the whole
    batch.
    norm: mean length of V_t. spread: sqrt(tr Cov(V_t)) / norm, 0 where all values are equal.
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
    """One sentence for every monitor (named as by ``Method.monitors``) that shows a lost signal."""
    found = []
    for name, value in monitors.items():
        if name.endswith("/entropy") and not value <= ENTROPY_ALARM:
            found.append(
                f"{name} = {value:.3f}, above {ENTROPY_ALARM}: the teacher's attention is close to uniform "
                "and transfers no relation; use a larger mwad.gain or 'auto', or teacher_proj: frozen"
            )
        if name.endswith("/cosine") and not value <= COSINE_ALARM:
            found.append(
                f"{name} = {value:.3f}, above {COSINE_ALARM}: the teacher's values point in one direction "
                "(collapsed target); use teacher_proj: frozen and bias: false"
            )
    return found
