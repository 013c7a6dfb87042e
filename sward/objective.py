"""The training objective, paper Eq. 20: the one place where terms are weighted and summed."""

# B batch, K classes, h w of the logits, H W of the labels

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sward.balance import GradientBalance
from sward.contracts import IGNORE, BalanceConfig, Batch, Method, StudentOutput
from sward.distributed.collectives import current_slice, gather_over_ranks, mean_over_ranks, sum_over_ranks, use_slice

TASK = "task"


@dataclass
class Losses:
    """total: scalar to differentiate. terms: scalars by name, unweighted. weighted: times their weights."""

    total: Tensor
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]


class NonFiniteError(RuntimeError):
    """A term of the objective is NaN or infinite; the step must not be taken."""


class Objective(nn.Module):
    """Task cross-entropy plus the method's terms, weighted by ``method.weights`` (with ``task``).

    With ``balance`` the terms are also multiplied by the factors of `sward.balance`, which ``balanced`` measures.
    """

    def __init__(self, method: Method, balance: BalanceConfig | None = None) -> None:
        super().__init__()
        self.method = method
        self.balance = GradientBalance(balance, method) if balance else None

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> Losses:
        """Losses of one step, of the whole batch where processes share it.

        Raises ValueError where terms and weights do not name the same things.
        """
        if current_slice() is not None and not self.method.per_sample:
            output, batch = _whole(output, batch)
            with use_slice(None):
                return self(output, batch, step)
        terms = {TASK: cross_entropy(output.logits, batch.labels), **self.method(output, batch, step)}
        weights = self.method.weights
        if terms.keys() != weights.keys():
            raise ValueError(
                f"{type(self.method).__name__}: `weights` and `forward` must name the same terms; "
                f"without a weight: {sorted(terms.keys() - weights.keys())}, "
                f"without a term: {sorted(weights.keys() - terms.keys())}"
            )
        if current_slice() is not None:
            terms = dict(zip(terms, mean_over_ranks(torch.stack(list(terms.values()))).unbind(), strict=True))
        return self._weighted(terms)

    def _weighted(self, terms: dict[str, Tensor]) -> Losses:
        weighted = {name: self.method.weights[name] * term for name, term in terms.items()}
        if self.balance is not None:
            weighted = self.balance(weighted)
        return Losses(torch.stack(list(weighted.values())).sum(), terms, weighted)

    def balanced(self, losses: Losses, step: int, parameters: Sequence[Tensor]) -> Losses:
        """The step's losses, weighted anew if gradient balancing measures at this step.

        Call it before the step's backward pass, in every process: it takes one backward pass per part and one for the
        task, and keeps the graph.

        Args:
            losses: of this step, from ``forward``.
            parameters: the student's, where gradients are compared.
        """
        if self.balance is None or not self.balance.due(step):
            return losses
        self.balance.measure(
            {name: self.method.weights[name] * term for name, term in losses.terms.items()}, parameters
        )
        return self._weighted(losses.terms)

    @torch.no_grad()
    def factors(self) -> dict[str, float]:
        """Factors of gradient balancing for the log, ``balance/<part>``; waits for the device. Without it: none."""
        factors = self.balance.factors() if self.balance is not None else {}
        return {f"balance/{part}": float(factor) for part, factor in factors.items()}

    def check_finite(
        self,
        losses: Losses,
        output: StudentOutput,
        batch: Batch,
        step: int,
        joined: Callable[[list[str]], list[str]] = list,
    ) -> None:
        """Stops at a NaN or an infinity; waits for the device. Only then samples are examined one by one.

        Args:
            joined: makes one list of those of all processes that share the batch.

        Raises:
            NonFiniteError: naming the terms, and the samples with what is not finite in each.
        """
        if math.isfinite(losses.total.item()):
            return
        terms = [name for name, term in losses.terms.items() if not torch.isfinite(term)]
        found = [
            f"{name} ({', '.join(what)})"
            for i, name in enumerate(batch.ids)
            if (what := self._not_finite(*_sample(output, batch, i), step))
        ]
        samples = joined(found)
        raise NonFiniteError(
            f"step {step}: not finite: {', '.join(terms) or 'the weighted sum'}. "
            f"Samples: {'; '.join(samples) or 'none alone, only the batch together'}. "
            "Images or teacher features: verify the store. Student or terms: lower the learning rate, "
            "clip the gradient, or use bf16-mixed or 32-true instead of 16-mixed"
        )

    @torch.no_grad()
    def _not_finite(self, output: StudentOutput, batch: Batch, step: int) -> list[str]:
        tensors = {"images": batch.images, "logits": output.logits}
        tensors |= {f"teacher {level}": f for level, f in batch.features.items()}
        tensors |= {f"student {level}": f for level, f in output.features.items()}
        tensors |= {f"term {name}": term for name, term in self(output, batch, step).terms.items()}
        return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not ``IGNORE``, in float32 or wider; 0 where all are.

    Args:
        logits: (B, K, h, w), upsampled bilinearly to the labels' size (corners not aligned; CIRKD's code aligns them).
        labels: (B, H, W) int64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return sum_over_ranks(total) / sum_over_ranks((labels != IGNORE).sum()).clamp_min(1)


def _whole(output: StudentOutput, batch: Batch) -> tuple[StudentOutput, Batch]:
    """Of all processes, in order; but images and ids, which no term reads, stay this process's."""
    own = {level: gather_over_ranks(f) for level, f in output.features.items()}
    teacher = {level: gather_over_ranks(f) for level, f in batch.features.items()}
    student = StudentOutput(gather_over_ranks(output.logits), own, gather_over_ranks(output.penultimate))
    return student, replace(batch, labels=gather_over_ranks(batch.labels), features=teacher)


def _sample(output: StudentOutput, batch: Batch, i: int) -> tuple[StudentOutput, Batch]:
    one = slice(i, i + 1)
    features = {level: f[one] for level, f in output.features.items()}
    alone = replace(
        batch,
        images=batch.images[one],
        labels=batch.labels[one],
        features={level: f[one] for level, f in batch.features.items()},
        ids=batch.ids[one],
    )
    return StudentOutput(output.logits[one], features, output.penultimate[one]), alone


def gradient_shares(
    losses: Losses, parameters: Sequence[Tensor], backward: Callable[..., None] = Tensor.backward
) -> dict[str, float]:
    """Share of every weighted term in the gradient, by norm; they sum to 1 unless all are zero.

    Costs one backward pass per term and keeps the graph: call it every few hundred steps, before the step's
    own backward and with no gradients accumulated (it leaves none).

    Args:
        losses: of this step.
        parameters: leaves where the gradients meet, e.g. the student's parameters.
        backward: what the loop calls instead of ``Tensor.backward`` (Fabric's, which scales for precision).

    Returns:
        Term name -> share in [0, 1]; a term that does not reach ``parameters`` has 0.
    """
    norms = {name: _gradient_norm(term, parameters, backward) for name, term in losses.weighted.items()}
    total = math.fsum(norms.values())
    return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}


def _gradient_norm(term: Tensor, parameters: Sequence[Tensor], backward: Callable[..., None]) -> float:
    if not term.requires_grad:
        return 0.0
    backward(term, retain_graph=True)
    squares = [p.grad.float().square().sum() for p in parameters if p.grad is not None]
    for p in parameters:
        p.grad = None
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
