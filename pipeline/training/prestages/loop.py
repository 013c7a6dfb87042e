"""Training loop of a pre-stage: SGD on cached features, with a polynomial learning rate.

A pre-stage that was stopped and continued equals an uninterrupted one.
"""

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

POWER = 0.9  # exponent of the polynomial rate, as in MasKD
CHECKPOINT_EVERY = 500  # steps
Lines = list[dict[str, float]]  # step and terms of logged steps


def train_sgd(
    stage: Prestage, stream: Stream, head: Student | None, ckpt: Path, facts: dict[str, Any], progress: TrainProgress
) -> Lines:
    """Trains ``stage`` from its checkpoint or from scratch; returns up to 101 log lines, with first and last step.

    Args:
        stage: the pre-stage, on its device.
        stream: training batches.
        head: frozen teacher head, or None.
        ckpt: file of the last checkpoint.
        facts: identity of the pre-stage, which a checkpoint must match.
        progress: called with (step, steps, logged values).

    Raises:
        NonFiniteError: a term is NaN or infinite; names it and the samples.
        KeyboardInterrupt: a stop was requested; the checkpoint is written.
    """
    s = stage.settings
    optimizer = torch.optim.SGD(stage.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    state: dict[str, Any] = {"student": stage, "method": nn.Module(), "optimizer": optimizer}
    before: dict[str, Any] = {"step": 0, "losses": []}
    if ckpt.is_file():
        before = checkpoint.load(ckpt, **state, expected=facts)
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
                checkpoint.save(ckpt, **state, step=step + 1, facts=facts | {"losses": lines})
            if stop:
                raise KeyboardInterrupt(
                    f"pre-stage stopped after step {step + 1}; run the same command again to continue"
                )
    return lines


def take_step(optimizer: torch.optim.Optimizer, terms: dict[str, Tensor], batch: Batch, step: int) -> float:
    """Takes one optimiser step on the sum of the terms and returns the sum.

    Raises:
        NonFiniteError: a term is NaN or infinite.
    """
    total = torch.stack(list(terms.values())).sum()
    if not math.isfinite(total.item()):
        names = ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
        raise NonFiniteError(f"pre-stage, step {step}: not finite: {names}; samples {', '.join(batch.ids)}")
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.item()
