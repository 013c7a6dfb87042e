"""Measures how many records per second a student consumes, on synthetic batches.

Its training step is timed without reading anything, so no store is needed.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.cache.config import enlarged
from pipeline.devices import resolve_device, wait_for
from pipeline.training.config import TrainConfig
from pipeline.training.device.memory_format import set_memory_format
from pipeline.training.distributed.fabric import make_fabric
from pipeline.training.teacher.heads import head_channels
from pipeline.training.trainable import build_trainable
from sward.contracts import HEAD_TENSORS, Batch, Channels, Method, Prestage, Student
from sward.levels import TeacherChannels, place, stride, zoom_of
from sward.objective import Objective

BUDGET_SECONDS, MOST = 2.0, 7  # limits of the timed steps: seconds and number; one more step before them warms up
ASSUMED = "a student at 10 steps/s of 8 records that reads all levels (assumed; measure yours: --train CONFIG)"


@dataclass(frozen=True)
class ReadDemand:
    """Tensors and records that one run reads from the store, and its speed.

    Attributes:
        who: student and method as text.
        batch_size: records per step.
        step_seconds: seconds per step without reading.
        tensors: levels read from the store (of joined stores, with their teacher's name) -> channels.
        head: head tensors read from the store (appended to it) -> channels.
        records: records read by the whole run.
        workers: number of reading threads.
        device: device on which features are decoded.
    """

    who: str
    batch_size: int
    step_seconds: float
    tensors: Channels
    head: Channels
    records: int
    workers: int = 2
    device: str = "cpu"

    @property
    def records_per_second(self) -> float:
        return self.batch_size / self.step_seconds


def assumed(channels: Channels, train_records: int, device: str) -> ReadDemand:
    """The demand assumed without a training configuration: a fast student that reads all levels for 100 epochs."""
    return ReadDemand(ASSUMED, 8, 0.1, channels, {}, 100 * train_records, device=device)


def measure(config: TrainConfig, channels: Channels, num_classes: int, size: tuple[int, int]) -> ReadDemand:
    """Build the student and method of ``config`` and time their steps on random images and features.

    Args:
        config: configuration of the training run.
        channels: the teacher's levels -> channels; of joined stores, levels with their teacher's name.
        num_classes: number of classes of the data set.
        size: (height, width) of a view in pixels.

    Raises:
        ValueError: a tensor that the method reads is not available, e.g. that of a head.
    """
    device = resolve_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        step, tensors, head = prepare(config, channels, num_classes, size, device)
        seconds = time_steps(step, device)
    who = f"{config.student.kind} with {config.method.kind} at batches of {config.batch_size}"
    records = config.steps * config.batch_size
    return ReadDemand(who, config.batch_size, seconds, tensors, head, records, config.workers, str(device))


def prepare(
    config: TrainConfig, channels: Channels, num_classes: int, size: tuple[int, int], device: torch.device
) -> tuple[Callable[[], None], Channels, Channels]:
    """Build a training step; return it, the levels and the head tensors that it reads from the store."""
    network = build_trainable(config.head.network, channels, num_classes, 0) if config.head else None
    use = network is not None and config.method.uses_head
    head = head_channels(network) if network is not None and use else {}
    student = build_trainable(config.student, channels, num_classes, config.seed)
    set_memory_format(student, config.puts_channels_last)
    teacher = TeacherChannels(channels | head, config.cache.zoom)
    method = built(config, teacher, student, num_classes)
    needed = tuple(channels) if student.reads == "features" else method.needs
    made = network if use and config.head and config.head.tensors == "recomputed" else None
    run_head = made is not None and bool(set(needed) & set(HEAD_TENSORS))
    levels = channels if run_head else {name: c for name, c in channels.items() if name in needed}
    held = teacher.only((*levels, *(name for name in head if name in needed)))
    batch = synthetic(config, size, held, num_classes, device)
    if made is not None and run_head:
        made.to(device).eval().requires_grad_(False)
    ones = {name: torch.ones(c, device=device) for name, c in channels.items()}
    method.to(device).prepare(batch, {name: (torch.zeros_like(one), one) for name, one in ones.items()})
    stepper = SyntheticStepper(config, student, Objective(method).to(device), batch, made if run_head else None, device)
    read = {} if run_head else {name: c for name, c in head.items() if name in needed}
    return stepper.step, levels, read


def built(config: TrainConfig, teacher: TeacherChannels, student: Student, num_classes: int) -> Method:
    """The method; its pre-stages, if any, are not trained but taken as initialised."""
    ready = config.method.for_steps(config.steps)
    method = ready.build(teacher, student.channels, num_classes, student.classifier.in_channels)
    for part in list(method.modules()):
        stage = part.prestage() if isinstance(part, Method) else None
        if isinstance(stage, Prestage):
            part.load_prestage(stage.state_dict())  # type: ignore[operator]
    return method


def synthetic(
    config: TrainConfig, size: tuple[int, int], tensors: TeacherChannels, num_classes: int, device: torch.device
) -> Batch:
    """A batch of random images, labels and features in the shapes of the store's."""
    (height, width), n = size, config.batch_size
    features = {name: torch.randn(n, c, *grid(name, tensors, size), device=device) for name, c in tensors.items()}
    labels = torch.randint(num_classes, (n, height, width), device=device)
    ids = [f"synthetic-{i}/0" for i in range(n)]
    return Batch(torch.randn(n, 3, height, width, device=device), labels, features, ids, config.seed)


def grid(name: str, tensors: TeacherChannels, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in cells of a teacher's tensor, of a view of ``size``; a head's is at stride 4 of its view."""
    seen_by = name
    if name in HEAD_TENSORS:  # of several teachers, that of the finest level: see sward/teachers/head.py
        seen_by = min((level for level in tensors if level not in HEAD_TENSORS), key=place, default=name)
    height, width = enlarged(size, zoom_of(seen_by, tensors))
    cell = 4 if name in HEAD_TENSORS else stride(name)
    return height // cell, width // cell


class SyntheticStepper:
    """Repeats one training step on the same batch: head, student, objective, optimiser."""

    def __init__(
        self,
        config: TrainConfig,
        student: Student,
        objective: Objective,
        batch: Batch,
        head: Student | None,
        device: torch.device,
    ) -> None:
        fabric = make_fabric(config.model_copy(update={"devices": 1, "nodes": 1}))
        trained = [p for m in (student, objective) for p in m.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.optimizer.lr)
        self.fabric, self.objective, self.batch, self.head = fabric, objective, batch, head
        self.student, self.optimizer = fabric.setup(student, optimizer)
        self.reads_images, self.number = student.reads == "images", config.steps

    def step(self) -> None:
        if self.head is not None:
            with torch.no_grad():
                self.head(self.batch.features)
        output = self.student(self.batch.images if self.reads_images else self.batch.features)
        losses = self.objective(output, self.batch, self.number)
        self.fabric.backward(losses.total)
        # A run clips at `optimizer.clip_norm`. The limit does not change the time: the norm is always computed and its
        # factor, 1 or less, always applied.
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1


def time_steps(step: Callable[[], None], device: torch.device) -> float:
    """Median seconds per step, after one step that warms up."""
    times: list[float] = []
    while len(times) <= 2 or (sum(times[1:]) < BUDGET_SECONDS and len(times) <= MOST):
        began = time.perf_counter()
        step()
        wait_for(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
