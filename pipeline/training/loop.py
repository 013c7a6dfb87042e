"""Stage 2: trains a student from a store. The teacher is never loaded.

Five steps to read: `train` (checks, builds), `fit` (the loop), `validate`, `finish` (test split, student file),
and small helpers. Interrupted and resumed equals uninterrupted, bit for bit on CPU: every draw is keyed by the
step, and a checkpoint holds the rest.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline.cache.identity import declared, differences, require_same
from pipeline.cache.store import Store
from pipeline.devices import resolve_device
from pipeline.files import locked, write_json
from pipeline.paths import locate
from pipeline.training import checkpoint
from pipeline.training.config import TrainConfig, build_trainable, learning_rate
from pipeline.training.evaluate import evaluate, headline
from pipeline.training.rundir import RunFolder
from pipeline.training.stopping import stop_requests
from pipeline.training.stream import Order, Stream
from sward import seeds
from sward.contracts import Batch, Student
from sward.monitors import alarms, gradient_shares
from sward.objective import Losses, NonFiniteError, Objective

REMEDY = """Point cache.store at the store you mean, or make this one anew with `sward extract`.
Where the store has grown: describe it as it is now (cache.views.count); `views` trains on the first views only."""
log = logging.getLogger(__name__)
Progress = Callable[[int, int, dict[str, float]], None]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its checkpoint is written."""


@dataclass
class Run:
    """What the loop works on."""

    config: TrainConfig
    store: Store
    stream: Stream
    fabric: Fabric
    student: Student
    objective: Objective
    optimizer: torch.optim.Optimizer
    folder: RunFolder
    best: float = -math.inf

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: the student's parameters and the adapters'."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def facts(self) -> dict[str, Any]:
        return {"config": self.config.identity(), "store": self.store.content_id}


def train(config: TrainConfig, progress: Progress = lambda step, steps, logged: None) -> Path:
    """Train, resume or (if it is finished) just return the run folder of ``config``.

    Raises:
        CacheMismatch, StoreIncomplete, StoreDamaged: before the first batch.
        NonFiniteError: a loss is NaN or infinite; names terms and samples.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written.
    """
    store = open_store(config)
    folder = RunFolder(config.folder)
    if folder.finished_from(store):
        return folder.path
    with locked(folder.path):
        run = setup(config, store, folder)
        first = resume(run)
        with stop_requests() as stopping, folder.logging(first):
            fit(run, first, stopping, progress)
            finish(run)
    return folder.path


def open_store(config: TrainConfig) -> Store:
    """The expected store, its identity checked field by field."""
    store = Store(locate(config.cache.store))
    lines = differences(declared(config.cache), store.identity) + unpinned_teacher(config, store)
    require_same(store.path, lines, REMEDY)
    empty = [f"records: the store has no {s} records" for s in ("train", "val") if not store.records[s]]
    require_same(store.path, empty, "Training needs both subsets: name them in the card's split and extract again.")
    if config.views is not None and config.views > store.identity["views.count"]:
        require_same(
            store.path,
            [f"views: expected {config.views}, found {store.identity['views.count']}"],
            "Raise cache.views.count and run `sward extract`: it adds the missing views.",
        )
    return store


def unpinned_teacher(config: TrainConfig, store: Store) -> list[str]:
    """Without a digest the path of the weights is all that stage 2 can compare: it opens no weights."""
    expected, found = config.cache.teacher, store.plans[-1]["config"]["teacher"]["weights"]
    if expected.digest or expected.weights == found:
        return []
    pin = f"or pin the teacher meant; the store's is teacher.digest: {store.identity['teacher.digest']}"
    return [f"teacher.weights: expected {expected.weights}, found {found} ({pin})"]


def setup(config: TrainConfig, store: Store, folder: RunFolder) -> Run:
    """Build everything, deterministically from the configuration and the store."""
    device = resolve_device(config.device)
    fabric = Fabric(
        accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1, precision=config.precision
    )
    torch.manual_seed(seeds.torch_seed(config.seed, "setup"))
    num_classes = len(store.classes)
    student = build_trainable(config.student, store.channels, num_classes, config.seed)
    method = config.method.build(store.channels, student.channels, num_classes, student.classifier.in_channels)
    levels = tuple(store.channels) if student.reads == "features" else method.needs
    records = [r for r in store.records["train"] if config.views is None or r.view.number < config.views]
    order = Order(tuple(records), config.batch_size, config.seed, config.per_epoch)
    stream = Stream(store, order, levels, fabric.device, config.workers, config.prefetch)
    objective = Objective(method).to(fabric.device)
    method.prepare(
        stream.fixed(min(16, len(records))),
        {k: (m.to(fabric.device), s.to(fabric.device)) for k, (m, s) in store.statistics().items()},
    )
    trained = [p for m in (student, objective) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay)
    student, optimizer = fabric.setup(student, optimizer)
    return Run(config, store, stream, fabric, student, objective, optimizer, folder)


def resume(run: Run) -> int:
    """Restore the last checkpoint; returns the first step still to do."""
    if not run.folder.last.is_file():
        run.folder.create(run.config, run.store)
        run.folder.drop_log_after(0)
        return 0
    facts = checkpoint.load(
        run.folder.last, student=run.student, method=run.objective, optimizer=run.optimizer, expected=run.facts
    )
    run.best = facts["best"]
    run.folder.create(run.config, run.store)
    run.folder.drop_log_after(facts["step"])
    return facts["step"]


def fit(run: Run, first: int, stopping: Callable[[], bool], progress: Progress) -> None:
    """The loop: steps ``first`` to the end, with logs, validations and checkpoints."""
    config = run.config
    for step, batch in enumerate(run.stream.batches(first, config.steps), start=first):
        torch.manual_seed(seeds.torch_seed(config.seed, "step", step))  # dropout: a function of (seed, step)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, config.steps)
        run.student.train()
        output = run.student(batch.inputs(run.student))
        losses = run.objective(output, batch, step)
        run.objective.check_finite(losses, output, batch, step)
        shares = signal_of(run, losses, step)
        run.fabric.backward(losses.total)
        clip(run, batch, step)
        run.optimizer.step()
        run.optimizer.zero_grad()
        done = step + 1
        if done % config.log_every == 0 or done == config.steps or shares:
            logged = {"loss": losses.total.item(), "lr": run.optimizer.param_groups[0]["lr"]}
            logged |= {f"term/{k}": v.item() for k, v in losses.terms.items()} | shares
            run.folder.log(done, logged)
            progress(done, config.steps, logged)
        if done < config.steps and config.eval_every and done % config.eval_every == 0:
            validate(run, done)
        stop = stopping()
        if done % config.checkpoint_every == 0 or done == config.steps or stop:
            save_checkpoint(run, done)
        if stop and done < config.steps:
            raise Interrupted(f"stopped after step {done}; the same command continues from there")


def clip(run: Run, batch: Batch, step: int) -> None:
    """Limit the gradient's norm; a gradient that is not finite stops the run before it reaches a weight."""
    norm = nn.utils.clip_grad_norm_(run.parameters, run.config.optimizer.clip_norm or math.inf)
    if not torch.isfinite(norm):
        raise NonFiniteError(
            f"step {step}: the gradient is not finite; samples {', '.join(batch.ids)}. "
            "Lower the learning rate, or look at the last lines of metrics.jsonl"
        )


def signal_of(run: Run, losses: Losses, step: int) -> dict[str, float]:
    """Relational-signal monitors and each term's share of the gradient, now and then; warns of a dead signal."""
    if not run.config.signal_every or step % run.config.signal_every:
        return {}
    monitors = run.objective.method.monitors()
    for line in alarms(monitors):
        log.warning("step %d: %s", step, line)
    return {f"share/{k}": v for k, v in gradient_shares(losses, run.parameters, run.fabric.backward).items()} | monitors


def validate(run: Run, step: int) -> None:
    """Metrics on the validation split; keeps the best student."""
    result = evaluate(run.student, run.store, "val", run.fabric.device, run.config.batch_size)
    score = result["metrics"][headline(len(run.store.classes))]
    run.folder.log(step, {f"val/{k}": v for k, v in result["metrics"].items()})
    if score > run.best:
        run.best = score
        run.folder.save_student(run.student, run.config, run.store, step, result["metrics"])


def save_checkpoint(run: Run, step: int) -> None:
    """Everything to resume from ``step``, and the time spent so far."""
    run.folder.add_time()
    checkpoint.save(
        run.folder.last,
        student=run.student,
        method=run.objective,
        optimizer=run.optimizer,
        step=step,
        facts=run.facts | {"best": run.best},
    )


def finish(run: Run) -> None:
    """Validate the last student; evaluate the best one on test (val where test has no labels); mark the run."""
    validate(run, run.config.steps)
    run.folder.load_student(run.student)
    result = evaluate(
        run.student,
        run.store,
        run.store.evaluation_subset,
        run.fabric.device,
        run.config.batch_size,
        predictions=run.folder.path / "predictions",
    )
    write_json(run.folder.path / "evaluation.json", result)
    run.folder.mark_finished({"test": result["metrics"], "subset": result["subset"], "best_val": run.best})
