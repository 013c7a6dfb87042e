"""What a store is: its configuration and its content identity, and how two identities are compared.

Whatever changes the bytes is in the identity; layout (shards, place) and provenance (versions, device) are
not. `declared` is what a configuration alone can say, so stage 2 can check it without teacher or images.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline.cache.codecs import FP16, CodecConfig
from pipeline.cache.packing import Compression
from pipeline.cache.runner import LocalRunner, RunnerConfig
from pipeline.devices import cores
from pipeline.views import GENERATOR, RESIZE, ViewsConfig
from sward.contracts import TEACHER_LEVELS, Config
from sward.teachers import TeacherConfig
from sward.teachers.hiera import MEAN, STD

SCHEMA = 1
REPACKED = "repacked.from"  # content id and precisions of the store that a repacked one was encoded from
GROWS = ("views.count", "data.split_digest", "records")  # what an extension may change


class CacheMismatch(ValueError):
    """A store isn't the one the configuration describes."""


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


def declared(config: CacheConfig) -> dict[str, Any]:
    """The identity fields a configuration determines without opening weights or images."""
    views = {f"views.{k}": v for k, v in config.views.model_dump(mode="json").items()}
    return views | {
        "schema": SCHEMA,
        "data.name": dataset_name(config.dataset),
        "data.split": config.split,
        "teacher.kind": config.teacher.kind,
        "teacher.architecture": config.teacher.architecture,
        "teacher.digest": config.teacher.digest,
        "teacher.levels": list(TEACHER_LEVELS),
        "teacher.autocast": config.teacher.autocast,
        "input.size": list(config.size),
        "input.eval_size": list(config.evaluation_size),
        "input.mean": list(config.mean),
        "input.std": list(config.std),
        "input.resize": RESIZE,
        "views.generator": GENERATOR,
        "precision": config.codec.kind,
    }


def precisions(found: Mapping[str, Any]) -> list[str]:
    """What the values of a store were rounded to, one after the other; its own precision last."""
    return [*found.get(REPACKED, {}).get("precisions", []), found["precision"]]


def dataset_name(dataset: str) -> str:
    """The set's name: itself, or the folder of its card; needs no file, so stage 2 can say it anywhere."""
    return Path(dataset).parent.name if dataset.endswith((".yaml", ".yml")) else dataset


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], ignore: tuple[str, ...] = ()) -> list[str]:
    """One line a differing field; an expected None means not declared, hence not compared."""
    fields = [k for k, v in expected.items() if v is not None and k not in ignore and found.get(k) != v]
    return [f"{k}: expected {expected[k]}, found {found.get(k)}" for k in sorted(fields)]


def require_same(path: Any, lines: list[str], remedy: str) -> None:
    """Raise CacheMismatch with every differing field and what to do."""
    if lines:
        raise CacheMismatch(f"the store {path} is not the one described:\n  " + "\n  ".join(lines) + f"\n{remedy}")


def require_apart(source: Path, target: Path, remedy: str) -> None:
    """Raise CacheMismatch where one folder is or holds the other."""
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise CacheMismatch(f"{target} is, holds or lies in the store {source}; {remedy}")
