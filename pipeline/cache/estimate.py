"""`sward plan`: what an extraction will cost and whether caching pays, before anything runs."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache.codecs import CODECS
from pipeline.cache.identity import CacheConfig
from pipeline.cache.planning import wanted_records
from pipeline.cache.shards import ShardWriter, read_chunk, read_index
from pipeline.cache.store import array_specs
from pipeline.datasets import load_dataset
from pipeline.devices import resolve_device
from pipeline.paths import place
from pipeline.weights import load_teacher

# Published FLOPs: (teacher forward + 3 × student forward) / (3 × student forward) is what a cache can save at most.
CEILINGS = {"Hiera-L → DeepLab MobileNetV3": 7.0, "Hiera-T → UNeXt": 5.0, "Hiera-T → ResUNet++": 1.15}


@dataclass(frozen=True)
class Plan:
    """Sizes in bytes, times in seconds, measured on this machine."""

    records: dict[str, int]
    bytes_by_codec: dict[str, int]
    shards: int
    files: int
    free_bytes: int
    teacher_seconds: float
    read_seconds: dict[str, float]
    codec: str

    @property
    def total_records(self) -> int:
        return sum(self.records.values())

    @property
    def extraction_seconds(self) -> float:
        return self.total_records * self.teacher_seconds

    @property
    def fits(self) -> bool:
        """Whether the chosen codec's bytes and a tenth more are free."""
        return self.bytes_by_codec[self.codec] * 1.1 < self.free_bytes

    def break_even_runs(self, epochs: int) -> float:
        """Training runs of ``epochs`` epochs after which extracting once is cheaper than the teacher in the loop."""
        saved = self.records["train"] * epochs * (self.teacher_seconds - self.read_seconds[self.codec])
        return self.extraction_seconds / saved if saved > 0 else float("inf")


def plan(config: CacheConfig) -> Plan:
    """Count, and measure teacher and disk for a few seconds.

    Raises:
        DatasetError, WeightsError, TrunkMismatch: the sources are not usable.
    """
    records = wanted_records(config, load_dataset(config.dataset, config.split))
    counts = {s: sum(r.subset == s for r in records) for s in ("train", "val", "test")}
    teacher = load_teacher(config.teacher)
    sizes = {
        codec: sum(n * record_bytes(codec, teacher.channels, config.size_of(s)) for s, n in counts.items())
        for codec in CODECS
    }
    shards = sum(-(-n // config.shard_records) for n in counts.values())
    arrays = len(array_specs(config.codec, teacher.channels, config.size))
    target = existing_parent(place(config.store))
    return Plan(
        records=counts,
        bytes_by_codec=sizes,
        shards=shards,
        files=shards * (arrays + 1) + counts["val"] + counts["test"],
        free_bytes=shutil.disk_usage(target).free,
        teacher_seconds=measure_teacher(teacher, config),
        read_seconds={c: measure_read(target, record_bytes(c, teacher.channels, config.size)) for c in CODECS},
        codec=config.codec.kind,
    )


def record_bytes(codec: str, channels: dict[str, int], size: tuple[int, int]) -> int:
    """Bytes of one stored record, image and label included."""
    specs = array_specs(CODECS[codec], channels, size)
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in specs.values())


def existing_parent(path: Path) -> Path:
    """The nearest folder that exists: where the store's disk is."""
    path = path.absolute()
    return path if path.is_dir() else existing_parent(path.parent)


def measure_teacher(teacher: Any, config: CacheConfig) -> float:
    """Seconds a view at the configured size and batch."""
    device = resolve_device(config.device)
    images, teacher = torch.zeros(config.batch_size, 3, *config.size, device=device), teacher.to(device)
    return median_seconds(lambda: float(teacher(images)["s32"].sum())) / config.batch_size


def measure_read(target: Path, size: int) -> float:
    """Seconds to read one record of ``size`` bytes from a shard on the target disk (page cache warm)."""
    with tempfile.TemporaryDirectory(dir=target) as folder:
        path, chunk = Path(folder) / "shard", np.zeros(size, np.uint8)
        writer = ShardWriter(path, 1)
        writer.append(chunk)
        writer.close()
        index = read_index(path, 1)
        return median_seconds(lambda: read_chunk(path, index, 0, chunk))


def median_seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def describe(p: Plan, batch_size: int, steps_per_second: float) -> list[str]:
    """The plan as lines for people; decimal units."""
    counts = ", ".join(f"{subset} {n}" for subset, n in p.records.items())
    demand = p.bytes_by_codec[p.codec] / p.total_records * batch_size * steps_per_second / 1e9
    runs = p.break_even_runs(epochs=100)
    verdict = (
        f"caching pays after {runs:.2f} runs of 100 epochs"
        if np.isfinite(runs)
        else "reading is slower than recomputing here: caching does not pay"
    )
    return [
        f"records        {p.total_records} ({counts}) in {p.shards} shards, {p.files} files",
        *(f"bytes {c:8} {n / 1e9:.2f} GB{'   <- chosen' if c == p.codec else ''}" for c, n in p.bytes_by_codec.items()),
        f"free disk      {p.free_bytes / 1e9:.1f} GB: {'fits' if p.fits else 'DOES NOT FIT with 10 % to spare'}",
        f"teacher        {p.teacher_seconds * 1e3:.1f} ms a view here; {p.extraction_seconds / 3600:.2f} h in all",
        *(f"read {c:9} {s * 1e3:.2f} ms a record here (warm)" for c, s in p.read_seconds.items()),
        f"a student at {steps_per_second:g} steps/s of {batch_size} needs {demand:.3f} GB/s",
        verdict,
        "ceiling of the gain per training run, by published FLOPs: "
        + ", ".join(f"{pair} {gain:g}×" for pair, gain in CEILINGS.items()),
    ]
