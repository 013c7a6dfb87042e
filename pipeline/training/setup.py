"""Opens and checks the store of a run, and builds its student, method, stream and optimiser deterministically."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.cache.extraction.beside import ExtractionBeside
from pipeline.cache.manifest.identity import require_same
from pipeline.cache.store import Store
from pipeline.devices import limit_threads
from pipeline.memory import keep_freed_memory
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig
from pipeline.training.device.compile import compile_student
from pipeline.training.device.memory_format import set_memory_format
from pipeline.training.distributed.fabric import Fabric, make_fabric
from pipeline.training.inputs.awaited import ChannelStatistics
from pipeline.training.inputs.opened_stores import joined, matching_store
from pipeline.training.inputs.orders import require_something_to_learn, training_orders
from pipeline.training.inputs.stores import JoinedConfig
from pipeline.training.inputs.student import encoder_source, initial_student
from pipeline.training.optimizer import build_optimizer, running_mean
from pipeline.training.prestages.prestage import run_prestages
from pipeline.training.run_folder import RunFolder
from pipeline.training.stream import Stream
from pipeline.training.teacher.heads import HeadMissing, HeadSource, head_source
from pipeline.training.teacher.online import OnlineTeacher
from pipeline.types import TrainProgress
from sward import seeds
from sward.contracts import HEAD_TENSORS, Channels, Method, Student
from sward.levels import TeacherChannels, teacher_of
from sward.objective import Objective

log = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """Everything the training loop works on.

    Attributes:
        config: the run's configuration.
        store: the store, open and checked.
        stream: training batches of the store.
        fabric: device, precision and processes.
        student: the student, wrapped by Fabric.
        objective: task loss and method, with the method's adapters.
        optimizer: AdamW over student and adapters, wrapped by Fabric.
        folder: where the run is written.
        sources: name -> digest of other trained inputs: the teacher's head, pre-stages.
        teacher_channels: level or head tensor -> channels.
        best: best validation metric so far.
        overlap: DDP may average gradients during the backward pass; True once every parameter has received one.
    """

    config: TrainConfig
    store: Store
    stream: Stream
    fabric: Fabric
    student: Student
    objective: Objective
    optimizer: torch.optim.Optimizer
    folder: RunFolder
    sources: dict[str, str]
    teacher_channels: Channels
    mean: AveragedModel | None = None
    best: float = -math.inf
    best_step: int = 0
    overlap: bool = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters: those of the student and of the method's adapters."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def kept(self) -> Student:
        """The student that is validated and kept: the running mean of the weights, where there is one."""
        return self.mean.module if self.mean else self.student  # type: ignore[return-value]

    @property
    def student_parameters(self) -> list[nn.Parameter]:
        """The student's parameters that are trained."""
        return [p for p in self.student.parameters() if p.requires_grad]

    @property
    def share(self) -> tuple[int, int]:
        """Returns (rank of this process, number of processes)."""
        return self.fabric.global_rank, self.fabric.world_size

    @property
    def facts(self) -> dict[str, Any]:
        """Identity of the run's inputs, as a checkpoint records it: configuration, store, sources."""
        return {"config": self.config.identity(), "store": self.store.content_id} | self.sources

    @property
    def warm_up_facts(self) -> dict[str, Any]:
        """Identity of a warm-up's inputs: without the configuration, because other runs continue from it."""
        return {"store": self.store.content_id} | self.sources


def open_store(config: TrainConfig, extraction: ExtractionBeside | None = None) -> Store:
    """Opens the store that ``config.cache`` describes, or joins several, after comparing identities field by field.

    Args:
        config: the run.
        extraction: that is writing the store; reading then waits for its shards. None: the store is complete.

    Raises:
        CacheMismatch: a store does not match, or has no training or validation records, or fewer views; or joined
            stores have other views.
        StoreIncomplete, StoreDamaged: one cannot be read.
    """
    store = joined(config.cache, [matching_store(config, cache, extraction) for cache in config.caches])
    if config.fold is not None:
        store = store.of_fold(config.fold)
    empty = [f"records: the store has no {s} records" for s in ("train", "val") if not store.records[s]]
    require_same(store.path, empty, "Training needs both subsets: name them in the card's split and extract again.")
    if config.views is not None and config.views > store.identity["views.count"]:
        require_same(
            store.path,
            [f"views: expected {config.views}, found {store.identity['views.count']}"],
            "Raise cache.views.count and run `sward extract`: it adds the missing views.",
        )
    return store


def setup(
    config: TrainConfig, store: Store, folder: RunFolder, progress: TrainProgress = lambda *_: None
) -> TrainingRun:
    """Builds a run, as a function of configuration and store; trains missing pre-stages first.

    Raises:
        ValueError: the method does not fit store, head or student, or a batch is smaller than the number of processes.
        HeadMissing: the teacher's head is not fitted.
    """
    keep_freed_memory()
    limit_threads()
    fabric = make_fabric(config)
    torch.manual_seed(seeds.torch_seed(config.seed, "setup"))
    student = initial_student(config, store)
    set_memory_format(student, config.puts_channels_last)
    if config.compile:
        compile_student(student, fabric.device)
    head = head_source(config, store, fabric.device)
    method = build_method(config, store, student, head)
    tensors = tuple(store.channels) if student.reads == "features" else method.needs
    tell_unread(config, tensors)
    orders = training_orders(config, store, fabric.world_size, fabric.global_rank)
    order = orders.main
    require_something_to_learn(config, method)
    online = OnlineTeacher(config.caches[0], store, fabric.device) if config.teacher == "online" and tensors else None
    reading = (fabric.device, config.workers, config.prefetch, head.network, online)
    stream = Stream(store, order, tensors, *reading, orders.unlabelled, orders.hidden)
    objective = Objective(method, config.task, config.method.balance).to(fabric.device)
    statistics = ChannelStatistics(config, store, fabric.device)
    sources = ({"head": head.digest} if head.digest else {}) | orders.sources | statistics.source()
    sources |= encoder_source(config)
    sources |= run_prestages(config, stream, method, head, progress)
    method.prepare(stream.calibration_batch(min(16, len(order.records))), statistics)
    trained = [p for m in (student, objective) for p in m.parameters() if p.requires_grad]
    optimizer = build_optimizer(config.optimizer, trained, fabric.device)
    mean = running_mean(student, config.ema)
    student, optimizer = fabric.setup(student, optimizer)
    teacher_channels = store.channels | head.channels
    return TrainingRun(
        config, store, stream, fabric, student, objective, optimizer, folder, sources, teacher_channels, mean
    )


def build_method(config: TrainConfig, store: Store, student: Student, head: HeadSource) -> Method:
    """Builds the method for this store, head and student.

    Raises:
        ValueError: one of them lacks a tensor that the method reads; says what to do.
        HeadMissing: the missing tensor is one of the teacher's head.
    """
    ready = config.method.for_steps(config.steps)
    teacher = TeacherChannels(store.channels | head.channels, config.cache.zoom)
    try:
        return ready.build(teacher, student.channels, len(store.classes), student.classifier.in_channels)
    except ValueError as error:
        raise (HeadMissing(f"{error}. Here: {head.missing}") if head.missing else error) from error


def tell_unread(config: TrainConfig, tensors: tuple[str, ...]) -> None:
    """Warns of joined teachers of which a method that reads levels of others reads none."""
    read = {teacher_of(name) for name in tensors if name not in HEAD_TENSORS}
    if isinstance(config.cache, JoinedConfig) and read and (left := [n for n in config.cache.names if n not in read]):
        log.warning("%s: the method reads no level of %s; name one, or combine methods", config.name, ", ".join(left))


def require_same_head(config: TrainConfig, store: Store, folder: RunFolder) -> None:
    """Checks that a finished run was trained with the teacher's head that a new run would read.

    Otherwise the two cannot be compared.

    Raises:
        CheckpointMismatch: the head has been fitted again since.
    """
    try:
        now = head_source(config, store, torch.device("cpu")).digest
    except HeadMissing:
        return  # a new run could not read a head either
    then = folder.read_facts().get("sources", {}).get("head")
    if now and then != now:
        raise CheckpointMismatch(
            f"{folder.path} was trained with a teacher's head of digest {str(then)[:12]}, but {config.runs} now has "
            f"one of {now[:12]}; remove {folder.path} to train again with the new head, or restore the old head"
        )
