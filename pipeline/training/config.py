"""Configuration of one training run, and the hash of it that names the run."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from pipeline.cache.config import CacheConfig
from pipeline.cache.manifest.identity import digest
from pipeline.config import parse_size
from pipeline.paths import expand
from pipeline.training.device.memory_format import channels_last_is_faster
from pipeline.training.inputs.initial_weights import InitConfig
from pipeline.training.inputs.labels import UNLABELLED, LabelsConfig
from pipeline.training.inputs.order_config import OrderConfig
from pipeline.training.inputs.stores import JoinedConfig, StoresConfig
from pipeline.training.neutral_settings import identity_values, with_former_defaults
from pipeline.training.optimizer import OptimizerConfig
from pipeline.training.teacher.head_config import HeadFit
from pipeline.training.trainable import TrainableConfig, is_head
from sward.contracts import Config
from sward.methods import MethodConfig
from sward.methods.plain import PlainConfig
from sward.task import TaskConfig

Bytes = Annotated[int, BeforeValidator(lambda value: parse_size(str(value), "size"))]  # 20GB, 180GiB, 4096


class TrainConfig(Config):
    """One training run: one student, one method and one seed, on the features of one store or of several joined."""

    # what is trained
    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]+$", description="Name of the run; its folder is <runs>/<name>-<identity>."
    )
    runs: str = Field("runs", description="Folder that holds the run folders.")
    cache: StoresConfig = Field(
        description="Store to train from: path of its cache config, which is checked before the first batch. A list "
        "joins stores of the same views by several teachers, whose levels are named `<teacher>:<level>`."
    )
    student: TrainableConfig = Field(description="Student to train (or the teacher's head, see `head`).")
    method: MethodConfig = Field(PlainConfig(), description="Distillation method; default: labels alone.")
    head: HeadFit | None = Field(None, description="The teacher's head, for methods that read logits; null: none.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="Optimiser and learning-rate schedule.")
    teacher: Literal["cached", "online"] = Field(
        "cached", description="Features from the store, or (for comparison) the teacher run on the store's views."
    )
    task: TaskConfig = Field(TaskConfig(), description="Task loss: cross-entropy, Dice and focal terms.")
    labels: LabelsConfig = Field(
        LabelsConfig(), description="Training images whose labels are read: a share such as 0.1, or how it is drawn."
    )
    unlabelled: float = Field(
        0, ge=0, lt=1, description="Share of a batch without labels, added to the `batch_size` records that have them."
    )
    init: InitConfig | None = Field(None, description="Initial weights: a run's folder, or a file; null: drawn.")
    fold: int | None = Field(None, ge=0, description="Part of a cross-validation that tests; null: no such split.")

    # schedule
    epochs: float | None = Field(None, gt=0, description="Passes over the training records, in place of `steps`.")
    steps: int = Field(0, ge=0, validate_default=True, description="Optimiser steps; 0: as many as `epochs` take.")
    batch_size: int = Field(8, ge=1, description="Records per step, over all processes.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are averaged in one optimiser step.")
    ema: float = Field(0, ge=0, lt=1, description="Decay of a running mean of the weights, which is kept; 0: none.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, record order, window offsets and dropout.")
    views: int | None = Field(None, ge=1, description="Train on the first N views of an image; null: all in the store.")
    per_epoch: Literal["all", "one"] = Field(
        "all", description="Records per epoch: all, or one view per image (the next view in the next epoch)."
    )
    order: OrderConfig = Field(OrderConfig(), description="Order of the records: shuffled, or shards (see --extract).")
    eval_every: int | None = Field(
        None, ge=0, description="Steps between validations; 0: at the end alone; null: ten times, from 200 steps on."
    )
    patience: int = Field(0, ge=0, description="Stop after so many validations without a better one; 0: never.")

    # logging and checkpoints
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints (last.ckpt).")
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    signal_every: int = Field(
        100,
        ge=0,
        description="Steps between logs of attention entropy, value collapse and gradient shares (`signal/…`, "
        "`share/…`); 0: never.",
    )
    loggers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        (), description="Loggers beside TensorBoard and metrics.jsonl; offline unless the environment asks for more."
    )
    pictures: int = Field(4, ge=0, description="Validation images shown in the log at every validation; 0: none.")

    # loading
    workers: int = Field(2, ge=0, description="Threads that read the store; 0: the training thread reads. Same result.")
    prefetch: int = Field(2, ge=1, description="Batches read ahead.")
    cache_bytes: Bytes = Field(
        20 * 10**9,
        ge=0,
        description="Size limit of the local copy of chunks read from a store at a URL, e.g. 20GB; 0: no copy.",
    )

    # hardware
    device: str = Field("auto", description="Device to train on: auto, cpu, cuda …")
    devices: int = Field(
        1, ge=1, description="Processes per machine (one per GPU); they split each batch and give the same result."
    )
    nodes: int = Field(
        1, ge=1, description="Machines; with more than one, start torchrun on each (docs/how-to/several-gpus.md)."
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true",
        description="Precision of Lightning Fabric; losses stay in float32. 16-mixed scales the loss, for GPUs without "
        "bfloat16.",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="Maps in channels-last order: 0.7-0.9 of a CPU step's time; always so in mixed precision. auto: on "
        "a CPU, of students that gain by it. Part of the run's identity where it is so.",
    )
    compile: bool = Field(False, description="Run the student through torch.compile; for long runs on GPUs.")
    deterministic: bool = Field(
        False, description="Repeatable kernels, slower: the same bits from every run on one GPU (on a CPU always so)."
    )

    @property
    def caches(self) -> tuple[CacheConfig, ...]:
        """Configurations of the stores: one, or of several teachers; images and labels are the first's."""
        return self.cache.root if isinstance(self.cache, JoinedConfig) else (self.cache,)

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
    def unlabelled_size(self) -> int:
        """Records without labels in a step, over those of ``batch_size``."""
        return max(1, round(self.batch_size * self.unlabelled / (1 - self.unlabelled))) if self.unlabelled else 0

    @property
    def processes(self) -> int:
        """Number of processes over all machines; 1: the calling process trains alone."""
        return self.devices * self.nodes

    _of_an_older_run = model_validator(mode="before")(with_former_defaults)

    @model_validator(mode="after")
    def _processes_share_a_batch_evenly(self) -> "TrainConfig":
        sizes = {"batch_size": self.batch_size}
        sizes |= {"head.batch_size": self.head.batch_size} if self.head and self.head.batch_size else {}
        for name, size in sizes.items():
            if size % self.processes:
                raise ValueError(
                    f"{name} is {size} (over all processes), which cannot be divided by devices × nodes = "
                    f"{self.devices} × {self.nodes}; make it a multiple of {self.processes}, or change devices or nodes"
                )
        return self

    @model_validator(mode="after")
    def _unlabelled_records_have_a_place(self) -> "TrainConfig":
        if self.unlabelled and (self.labels.fraction == 0 or is_head(self.student)):
            raise ValueError(UNLABELLED.format(self.unlabelled, self.labels.fraction))
        return self

    @model_validator(mode="after")
    def _several_teachers_are_cached(self) -> "TrainConfig":
        if isinstance(self.cache, JoinedConfig):
            if self.teacher == "online":
                raise ValueError("teacher: online runs one teacher, found a list of stores; use teacher: cached")
            if self.head and self.head.tensors == "appended":
                raise ValueError("a head on several teachers is in none of their stores; set head.tensors: recomputed")
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
                f"method.warmup_steps is {length}, the run has {self.steps} steps, so the method would never be used; "
                f"set warmup_steps below {self.steps}, or leave it out (then 10 % of the steps)"
            )

    @model_validator(mode="after")
    def _one_process_compiles(self) -> "TrainConfig":
        if self.compile and self.processes > 1:
            raise ValueError("compile: true takes one process; leave `compile` out, or set devices and nodes to 1")
        return self

    @property
    def puts_channels_last(self) -> bool:
        """Whether maps are in channels-last order: always in mixed precision, where tensor cores read this order."""
        if self.precision != "32-true":
            return True
        if self.channels_last == "auto":
            return channels_last_is_faster(self.student, self.device)
        return self.channels_last

    @property
    def resolved(self) -> "TrainConfig":
        """The same run with the order of maps that `channels_last: auto` means on this machine."""
        automatic = self.channels_last == "auto"
        return self.model_copy(update={"channels_last": self.puts_channels_last}) if automatic else self

    def identity(self) -> str:
        """Hash of all values that can change the result.

        ``eval_every`` is among them, because validation chooses the best student. Equal runs keep one folder wherever
        and however fast they run.
        """
        return digest(identity_values(self))

    @property
    def folder(self) -> Path:
        """The run's folder: <runs>/<name>-<first 10 digits of the identity>."""
        return Path(expand(self.runs)) / f"{self.name}-{self.identity()[:10]}"

    def head_run(self, seed: int | None = None) -> "TrainConfig":
        """Returns the configuration of the run that fits the teacher's head, on this run's store, views and schedule.

        Args:
            seed: seed of that run; None takes ``head.seed``.

        Raises:
            ValueError: no head is configured.
        """
        if self.head is None:
            raise ValueError("no `head:` is configured; add e.g. `head: {steps: 300}`")
        return self.model_copy(update=self.head.of_run(self, seed) | {"method": PlainConfig()})
