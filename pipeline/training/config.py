"""The configuration of one training run."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import digest
from pipeline.config import parse_size
from sward.contracts import Channels, Config, Student
from sward.methods import MethodConfig
from sward.methods.plain import PlainConfig
from sward.students import StudentConfig, build_student
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


class OptimizerConfig(Config):
    """AdamW with a learning-rate schedule over the run's steps (paper: polyps 5e-4 cosine, Cityscapes 1e-3 poly)."""

    lr: float = Field(5e-4, gt=0, description="initial learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decoupled weight decay")
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="how the rate falls to 0")
    power: float = Field(0.9, gt=0, description="exponent of poly")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up")
    clip_norm: float | None = Field(5.0, gt=0, description="gradient norm limit; null: none")


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``: warm-up, then the schedule to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    fraction = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    factor = {
        "cosine": 0.5 * (1 + math.cos(math.pi * fraction)),
        "poly": (1 - fraction) ** config.power,
        "constant": 1.0,
    }
    return config.lr * factor[config.schedule]


class HeadFit(Config):
    """The teacher's head: fitted on cached features by a run of its own (`sward fit-head`), then frozen.

    It is the teacher's own row in a comparison, and gives the methods that read them logits and penultimate maps.
    """

    network: HeadConfig = TeacherHeadConfig()
    steps: int = Field(ge=1, description="optimiser steps")
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
    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(8, ge=1, description="records a step, over all ranks")
    seed: int = Field(0, ge=0, description="initialisation, order, offsets, dropout")
    views: int | None = Field(None, ge=1, description="train on the first N views only; null: all in the store")
    per_epoch: Literal["all", "one"] = Field(
        "all", description="an epoch is every record, or one view an image, rotating"
    )
    eval_every: int = Field(0, ge=0, description="steps between validations; 0: only at the end")
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

    @model_validator(mode="after")
    def _the_method_gets_its_turn(self) -> "TrainConfig":
        if (length := self.method.warm_up(self.steps)[0]) >= self.steps:
            raise ValueError(
                f"method.warmup_steps is {length}, the run has {self.steps} steps: the method would never act; "
                "set it below, or leave it out (10 %)"
            )
        return self

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
        values = self.model_dump(mode="json", exclude=free)
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
        changes = {
            "name": f"teacher-seed{self.head.seed if seed is None else seed}",
            "student": self.head.network,
            "method": PlainConfig(),
            "head": None,
            "steps": self.head.steps,
            "batch_size": self.head.batch_size or self.batch_size,
            "optimizer": self.head.optimizer or self.optimizer,
            "seed": self.head.seed if seed is None else seed,
            "signal_every": 0,
            "channels_last": False,
            "compile": False,
        }
        return self.model_copy(update=changes)
