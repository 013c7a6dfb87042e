"""Gradient balancing: keeps the gradient of each part of a method at a fixed share of the task's.

Every ``every`` steps the norms of the gradients of the task loss and of each part are measured at the student's
parameters, where they add up in the optimiser; adapters do not count. Each norm is smoothed by an exponential mean m.
From this step on, all terms of part i are multiplied by

    factor_i = share_i m_task / m_i

on top of the method's weights, which keep their say within a part alone. This is exact for what is measured, at the
price of one more backward pass per part and one for the task at these steps. Gradients at a last map that all terms
share would cost less, but there is none: terms enter at the logits, the penultimate map and every level.

The means are a buffer, so a resumed run continues with them. Of several processes each measures the gradient of the
whole batch, and all have the same factors.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sward.contracts import BalanceConfig, Method
from sward.distributed.collectives import all_reduced


class GradientBalance(nn.Module):
    """Factors of a method's parts.

    A part whose gradient is 0 (e.g. during HeteroAKD's warm-up) or not finite at a measurement leaves its mean as it
    is; until a part and the task have a mean, the factor is 1.

    Attributes:
        norms: (1 + parts,) float32 buffer, the means: of the task, then of each part; 0 before the first measurement.

    Raises:
        ValueError: the method has no term of its own, or ``share`` does not name its parts.
    """

    norms: Tensor

    def __init__(self, config: BalanceConfig, method: Method) -> None:
        super().__init__()
        self.groups = {name: terms for name, terms in method.groups.items() if terms}
        if not self.groups:
            raise ValueError(f"balance: {type(method).__name__} has no term of its own to balance; leave `balance` out")
        self.config, self.shares = config, shares(config, list(self.groups))
        self.register_buffer("norms", torch.zeros(1 + len(self.groups)))

    def due(self, step: int) -> bool:
        """Whether this step measures."""
        return step % self.config.every == 0

    def measure(self, weighted: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
        """Update the means; keeps the graph and leaves every ``grad`` as it is.

        Args:
            weighted: every term, and ``task``, times its weight, without factors.
            parameters: the student's, all of which require a gradient.
        """
        parts = [torch.stack([weighted[name] for name in terms]).sum() for terms in self.groups.values()]
        found = torch.stack([gradient_norm(loss, parameters).to(self.norms) for loss in (weighted["task"], *parts)])
        smoothed = torch.where(self.norms > 0, self.config.decay * self.norms + (1 - self.config.decay) * found, found)
        self.norms.copy_(torch.where((found > 0) & found.isfinite(), smoothed, self.norms))

    def factors(self) -> dict[str, Tensor]:
        """Factor of each part, ()."""
        task, parts = self.norms[0], self.norms[1:]
        known = (task > 0) & (parts > 0)
        factors = torch.where(known, parts.new_tensor(self.shares) * task / torch.where(known, parts, 1.0), 1.0)
        return dict(zip(self.groups, factors.unbind(), strict=True))

    def forward(self, weighted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms times the factors of their parts."""
        by_term = {name: factor for part, factor in self.factors().items() for name in self.groups[part]}
        return {name: by_term[name] * term if name in by_term else term for name, term in weighted.items()}


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm () of the gradient, the mean over processes if there are several; 0 if there is none."""
    given = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
    found = [g.flatten() for g in given if g is not None]  # the same ones in every process: the graphs are alike
    if not found:
        return loss.new_zeros(())
    flat = torch.cat(found)
    if dist.is_initialized() and dist.get_world_size() > 1:
        flat = all_reduced(flat) / dist.get_world_size()
    return torch.linalg.vector_norm(flat)


def shares(config: BalanceConfig, parts: list[str]) -> list[float]:
    """The share of every part, in order. Raises ValueError if a mapping does not name exactly these parts."""
    if not isinstance(config.share, dict):
        return [config.share] * len(parts)
    if config.share.keys() != set(parts):
        raise ValueError(
            f"balance.share names {sorted(config.share)}, the method's parts are {sorted(parts)}: give a share to "
            "each, or one number for all"
        )
    return [config.share[part] for part in parts]
