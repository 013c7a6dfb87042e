"""What a run works on: the store, checked; the student, method, stream and optimiser, built deterministically."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.cache.manifest.identity import differences, identity_from_config, require_same
from pipeline.cache.store import Store
from pipeline.files import read_json
from pipeline.memory import keep_freed_memory
from pipeline.paths import read_path
from pipeline.training.batch_order import Order
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.compile import compile_student
from pipeline.training.config import TrainConfig, build_trainable
from pipeline.training.distributed.fabric import Fabric, make_fabric
from pipeline.training.prestages.prestage import run_prestages
from pipeline.training.run_folder import RunFolder
from pipeline.training.stream import Stream
from pipeline.training.teacher.heads import HeadMissing, HeadSource, head_source
from pipeline.training.teacher.online import OnlineTeacher
from pipeline.types import TrainProgress
from sward import seeds
from sward.contracts import Channels, Method, Student
from sward.objective import Objective

REMEDY = """Point cache.store at the store you mean, or make this one anew with `sward extract`.
Where the store has grown: describe it as it is now (cache.views.count); `views` trains on the first views only."""


@dataclass
class TrainingRun:
    """What the loop works on.

    ``overlap``: whether DDP may average gradients during the backward pass: once each parameter is seen to get one.
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
    best: float = -math.inf
    overlap: bool = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: the student's parameters and the adapters'."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def student_parameters(self) -> list[nn.Parameter]:
        """The student's parameters that are trained."""
        return [p for p in self.student.parameters() if p.requires_grad]

    @property
    def share(self) -> tuple[int, int]:
        """(rank of this process, processes)."""
        return self.fabric.global_rank, self.fabric.world_size

    @property
    def facts(self) -> dict[str, Any]:
        return {"config": self.config.identity(), "store": self.store.content_id} | self.sources


def open_store(config: TrainConfig) -> Store:
    """The expected store, its identity checked field by field."""
    store = Store(read_path(config.cache.store), cache_bytes=config.cache_bytes)
    lines = differences(identity_from_config(config.cache), store.identity) + unpinned_teacher(config, store)
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


def setup(
    config: TrainConfig, store: Store, folder: RunFolder, progress: TrainProgress = lambda *_: None
) -> TrainingRun:
    """Build everything, deterministically from the configuration and the store; learn pre-stages first."""
    keep_freed_memory()
    fabric = make_fabric(config)
    torch.manual_seed(seeds.torch_seed(config.seed, "setup"))
    student = build_trainable(config.student, store.channels, len(store.classes), config.seed)
    set_memory_format(student, config)
    if config.compile:
        compile_student(student, fabric.device)
    head = head_source(config, store, fabric.device)
    method = build_method(config, store, student, head)
    tensors = tuple(store.channels) if student.reads == "features" else method.needs
    records = [r for r in store.records["train"] if config.views is None or r.view.number < config.views]
    order = Order(
        tuple(records), config.batch_size, config.seed, config.per_epoch, fabric.world_size, fabric.global_rank
    )
    require_a_record_each(order)
    online = OnlineTeacher(config.cache, store, fabric.device) if config.teacher == "online" and tensors else None
    stream = Stream(store, order, tensors, fabric.device, config.workers, config.prefetch, head.network, online)
    objective = Objective(method, config.method.balance).to(fabric.device)
    sources = {"head": head.digest} if head.digest else {}
    sources |= run_prestages(config, stream, method, head, progress)
    method.prepare(
        stream.calibration_batch(min(16, len(records))),
        {k: (m.to(fabric.device), s.to(fabric.device)) for k, (m, s) in store.statistics().items()},
    )
    trained = [p for m in (student, objective) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay)
    student, optimizer = fabric.setup(student, optimizer)
    teacher_channels = store.channels | head.channels
    return TrainingRun(config, store, stream, fabric, student, objective, optimizer, folder, sources, teacher_channels)


def require_a_record_each(order: Order) -> None:
    """Refuse batches of fewer records than processes."""
    if (smallest := order.size(-1)) < order.world:
        raise ValueError(
            f"an epoch's smallest batch has {smallest} records, fewer than the {order.world} processes that share it: "
            "set devices lower, or batch_size higher"
        )


def build_method(config: TrainConfig, store: Store, student: Student, head: HeadSource) -> Method:
    """The method for this store, head and student. Raises ValueError where one lacks what it reads; says what to do."""
    teacher, ready = store.channels | head.channels, config.method.for_steps(config.steps)
    try:
        return ready.build(teacher, student.channels, len(store.classes), student.classifier.in_channels)
    except ValueError as error:
        raise (HeadMissing(f"{error}. Here: {head.missing}") if head.missing else error) from error


def require_same_head(config: TrainConfig, store: Store, folder: RunFolder) -> None:
    """A finished run stands beside new ones only while the head that it read is the one that they would read.

    Raises:
        CheckpointMismatch: the head was fitted again since.
    """
    try:
        now = head_source(config, store, torch.device("cpu")).digest
    except HeadMissing:
        return  # nothing here that a new run could read either
    then = read_json(folder.facts).get("sources", {}).get("head")
    if now and then != now:
        raise CheckpointMismatch(
            f"{folder.path} was trained with a teacher's head of digest {str(then)[:12]}, {config.runs} now has one of "
            f"{now[:12]}; remove {folder.path} to train it with this one, or restore the head"
        )


def set_memory_format(student: Student, config: TrainConfig) -> None:
    """Put the weights, in place, into channels-last order where the run asks for it; every later map follows.

    On a CPU in float32 a training step takes 0.64 of the time for UNeXt, 0.74 for DeepLabV3, 0.87-0.89 for ResUNet++,
    DeepLabV3+ and U-Net on ResNet-18; on GPUs tensor cores read it in bf16. Names and values of weights stay, and so do
    the files written. Sums are rounded differently, and dropout's mask is drawn in the order of memory, so it is part
    of the run's identity.
    """
    if config.puts_channels_last:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
