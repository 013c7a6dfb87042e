"""Configuration of a store: which data, teacher, views and codec, where it lies, and where the extraction runs."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.cache.format.codecs import FP16, CodecConfig
from pipeline.cache.format.compression import Compression
from pipeline.devices import cores
from pipeline.views import ViewsConfig
from sward.contracts import Config
from sward.teachers import TeacherConfig
from sward.teachers.hiera import MEAN, STD


class LocalRunner(Config):
    """This process does everything."""

    kind: Literal["local"] = "local"


class DaskRunner(Config):
    """This process plans and keeps the books; workers of a Dask cluster compute the shards."""

    kind: Literal["dask"] = "dask"
    address: str | None = Field(
        None, description="tcp://host:8786 of a running scheduler; default: a cluster on this machine, for this call"
    )
    workers: int | None = Field(None, ge=1, description="own workers; default: one a GPU, else one a CPU core")
    threads: int = Field(1, ge=1, description="CPU threads of the teacher in a worker (on a CPU sums round by them)")
    patience: float = Field(60, ge=1, description="seconds to wait for a scheduler, or without any worker")

    @model_validator(mode="after")
    def _whose_workers(self) -> "DaskRunner":
        if self.address and self.workers:
            raise ValueError("workers is of a cluster made here, those at address are started there; remove either")
        return self


RunnerConfig = Annotated[LocalRunner | DaskRunner, Field(discriminator="kind")]


class CacheConfig(Config):
    """One store: which data, which teacher, which views, how stored, where."""

    dataset: str = Field(description="name (data/<name>/card.yaml) or path of a card.yaml")
    split: str = Field("random", description="name of one of the card's splits")
    teacher: TeacherConfig
    size: tuple[int, int] = Field(description="(height, width) of training views; multiples of 32")
    eval_size: tuple[int, int] | None = Field(
        None, description="(height, width) of validation and test views; default: size"
    )
    mean: tuple[float, float, float] = Field(MEAN, description="normalisation of RGB in [0, 1], mean")
    std: tuple[float, float, float] = Field(STD, description="normalisation, standard deviation")
    views: ViewsConfig = ViewsConfig()
    codec: CodecConfig = FP16()
    store: str = Field(description="folder of the Zarr store, or s3://, gs://, az:// and a prefix of its own")
    shard_records: int = Field(16, ge=1, le=256, description="records a shard (layout: not in the identity)")
    compression: Compression = Field(
        "none", description="lossless, of every array: none, or zstd for archives (layout: not in the identity)"
    )
    batch_size: int = Field(4, ge=1, description="records a teacher forward")
    workers: int | None = Field(
        None, ge=0, le=64, description="threads that render and encode; default: one a core, at most 16; 0: no others"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    runner: RunnerConfig = LocalRunner()

    @model_validator(mode="after")
    def _sizes(self) -> "CacheConfig":
        for side in (*self.size, *self.evaluation_size):
            if side <= 0 or side % 32:
                raise ValueError(f"sizes must be positive multiples of 32, found {side}: use {-(-side // 32) * 32}")
        if self.views.rot90 and self.size[0] != self.size[1]:
            raise ValueError(f"views.rot90 needs a square size, found {self.size}; set views.rot90: false")
        return self

    @model_validator(mode="after")
    def _every_workers_device(self) -> "CacheConfig":
        if self.runner.kind == "dask" and self.device not in ("cpu", "cuda", "auto"):
            raise ValueError(f"device: each worker has one GPU, known to it as cuda; found {self.device}, use cuda")
        if self.runner.kind == "dask" and self.runner.address and self.device == "auto":
            raise ValueError("device: auto is this machine's; for the workers at runner.address say cuda or cpu")
        return self

    def recorded(self) -> dict[str, Any]:
        """What a plan keeps of it: not where it ran, so that the plan is the same."""
        return self.model_dump(mode="json", exclude={"runner"})

    @property
    def threads(self) -> int:
        """That render and encode on this machine; 0: the calling one does."""
        return min(16, cores()) if self.workers is None else self.workers

    @property
    def evaluation_size(self) -> tuple[int, int]:
        return self.eval_size or self.size

    def size_of(self, subset: str) -> tuple[int, int]:
        """(height, width) of a subset's views."""
        return self.size if subset == "train" else self.evaluation_size
