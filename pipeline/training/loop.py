"""Stage 2: trains a student from a feature store, without loading the teacher.

`train` checks and builds, `fit` is the loop; `validation.py` keeps the best student and evaluates it at the end. A run
that was interrupted and resumed equals an uninterrupted one, bit for bit on CPU: every random draw is keyed by the
step, and the checkpoint holds all other state.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.stopping import stop_requests
from pipeline.training import checkpoint
from pipeline.training.background_checkpoints import CheckpointWriter
from pipeline.training.checkpoint import warm_up_file
from pipeline.training.clipping import clip
from pipeline.training.config import TrainConfig
from pipeline.training.device.determinism import repeatable
from pipeline.training.device.loss_scaling import scaler_of
from pipeline.training.distributed import processes
from pipeline.training.distributed.collectives import average_gradients, backward_and_average
from pipeline.training.distributed.read_only_folder import ReadOnlyRunFolder
from pipeline.training.inputs.student import require_same_encoder
from pipeline.training.logs.loggers import require_packages
from pipeline.training.optimizer import learning_rate
from pipeline.training.profiling.parts import part
from pipeline.training.profiling.profile import profiling
from pipeline.training.run_folder import RunFolder
from pipeline.training.run_length import finished_without_store, with_length
from pipeline.training.setup import TrainingRun, open_store, require_same_head, setup
from pipeline.training.validation import finish, is_exhausted, validate
from pipeline.types import TrainProgress
from sward import seeds
from sward.contracts import Batch, StudentOutput
from sward.distributed.synced_layers import sharing
from sward.mwad.monitors import alarms
from sward.objective import Losses, gradient_shares
from sward.students.inputs import output_for, single_values_explained

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Raised after a stop request, when the checkpoint has been written."""


def train(
    config: TrainConfig, progress: TrainProgress = lambda step, steps, logged: None, profile_steps: int | None = None
) -> Path:
    """Trains or resumes the run of ``config`` and returns its folder; a finished run is returned at once.

    With ``devices`` above 1 it starts that many processes and waits for them. In a process that `torchrun` started it
    does this process's part of the run.

    Args:
        progress: called with (step, steps, logged values).
        profile_steps: number of steps whose parts are timed, into the run's profile.json; the result is the same.

    Raises:
        ProcessLost: one of several processes died.
        CacheMismatch, StoreIncomplete, StoreDamaged: the store does not fit or is damaged; before the first batch.
        NonFiniteError: a loss is NaN or infinite; names terms and samples.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written.
    """
    if finished_without_store(config):
        return config.folder
    store, first_process = open_store(config), processes.rank() == 0
    config = with_length(config, store)
    folder = (RunFolder if first_process else ReadOnlyRunFolder)(config.folder)
    if folder.finished_from(store):
        require_same_head(config, store, folder)
        require_same_encoder(config, folder)
        return folder.path
    processes.require(config)
    require_packages(config.loggers)
    if config.processes > 1 and profile_steps:
        raise ValueError("--profile times the steps of one process: add --set devices=1 --set nodes=1")
    if config.processes > 1 and not processes.inside():
        processes.launch(train, config, progress)
        return folder.path
    progress = progress if first_process else (lambda step, steps, logged: None)
    with folder.owned(), repeatable(config.deterministic):
        run = setup(config, store, folder, progress)
        folder.count_from_now()
        first = resume(run)
        profiler = profiling(run, first, profile_steps) if profile_steps else nullcontext()
        with stop_requests() as stopping, folder.logging(config, first), profiler:
            with CheckpointWriter(folder) as writer:
                done = fit(run, first, writer, stopping, progress)
            finish(run, done)
    return folder.path


def resume(run: TrainingRun) -> int:
    """Restores the last checkpoint, or a warm-up shared with other runs; returns the first step still to do."""
    existing = [file for file in (run.folder.last, warm_up_file(run.config)) if file and file.is_file()]
    file = run.fabric.broadcast(existing[0] if existing else None)  # all processes take the first one's choice
    expected = run.facts if file == run.folder.last else run.warm_up_facts
    first, spent = 0, 0.0
    if file:
        if file != run.folder.last:
            log.info("%s continues from the warm-up %s", run.config.name, file)
        facts = checkpoint.load(
            file,
            student=run.student,
            method=run.objective,
            optimizer=run.optimizer,
            expected=expected,
            mean=run.mean,
            scaler=scaler_of(run.fabric),
        )
        run.best, run.best_step, first = facts["best"], facts.get("best_step", 0), facts["step"]
        spent = facts.get("seconds", 0.0)
    run.folder.create(run.config, run.store, run.sources, run.fabric.device, spent)
    run.folder.drop_log_after(first, validated=first < run.config.steps)
    return first


def fit(
    run: TrainingRun, first: int, writer: CheckpointWriter, stopping: Callable[[], bool], progress: TrainProgress
) -> int:
    """Runs the steps from ``first`` (counted from 0) on, with logs, validations and checkpoints.

    Returns:
        Steps done: ``config.steps``, or fewer where validation has not improved for the run's ``patience``.
    """
    config, n = run.config, run.config.accumulate
    batches = run.stream.batches(first * n, config.steps * n)
    for step in range(first, config.steps):
        if is_exhausted(run, step):
            return step
        # random state (of dropout) and learning rate: functions of the step, so that resuming needs no history
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, config.steps)
        # forward, losses, backward of every batch of the step; then clip, and stop at a NaN before it reaches a weight
        shares: dict[str, float] = {}
        for number, batch in zip(range(step * n, (step + 1) * n), batches):  # noqa: B905 (the steps end it)
            torch.manual_seed(seeds.torch_seed(config.seed, "step", number))  # dropout: a function of (seed, batch)
            output, losses, measured = forward_backward(run, batch, step, measures=number == step * n)
            shares |= measured
        stop = clip(run, batch, step, losses, output, stopping())
        with part("optimiser"):
            run.optimizer.step()
            run.optimizer.zero_grad()
            if run.mean:
                run.mean.update_parameters(run.student.module)  # type: ignore[arg-type]  # Fabric's wrapper
        # log and validate
        done = step + 1
        if done % config.log_every == 0 or done == config.steps or shares:
            progress(done, config.steps, log_step(run, done, losses, shares))
        if done < config.steps and config.validates_every and done % config.validates_every == 0:
            validate(run, done)
        # checkpoint; stop in all processes if any had been asked to when the gradient was clipped
        if done == config.method.warm_up(config.steps)[0]:
            share_warm_up(run, writer, done)
        if done % config.checkpoint_every == 0 or done == config.steps or stop:
            save_checkpoint(run, writer, done, run.folder.last, run.facts)
        if stop and done < config.steps:
            writer.wait()
            run.folder.mark_stopped()
            run.fabric.barrier()  # no process exits before the first one has written the checkpoint
            raise Interrupted(f"stopped after step {done}; the same command continues from there")
    return config.steps


def forward_backward(
    run: TrainingRun, batch: Batch, step: int, measures: bool
) -> tuple[StudentOutput, Losses, dict[str, float]]:
    """Runs forward and backward of one step; every process ends with the losses and gradients of the whole batch.

    Returns:
        Student output, losses, and the logged values of the relational signal (empty in most steps).
    """
    measuring = measures and run.config.signal_every > 0 and step % run.config.signal_every == 0
    # DDP averages gradients in the backward pass; not if there are several passes, or parameters may get no gradient
    sync_manually = measuring or not run.overlap
    run.student.train()
    wrapped: Any = run.student  # by Fabric
    with sharing(run.stream.order.size(step)), run.fabric.no_backward_sync(wrapped, enabled=sync_manually):
        with part("forward: student"), single_values_explained():
            output = output_for(wrapped, batch)
        losses = run.objective(output, batch, step)
    if run.objective.balance is not None and measures:
        with part("gradient balance"):
            losses = run.objective.balanced(losses, step, run.student_parameters)
    shares = measure_signal(run, losses, step) if measuring else {}
    with part("backward"):
        run.fabric.backward(losses.total if run.config.accumulate == 1 else losses.total / run.config.accumulate)
        average_gradients(run.fabric, run.parameters if sync_manually else run.objective.parameters())
    run.overlap = run.overlap or all(p.grad is not None for p in run.student_parameters)
    return output, losses, shares


@part("logging")
def log_step(run: TrainingRun, done: int, losses: Losses, shares: dict[str, float]) -> dict[str, float]:
    """Writes one line of the log and returns its values."""
    logged = {"loss": losses.total.item(), "lr": run.optimizer.param_groups[0]["lr"]}
    logged |= {f"term/{k}": v.item() for k, v in losses.terms.items()} | run.objective.factors() | shares
    run.folder.log(done, logged)
    return logged


def measure_signal(run: TrainingRun, losses: Losses, step: int) -> dict[str, float]:
    """Measures the relational signal (this process's samples) and each term's share of the gradient.

    Logs a warning if the signal is dead (attention near uniform, values collapsed).
    """
    with part("relational signal"):
        monitors = run.objective.method.monitors()
        shares = gradient_shares(losses, run.parameters, partial(backward_and_average, run.fabric, run.parameters))
    for line in alarms(monitors):
        log.warning("step %d: %s", step, line)
    return {f"share/{k}": v for k, v in shares.items()} | monitors


@part("checkpoint")
def save_checkpoint(run: TrainingRun, writer: CheckpointWriter, step: int, file: Path, facts: dict[str, Any]) -> None:
    """Saves all state to resume from ``step``, and the time spent; the first process writes, as all have the same."""
    if not run.fabric.is_global_zero:
        return
    writer.save(
        file,
        student=run.student,
        method=run.objective,
        optimizer=run.optimizer,
        step=step,
        facts=facts | {"best": run.best, "best_step": run.best_step},
        mean=run.mean,
        scaler=scaler_of(run.fabric),
    )


def share_warm_up(run: TrainingRun, writer: CheckpointWriter, step: int) -> None:
    """Saves the state at the end of a warm-up for runs with the same one, unless such a run has saved it before."""
    file = warm_up_file(run.config)
    if file and not file.is_file():
        save_checkpoint(run, writer, step, file, run.warm_up_facts | {"seconds": run.folder.seconds()})
