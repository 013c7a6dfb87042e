"""Configuration of a store: data set, teacher, views, codec and location, and where the extraction runs."""

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.augmented_views import ViewsConfig
from pipeline.cache.format.codecs import FP16, CodecConfig
from pipeline.cache.format.compression import Compression
from pipeline.devices import cores
from sward.contracts import Config
from sward.levels import stride
from sward.teachers import TeacherConfig
from sward.teachers.own_input import Normalisation


class LocalRunner(Config):
    """Computes all units in this process."""

    kind: Literal["local"] = "local"


class DaskRunner(Config):
    """Distributes units over the workers of a Dask cluster; this process holds lock and plan and records times."""

    kind: Literal["dask"] = "dask"
    address: str | None = Field(
        None,
        description="Address of a running scheduler, such as tcp://host:8786; default: start a cluster on this machine "
        "for this call.",
    )
    workers: int | None = Field(
        None, ge=1, description="Worker processes to start; default: one per GPU, without GPUs one per CPU core."
    )
    threads: int = Field(
        1, ge=1, description="CPU threads of the teacher in each worker; on a CPU the rounding of sums depends on them."
    )
    patience: float = Field(
        60, ge=1, description="Seconds to wait for a scheduler to answer, and for a worker while there is none."
    )

    @model_validator(mode="after")
    def _whose_workers(self) -> "DaskRunner":
        if self.address and self.workers:
            raise ValueError(
                "workers and address are both set, but workers counts processes that are started here, and those at "
                "address are started there; remove one of the two"
            )
        return self


RunnerConfig = Annotated[LocalRunner | DaskRunner, Field(discriminator="kind")]


Mean = Annotated[float, Field(ge=0, le=1)]  # 0..255 would be another unit
Deviation = Annotated[float, Field(gt=0, le=1)]
LARGEST = 8192  # pixels a side: one record's features are gigabytes


def enlarged(size: tuple[int, int], zoom: Fraction) -> tuple[int, int]:
    """(height, width) of the teacher's view beside a student's view of ``size``, in pixels."""
    return int(size[0] * zoom), int(size[1] * zoom)


def teachers_own(known: Mapping[str, Any]) -> Normalisation:
    """(mean, std) of the teacher in a configuration's checked values; asked only if there are no mistakes."""
    return known["teacher"].normalisation


class CacheConfig(Config):
    """Configuration of one store: data set, teacher, views, storage format and location."""

    dataset: str = Field(description="Name of a data set (its card is data/<name>/card.yaml), or path of a card.yaml.")
    split: str = Field("random", description="Name of one of the card's splits.")
    teacher: TeacherConfig = Field(description="Teacher network and its weights.")
    size: tuple[int, int] = Field(description="(height, width) of training views, in pixels; multiples of 32.")
    eval_size: tuple[int, int] | None = Field(
        None,
        description="(height, width) of validation and test views, in pixels; multiples of 32. Default: size.",
    )
    mean: tuple[Mean, Mean, Mean] = Field(
        default_factory=lambda known: teachers_own(known)[0],
        description="Mean of RGB in [0, 1] that normalisation subtracts; default: the teacher's own.",
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        default_factory=lambda known: teachers_own(known)[1],
        description="Standard deviation of RGB in [0, 1] that normalisation divides by; default: the teacher's.",
    )
    views: ViewsConfig = Field(
        ViewsConfig(), description="Number of views per training image, and how they are cropped, flipped and coloured."
    )
    codec: CodecConfig = Field(FP16(), description="Storage format of the feature levels; default: half precision.")
    store: str = Field(description="Folder of the Zarr store, or a URL (s3://, gs://, az://) with a prefix of its own.")
    shard_records: int = Field(
        16, ge=1, le=256, description="Records per shard file. Layout only: not part of the identity."
    )
    compression: Compression = Field(
        "none",
        description="Lossless compression of every array: none, zstd, or archive (smaller; for training `sward repack` "
        "unpacks it). Layout only: not part of the identity.",
    )
    batch_size: int = Field(4, ge=1, description="Records per forward pass of the teacher.")
    workers: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Threads that render and encode; default: one per CPU core, at most 16. 0: no extra threads.",
    )
    device: str = Field("auto", description="Device of the teacher: auto, cpu, cuda, cuda:1 …")
    runner: RunnerConfig = Field(
        LocalRunner(), description="Where units are computed: in this process (local) or on Dask workers (dask)."
    )

    @model_validator(mode="after")
    def _sizes(self) -> "CacheConfig":
        for side in (*self.size, *self.evaluation_size, *self.teachers_sizes):
            if side > LARGEST:
                raise ValueError(f"sizes must be at most {LARGEST}, found {side}: larger images are cut into views")
        for side in (*self.size, *self.evaluation_size):
            if side <= 0 or side % 32:
                raise ValueError(f"sizes must be positive multiples of 32, found {side}: use {-(-side // 32) * 32}")
        if self.teacher.size:
            self._check_own_size()
        for level in () if self.teacher.size else self.teacher.levels:
            if any(side % stride(level) for side in (*self.size, *self.evaluation_size)):
                common = lcm(32, stride(level))
                raise ValueError(
                    f"{level} of {self.teacher.architecture} needs multiples of {stride(level)} pixels (students of "
                    f"32): use multiples of {common}, found {self.size} and {self.evaluation_size}"
                )
        if self.views.rot90 and self.size[0] != self.size[1]:
            raise ValueError(f"views.rot90 needs a square size, found {self.size}; set views.rot90: false")
        return self

    def _check_own_size(self) -> None:
        """Raises ValueError if ``teacher.size`` has other proportions, or a level's stride does not divide a side."""
        own = self.teacher.size
        assert own is not None
        if min(own) < 1 or own[0] * self.size[1] != own[1] * self.size[0]:
            raise ValueError(
                f"teacher.size must have the proportions of size {self.size}, found {own}: teacher and student see the "
                f"same crop; use ({self.size[0] * 4}, {self.size[1] * 4}), for example"
            )
        common = lcm(*(stride(level) for level in self.teacher.levels))
        for name, ours in {"size": self.size, "eval_size": self.evaluation_size}.items():
            if any((side * self.zoom) % common for side in ours):
                sides = " × ".join(f"{float(side * self.zoom):g}" for side in ours)
                raise ValueError(
                    f"the levels of {self.teacher.architecture} need sides that are multiples of {common} pixels; with "
                    f"teacher.size {own} beside size {self.size}, views of {name} {ours} would be {sides} for the "
                    f"teacher: change teacher.size or {name}"
                )

    @model_validator(mode="after")
    def _every_workers_device(self) -> "CacheConfig":
        if self.runner.kind == "dask" and self.device not in ("cpu", "cuda", "auto"):
            raise ValueError(f"device: each Dask worker sees its one GPU as cuda; found {self.device}, use cuda")
        if self.runner.kind == "dask" and self.runner.address and self.device == "auto":
            raise ValueError(
                "device: auto chooses by this machine's GPUs, not the workers' at runner.address; say cuda or cpu"
            )
        return self

    def recorded(self) -> dict[str, Any]:
        """The configuration as recorded in a plan: without ``runner``, so that it does not depend on where it ran."""
        return self.model_dump(mode="json", exclude={"runner"})

    @property
    def threads(self) -> int:
        """Number of threads that render and encode on this machine; 0: the calling thread does both.

        Default: one per core, at most 16. The cap bounds memory: about one record's features per thread are held while
        they wait to be encoded and written.
        """
        return min(16, cores()) if self.workers is None else self.workers

    @property
    def evaluation_size(self) -> tuple[int, int]:
        """(height, width) of validation and test views, in pixels."""
        return self.eval_size or self.size

    @property
    def zoom(self) -> Fraction:
        """Pixels of the teacher's view for one of the student's, on either axis; 1 without ``teacher.size``."""
        return Fraction(self.teacher.size[0], self.size[0]) if self.teacher.size else Fraction(1)

    @property
    def teachers_sizes(self) -> tuple[int, ...]:
        """Sides of the teacher's training and evaluation views, in pixels."""
        return (*enlarged(self.size, self.zoom), *enlarged(self.evaluation_size, self.zoom))

    @property
    def teachers_normalisation(self) -> Normalisation:
        """(mean, std) of RGB for the teacher: its own if it has its own size, else the student's."""
        return self.teacher.normalisation if self.teacher.size else (self.mean, self.std)

    def size_of(self, subset: str) -> tuple[int, int]:
        """(height, width) of a subset's views, in pixels."""
        return self.size if subset == "train" else self.evaluation_size

    def teachers_size_of(self, subset: str) -> tuple[int, int]:
        """(height, width) at which the teacher sees a subset's views, in pixels."""
        return enlarged(self.size_of(subset), self.zoom)
