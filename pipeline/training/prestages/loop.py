"""The loop of a pre-stage: SGD from the cache, stopped and continued without a difference."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.stopping import stop_requests
from pipeline.training import checkpoint
from pipeline.training.stream import Stream
from pipeline.types import TrainProgress
from sward.contracts import Batch, Prestage, Student
from sward.objective import NonFiniteError

POWER = 0.9  # of the polynomial rate
CHECKPOINT_EVERY = 500
Lines = list[dict[str, float]]


def train_sgd(
    stage: Prestage, stream: Stream, head: Student | None, ckpt: Path, facts: dict[str, Any], progress: TrainProgress
) -> Lines:
    """All steps of ``stage``; returns up to 101 lines of its terms, first and last included.

    Raises:
        NonFiniteError: a term is NaN or infinite; names it and the samples.
        KeyboardInterrupt: asked to stop; the checkpoint is written.
    """
    s = stage.settings
    optimizer = torch.optim.SGD(stage.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    kept: dict[str, Any] = {"student": stage, "method": nn.Module(), "optimizer": optimizer}
    before: dict[str, Any] = {"step": 0, "losses": []}
    if ckpt.is_file():
        before = checkpoint.load(ckpt, **kept, expected=facts)
    first, lines = before["step"], list(before["losses"])
    with stop_requests() as stopping:
        for step, batch in enumerate(stream.batches(first, s.steps), start=first):
            terms = stage(batch, head)
            for group in optimizer.param_groups:
                group["lr"] = s.lr * (1 - step / s.steps) ** POWER
            loss = take_step(optimizer, terms, batch, step)
            if step % max(1, s.steps // 100) == 0 or step == s.steps - 1:
                lines.append({"step": step} | {name: term.item() for name, term in terms.items()})
            progress(step + 1, s.steps, {"loss": loss})
            stop = stopping()
            if stop or (step + 1) % CHECKPOINT_EVERY == 0:
                checkpoint.save(ckpt, **kept, step=step + 1, facts=facts | {"losses": lines})
            if stop:
                raise KeyboardInterrupt(f"pre-stage stopped after step {step + 1}; the same command continues")
    return lines


def take_step(optimizer: torch.optim.Optimizer, terms: dict[str, Tensor], batch: Batch, step: int) -> float:
    """One step on the sum of the terms, which it returns."""
    total = torch.stack(list(terms.values())).sum()
    if not math.isfinite(total.item()):
        names = ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
        raise NonFiniteError(f"pre-stage, step {step}: {names} not finite; samples {', '.join(batch.ids)}")
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.item()
