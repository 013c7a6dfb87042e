"""Stage 2: trains a student from a store. The teacher is never loaded.

Five steps to read: `train` (checks, builds), `fit` (the loop), `validate`, `finish` (test split, student file),
and small helpers. Interrupted and resumed equals uninterrupted, bit for bit on CPU: every draw is keyed by the
step, and a checkpoint holds the rest.
"""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.files import locked
from pipeline.stopping import stop_requests
from pipeline.training import checkpoint
from pipeline.training.checkpoint import warm_up_file
from pipeline.training.checkpoint_writer import CheckpointWriter
from pipeline.training.config import TrainConfig, learning_rate
from pipeline.training.distributed import processes
from pipeline.training.distributed.collectives import any_rank, average_gradients, backward_and_average, gather_lists
from pipeline.training.evaluate import evaluate, headline
from pipeline.training.profiling.parts import part
from pipeline.training.profiling.profile import profiling
from pipeline.training.run_folder import ReadOnlyRunFolder, RunFolder
from pipeline.training.setup import TrainingRun, open_store, require_same_head, setup
from pipeline.types import TrainProgress
from sward import seeds
from sward.contracts import Batch, StudentOutput
from sward.distributed.synced_layers import sharing
from sward.mwad.monitors import alarms
from sward.objective import Losses, NonFiniteError, gradient_shares

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its checkpoint is written."""


def train(
    config: TrainConfig, progress: TrainProgress = lambda step, steps, logged: None, profile_steps: int | None = None
) -> Path:
    """Train, resume or (if it is finished) just return the run folder of ``config``.

    With ``devices`` above 1 that many processes are started for it, and waited for here; in one of several processes
    that `torchrun` started, this is its part of the run.

    Args:
        profile_steps: time the parts of this many steps, into the run's profile.json; the result is the same.

    Raises:
        ProcessLost: one of several processes died.
        CacheMismatch, StoreIncomplete, StoreDamaged: before the first batch.
        NonFiniteError: a loss is NaN or infinite; names terms and samples.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written.
    """
    store, first_process = open_store(config), processes.rank() == 0
    folder = (RunFolder if first_process else ReadOnlyRunFolder)(config.folder)
    if folder.finished_from(store):
        require_same_head(config, store, folder)
        return folder.path
    processes.require(config)
    if config.processes > 1 and profile_steps:
        raise ValueError("--profile times the steps of one process: add --set devices=1 --set nodes=1")
    if config.processes > 1 and not processes.inside():
        processes.launch(train, config, progress)
        return folder.path
    progress = progress if first_process else (lambda step, steps, logged: None)
    with locked(folder.path) if first_process else nullcontext():
        run = setup(config, store, folder, progress)
        folder.count_from_now()
        first = resume(run)
        watched = profiling(run, first, profile_steps) if profile_steps else nullcontext()
        with stop_requests() as stopping, folder.logging(first), watched:
            with CheckpointWriter(folder) as writer:
                fit(run, first, writer, stopping, progress)
            finish(run)
    return folder.path


def resume(run: TrainingRun) -> int:
    """Restore the last checkpoint, or a shared warm-up; returns the first step still to do."""
    there = [file for file in (run.folder.last, warm_up_file(run.config)) if file and file.is_file()]
    file = run.fabric.broadcast(there[0] if there else None)  # as the first process found it
    expected = run.facts if file == run.folder.last else warm_up_facts(run)
    first, spent = 0, 0.0
    if file:
        if file != run.folder.last:
            log.info("%s continues from the warm-up %s", run.config.name, file)
        facts = checkpoint.load(
            file, student=run.student, method=run.objective, optimizer=run.optimizer, expected=expected
        )
        run.best, first = facts["best"], facts["step"]
        spent = facts.get("seconds", 0.0)
    run.folder.create(run.config, run.store, run.sources, spent)
    run.folder.drop_log_after(first)
    return first


def warm_up_facts(run: TrainingRun) -> dict[str, Any]:
    return {"store": run.store.content_id} | run.sources


def fit(
    run: TrainingRun, first: int, writer: CheckpointWriter, stopping: Callable[[], bool], progress: TrainProgress
) -> None:
    """The loop: steps ``first`` to the end, with logs, validations and checkpoints."""
    config = run.config
    for step, batch in enumerate(run.stream.batches(first, config.steps), start=first):
        torch.manual_seed(seeds.torch_seed(config.seed, "step", step))  # dropout: a function of (seed, step)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, config.steps)
        output, losses, shares = forward_backward(run, batch, step)
        clip(run, batch, step, losses, output)
        with part("optimiser"):
            run.optimizer.step()
            run.optimizer.zero_grad()
        done = step + 1
        if done % config.log_every == 0 or done == config.steps or shares:
            progress(done, config.steps, log_step(run, done, losses, shares))
        if done < config.steps and config.eval_every and done % config.eval_every == 0:
            validate(run, done)
        if done == config.method.warm_up(config.steps)[0] and (warm := warm_up_file(config)) and not warm.is_file():
            save_checkpoint(run, writer, done, warm, warm_up_facts(run) | {"seconds": run.folder.seconds()})
        stop = any_rank(run.fabric, stopping())
        if done % config.checkpoint_every == 0 or done == config.steps or stop:
            save_checkpoint(run, writer, done, run.folder.last, run.facts)
        if stop and done < config.steps:
            writer.wait()
            run.folder.mark_stopped()
            run.fabric.barrier()  # nobody leaves before the first process has written it
            raise Interrupted(f"stopped after step {done}; the same command continues from there")


def forward_backward(run: TrainingRun, batch: Batch, step: int) -> tuple[StudentOutput, Losses, dict[str, float]]:
    """Forward and backward; of several processes each ends with the whole batch's losses and gradients."""
    signal = run.config.signal_every > 0 and step % run.config.signal_every == 0
    by_hand = signal or not run.overlap
    run.student.train()
    wrapped: Any = run.student  # by Fabric
    with sharing(run.stream.order.size(step)), run.fabric.no_backward_sync(wrapped, enabled=by_hand):
        with part("forward: student"):
            output = run.student(batch.inputs(run.student))
        losses = run.objective(output, batch, step)
    if run.objective.balance is not None:
        with part("gradient balance"):
            losses = run.objective.balanced(losses, step, run.student_parameters)
    shares = measure_signal(run, losses, step) if signal else {}
    with part("backward"):
        run.fabric.backward(losses.total)
        average_gradients(run.fabric, run.parameters if by_hand else run.objective.parameters())
    run.overlap = run.overlap or all(p.grad is not None for p in run.student_parameters)
    return output, losses, shares


@part("gradient clipping")
def clip(run: TrainingRun, batch: Batch, step: int, losses: Losses, output: StudentOutput) -> None:
    """Limit the gradient's norm; a loss or gradient that is not finite stops the run before it reaches a weight.

    This is where a step waits for the device, once: both are looked at together.
    """
    norm = nn.utils.clip_grad_norm_(run.parameters, run.config.optimizer.clip_norm or math.inf)
    if torch.isfinite(norm + losses.total.detach()):
        return
    run.objective.check_finite(losses, output, batch, step, partial(gather_lists, run.fabric))
    raise NonFiniteError(
        f"step {step}: the gradient is not finite; samples {', '.join(gather_lists(run.fabric, batch.ids))}. "
        "Lower the learning rate, or look at the last lines of metrics.jsonl"
    )


@part("logging")
def log_step(run: TrainingRun, done: int, losses: Losses, shares: dict[str, float]) -> dict[str, float]:
    """One line of the log; returns it."""
    logged = {"loss": losses.total.item(), "lr": run.optimizer.param_groups[0]["lr"]}
    logged |= {f"term/{k}": v.item() for k, v in losses.terms.items()} | run.objective.factors() | shares
    run.folder.log(done, logged)
    return logged


def measure_signal(run: TrainingRun, losses: Losses, step: int) -> dict[str, float]:
    """Relational-signal monitors (of this process's samples) and each term's share of the gradient; warns of a dead
    signal."""
    with part("relational signal"):
        monitors = run.objective.method.monitors()
        shares = gradient_shares(losses, run.parameters, partial(backward_and_average, run.fabric, run.parameters))
    for line in alarms(monitors):
        log.warning("step %d: %s", step, line)
    return {f"share/{k}": v for k, v in shares.items()} | monitors


@part("evaluation")
def validate(run: TrainingRun, step: int) -> None:
    """Metrics on the validation split; keeps the best student."""
    result = evaluate(run.student, run.store, "val", run.fabric.device, run.config.batch_size, share=run.share)
    score = result["metrics"][headline(len(run.store.classes))]
    run.folder.log(step, {f"val/{k}": v for k, v in result["metrics"].items()})
    if score > run.best:
        run.best = score
        run.folder.save_student(run.student, run.config, run.store, run.teacher_channels, step, result["metrics"])


@part("checkpoint")
def save_checkpoint(run: TrainingRun, writer: CheckpointWriter, step: int, file: Path, facts: dict[str, Any]) -> None:
    """Everything to resume from ``step``, and the time spent so far; every process has the same."""
    if not run.fabric.is_global_zero:
        return
    writer.save(
        file,
        student=run.student,
        method=run.objective,
        optimizer=run.optimizer,
        step=step,
        facts=facts | {"best": run.best},
    )


def finish(run: TrainingRun) -> None:
    """Validate the last student; evaluate the best one on test (val where test has no labels); mark the run."""
    validate(run, run.config.steps)
    run.fabric.barrier()  # the first process has written it
    run.folder.load_student(run.student)
    with part("evaluation"):
        result = evaluate(
            run.student,
            run.store,
            run.store.evaluation_subset,
            run.fabric.device,
            run.config.batch_size,
            predictions=run.folder.path / "predictions",
            share=run.share,
        )
    run.folder.save_evaluation(result)
    run.folder.mark_finished({"test": result["metrics"], "subset": result["subset"], "best_val": run.best})
    run.fabric.barrier()  # so that every process finds it finished
