"""The configuration of one training run."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import digest
from pipeline.config import parse_size
from pipeline.training.optimizer import OptimizerConfig
from sward.contracts import Channels, Config, Student
from sward.methods import MethodConfig
from sward.methods.plain import PlainConfig
from sward.students import StudentConfig, build_student
from sward.task import TaskConfig
from sward.teachers import HeadConfig
from sward.teachers.head import TeacherHeadConfig
from sward.teachers.resunetpp_head import ResUNetPPHeadConfig

TrainableConfig = Annotated[StudentConfig | HeadConfig, Field(discriminator="kind")]

Bytes = Annotated[int, BeforeValidator(lambda value: parse_size(str(value), "size"))]  # 20GB, 180GiB, 4096


def is_head(config: TrainableConfig) -> bool:
    """Whether this is a teacher's head, which reads cached features, and no student."""
    return isinstance(config, TeacherHeadConfig | ResUNetPPHeadConfig)


def build_trainable(config: TrainableConfig, teacher_channels: Channels, num_classes: int, seed: int) -> Student:
    """The student, initialised as a function of ``seed``; or the teacher's head, from torch's generator as it is."""
    if isinstance(config, TeacherHeadConfig | ResUNetPPHeadConfig):
        return config.build(teacher_channels, num_classes)
    return build_student(config, num_classes, seed)


NEUTRAL: dict[str, Any] = {  # settings that came later: at these values a run is what it was without them
    "task": TaskConfig().model_dump(mode="json"),
    "fold": None,
    "epochs": None,
    "accumulate": 1,
    "ema": 0,
    "patience": 0,
}


def without_neutral(values: dict[str, Any]) -> dict[str, Any]:
    """A run's dumped settings as its identity has them: without what changes nothing, so older runs keep theirs."""
    kept = {k: v for k, v in values.items() if k not in NEUTRAL or v != NEUTRAL[k]}
    if kept.get("epochs") is not None:
        kept.pop("steps")  # it follows from epochs and the store
    if isinstance(head := kept.get("head"), dict):
        dropped = ({"epochs"} if head["steps"] else {"steps"}) | ({"task"} if head["task"] is None else set())
        kept["head"] = {k: v for k, v in head.items() if k not in dropped}
        kept["head"]["optimizer"] = head["optimizer"] and without_momentum(head["optimizer"])
    return kept | {"optimizer": without_momentum(values["optimizer"])}


def without_momentum(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's settings without those that AdamW, the only one at first, does not have."""
    later = {"kind", "momentum"} if optimizer["kind"] == "adamw" else set()
    return {k: v for k, v in optimizer.items() if k not in later}


class HeadFit(Config):
    """The teacher's head: fitted on cached features by a run of its own (`sward fit-head`), then frozen.

    It is the teacher's own row in a comparison, and gives the methods that read them logits and penultimate maps.
    """

    network: HeadConfig = TeacherHeadConfig()
    steps: int = Field(0, ge=0, description="Optimiser steps; 0: as many as `epochs` take.")
    epochs: float = Field(20, gt=0, description="Passes over the training records, where `steps` does not say.")
    task: TaskConfig | None = Field(None, description="Task loss; null: as the student's.")
    batch_size: int | None = Field(None, ge=1, description="records a step; null: as the student")
    optimizer: OptimizerConfig | None = Field(None, description="null: as the student")
    seed: int = Field(0, ge=0, description="initialisation and order; one head serves students of all seeds")
    tensors: Literal["recomputed", "appended"] = Field(
        "recomputed",
        description="logits and penultimate maps: the head run at every step, or read from the store "
        "(`sward extract --append`)",
    )


class TrainConfig(Config):
    """One student, one method, one seed, from one store."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]+$", description="name of the run; its folder is <runs>/<name>-<identity>"
    )
    runs: str = Field("runs", description="folder of run folders")
    cache: CacheConfig = Field(
        description="the store this run expects: path of its cache config, checked before the first batch"
    )
    student: TrainableConfig
    method: MethodConfig = PlainConfig()
    head: HeadFit | None = Field(None, description="the teacher's head, for methods that read logits; null: none")
    optimizer: OptimizerConfig = OptimizerConfig()
    teacher: Literal["cached", "online"] = Field(
        "cached", description="features from the store, or (for comparison) the teacher run on the store's views"
    )
    task: TaskConfig = TaskConfig()
    fold: int | None = Field(None, ge=0, description="Which part of a cross-validation tests; null: no such split.")
    epochs: float | None = Field(None, gt=0, description="Passes over the training records, in place of `steps`.")
    steps: int = Field(0, ge=0, validate_default=True, description="Optimiser steps; 0: as many as `epochs` take.")
    batch_size: int = Field(8, ge=1, description="records a step, over all ranks")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are averaged in one optimiser step.")
    ema: float = Field(0, ge=0, lt=1, description="Decay of a running mean of the weights, which is kept; 0: none.")
    seed: int = Field(0, ge=0, description="initialisation, order, offsets, dropout")
    views: int | None = Field(None, ge=1, description="train on the first N views only; null: all in the store")
    per_epoch: Literal["all", "one"] = Field(
        "all", description="an epoch is every record, or one view an image, rotating"
    )
    eval_every: int | None = Field(
        None,
        ge=0,
        description="Steps between validations; 0: at the end alone; null: ten times, from 200 steps on.",
    )
    patience: int = Field(0, ge=0, description="Stop after so many validations without a better one; 0: never.")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints (last.ckpt)")
    log_every: int = Field(10, ge=1, description="steps between logged lines")
    signal_every: int = Field(100, ge=0, description="steps between measurements of the relational signal; 0: never")
    workers: int = Field(2, ge=0, description="reading threads (never changes the result)")
    prefetch: int = Field(2, ge=1, description="batches read ahead")
    cache_bytes: Bytes = Field(
        20 * 10**9,
        ge=0,
        description="of a store at a URL, how much of what was read stays on this disk, e.g. 20GB; 0: none",
    )
    device: str = Field("auto", description="auto, cpu, cuda …")
    devices: int = Field(1, ge=1, description="processes on each machine, one a GPU; share every batch, same result")
    nodes: int = Field(1, ge=1, description="machines; with more than one, start torchrun on each (see README)")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="Fabric precision; losses stay float32")
    channels_last: bool = Field(False, description="maps in channels-last order, 0.7-0.9 of a CPU step; bf16 always is")
    compile: bool = Field(False, description="torch.compile of the student, for long runs on GPUs")

    @property
    def validates_every(self) -> int:
        """Steps between validations, 0 for one at the end."""
        if self.eval_every is not None:
            return self.eval_every
        return self.steps // 10 if self.steps >= 200 else 0

    def with_steps(self, epoch_records: int) -> "TrainConfig":
        """The same run with ``steps`` counted out of ``epochs``; unchanged where ``steps`` says it.

        Args:
            epoch_records: records of one epoch.
        """
        if self.epochs is None:
            return self
        steps = max(1, round(self.epochs * epoch_records / (self.batch_size * self.accumulate)))
        counted = self.model_copy(update={"steps": steps})
        counted.require_turn()
        return counted

    @property
    def processes(self) -> int:
        """Over all machines; 1: this process trains."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def _processes_share_a_batch_evenly(self) -> "TrainConfig":
        found = {"batch_size": self.batch_size}
        found |= {"head.batch_size": self.head.batch_size} if self.head and self.head.batch_size else {}
        for name, size in found.items():
            if size % self.processes:
                raise ValueError(
                    f"{name} is {size}, over all processes, and does not divide by devices × nodes = {self.devices} × "
                    f"{self.nodes}; make it a multiple of {self.processes}, or change devices"
                )
        return self

    @field_validator("steps")
    @classmethod
    def _has_a_length(cls, steps: int, others: ValidationInfo) -> int:
        if steps == 0 and others.data.get("epochs") is None:
            raise ValueError("how long to train is not said; give steps: 1000, or epochs: 20")
        return steps

    @model_validator(mode="after")
    def _the_method_gets_its_turn(self) -> "TrainConfig":
        self.require_turn()
        return self

    def require_turn(self) -> None:
        """Raise ValueError where the method's warm-up takes the whole run."""
        if self.steps and (length := self.method.warm_up(self.steps)[0]) >= self.steps:
            raise ValueError(
                f"method.warmup_steps is {length}, the run has {self.steps} steps: the method would never act; "
                "set it below, or leave it out (10 %)"
            )

    @model_validator(mode="after")
    def _one_process_compiles(self) -> "TrainConfig":
        if self.compile and self.processes > 1:
            raise ValueError("compile: true takes one process; leave `compile` out, or set devices and nodes to 1")
        return self

    @property
    def puts_channels_last(self) -> bool:
        """Whether the student's maps are in channels-last order: always in bf16, which tensor cores read so."""
        return self.channels_last or self.precision == "bf16-mixed"

    def identity(self) -> str:
        """Hash of everything that can change the result; place, threads, processes and logging can't."""
        free = {"name", "runs", "workers", "prefetch", "cache_bytes", "device", "devices", "nodes"}
        free |= {"checkpoint_every", "log_every"}
        free |= {"head"} if not self.method.uses_head else set()
        free |= {"teacher"} if self.teacher == "cached" else set()
        free |= {"channels_last"} | (set() if self.compile else {"compile"})
        values = without_neutral(self.model_dump(mode="json", exclude=free))
        values |= {"eval_every": self.eval_every if self.epochs else self.validates_every}
        for key in ("store", "shard_records", "compression", "batch_size", "workers", "device", "runner"):
            values["cache"].pop(key)
        return digest(values | ({"channels_last": True} if self.puts_channels_last else {}))  # it rounds otherwise

    @property
    def folder(self) -> Path:
        return Path(self.runs) / f"{self.name}-{self.identity()[:10]}"

    def head_run(self, seed: int | None = None) -> "TrainConfig":
        """The run that fits the teacher's head, on this run's store, views and schedule.

        Raises:
            ValueError: no head is configured.
        """
        if self.head is None:
            raise ValueError("no `head:` is configured; add e.g. `head: {steps: 300}`")
        fold = "" if self.fold is None else f"-fold{self.fold}"
        changes = {
            "name": f"teacher-seed{self.head.seed if seed is None else seed}{fold}",
            "student": self.head.network,
            "method": PlainConfig(),
            "head": None,
            "steps": self.head.steps,
            "epochs": None if self.head.steps else self.head.epochs,
            "task": self.head.task or self.task,
            "accumulate": 1,
            "ema": 0,
            "patience": 0,
            "batch_size": self.head.batch_size or self.batch_size,
            "optimizer": self.head.optimizer or self.optimizer,
            "seed": self.head.seed if seed is None else seed,
            "signal_every": 0,
            "channels_last": False,
            "compile": False,
        }
        return self.model_copy(update=changes)
