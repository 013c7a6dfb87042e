"""Training objective, paper Eq. 20: weights and sums the loss terms, in this place only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sward.balance import GradientBalance
from sward.contracts import BalanceConfig, Batch, Method, StudentOutput
from sward.distributed.collectives import BatchSlice, current_slice, gather_over_ranks, mean_over_ranks, use_slice
from sward.task import TaskConfig, task_loss

TASK = "task"
CROSS_ENTROPY = TaskConfig()


@dataclass
class Losses:
    """Losses of one step.

    Attributes:
        total: scalar to differentiate, the sum of ``weighted``.
        terms: unweighted scalar terms by name.
        weighted: the same terms times their weights.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]


class NonFiniteError(RuntimeError):
    """A term of the objective is NaN or infinite, so the optimiser step must not be taken."""


class Objective(nn.Module):
    """Task loss plus the method's terms. ``method.weights`` has the weight of every term and of ``task``.

    With ``balance`` the terms are also multiplied by the factors of `sward.balance`, which ``balanced`` measures.

    Args:
        method: gives the terms beside the task's.
        task: weights within the task loss.
        balance: how gradients are balanced; None: not.
    """

    def __init__(self, method: Method, task: TaskConfig = CROSS_ENTROPY, balance: BalanceConfig | None = None) -> None:
        super().__init__()
        self.method, self.task = method, task
        self.balance = GradientBalance(balance, method) if balance else None

    def forward(self, output: StudentOutput, batch: Batch, step: int) -> Losses:
        """Computes the losses of one step. If several processes share the batch, they are those of the whole batch.

        Raises:
            ValueError: the method's terms and its weights have different names.
        """
        share = current_slice()
        if share is not None and (share.others or not self.method.per_sample):
            output, batch = _whole(output, batch, share)
            with use_slice(None):
                return self(output, batch, step)
        labelled = slice(batch.labelled or None)  # of a batch without labels all, and the loss is 0
        task = task_loss(self.task, output.logits[labelled], batch.labels[labelled])
        terms = {TASK: task, **self.method(output, batch, step)}
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
        """Raises an error if the total loss is NaN or infinite. Waits for the device to compute it.

        Only if it is not finite, the samples are examined one by one, to name those that cause it.

        Args:
            losses: losses of the step, from ``forward``.
            output: the student's output for ``batch``.
            batch: input of the step.
            step: number of the step.
            joined: concatenates the lists of all processes that share the batch.

        Raises:
            NonFiniteError: names the terms and the samples, with the tensors that are not finite in each sample.
        """
        if math.isfinite(losses.total.item()):
            return
        terms = [name for name, term in losses.terms.items() if not torch.isfinite(term)]
        own_samples = [
            f"{id} ({', '.join(tensors)})"
            for i, id in enumerate(batch.ids)
            if (tensors := self._not_finite(*_sample(output, batch, i), step))
        ]
        samples = joined(own_samples)
        raise NonFiniteError(
            f"step {step}: not finite: {', '.join(terms) or 'the weighted sum'}. "
            f"Samples: {'; '.join(samples) or 'none alone, only the batch together'}. "
            "If images or teacher features are listed, run `sward verify` on the store. If only student tensors or "
            "terms are, lower the learning rate, clip the gradient, or train in "
            "32-true instead of bf16-mixed or 16-mixed"
        )

    @torch.no_grad()
    def _not_finite(self, output: StudentOutput, batch: Batch, step: int) -> list[str]:
        tensors = {"images": batch.images, "logits": output.logits}
        tensors |= {f"teacher {level}": f for level, f in batch.features.items()}
        tensors |= {f"student {level}": f for level, f in output.features.items()}
        tensors |= {f"term {name}": term for name, term in self(output, batch, step).terms.items()}
        return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def _whole(output: StudentOutput, batch: Batch, share: BatchSlice) -> tuple[StudentOutput, Batch]:
    """Gathers outputs, labels and teacher features of all processes, in batch order: those with labels come first.

    Images and ids stay those of this process, because no term reads them.
    """

    def gathered(x: Tensor) -> Tensor:
        if not share.others:
            return gather_over_ranks(x)
        first = gather_over_ranks(x[: share.count])
        with use_slice(share.unlabelled):
            return torch.cat([first, gather_over_ranks(x[share.count :])])

    own = {level: gathered(f) for level, f in output.features.items()}
    teacher = {level: gathered(f) for level, f in batch.features.items()}
    student = StudentOutput(gathered(output.logits), own, gathered(output.penultimate))
    labelled = share.whole if share.others else batch.labelled
    return student, replace(batch, labels=gathered(batch.labels), features=teacher, labelled=labelled)


def _sample(output: StudentOutput, batch: Batch, i: int) -> tuple[StudentOutput, Batch]:
    """Returns sample ``i`` of output and batch, as a batch of one."""
    one = slice(i, i + 1)
    features = {level: f[one] for level, f in output.features.items()}
    alone = replace(
        batch,
        images=batch.images[one],
        labels=batch.labels[one],
        features={level: f[one] for level, f in batch.features.items()},
        ids=batch.ids[one],
        labelled=None,  # its labels are IGNORE if it has none
    )
    return StudentOutput(output.logits[one], features, output.penultimate[one]), alone


def gradient_shares(
    losses: Losses, parameters: Sequence[Tensor], backward: Callable[..., None] = Tensor.backward
) -> dict[str, float]:
    """Computes each weighted term's share of the gradient: its norm divided by the sum of all terms' norms.

    Costs one backward pass per term and keeps the graph. So call it every few hundred steps, before the step's own
    backward pass and while no gradients are accumulated. It leaves no gradients behind.

    Args:
        losses: losses of this step.
        parameters: leaf tensors at which the gradients are compared, e.g. the student's parameters.
        backward: the loop's replacement of ``Tensor.backward`` (Fabric's, which scales the loss for precision).

    Returns:
        Term name -> share in [0, 1]; 0 for a term that does not reach ``parameters``. The shares sum to 1 unless
        all norms are zero.
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
